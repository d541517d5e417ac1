"""Is noisy minus clean noise? It is where noisy is clean plus something independent of it, sample for sample.

How much of clean is in noisy is fitted over time and frequency, every bin weighed by what the fit leaves around it (so
that the quiet bins of the noise count most): in bands of frequency and in stretches of time, each with its standard
error. What differs from 1 is a fault where it is sure and a part of noisy - clean that counts. Loud noise and a short
file make the error wide: what cannot be known is no fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.032
STRETCH_FRAMES = 16  # half a frame apart: a quarter of a second
BAND_HZ = 500.0
AROUND = 2  # neighbours on either side, in time and in frequency, over which what is left is averaged
FLOOR = 1e-3  # of what a frequency has left on average: digital silence does not outweigh all sound
ERROR = 1.6  # standard error over that of independent bins: frames overlap, noise has a voice (measured)
PASSES = 2
FEW = 16  # frames, with which the error is twice as wide
BLOCKS, BLOCK_SECONDS = 6, 5.0  # of a longer file: so many pieces of it, evenly spread


SURE = 8.0  # standard errors
SHARE = 0.05  # of clean in noisy - clean, as a correlation
SCALE = 0.05  # from 1: .4 dB
BANDS_SHARE = 0.15  # of clean in noisy - clean, found band by band
BAND_SHARE = 0.8  # one band of noisy - clean is hardly anything but clean
GAIN = 0.025  # standard deviation over the file, relative to its mean: .2 dB
GAIN_SURE = 20.0  # standard deviations of chi-squared by which gains differ more than their errors explain (noise: 1)
GAIN_LENGTHS = (1, 2, 4)  # stretches: a quarter of a second, a half, one
GAIN_QUIET = 0.01  # of the mean power of clean: quieter stretches are a recorder's own noise, and leave no speech
GAIN_ERROR = 0.05  # a gain that is surer counts no more
ABSENT = 0.02  # share of noisy that clean makes up, as a correlation, under which it is not there
INTEGERS = 32768.0


@dataclass(frozen=True)
class Pairing:
    """How clean lies in noisy. `fault` is "" where noisy - clean may be taken for noise, otherwise scaled, integers,
    delayed, unrelated, filtered or gain (that changes with time)."""

    fault: str
    correlation: float  # of clean and noisy - clean, as they lie
    scale: float  # of clean in noisy, once they are aligned
    delay: int = 0  # samples by which noisy is late
    mendable: bool = True  # one scale and one delay are all there is
    detail: str = ""

    def __str__(self) -> str:
        if not self.fault:
            return f"noisy - clean is noise (correlation with clean {self.correlation:+.2f}, scale {self.scale:.3f})"
        return f"noisy - clean is no noise (correlation with clean {self.correlation:+.2f}): {self.detail}"


def pairing(clean: np.ndarray, noisy: np.ndarray, sample_rate: int) -> Pairing:
    """Compare two sounds of one length, (frames,) each."""
    c, y = clean.astype(np.float64), noisy.astype(np.float64)
    alike = _correlation(c, y - c)
    fit = _Fit.of(c, y, sample_rate)
    if fit is None or not fit.fault():
        return Pairing("", alike, 1.0 if fit is None else fit.scale)
    delay = _delay(c, y)
    moved = _Fit.of(*aligned(c, y, delay), sample_rate) if delay else None
    if moved is not None and moved.present and moved.surely > fit.surely:
        fit = moved
    else:
        delay = 0
    if not fit.present:
        detail = f"clean is not in noisy at any delay (best scale {fit.scale:.2f}): another utterance?"
        return Pairing("unrelated", alike, fit.scale, 0, False, detail)
    kind, detail = _named(fit, delay, sample_rate)
    return Pairing(kind, alike, fit.scale, delay, not fit.oddity(fit.scale), detail)


def aligned(clean: np.ndarray, noisy: np.ndarray, delay: int) -> tuple[np.ndarray, np.ndarray]:
    """Both without the samples that have no partner once `noisy` is `delay` samples earlier."""
    return (clean[: len(clean) - delay], noisy[delay:]) if delay >= 0 else (clean[-delay:], noisy[:delay])


def mended(clean: np.ndarray, noisy: np.ndarray, found: Pairing) -> tuple[np.ndarray, np.ndarray]:
    """Clean as it lies in noisy: aligned, and at its scale there. Noisy keeps its level."""
    clean, noisy = aligned(clean, noisy, found.delay)
    return (clean * found.scale).astype(np.float32), noisy


def _named(fit: _Fit, delay: int, rate: int) -> tuple[str, str]:
    """The kind of fault, and its numbers in words."""
    kind = fit.oddity(fit.scale)
    told = [f"clean is in it at a scale of {fit.scale:.4g}"]
    if delay:
        side = "late" if delay > 0 else "early"
        told.insert(0, f"noisy is {abs(delay)} samples ({1000 * abs(delay) / rate:.2f} ms) {side}")
    if kind == "filtered":
        told.append(f"their responses differ, most at {fit.worst_hz():.0f} Hz (another filter, codec or resampler?)")
    elif kind == "gain":
        deviation_db = 20 * np.log10(1 + fit.gain_deviation())
        told.append(f"its gain changes over the file, by {deviation_db:.1f} dB on average (automatic gain, a limiter?)")
    elif max(abs(fit.scale), 1 / abs(fit.scale)) > INTEGERS / 2:
        kind = "integers"
        told.append("one side is in the range of integers")
    return kind or ("delayed" if delay else "scaled"), ", ".join(told)


@dataclass(frozen=True)
class _Fit:
    """The fit of one alignment: what the bins say, by band and by stretch."""

    rate: int
    c: np.ndarray  # complex (frames, bins)
    y: np.ndarray
    scale: float
    error: float
    bands: np.ndarray  # complex (bands,): noisy over clean
    band_errors: np.ndarray
    stretches: np.ndarray  # float (stretches,), relative to the bands
    stretch_errors: np.ndarray

    @classmethod
    def of(cls, clean: np.ndarray, noisy: np.ndarray, rate: int) -> _Fit | None:
        """None where nothing can be told: silence on a side, or nothing between them."""
        size = 2 * max(8, round(FRAME_SECONDS * rate / 2))
        if len(clean) < size or not clean.any() or not noisy.any() or not (noisy - clean).any():
            return None
        c, y = _spectra(clean, size, rate), _spectra(noisy, size, rate)
        cc, cy = _power(c), c.conj() * y
        left, least = _power(y), 1e-12 * float(np.mean(_power(y)))
        for _ in range(PASSES + 1):
            weight = 1 / (_mean_around(left) + FLOOR * left.mean(axis=0) + least)
            scale = float(np.sum(weight * cy.real) / np.sum(weight * cc))
            left = _power(y - scale * c)
        seen, said = weight * cc, weight * cy
        wide = ERROR * (1 + FEW / len(c))
        band, stretch = _band_of(c.shape[1], size, rate), np.arange(len(c)) // STRETCH_FRAMES
        by_band = np.bincount(band, seen.sum(axis=0))
        real, imag = (np.bincount(band, part.sum(axis=0)) for part in (said.real, said.imag))
        bands, band_errors = (real + 1j * imag) / (by_band + 1e-30), wide * _error(by_band)
        # Where bands differ, the scale of the whole is that of the sound's energy, not of the noise's gaps.
        energy = np.bincount(band, cc.sum(axis=0))
        overall, overall_error = float(energy @ bands.real / energy.sum()), _rms(energy * band_errors) / energy.sum()
        error = wide * float(_error(seen.sum()))
        if abs(overall - scale) > SURE * overall_error:
            scale, error = overall, overall_error
        # The gain of a stretch is what it has beyond the response of the bands: speech is no filter.
        response = bands[band]
        by_stretch = np.bincount(stretch, seen @ _power(response))
        stretches = np.bincount(stretch, (said @ response.conj()).real) / (by_stretch + 1e-30)
        energy = np.bincount(stretch, cc.sum(axis=1))
        told = by_stretch * (energy > GAIN_QUIET * energy.mean())
        return cls(rate, c, y, scale, error, bands, band_errors, stretches, wide * _error(told))

    @property
    def surely(self) -> float:
        """Standard errors by which clean is in noisy."""
        return abs(self.scale) / self.error

    @property
    def present(self) -> bool:
        """Whether clean is in noisy at all."""
        part = abs(self.scale) * np.sqrt(np.sum(_power(self.c)) / np.sum(_power(self.y)))
        return self.surely > SURE and bool(part > ABSENT)

    def fault(self) -> bool:
        """Whether clean is in noisy in another way than at a scale of 1."""
        off = abs(self.scale - 1)
        share = off * np.sqrt(np.sum(_power(self.c)) / np.sum(_power(self.y - self.c)))
        return bool(off > SURE * self.error and (off > SCALE or share > SHARE)) or bool(self.oddity(1.0))

    def oddity(self, scale: float) -> str:
        """gain, filtered or "": what one scale does not explain."""
        if self.gain_deviation() > GAIN:
            return "gain"
        off, shares, whole = self._off_by_band(scale)
        if off.max() > SURE and whole > BANDS_SHARE:
            return "filtered"
        return "filtered" if np.any((off > 2 * SURE) & (shares > BAND_SHARE)) else ""

    def _off_by_band(self, scale: float) -> tuple[np.ndarray, np.ndarray, float]:
        """By band, how far the response is from `scale` in standard errors and how much of noisy - scale x clean it
        explains, as a correlation; and that of all bands together."""
        band = _band_of(self.c.shape[1], 2 * (self.c.shape[1] - 1), self.rate)
        clean = np.bincount(band, _power(self.c).sum(axis=0))
        left = np.bincount(band, _power(self.y - scale * self.c).sum(axis=0)) + 1e-30
        off = np.abs(self.bands - scale)
        surely = np.maximum(off**2 - 2 * self.band_errors**2, 0) * clean
        return off / self.band_errors, np.sqrt(surely / left), float(np.sqrt(surely.sum() / left.sum()))

    def worst_hz(self) -> float:
        """The middle of the band that differs most from the scale."""
        off, shares, _ = self._off_by_band(self.scale)
        return (float(np.argmax(np.where(off > SURE, shares, 0))) + 0.5) * BAND_HZ

    def gain_deviation(self) -> float:
        """Standard deviation of the gain over the file, relative to its mean and without that of its errors; 0 where
        these explain it. Loud noise blurs each stretch, and all of them together tell."""
        most, information = 0.0, self.stretch_errors**-2.0
        for length in GAIN_LENGTHS:
            group = np.arange(len(self.stretches)) // length
            total = np.bincount(group, information)
            gains = np.bincount(group, information * self.stretches) / total
            off = gains - total @ gains / total.sum()
            excess = float(total @ off**2 - len(gains)) / np.sqrt(2 * len(gains))
            if len(gains) < 3 or excess < GAIN_SURE:
                continue
            weight = 1 / (1 / total + GAIN_ERROR**2)
            mean = weight @ gains / weight.sum()
            variance = weight @ ((gains - mean) ** 2 - 1 / total) / weight.sum()
            most = max(most, float(np.sqrt(max(variance, 0.0)) / max(abs(mean), 1e-6)))
        return most


def _error(information: np.ndarray | float) -> np.ndarray:
    """Of independent bins."""
    return np.asarray(1 / np.sqrt(2 * np.asarray(information) + 1e-30))


def _power(x: np.ndarray) -> np.ndarray:
    power: np.ndarray = x.real**2 + x.imag**2
    return power


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(x**2)))


def _band_of(bins: int, size: int, rate: int) -> np.ndarray:
    return (np.arange(bins) * rate / size // BAND_HZ).astype(int)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised, at no delay; 0 with silence."""
    total = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / total if total else 0.0


