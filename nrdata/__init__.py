"""Sound in, triplets of (clean, noisy, noise) out: builders, shards, streams and reference laws."""

from nrdata.errors import UserError

__all__ = ["UserError", "open"]


def open(*folders):
    """Open one data set (see `nrdata.dataset.open`)."""
    from nrdata.dataset import open as open_dataset

    return open_dataset(*folders)
