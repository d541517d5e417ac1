"""A constant offset, and sound under 20 Hz: nobody hears it, and a network takes it for loudness. Where it holds more
than a hundredth of a channel's power it is taken out before the model, and is not put back; other channels pass
untouched, to the bit. The filter is symmetric, so that nothing is moved in time; ends are mirrored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from scipy.signal import firwin, oaconvolve

CUTOFF_HZ = 26.0  # half-way between 20 Hz, which are taken out, and 32, which stay
SECONDS = 0.3  # of the filter: 60 dB of rejection in these 12 Hz
SHARE = 0.01  # of a channel's power, from which it is taken out
SEGMENT_SECONDS = 0.5  # rumble lasts: half of the pieces of this length have it, while a click is in one or two


@lru_cache(maxsize=4)
def _kernel(rate: int) -> np.ndarray:
    """Low-pass `(taps,)`, odd in number, their sum one."""
    kernel: np.ndarray = firwin(2 * (round(SECONDS * rate) // 2) + 1, CUTOFF_HZ, fs=rate, window=("kaiser", 5.65))
    return kernel


def low(x: np.ndarray, rate: int) -> np.ndarray:
    """What of `(samples, channels)` is under 20 Hz; zeros where the sound is too short to tell (0.15 s)."""
    half = len(_kernel(rate)) // 2
    if len(x) <= half:
        return np.zeros_like(x)
    return _valid(np.pad(x, ((half, half), (0, 0)), "reflect"), rate)


def matters(low_part: np.ndarray, x: np.ndarray, rate: int) -> np.ndarray:
    """Whether the low part of a sound `(samples, channels)` is to be taken out: bool `(channels,)`."""
    if not len(x):
        return np.zeros(x.shape[1], bool)
    powers = np.square(low_part, dtype=np.float64)
    pieces = np.array_split(powers, max(round(len(x) / (SEGMENT_SECONDS * rate)), 1))
    lasting = np.median([piece.mean(axis=0) for piece in pieces], axis=0)
    return np.asarray(lasting > SHARE * np.square(x, dtype=np.float64).mean(axis=0))


def without(x: np.ndarray, rate: int) -> np.ndarray:
    """A sound `(samples,)` or `(samples, channels)` without it."""
    wide = x.reshape(len(x), -1)
    low_part = low(wide, rate)
    which = matters(low_part, wide, rate)
    return (wide - np.where(which, low_part, 0)).astype(x.dtype).reshape(x.shape) if which.any() else x


def removed(blocks: Iterable[np.ndarray], rate: int, which: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks `(n, channels)` -> the same sound in other blocks, the channels `which` without what is under 20 Hz."""
    if not which.any():
        yield from blocks
        return
    half = len(_kernel(rate)) // 2
    held = np.zeros((0, len(which)), np.float32)
    for block in _mirrored(blocks, half):
        held = np.concatenate([held, block])
        if len(held) > 2 * half:
            y = held[half : len(held) - half].copy()
            y[:, which] -= _valid(held[:, which], rate)
            yield y
            held = held[len(held) - 2 * half :]


def _valid(x: np.ndarray, rate: int) -> np.ndarray:
    filtered: np.ndarray = oaconvolve(x.astype(np.float64), _kernel(rate)[:, None], "valid", axes=0)
    return filtered.astype(np.float32)


def _mirrored(blocks: Iterable[np.ndarray], half: int) -> Iterator[np.ndarray]:
    """The blocks between `half` mirrored samples at either end. What is shorter than that is mirrored again."""
    source = iter(blocks)
    last = next(source)
    while len(last) <= half and (more := next(source, None)) is not None:
        last = np.concatenate([last, more])
    yield np.pad(last, ((half, 0), (0, 0)), "reflect")
    for block in source:
        yield block
        last = np.concatenate([last[-half - 1 :], block])
    yield np.pad(last, ((0, half), (0, 0)), "reflect")[len(last) :]