def _spectra(x: np.ndarray, size: int, rate: int) -> np.ndarray:
    """Complex (frames, size / 2 + 1) of Hann windows half a window apart; of a long sound, of some pieces."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (size // 2, size)), size)[:: size // 2]
    block = round(BLOCK_SECONDS * rate / (size // 2))
    if len(frames) > BLOCKS * block:
        starts = np.linspace(0, len(frames) - block, BLOCKS).astype(int)
        frames = np.concatenate([frames[start : start + block] for start in starts])
    spectra: np.ndarray = np.fft.rfft(frames * np.hanning(size + 1)[:-1])
    return spectra


def _mean_around(x: np.ndarray) -> np.ndarray:
    """Mean over the neighbours in both directions; what lies beyond an edge is like the edge."""
    width = 2 * AROUND + 1
    for axis, (frames, bins) in enumerate(((AROUND, 0), (0, AROUND))):
        y = np.pad(x, ((frames, frames), (bins, bins)), mode="edge")
        count = x.shape[axis]
        near = [y[i : i + count] if axis == 0 else y[:, i : i + count] for i in range(width)]
        x = np.sum(near, axis=0) / width
    return x


def _delay(clean: np.ndarray, noisy: np.ndarray) -> int:
    """Samples by which noisy is late: where the whitened correlation stands out; 0 where it does not."""
    size = 1 << (2 * len(clean) - 1).bit_length()
    a, b = np.fft.rfft(clean, size), np.fft.rfft(noisy, size)
    cross = a.conj() * b
    for side in (a, b):
        power = _smooth(np.abs(side) ** 2, max(1, size // 1000))
        cross /= np.sqrt(power + 1e-9 * power.max() + 1e-30)
    correlation = np.fft.irfft(cross, size)
    at = int(np.argmax(np.abs(correlation)))
    if abs(correlation[at]) < SURE * float(np.std(correlation)):
        return 0
    delay = at if at < size // 2 else at - size
    return delay if abs(delay) < len(clean) // 2 else 0


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    total = np.cumsum(np.insert(x, 0, 0))
    at = np.arange(len(x))
    low, high = np.maximum(at - width, 0), np.minimum(at + width + 1, len(x))
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean
