"""A triplet: clean speech, noise, and their sum; its invariants; mixing at a signal-to-noise ratio.

Stored as 16-bit integers, `noisy = clean + noise` exactly: clean and noise are quantised once, with one common gain,
and added as integers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrdata.audio.levels import energy
from nrdata.errors import UserError

KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")
FULL_SCALE = 32768
CEILING = 32767.0  # the largest magnitude that is stored


@dataclass(frozen=True)
class Triplet:
    """One sample: float32 mono sound of one length and rate, and where it comes from."""

    key: str
    clean: np.ndarray
    noisy: np.ndarray
    noise: np.ndarray
    ref: np.ndarray | None  # the reserved clip: same place, another time
    sample_rate: int
    env_id: str  # "<noise source>/<environment>"
    recording: str  # "<noise source>/<environment>/<stem>"
    stretch: tuple[int, int]  # of the mixture's noise in the recording, samples; (-1, -1) unknown
    speaker: str  # "<speech source>/<name>"
    snr_db: float  # measured on the stored integers
    split: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Mixture:
    """What `mix` makes and a shard stores: int16 (frames,), `noisy16 == clean16 + noise16`; ref16 (ref_frames,)."""

    clean16: np.ndarray
    noise16: np.ndarray
    noisy16: np.ndarray
    ref16: np.ndarray | None
    gain: float  # applied to everything of the sample, so that nothing leaves the range
    snr_db: float  # energy SNR, measured on the integers


def energy_snr_db(clean: np.ndarray, noise: np.ndarray) -> float:
    """10 log10(sum clean^2 / sum noise^2), in float64; +-inf where one is silent."""
    return _ratio_db(energy(clean), energy(noise))


def _ratio_db(signal: float, disturbance: float) -> float:
    if signal == 0 or disturbance == 0:
        return float("inf") if signal > 0 else float("-inf")
    return 10 * float(np.log10(signal / disturbance))


def mix(clean: np.ndarray, noise: np.ndarray, snr_db: float | None, ref: np.ndarray | None = None) -> Mixture:
    """Scale `noise` (and `ref` with it) to the energy SNR `snr_db`, then everything by one gain <= 1, and quantise.

    clean, noise: float (frames,); ref: float (ref_frames,) or None; `snr_db` None keeps the noise's own level (pairs).
    Raises `UserError`: wrong_length, empty, not_finite, silent_clean, silent_noise, silent_ref (also what rounding to
    16 bits makes silent).
    """
    if clean.ndim != 1 or clean.shape != noise.shape:
        raise UserError(f"clean has shape {clean.shape}, noise {noise.shape}: equal lengths expected", "wrong_length")
    if len(clean) == 0 or (ref is not None and len(ref) == 0):
        raise UserError("there are no samples", kind="empty")
    parts = [clean.astype(np.float64), noise.astype(np.float64), None if ref is None else ref.astype(np.float64)]
    energies = [1.0 if x is None else energy(x) for x in parts]
    for name, total in zip(("clean", "noise", "ref"), energies, strict=True):
        if not np.isfinite(total):  # one sample that is not finite makes the sum so
            raise UserError(f"the {name} sound has NaN or infinite samples", kind="not_finite")
        if total == 0:
            raise UserError(f"the {name} sound is silent", kind=f"silent_{name}")
    c, n, r = parts
    assert c is not None and n is not None
    if snr_db is not None:
        noise_gain = 10 ** ((_ratio_db(energies[0], energies[1]) - snr_db) / 20)
        n = n * noise_gain
        r = None if r is None else r * noise_gain
    gain, quantised = 1.0, _quantise((c, n, r), 1.0)
    if max(_peak(x) for x in quantised) > CEILING:
        # The sum of quantised parts differs from the quantised sum by at most a step: leave one.
        gain = (CEILING - 1) / (FULL_SCALE * max(_peak(x) for x in (c, n, c + n, r)))
        quantised = _quantise((c, n, r), gain)
    clean16, noise16, noisy16, ref16 = (None if x is None else x.astype(np.int16) for x in quantised)
    assert clean16 is not None and noise16 is not None and noisy16 is not None
    for name, q in (("clean", clean16), ("noise", noise16), ("ref", ref16)):
        if q is not None and not q.any():
            raise UserError(f"the {name} sound is silent at 16 bits", kind=f"silent_{name}")
    return Mixture(clean16, noise16, noisy16, ref16, gain, energy_snr_db(clean16, noise16))


def _quantise(parts: tuple[np.ndarray, np.ndarray, np.ndarray | None], gain: float) -> list[np.ndarray | None]:
    """clean, noise, clean + noise, ref as whole numbers (still float64, so that nothing wraps)."""
    scaled = [None if x is None else x * (gain * FULL_SCALE) for x in parts]
    clean, noise, ref = (None if x is None else np.rint(x, out=x) for x in scaled)
    assert clean is not None and noise is not None
    return [clean, noise, clean + noise, ref]


def _peak(x: np.ndarray | None) -> float:
    return 0.0 if x is None else max(float(x.max()), -float(x.min()))


def check_mixture(mixture: Mixture) -> str:
    """The first broken invariant as a few words, "" where all hold: used when written and when verified."""
    clean, noise, noisy = mixture.clean16, mixture.noise16, mixture.noisy16
    if not (clean.dtype == noise.dtype == noisy.dtype == np.int16 and clean.ndim == 1):
        return "16-bit mono expected"
    if not (len(clean) == len(noise) == len(noisy) > 0):
        return f"lengths differ: clean {len(clean)}, noise {len(noise)}, noisy {len(noisy)}"
    wrong = np.count_nonzero(noisy.astype(np.int32) != clean.astype(np.int32) + noise)
    if wrong:
        return f"noisy is not clean + noise in {wrong} samples"
    for name, x in (("clean", clean), ("noise", noise), ("ref", mixture.ref16)):
        if x is not None and not x.any():
            return f"{name} is silent"
    return ""
