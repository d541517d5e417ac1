"""What the laws ask of an index; a data set has one (`store.index`), samples in memory another (`stage`)."""

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
