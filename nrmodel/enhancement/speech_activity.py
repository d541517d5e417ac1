"""Where a sound holds speech, from energy and spectrum alone: to find a stretch of pure noise in a noisy file, and to
notice speech in a clip that should be noise.

Frames of 32 ms each 10 ms. Speech is sparse in time in every band, noise is not: the *excess* of a frame is its level
over the file's own floor, band by band (a low quantile, so that hum and hiss are floor), averaged over the louder half
of the bands. For a clip alone, which may hold no noise to compare with, *voicing* counts: the height of the
autocorrelation's peak at a pitch of 70 to 400 Hz.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nrdata.audio.mel import to_hertz, to_mel

RATE = 16000  # of all sound here
HOP = 160
FRAME = 512
BANDS = 14  # mel-spaced from 150 to 6000 Hz
FLOOR_QUANTILE = 0.20
EXCESS_DB = 5.0  # speech from here on
HANGOVER = 10  # frames added on both sides of speech: its soft onsets and ends
VOICED = 0.4
VOICED_SHARE = 0.3  # share of voiced, sounding frames from which a clip holds speech
SPEECH_RANGE_DB = 18.0  # between loud and quiet frames (90 % and 10 %), from which there is little but speech


def longest_pause(x: np.ndarray) -> tuple[int, int]:
    """The longest stretch without speech of mono sound at `RATE`: [start, stop) in samples, (0, 0) if there is none."""
    speech = speech_frames(x)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], speech, [True]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]) * HOP, min(int(stops[longest]) * HOP, len(x))


def speech_frames(x: np.ndarray) -> np.ndarray:
    """Whether speech sounds in the frame centred on sample i x HOP of mono sound at `RATE`: bool (frames,)."""
    power = _power(x)
    edges = np.round(to_hertz(np.linspace(to_mel(150.0), to_mel(6000.0), BANDS + 1)) * FRAME / RATE).astype(int)
    bands = np.stack([power[:, a:b].mean(axis=1) for a, b in pairwise(edges)])
    level = 10 * np.log10(np.stack([_smooth(band, 5) for band in bands]) + 1e-12)
    excess = np.maximum(level - np.quantile(level, FLOOR_QUANTILE, axis=1, keepdims=True), 0)
    speech = np.sort(excess, axis=0)[BANDS // 2 :].mean(axis=0) > EXCESS_DB
    return np.convolve(speech, np.ones(2 * HANGOVER + 1), "same")[: len(speech)] > 0.5


def holds_speech(clip: np.ndarray) -> bool:
    """Whether speech is what one mostly hears in a clip at `RATE`. Animals and singing tones may pass for it."""
    power = _power(clip)
    level = _level_db(power)
    loud = level > np.quantile(level, 0.10) + 6
    return float(np.mean(loud & (_voicing(power) > VOICED))) > VOICED_SHARE


def is_speech(clip: np.ndarray) -> bool:
    """Whether a clip at `RATE` is speech with little else: it holds speech, and between words it is quiet."""
    level = _level_db(_power(clip))[2:-2]  # without the frames that reach over the ends
    return holds_speech(clip) and float(np.quantile(level, 0.9) - np.quantile(level, 0.1)) > SPEECH_RANGE_DB


def _power(x: np.ndarray) -> np.ndarray:
    """Power spectra (frames, FRAME // 2 + 1)."""
    padded = np.pad(x.astype(np.float32), (FRAME // 2, FRAME // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(FRAME + 1)[:-1].astype(np.float32))).astype(np.float32) ** 2


def _level_db(power: np.ndarray) -> np.ndarray:
    """Level of each frame from 125 to 4000 Hz."""
    return 10 * np.log10(power[:, 4:128].sum(axis=1) + 1e-10)


def _voicing(power: np.ndarray) -> np.ndarray:
    """Highest normalised autocorrelation at a lag of 1/400 to 1/70 s, (frames,), from 100 to 4000 Hz."""
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    correlation = np.fft.irfft(power * ((hertz > 100) & (hertz < 4000)))
    lags = slice(RATE // 400, RATE // 70)
    return correlation[:, lags].max(axis=1) / (correlation[:, 0] + 1e-10)


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    return np.convolve(np.pad(x, width // 2, mode="edge"), np.ones(width) / width, "valid")
