"""One channel, one rate, one level: what is measured of sound and done to it before anything else."""

from __future__ import annotations

import warnings

import numpy as np


class ChannelsCancel(UserWarning):
    """The mean of the channels is nearly silent though they are not: opposite phase, a broken cable."""


def to_mono(x: np.ndarray) -> np.ndarray:
    """`downmix`, with a `ChannelsCancel` warning where the channels cancel."""
    mono, cancel = downmix(x)
    if cancel:
        warnings.warn("the channels cancel (opposite phase): the first one is taken", ChannelsCancel, stacklevel=2)
    return mono


def downmix(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """(frames, channels) -> the mean of the channels, float32 (frames,), or where they cancel (the mean's RMS 30 dB
    under the channels') the first one; and whether they do."""
    if x.ndim == 1:
        return x.astype(np.float32, copy=False), False
    if x.shape[1] == 1:
        return x[:, 0].astype(np.float32), False
    mono = x.mean(axis=1, dtype=np.float64).astype(np.float32)
    level, mean_level = rms_dbfs(x.ravel()), rms_dbfs(mono)
    if level > -120 and mean_level < level - 30:
        return np.ascontiguousarray(x[:, 0], dtype=np.float32), True
    return mono, False


def resample(x: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Convert the sample rate along axis 0 with soxr's "very high quality" recipe; float32."""
    if rate_in == rate_out or len(x) == 0:
        return x.astype(np.float32, copy=False)
    import soxr

    y: np.ndarray = soxr.resample(x.astype(np.float32, copy=False), rate_in, rate_out, quality="VHQ")
    return y.astype(np.float32)


def energy(x: np.ndarray, square_in: type[np.floating] = np.float64) -> float:
    """Sum of squares in float64; `square_in` np.float32 squares faster, with its rounding.

    Not `np.dot`, whose last bits (and, among busy cores, whose time) depend on BLAS's threads.
    """
    return float(np.sum(np.square(x, dtype=square_in), dtype=np.float64))


def power(x: np.ndarray) -> float:
    """Mean square in float64, full scale (1.0, or 32768 for int16) being 1; 0 for no samples."""
    y = x.astype(np.float64) / (32768.0 if x.dtype == np.int16 else 1.0)
    return float(np.mean(y * y)) if y.size else 0.0


def rms(x: np.ndarray) -> float:
    """Root mean square, full scale being 1."""
    return float(np.sqrt(power(x)))


def rms_dbfs(x: np.ndarray) -> float:
    """RMS level in dB, full scale being 0; -inf for silence and for no samples."""
    mean_square = power(x)
    return 10.0 * float(np.log10(mean_square)) if mean_square > 0 else float("-inf")
