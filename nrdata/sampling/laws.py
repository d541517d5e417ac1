"""The laws of the reference: which clip goes with which item.

A law draws, from an item, a pool and a generator, a `Source`: the row whose sound is taken and the spans of it that
are allowed (`clips` chooses the place inside). Beside it stands its shortfall: what a pool cannot serve, known from
the index alone; a property test holds the two together. `LAWS` is all that the rest of the house knows of a law.

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
from typing import NamedTuple

import numpy as np

from nrdata.errors import UserError
from nrdata.sampling.pool import Groups, Pool


@dataclass(frozen=True)
class Item:
    """The crop that is heard: `[start, stop)` in samples of the member of `row` that holds the noise."""

    row: int
    start: int
    stop: int


class Span(NamedTuple):
    field: str
    start: int
    stop: int


class Source(NamedTuple):
    row: int
    spans: tuple[Span, ...]


class Unserved(NamedTuple):
    """Of each row of a pool: how much of it gets no clip, and whether the clip's sound may overlap the item's."""

    missing: np.ndarray  # float (rows,), a share: expected over the crops
    unknown: np.ndarray  # bool (rows,)


@dataclass(frozen=True)
class Law:
    """`draw(item, pool, rng)` gives None where there is no clip; `shortfall(pool, crop_samples)` says where that is,
    `crop_samples` None: whole samples are heard, as in evaluation."""

    draw: Callable[[Item, Pool, np.random.Generator], Source | None]
    shortfall: Callable[[Pool, int | None], Unserved]
    relation: str  # of clip and item, as batches and evaluation rows tell it
    same_place: bool  # the clip was recorded where the item was


def none(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """No clip, and none is missing."""
    return None


def none_shortfall(pool: Pool, crop_samples: int | None) -> Unserved:
    return Unserved(np.zeros(len(pool.rows)), np.zeros(len(pool.rows), bool))


def oracle(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """The item's own noise, whole: an upper bound with a leak."""
    return Source(item.row, (Span("noise", 0, int(pool.index.frames[item.row])),))


def oracle_shortfall(pool: Pool, crop_samples: int | None) -> Unserved:
    missing = (pool.index.frames[pool.rows] < pool.min_frames).astype(float)
    return Unserved(missing, np.zeros(len(missing), bool))


def disjoint(item: Item, pool: Pool, rng: np.random.Generator) -> Source | None:
    """The same place at another time: the reserve, and the unit's own noise at least the gap away from the crop."""
    frames, ref_frames = int(pool.index.frames[item.row]), int(pool.index.ref_frames[item.row])
    spans = (
        Span("ref", 0, ref_frames),
        Span("noise", 0, item.start - pool.gap_frames),
        Span("noise", item.stop + pool.gap_frames, frames),
    )
    return Source(item.row, spans)


def disjoint_shortfall(pool: Pool, crop_samples: int | None) -> Unserved:
    """Without a reserve: the share of crop positions with under 0.25 s of noise beyond the gap on either side."""
    frames = pool.index.frames[pool.rows]
    crop = frames if crop_samples is None else np.minimum(frames, crop_samples)
    beyond = pool.gap_frames + pool.min_frames
    positions = frames - crop + 1
    first_bad = np.maximum(frames - crop - beyond + 1, 0)  # nothing after the crop from here on
    last_bad = np.minimum(beyond - 1, frames - crop)  # nothing before the crop up to here
    missing = np.maximum(last_bad - first_bad + 1, 0) / positions
    missing[pool.index.ref_frames[pool.rows] >= pool.min_frames] = 0
    return Unserved(missing, np.zeros(len(missing), bool))


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
    return Source(row, (Span("noise", 0, int(pool.index.frames[row])),))


def _other_unit(row: int, pool: Pool, block: np.ndarray, rng: np.random.Generator) -> int | None:
    """A row of `block` with other sound than `row`: tried at random first, so that a large block costs no scan."""
    known = pool.index.stretch[row, 0] >= 0
    for test in (pool.apart, pool.perhaps_apart) if known else (pool.perhaps_apart,):
        for candidates in (block[rng.integers(len(block), size=16)] if len(block) else block, block):
            fitting = candidates[test(row, candidates)]
            if len(fitting):
                return int(fitting[0] if candidates is not block else fitting[rng.integers(len(fitting))])
    return None


