"""Augmentation: a chain of audiomentations filters that makes another place of a noise, the clip's noise alike.

Every number is drawn when the plan is made: a filter has one value where audiomentations would draw from a range. Only
filters: mixing sets the level anyway, and what changes the time would move the noise away from its stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nrdata.builders.synthesis.seeded import seeded

LONGEST_CHAIN = 3
GAIN_DB = 12.0  # of a shelf or a peak, at most
NYQUIST_SHARE = 0.45  # of the sample rate: no filter above

# Hz, low and high, at any sample rate that holds them.
FREQUENCIES = {
    "LowShelfFilter": (100.0, 1000.0),
    "PeakingFilter": (200.0, 6000.0),
    "HighShelfFilter": (1000.0, 6000.0),
    "LowPassFilter": (2500.0, 7000.0),
    "HighPassFilter": (50.0, 400.0),
}
Q = {"LowShelfFilter": (0.3, 0.9), "PeakingFilter": (0.5, 3.0), "HighShelfFilter": (0.3, 0.9)}
ROLLOFFS_DB = (6, 12)  # an octave


@dataclass(frozen=True)
class Filter:
    """A filter of audiomentations and its numbers, by the names they have there (there a range each)."""

    filter: str
    center_freq: float | None = None  # Hz
    gain_db: float | None = None
    q: float | None = None
    cutoff_freq: float | None = None  # Hz
    rolloff: int | None = None  # dB an octave

    def numbers(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "filter" and value is not None}


@dataclass(frozen=True)
class Augment:
    seed: int
    chain: tuple[Filter, ...]

    def to_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "chain": [{"filter": step.filter, **step.numbers()} for step in self.chain]}


def draw(rng: np.random.Generator, sample_rate: int) -> Augment:
    """One to three different filters."""
    names = rng.permutation(sorted(FREQUENCIES))[: rng.integers(1, LONGEST_CHAIN + 1)]
    return Augment(int(rng.integers(2**32)), tuple(_filter(str(name), rng, sample_rate) for name in names))


def _filter(name: str, rng: np.random.Generator, sample_rate: int) -> Filter:
    top = NYQUIST_SHARE * sample_rate
    low, high = (min(f, top) for f in FREQUENCIES[name])
    frequency = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 1)
    if name not in Q:
        return Filter(name, cutoff_freq=frequency, rolloff=int(rng.choice(ROLLOFFS_DB)))
    gain_db = round(float(rng.uniform(GAIN_DB / 4, GAIN_DB) * rng.choice((-1, 1))), 2)
    return Filter(name, frequency, gain_db, q=round(float(rng.uniform(*Q[name])), 3))


def augmented(x: np.ndarray, augment: Augment, sample_rate: int) -> np.ndarray:
    """x float (frames,) through the chain: float32 (frames,)."""
    import audiomentations

    y = x.astype(np.float32)
    with seeded(augment.seed):
        for step in augment.chain:
            ranges = {f"{end}_{name}": value for name, value in step.numbers().items() for end in ("min", "max")}
            y = getattr(audiomentations, step.filter)(**ranges, p=1.0)(y, sample_rate)
    return y
