"""The laws of the reference: which clip goes with which item.

A law takes an item, a pool and a generator and returns a `Source`: the row whose sound is taken, the spans of it that
are allowed, and how it relates to the item. Choosing the place inside a source is common to all laws: uniform over
the spans, then over the positions, again while the clip is silent.

    none       no clip: the learned null embedding
    oracle     any crop of the item's own noise                                            overlap
    disjoint   the reserved clip; or the item's own noise 1 s and more from the crop        same-recording
    env        another recording of the environment (if it has but one: another unit)       same-environment
    mismatch   a sample of another environment, uniform over environments                   other-environment
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nrdata.audio.levels import energy
from nrdata.errors import UserError
from nrdata.keyed import CLIP, generator, key_of
from nrdata.protocols import Samples
from nrdata.sampling.pool import MIN_REF_SECONDS, Pool

TRIES = 50
AUDIBLE_DB = 10.0  # a clip this far under its sample's noise level is drawn again


@dataclass(frozen=True)
class Item:
    """The crop that is heard: `[start, stop)` in samples of the member of `row` that holds the noise."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Clip:
    """A reference: `[start, stop)` of `field` ("noise" or "ref") of `row`."""

    row: int
    field: str
    start: int
    stop: int
    mode: str
    relation: str


class Span(NamedTuple):
    field: str
    start: int
    stop: int


class Source(NamedTuple):
    row: int
    spans: tuple[Span, ...]
    relation: str


Audible = Callable[[int, str, int, int], float]