def env_shortfall(pool: Pool, crop_samples: int | None) -> Unserved:
    env = pool.index.env[pool.rows]
    in_env = np.where(pool.unknown_env[env], 0, pool.environments.sizes(env))
    in_recording = pool.recordings.sizes(pool.recording_label(pool.rows))
    missing, unknown = (in_env == 0).astype(float), np.zeros(len(env), bool)
    alone = np.flatnonzero((in_env == in_recording) & (in_env > 0))  # no other recording of their environment
    lone = Groups(alone, env[alone])
    for code, first, last in zip(lone.labels, lone.start, lone.stop, strict=True):
        at = lone.rows[first:last]
        block = pool.environments.rows[slice(*pool.environments.span(code))]
        apart, perhaps = _served_inside(pool, pool.rows[at], block)
        missing[at] = ~(apart | perhaps)
        unknown[at] = perhaps & ~apart
    return Unserved(missing, unknown)


def _served_inside(pool: Pool, items: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each item: does a row of its only recording surely (`apart`) or perhaps (stretch unknown) hold other sound?

    `pool.apart` and `pool.perhaps_apart` over all pairs in linear time: some stretch ends before the item's begins, or
    begins after it ends; some row is of another length or level.
    """
    start, stop = pool.index.stretch[items].T
    known = pool.index.stretch[block][pool.index.stretch[block, 0] >= 0]
    apart = np.zeros(len(items), bool)
    if len(known):
        apart = (start >= 0) & ((known[:, 1].min() <= start) | (known[:, 0].max() >= stop))
    unknown = block[pool.index.stretch[block, 0] < 0]
    perhaps = np.where(start < 0, _differs(pool, items, block), _differs(pool, items, unknown))
    return apart, perhaps


def _differs(pool: Pool, items: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each item: is there one among `others` of another length or level? True for all where `others` differ."""
    if len(others) == 0:
        return np.zeros(len(items), bool)

    frames, level, first = pool.index.frames, pool.index.noise_dbfs, others[0]
    unlike, varied = ((frames[rows] != frames[first]) | (level[rows] != level[first]) for rows in (items, others))
    differs: np.ndarray = unlike | varied.any()
    return differs


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
    return Source(row, (Span("noise", 0, int(pool.index.frames[row])),))


def mismatch_shortfall(pool: Pool, crop_samples: int | None) -> Unserved:
    place = pool.place_of_env[pool.index.env[pool.rows]]
    labels = pool.places.labels
    others = len(labels) - np.isin(place, labels)
    return Unserved((others == 0).astype(float), np.zeros(len(place), bool))


LAWS: dict[str, Law] = {
    "none": Law(none, none_shortfall, "none", same_place=False),
    "oracle": Law(oracle, oracle_shortfall, "overlap", same_place=True),
    "disjoint": Law(disjoint, disjoint_shortfall, "same-recording", same_place=True),
    "env": Law(env, env_shortfall, "same-environment", same_place=True),
    "mismatch": Law(mismatch, mismatch_shortfall, "other-environment", same_place=False),
}


@dataclass(frozen=True)
class LawMixture:
    """A mixture of laws: `shares` are (mode, probability), adding up to 1; a mode is the name of a law."""

    shares: tuple[tuple[str, float], ...]

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(mode for mode, _ in self.shares)

    @property
    def same_place(self) -> bool:
        """Some of its clips come from the item's own place."""
        return any(LAWS[mode].same_place for mode in self.modes)

    def mode(self, u: float) -> str:
        """The mode at quantile `u` in [0, 1)."""
        for mode, share in self.shares:
            u -= share
            if u < 0:
                return mode
        return self.shares[-1][0]

    def __str__(self) -> str:
        return ",".join(f"{m}:{s:g}" for m, s in self.shares) if len(self.shares) > 1 else self.shares[0][0]


def parse_law(text: str) -> LawMixture:
    """`"env"`, or a mixture `"oracle:0.5,env:0.4,none:0.1"` whose shares add up to 1. Raises `UserError`."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        mode, colon, number = part.strip().partition(":")
        if mode not in LAWS:
            raise UserError(f"reference mode {mode!r} in {text!r} is unknown; choose from {', '.join(LAWS)}")
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
    return LawMixture(tuple(shares.items()))
