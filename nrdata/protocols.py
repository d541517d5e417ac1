"""What the parts ask of each other, where another thing than ours may serve."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from nrdata.store.facts import SampleFacts
from nrdata.store.index import SplitIndex
from nrdata.store.triplet import Triplet


class Samples(Protocol):
    """A data set as the stream, the laws and the evaluation use it: `nrdata.open` gives one.

    The same `fingerprint` means the same samples in the same rows: draws and results are keyed by it.
    """

    name: str
    sample_rate: int  # Hz, of all sound
    has_ref: bool  # whether each sample has a reserved clip
    splits: tuple[str, ...]
    fingerprint: str

    def __hash__(self) -> int: ...  # pools are kept by data set

    def index(self, split: str) -> SplitIndex:
        """The columns of a split, a row a sample; the same object at each call. `UserError` for an unknown split."""
        ...

    def read(self, split: str, row: int, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) of "clean", "noise", "noisy" or "ref": float32 (stop - start,) in [-1, 1).

        `UserError` (no_ref) where a sample has no reserved clip, and for what is damaged.
        """
        ...

    def facts(self, split: str, row: int) -> SampleFacts:
        """What is known of a sample beside its sound."""
        ...

    def sample(self, key: str) -> Triplet:
        """A whole sample by its key, whatever its split."""
        ...
