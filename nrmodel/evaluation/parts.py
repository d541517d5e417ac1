"""How much of each part of a mixture a system took away, told from the parts themselves. Pure functions on arrays.

    y = s + a + b        s speech, a the sound of the clip, b what is to stay beside the speech

In each frequency bin the gains of s, a and b by least squares over time explain the estimate; from them follows the
level of each part behind the system (decibels taken, positive: taken away).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nrmodel.evaluation.metrics import MetricFailure, si_sdr

FRAME = 512
FIGURES = ("clip_db", "rest_db", "speech_db", "apart_db", "kept_db", "kept_gain_db")


@dataclass(frozen=True)
class Mixture:
    """float32 (frames,) each; `speech` or `rest` may be silent. `env_id` names the sound of the clip."""

    key: str
    env_id: str
    rest_id: str
    speaker: str
    speech: np.ndarray
    clip_sound: np.ndarray
    rest: np.ndarray
    clip: np.ndarray
    sample_rate: int

    @property
    def noisy(self) -> np.ndarray:
        found: np.ndarray = self.speech + self.clip_sound + self.rest
        return found

    @property
    def kept(self) -> np.ndarray:
        found: np.ndarray = self.speech + self.rest
        return found


def figures(made: np.ndarray, parts: Mixture) -> dict[str, float | None]:
    """`FIGURES` of one estimate; None where a part is silent. `apart` is what the clip's sound lost more than what is
    to stay: the rest, or speech where there is none. `kept` is SI-SDR against all that is to stay."""
    spectra = [_spectrum(x) for x in (parts.speech, parts.clip_sound, parts.rest)]
    gains = part_gains(_spectrum(made), spectra)
    speech, clip, rest = (taken_db(g, s) for g, s in zip(gains, spectra, strict=True))
    stays = rest if rest is not None else speech
    kept, before = kept_db(parts.kept, made), kept_db(parts.kept, parts.noisy)
    return {
        "clip_db": clip, "rest_db": rest, "speech_db": speech,
        "apart_db": None if clip is None or stays is None else clip - stays,
        "kept_db": kept, "kept_gain_db": None if kept is None or before is None else kept - before,
    }  # fmt: skip


def part_gains(made: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Complex (parts, bins): in each bin the gains that explain `made` (bins, frames) best as a sum of the parts."""
    stacked = np.stack(parts, axis=2)  # (bins, frames, parts)
    gram = np.einsum("ftp,ftq->fpq", stacked.conj(), stacked)
    floor = 1e-6 * np.trace(gram, axis1=1, axis2=2).real[:, None, None] + 1e-12
    right = np.einsum("ftp,ft->fp", stacked.conj(), made)
    gains: np.ndarray = np.linalg.solve(gram + floor * np.eye(len(parts)), right[..., None])[..., 0].T
    return gains


def taken_db(gains: np.ndarray, part: np.ndarray) -> float | None:
    """How much of a part's energy its gains (bins,) took away, in dB; None for silence."""
    power = np.sum(np.abs(part) ** 2, axis=1)
    if power.sum() <= 1e-9:
        return None
    left = float(np.sum(np.abs(gains) ** 2 * power) / power.sum())
    return -10 * math.log10(max(left, 1e-6))


def kept_db(kept: np.ndarray, estimate: np.ndarray) -> float | None:
    """SI-SDR; None where there is none (silence, or nothing but what is to stay)."""
    try:
        return si_sdr(kept, estimate)
    except MetricFailure:
        return None


def ideal(parts: Mixture) -> np.ndarray:
    """The mixture through the Wiener mask that knows the parts: a bound."""
    kept, gone = (np.abs(_spectrum(x)) ** 2 for x in (parts.kept, parts.clip_sound))
    return _wave(_spectrum(parts.noisy) * kept / np.maximum(kept + gone, 1e-12), len(parts.noisy))


def _spectrum(x: np.ndarray) -> np.ndarray:
    """Complex (bins, frames), Hann square-root frames half overlapping."""
    padded = np.pad(x.astype(np.float64), (FRAME // 2, FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2] * _window()
    return np.fft.rfft(frames, axis=1).T


def _wave(spectrum: np.ndarray, length: int) -> np.ndarray:
    frames = np.fft.irfft(spectrum.T, axis=1) * _window()
    out = np.zeros((len(frames) + 1) * FRAME // 2)
    for i, frame in enumerate(frames):
        out[i * FRAME // 2 : i * FRAME // 2 + FRAME] += frame
    return out[FRAME // 2 : FRAME // 2 + length].astype(np.float32)


def _window() -> np.ndarray:
    window: np.ndarray = np.sqrt(np.hanning(FRAME + 1)[:-1])
    return window
