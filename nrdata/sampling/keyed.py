"""Random generators keyed by what they belong to, so that a draw never depends on the draws before it.

Philox is counter-based: a generator for any (key, purpose, epoch, position) starts in microseconds, whatever came
before. The purposes never share numbers, so that the law of the reference cannot change the crop.
"""

from __future__ import annotations

import hashlib

import numpy as np

ORDER, CROP, REMIX, LAW, CLIP, LENGTH, CHANNEL, ROOM, SECOND, TALKER, KEEP, SHORT = range(12)


def key_of(*parts: int | str | bytes) -> np.ndarray:
    """A 128-bit key, uint64 (2,), from seed, fingerprint, names and the like."""
    text = b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8").astype(np.uint64)


def generator(key: np.ndarray, purpose: int, epoch: int = 0, position: int = 0) -> np.random.Generator:
    """The generator of one purpose at one position; the lowest counter word is left to the draws."""
    return np.random.Generator(np.random.Philox(key=key, counter=[0, position, epoch, purpose]))
