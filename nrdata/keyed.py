"""Random generators keyed by what they belong to, so that a draw never depends on the draws before it.

One function a purpose, side by side, because their numbers are those of every data set, run and evaluation that there
is: none may change. What is keyed by the same words in two functions is not drawn from the same numbers.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

# Purposes of the stream: the law cannot change the crop, a room not the noise, and so on.
ORDER, CROP, REMIX, LAW, CLIP, LENGTH, CHANNEL, ROOM, SECOND, TALKER, KEEP, SHORT = range(12)


def key_of(*parts: int | str | bytes) -> np.ndarray:
    """A 128-bit key, uint64 (2,), from seed, fingerprint, names and the like."""
    text = b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8").astype(np.uint64)


def generator(key: np.ndarray, purpose: int, epoch: int = 0, position: int = 0) -> np.random.Generator:
    """The stream's: of one purpose at one position; the lowest counter word is left to the draws.

    Philox is counter-based: it starts in microseconds anywhere, whatever came before.
    """
    return np.random.Generator(np.random.Philox(key=key, counter=[0, position, epoch, purpose]))


def bank_rng(seed: int, number: int, t60_s: tuple[float, float]) -> np.random.Generator:
    """A bank of rooms': of one room of a seed, whose reverberation time lies in `t60_s`."""
    return generator(key_of("room", seed, number, *map(str, t60_s)), ROOM)


def plan_rng(*parts: object) -> np.random.Generator:
    """A builder's: of what is named (seed, purpose, index, ...)."""
    digest = hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], np.uint32))


def rung_rng(seed: int, key: str, purpose: str) -> np.random.Generator:
    """An evaluation's, for the clip of one file: what is made of it or drawn for it."""
    return generator(key_of("rung", seed, key, purpose), CLIP)


def condition_rng(key: str) -> np.random.Generator:
    """An evaluation's under conditions: which room the speech of one file is in."""
    return generator(key_of("condition", key), ROOM)


def selective_rng(kind: str, seed: int, key: str) -> np.random.Generator:
    """An evaluation's of selective removal: the partner and the clip of one file."""
    return generator(key_of("selective", kind, seed, key), SECOND)


def noise_seed(key: str, seed: int) -> int:
    """An evaluation's seed of the sampler's noise: of one file, the same in every mode; below 2^56."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogateescape")).digest()[:7], "big")


def noise_rng(seed: int, call: int, chunk: int) -> np.random.Generator:
    """The sampler's noise: of a call of the network and a chunk of absolute frames."""
    return np.random.default_rng([seed, call, chunk])


def step_seed(seed: int, step: int) -> int:
    """A training step's, for torch: times, shares and noise of a global batch; below 2^63."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]) >> 1


def validation_rng(seed: int, row: int) -> np.random.Generator:
    """A validation's: which clip one file is heard with."""
    return np.random.default_rng((seed, row))
