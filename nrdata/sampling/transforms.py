"""What is done to sound between shard and batch: crops, new mixtures, invented environments; and `decode_audio`.

Pure functions on float32 arrays; every draw comes from the generator that is passed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np

from nrdata.audio.levels import energy
from nrdata.errors import UserError

EQ_POINTS = 8
EQ_RANGE_DB = 10.0
EQ_LOWEST_HZ = 60.0


def crop_start(frames: int, crop_samples: int, rng: np.random.Generator) -> int:
    """A uniform start of `crop_samples` in `frames` samples; 0 where the sample is not longer."""
    return int(rng.integers(frames - crop_samples + 1)) if frames > crop_samples else 0


def sounding_start(sound: np.ndarray, crop_samples: int, rng: np.random.Generator) -> int | None:
    """The start of a crop that is not digital silence, around a random sample that is not zero; None: all is zero."""
    sounding = np.flatnonzero(sound)
    if len(sounding) == 0:
        return None
    start = int(sounding[rng.integers(len(sounding))]) - int(rng.integers(crop_samples))
    return min(max(start, 0), max(len(sound) - crop_samples, 0))


def noise_gain(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> float:
    """The factor on `noise` for an energy SNR of `snr_db`; 1 where either is silent and no SNR exists."""
    clean_energy, noise_energy = energy(clean, np.float32), energy(noise, np.float32)
    if clean_energy == 0 or noise_energy == 0:
        return 1.0
    return math.sqrt(clean_energy / noise_energy) * 10 ** (-snr_db / 20)


def draw_eq(rng: np.random.Generator) -> np.ndarray:
    """An invented environment: gains in dB, float64 (EQ_POINTS,), at points even in log frequency."""
    return rng.uniform(-EQ_RANGE_DB, EQ_RANGE_DB, EQ_POINTS)


def apply_eq(sound: np.ndarray, gains_db: np.ndarray, sample_rate: int) -> np.ndarray:
    """Filter `sound` (frames,) with the zero-phase gain curve through `gains_db`: linear in dB over log frequency.

    The curve does not depend on the length of the sound, so that a mixture and its reference pass the same filter.
    """
    points = np.log(np.geomspace(EQ_LOWEST_HZ, sample_rate / 2, len(gains_db)))
    return filtered(sound, lambda hz: np.interp(np.log(np.maximum(hz, EQ_LOWEST_HZ)), points, gains_db), sample_rate)


def filtered(sound: np.ndarray, curve_db: Callable[[np.ndarray], np.ndarray], sample_rate: int) -> np.ndarray:
    """`sound` float32 (frames,) through the zero-phase filter whose gain in dB is a function of frequency in Hz."""
    frames = len(sound)
    size = _even_size(frames + sample_rate // 16)  # room for the response: nothing wraps around audibly
    gain = (10 ** (curve_db(np.fft.rfftfreq(size, 1 / sample_rate)) / 20)).astype(np.float32)
    return np.fft.irfft(np.fft.rfft(sound, size) * gain, size)[:frames].astype(np.float32, copy=False)


def _even_size(frames: int) -> int:
    """The next FFT length of small factors: a multiple of a power of two with at most 5 significant bits."""
    unit = 1 << max(frames.bit_length() - 5, 1)
    return -(-frames // unit) * unit


def decode_audio(key: str, data: bytes) -> tuple[np.ndarray, int] | None:
    """A decoder for stock pipelines: `webdataset.WebDataset(urls).decode(nrdata.decode_audio)`.

    FLAC, WAV and OGG become (float32 (frames,) or (frames, channels), sample_rate), as webdataset's own decoders pair
    sound and rate; other members are left to the next decoder. Pickles are refused: the decoders that webdataset runs
    after this one would execute them.
    """
    extension = key.rsplit(".", 1)[-1].lower()
    if extension in ("pkl", "pickle", "pyd", "pth"):
        raise UserError(f"member {key!r} is a pickle, which can run any code; make the shards again without it")
    if extension not in ("flac", "wav", "ogg"):
        return None
    import soundfile

    try:
        samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as e:
        raise UserError(f"member {key!r} cannot be decoded ({e}); make or fetch the shard again") from e
    return samples, sample_rate
