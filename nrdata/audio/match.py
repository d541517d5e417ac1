"""Is the same sound in two recordings, at whatever offset, gain, equalisation or codec?

Both are brought to 8 kHz, their level is flattened (loud instants decide nothing), their spectrum whitened (a shared
timbre is no copy), and flattened again. They are the same where the normalised correlation at one lag exceeds 0.5 over
a whole second. Plain phase correlation flags impulsive sounds that are no copies; this does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nrdata.audio.levels import resample

RATE = 8000
WINDOW = RATE  # samples over which the correlation is taken: 1 s
THRESHOLD = 0.5
LEVEL_WINDOW = 160  # 20 ms
FLOOR = 4 / 32768  # RMS level of rounding and dither
SMOOTH_HZ = 5.0  # of the spectrum that is flattened: finer than timbre, coarser than chance
QUIET = 0.25  # power of a second below which it is nearly silent (flattened sound has about 1)
LAGS = 4  # candidates tried


@dataclass(frozen=True)
class Match:
    """The best second that two sounds share."""

    correlation: float
    lag_seconds: float  # the second sound's start in the first

    def __str__(self) -> str:
        return f"correlation {self.correlation:.2f} at {self.lag_seconds:+.2f} s"


def whiten(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """Float sound (n,) -> float32 at 8 kHz with flat level and spectrum, zero mean, about unit variance."""
    x = resample(x, sample_rate, RATE)
    if not len(x):
        return x
    x = _flatten(np.diff(x, prepend=x[:1]))  # an offset of the converter is no sound; a filter with no tail to ring
    spectrum = np.fft.rfft(x)
    power = _running_mean(np.abs(spectrum) ** 2, max(1, round(SMOOTH_HZ * len(x) / RATE)))
    spectrum /= np.sqrt(power + 1e-6 * power.max(initial=0) + 1e-20)
    return _flatten(np.fft.irfft(spectrum, len(x)).astype(np.float32))


def _flatten(x: np.ndarray) -> np.ndarray:
    """Divide by the running RMS level; what lies 40 dB under the loudest, or in the last bits, stays small."""
    power = _running_mean(x.astype(np.float64) ** 2, LEVEL_WINDOW)
    flat: np.ndarray = x / np.sqrt(np.maximum(power, max(1e-4 * float(power.max()), FLOOR**2)))
    return flat.astype(np.float32)


def _running_mean(x: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` neighbours, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    at = np.arange(len(x))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(x))
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean


def compare(a: np.ndarray, b: np.ndarray, a_spectrum: np.ndarray, b_spectrum: np.ndarray, size: int) -> Match | None:
    """Two whitened sounds and their spectra of `size` points: the second they share, or None."""
    correlation = np.fft.irfft(a_spectrum * b_spectrum.conj(), size)
    height = np.abs(correlation)
    if height.max() < THRESHOLD * WINDOW:  # a second that is alike would stand out by more (unit variance)
        return None
    peaks = np.argpartition(height, -LAGS)[-LAGS:]
    best: Match | None = None
    for lag in (int(lag) for peak in peaks for lag in (peak, peak - size)):  # the correlation is circular
        value = _windowed(a, b, lag)
        if value > THRESHOLD and (best is None or value > best.correlation):
            best = Match(value, lag / RATE)
    return best


def _windowed(a: np.ndarray, b: np.ndarray, lag: int) -> float:
    """The largest |normalised correlation| over one second, a[n + lag] against b[n]."""
    start, stop = max(0, -lag), min(len(b), len(a) - lag)
    if stop - start < WINDOW:
        return 0.0
    x, y = a[start + lag : stop + lag].astype(np.float64), b[start:stop].astype(np.float64)

    def sums(z: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.concatenate([[0.0], np.cumsum(z)])
        of_window: np.ndarray = total[WINDOW:] - total[:-WINDOW]
        return of_window

    floor = QUIET * WINDOW  # a second of near silence proves nothing
    energies = np.maximum(sums(x * x), floor) * np.maximum(sums(y * y), floor)
    return float(np.max(np.abs(sums(x * y)) / np.sqrt(energies)))


def fft_size(*lengths: int) -> int:
    """Room for the longest sound; lags that fold onto each other are told apart by `compare`."""
    return 1 << int(max(1, *lengths) - 1).bit_length()


def best_match(a: np.ndarray, b: np.ndarray, sample_rate: int) -> Match | None:
    """Two sounds at one rate: the second they share, or None."""
    x, y = whiten(a, sample_rate), whiten(b, sample_rate)
    size = fft_size(len(x), len(y))
    return compare(x, y, np.fft.rfft(x, size), np.fft.rfft(y, size), size)