def oracle(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """The item's own noise, whole: an upper bound with a leak."""
    return Source(item.row, (Span("noise", 0, int(pool.index.frames[item.row])),), "overlap")


def disjoint(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """The same place at another time: the reserve, and the unit's own noise at least the gap away from the crop."""
    frames, ref_frames = int(pool.index.frames[item.row]), int(pool.index.ref_frames[item.row])
    spans = (
        Span("ref", 0, ref_frames),
        Span("noise", 0, item.start - pool.gap_frames),
        Span("noise", item.stop + pool.gap_frames, frames),
    )
    return Source(item.row, spans, "same-recording")


def env(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """Another recording of the same environment; another unit of the only recording; where stretches are unknown,
    another sample (`check_law` counts those: their sound may overlap the item's). An unknown environment has none."""
    if pool.unknown_env[pool.index.env[item.row]]:
        return None
    first, last = pool.environments.span(pool.index.env[item.row])
    own_first, own_last = pool.recordings.span(pool.recording_label(item.row))
    if own_first == own_last:
        own_first = own_last = first
    others = (last - first) - (own_last - own_first)
    if others > 0:
        pick = first + int(rng.integers(others))
        row = int(pool.environments.rows[pick if pick < own_first else pick + own_last - own_first])
    else:
        found = _other_unit(item.row, pool, pool.recordings.rows[own_first:own_last], rng)
        if found is None:
            return None
        row = found
    return Source(row, (Span("noise", 0, int(pool.index.frames[row])),), "same-environment")


def _other_unit(row: int, pool: Pool, block: np.ndarray, rng: np.random.Generator) -> int | None:
    """A row of `block` with other sound than `row`: tried at random first, so that a large block costs no scan."""
    known = pool.index.stretch[row, 0] >= 0
    for test in (pool.apart, pool.perhaps_apart) if known else (pool.perhaps_apart,):
        for candidates in (block[rng.integers(len(block), size=16)] if len(block) else block, block):
            fitting = candidates[test(row, candidates)]
            if len(fitting):
                return int(fitting[0] if candidates is not block else fitting[rng.integers(len(fitting))])
    return None


def mismatch(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """Another environment (room variants of the item's own are not another), uniform over environments."""
    places = pool.places
    own = int(np.searchsorted(places.labels, pool.place(item.row)))
    there = own < len(places.labels) and places.labels[own] == pool.place(item.row)
    others = len(places.labels) - there
    if others == 0:
        return None
    pick = int(rng.integers(others))
    g = pick + 1 if there and pick >= own else pick
    row = int(places.rows[rng.integers(places.start[g], places.stop[g])])
    return Source(row, (Span("noise", 0, int(pool.index.frames[row])),), "other-environment")


LAWS: dict[str, Callable[[Item, Pool, np.random.Generator], Source | None]] = {
    "oracle": oracle,
    "disjoint": disjoint,
    "env": env,
    "mismatch": mismatch,
}


@dataclass(frozen=True)
class Law:
    """A mixture of modes: `shares` are (mode, probability), adding up to 1."""

    shares: tuple[tuple[str, float], ...]

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(mode for mode, _ in self.shares)

    def mode(self, u: float) -> str:
        """The mode at quantile `u` in [0, 1)."""
        for mode, share in self.shares:
            u -= share
            if u < 0:
                return mode
        return self.shares[-1][0]

    def __str__(self) -> str:
        return ",".join(f"{m}:{s:g}" for m, s in self.shares) if len(self.shares) > 1 else self.shares[0][0]


def parse_law(text: str) -> Law:
    """`"env"`, or a mixture `"oracle:0.5,env:0.4,none:0.1"` whose shares add up to 1. Raises `UserError`."""
    known = ("none", *LAWS)
    shares: dict[str, float] = {}
    for part in text.split(","):
        mode, colon, number = part.strip().partition(":")
        if mode not in known:
            raise UserError(f"reference mode {mode!r} in {text!r} is unknown; choose from {', '.join(known)}")
        if mode in shares:
            raise UserError(f"reference mode {mode!r} stands twice in {text!r}; give it one share")
        if not colon and "," in text:
            raise UserError(f"mode {mode!r} in {text!r} has no share; write {mode}:0.5, all shares adding up to 1")
        try:
            share = float(number) if colon else 1.0
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise UserError(f"the share of {mode!r} in {text!r} must be a number above 0 and at most 1")
        shares[mode] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"the shares in {text!r} add up to {sum(shares.values()):g}; they must add up to 1")
    return Law(tuple(shares.items()))


def draw_clip(
    item: Item, pool: Pool, mode: str, ref_frames: int, rng: np.random.Generator, audible: Audible | None = None
) -> Clip | None:
    """A clip of `ref_frames` samples under one mode, or None: mode `none`, or the pool cannot serve it.

    Where nothing is as long as asked, the longest there is keeps its length, down to 0.25 s. With `audible`, the place
    is drawn again while its level is over 10 dB under the row's noise; after 50 tries the loudest is taken.
    """
    source = LAWS[mode](item, pool, rng) if mode != "none" else None
    if source is None:
        return None
    longest = max(span.stop - span.start for span in source.spans)
    if longest < pool.min_frames:
        return None
    length = min(ref_frames, longest)
    spans = [span for span in source.spans if span.stop - span.start >= length]
    enough = float(pool.index.noise_dbfs[source.row]) - AUDIBLE_DB
    best, best_level = None, -math.inf
    for _ in range(TRIES):
        field, first, last = spans[int(rng.integers(len(spans)))]
        start = first + int(rng.integers(last - first - length + 1))
        clip = Clip(source.row, field, start, start + length, mode, source.relation)
        if audible is None:
            return clip
        level = audible(clip.row, clip.field, clip.start, clip.stop)
        if not level < enough:  # a level of NaN (unknown) accepts
            return clip
        if best is None or level > best_level:
            best, best_level = clip, level
        if all(span.stop - span.start == length for span in spans) and len(spans) == 1:
            break  # there is no other place
    return best


def draw_reference(
    item: Item, pool: Pool, law: Law, ref_frames: int, rng: np.random.Generator, audible: Audible | None = None
) -> Clip | None:
    """A mode of `law`, then its clip; None is the null reference."""
    return draw_clip(item, pool, law.mode(rng.random()), ref_frames, rng, audible)


class Listener:
    """Reads clips and their levels from a data set, each once: a sample that needs a second try is decoded whole."""

    def __init__(self, read: Callable[..., np.ndarray]):
        self.read = read  # read(row, field, start, stop) -> float32 (stop - start,)
        self.heard: dict[tuple[int, str, int, int], np.ndarray] = {}
        self.whole: dict[tuple[int, str], np.ndarray | None] = {}

    def __call__(self, row: int, field: str, start: int, stop: int) -> float:
        """RMS level in dB (-inf for digital silence)."""
        sound = self.sound(row, field, start, stop)
        power = energy(sound, np.float32) / max(len(sound), 1)
        return 10 * math.log10(power) if power > 0 else -math.inf

    def sound(self, row: int, field: str, start: int, stop: int) -> np.ndarray:
        span, member = (row, field, start, stop), (row, field)
        if span not in self.heard:
            if member in self.whole:
                if self.whole[member] is None:
                    self.whole[member] = self.read(row, field, 0, None)
                return self.whole[member][start:stop]  # type: ignore[index]
            self.whole[member] = None
            self.heard[span] = self.read(row, field, start, stop)
        return self.heard[span]

    def clip(self, clip: Clip) -> np.ndarray:
        return self.sound(clip.row, clip.field, clip.start, clip.stop)


@lru_cache(maxsize=4)
def _split_pool(dataset: Samples, split: str) -> Pool:
    return Pool(dataset.index(split), dataset.sample_rate)


def evaluation_reference(
    dataset: Samples, split: str, row: int, mode: str, ref_seconds: float, seed: int
) -> tuple[np.ndarray, Clip] | None:
    """The reference of one evaluated sample: float32 (ref_frames,) and where it comes from; None: no reference.

    Keyed by (seed, key) and drawn over the whole split, so that neither the order of evaluation nor the other modes
    matter. The whole sample is heard: `disjoint` can only be the reserved clip. `ref_frames` is less than asked where
    the source is shorter, never under 0.25 s.
    """
    if mode not in ("none", *LAWS):
        raise UserError(f"reference mode {mode!r} is unknown; choose from none, {', '.join(LAWS)}")
    if not ref_seconds >= MIN_REF_SECONDS:
        raise UserError(f"a reference of {ref_seconds:g} s is too short; ask for {MIN_REF_SECONDS} s or more")
    pool = _split_pool(dataset, split)
    item = Item(row, 0, int(pool.index.frames[row]))
    listener = Listener(lambda *clip: dataset.read(split, *clip))
    rng = generator(key_of("evaluation", seed, bytes(pool.index.key[row])), CLIP)
    clip = draw_clip(item, pool, mode, round(ref_seconds * pool.sample_rate), rng, listener)
    return None if clip is None else (listener.clip(clip), clip)
