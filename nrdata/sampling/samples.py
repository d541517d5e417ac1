"""What the laws and the stream ask of a data set; `nrdata.open` gives one, and a test may have its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Columns(Protocol):
    """The index of a split, a row a sample. Names are sorted; `env` and `recording` are codes into them."""

    @property
    def key(self) -> np.ndarray: ...  # bytes (n,)
    @property
    def env(self) -> np.ndarray: ...  # int (n,)
    @property
    def env_names(self) -> Sequence[str]: ...
    @property
    def recording(self) -> np.ndarray: ...  # int (n,)
    @property
    def recording_names(self) -> Sequence[str]: ...
    @property
    def stretch(self) -> np.ndarray: ...  # int64 (n, 2), of the noise in its recording; -1: unknown
    @property
    def noise_dbfs(self) -> np.ndarray: ...  # float32 (n,)
    @property
    def frames(self) -> np.ndarray: ...  # int64 (n,), samples
    @property
    def ref_frames(self) -> np.ndarray: ...  # int64 (n,), samples; 0: no reserved clip


class ShardColumns(Columns, Protocol):
    """With the order's unit: rows of one shard stand together."""

    @property
    def shard(self) -> np.ndarray: ...  # int (n,)


class Samples(Protocol):
    """Splits of samples at one rate; `fingerprint` names their content."""

    name: str
    sample_rate: int  # Hz
    fingerprint: str

    def __hash__(self) -> int: ...  # pools are kept by data set

    def index(self, split: str) -> ShardColumns: ...

    def read(self, split: str, row: int, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 (stop - start,) of a member: clean, noisy, noise or ref."""
        ...
