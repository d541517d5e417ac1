"""From a law to a clip: the place inside its source, and the sound.

Choosing the place is common to all laws: uniform over the source's spans, then over the positions, again while the
clip is silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nrdata.audio.levels import energy
from nrdata.errors import UserError
from nrdata.keyed import CLIP, generator, key_of
from nrdata.protocols import Samples
from nrdata.sampling.laws import LAWS, Item, LawMixture
from nrdata.sampling.pool import MIN_REF_SECONDS, Pool

TRIES = 50
AUDIBLE_DB = 10.0  # a clip this far under its sample's noise level is drawn again


@dataclass(frozen=True)
class Clip:
    """A reference: `[start, stop)` of `field` of `row`: "noise" or "ref", or a talker's "clean"."""

    row: int
    field: str
    start: int
    stop: int
    mode: str
    relation: str


Audible = Callable[[int, str, int, int], float]


def draw_clip(
    item: Item, pool: Pool, mode: str, ref_frames: int, rng: np.random.Generator, audible: Audible | None = None
) -> Clip | None:
    """A clip of `ref_frames` samples under one mode, or None: the law gives none, or the pool cannot serve it.

    Where nothing is as long as asked, the longest there is keeps its length, down to 0.25 s. With `audible`, the place
    is drawn again while its level is over 10 dB under the row's noise; after 50 tries the loudest is taken.
    """
    law = LAWS[mode]
    source = law.draw(item, pool, rng)
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
        clip = Clip(source.row, field, start, start + length, mode, law.relation)
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
    item: Item, pool: Pool, law: LawMixture, ref_frames: int, rng: np.random.Generator, audible: Audible | None = None
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
    if mode not in LAWS:
        raise UserError(f"reference mode {mode!r} is unknown; choose from {', '.join(LAWS)}")
    if not ref_seconds >= MIN_REF_SECONDS:
        raise UserError(f"a reference of {ref_seconds:g} s is too short; ask for {MIN_REF_SECONDS} s or more")
    pool = _split_pool(dataset, split)
    item = Item(row, 0, int(pool.index.frames[row]))
    listener = Listener(lambda *clip: dataset.read(split, *clip))
    rng = generator(key_of("evaluation", seed, bytes(pool.index.key[row])), CLIP)
    clip = draw_clip(item, pool, mode, round(ref_seconds * pool.sample_rate), rng, listener)
    return None if clip is None else (listener.clip(clip), clip)
