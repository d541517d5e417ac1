"""Sound in, triplets of (clean, noisy, noise) out: builders, shards, streams and reference laws."""

from nrdata.errors import UserError

__all__ = ["UserError", "decode_audio", "open"]


def open(*folders):
    """Open one data set (see `nrdata.store.dataset.open`)."""
    from nrdata.store.dataset import open as open_dataset

    return open_dataset(*folders)


def decode_audio(name, data):
    """Decode audio members in a webdataset pipeline: `.decode(nrdata.decode_audio)` (see `sampling.transforms`)."""
    from nrdata.sampling import transforms

    return transforms.decode_audio(name, data)
