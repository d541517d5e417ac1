"""Sound in, triplets of (clean, noisy, noise) out: builders, shards, streams and reference laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nrdata.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from nrdata.store.dataset import DataSet

__all__ = ["UserError", "decode_audio", "open"]


def open(*folders: str | Path, keep_decoded: bool = False) -> DataSet:
    """Open one data set (see `nrdata.store.dataset.open`)."""
    from nrdata.store.dataset import open as open_dataset

    return open_dataset(*folders, keep_decoded=keep_decoded)


def decode_audio(name: str, data: bytes) -> tuple[np.ndarray, int] | None:
    """Decode audio members in a webdataset pipeline: `.decode(nrdata.decode_audio)` (see `sampling.transforms`)."""
    from nrdata.sampling import transforms

    return transforms.decode_audio(name, data)
