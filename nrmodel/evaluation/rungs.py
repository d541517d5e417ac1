"""The ladder of references: what clip a mode shows the system, from none to the noise of the mixture itself.

A rung is a base and perhaps a treatment, `disjoint+mp3`. Bases are the laws of `nrdata.sampling.laws`, and those made
here:

none      no reference            white      white noise           leak:DB   the `disjoint` clip with speech of the same
zeros     digital silence         spectrum   stationary noise with           speaker, another utterance, at that speech-
                                             the `disjoint` clip's           to-noise ratio
                                             long-term spectrum
+eq       another device: one drawn smooth equaliser              +mp3      another codec: MP3 and back

Every draw is keyed by (seed, key, rung): a file's clip does not depend on the files beside it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrdata.audio.levels import rms
from nrdata.audio.mel import to_hertz, to_mel
from nrdata.errors import UserError
from nrdata.keyed import rung_rng
from nrdata.labels import is_unknown
from nrdata.sampling.clips import evaluation_reference
from nrdata.sampling.laws import LAWS

MADE = ("none", "zeros", "white", "spectrum")
TREATMENTS = ("eq", "mp3")
EQ_DEVIATION_DB = 6.0  # of the equaliser at each of its knots, an octave apart
MEL_BANDS = 40
NO_SPAN = (-1, -1)


@dataclass(frozen=True)
class Rung:
    """A parsed mode. `leak_db` is the speech-to-noise ratio of `leak:DB`, else None; `treatment` "" or one of two."""

    base: str
    leak_db: float | None = None
    treatment: str = ""

    @property
    def law(self) -> str | None:
        """The law its clip is drawn by; None where it needs none."""
        if self.base in ("leak", "spectrum"):
            return "disjoint"
        return None if self.base in MADE else self.base


@dataclass(frozen=True)
class ShownClip:
    """The clip of one file under a mode, float32 (frames,) at the data's rate (None: the null reference), and what a
    row says of it. `relation` is `other-environment` and so on, `made` where the clip is no recording, or `none`."""

    sound: np.ndarray | None
    relation: str = "none"
    source: str = ""
    span: tuple[int, int] = NO_SPAN
    distance_db: float | None = None


def bases() -> tuple[str, ...]:
    """All bases but `leak:DB`, from no reference to the noise of the mixture itself: the laws' table read upwards."""
    return (*MADE, *(mode for mode in reversed(LAWS) if mode not in MADE))


def parse_rung(mode: str) -> Rung:
    """`"disjoint+eq"`, `"leak:-5"` ... Raises `UserError` naming the modes there are."""
    base, _, treatment = mode.partition("+")
    leak_db = None
    if base.startswith("leak:"):
        try:
            leak_db = float(base[5:])
        except ValueError:
            leak_db = math.nan
        base = "leak"
    known = base in bases() or (leak_db is not None and math.isfinite(leak_db))
    treated = "+" not in mode or (treatment in TREATMENTS and base not in ("none", "zeros"))
    if not (known and treated):
        raise UserError(
            f"mode {mode!r}: choose from {', '.join(bases())}, leak:DB, and with +eq or +mp3 what has sound", "mode"
        )
    return Rung(base, leak_db, treatment)


def reference(dataset: Any, split: str, row: int, mode: str, ref_seconds: float, seed: int) -> ShownClip | None:
    """The clip of one file under a mode; None where the data cannot serve it (no reserve, no other utterance of the
    speaker). A clip shorter than asked keeps its length: `span` says so."""
    rung = parse_rung(mode)
    if rung.base == "none":
        return ShownClip(None)
    index = dataset.index(split)
    key = bytes(index.key[row]).decode()
    rng = rung_rng(seed, key, f"{rung.base}{rung.leak_db}")
    if rung.law is None:
        frames = round(ref_seconds * dataset.sample_rate)
        sound = np.zeros(frames, np.float32) if rung.base == "zeros" else white_noise(frames, rng)
        described = ShownClip(sound, "made", rung.base)
    else:
        drawn = evaluation_reference(dataset, split, row, rung.law, ref_seconds, seed)
        if drawn is None:
            return None
        sound, clip = drawn
        source = f"{bytes(index.key[clip.row]).decode()}.{clip.field}"
        relation = clip.relation
        if rung.base == "spectrum":
            sound, relation = like_spectrum(sound, rng), "made"
        elif rung.leak_db is not None:
            speech = other_utterance(dataset, split, row, len(sound), rng)
            if speech is None:
                return None
            sound = with_speech(sound, speech, rung.leak_db)
        described = ShownClip(sound, relation, source, (clip.start, clip.stop))
    assert sound is not None
    if rung.treatment == "eq":
        sound = equalised(sound, dataset.sample_rate, rung_rng(seed, key, "eq"))
    elif rung.treatment == "mp3":
        sound = through_mp3(sound, dataset.sample_rate)
    distance = spectral_distance_db(sound, dataset.read(split, row, "noise"), dataset.sample_rate)
    return ShownClip(sound, described.relation, described.source, described.span, distance)


def white_noise(frames: int, rng: np.random.Generator, rms: float = 0.05) -> np.ndarray:
    return (rms * rng.standard_normal(frames)).astype(np.float32)


def like_spectrum(clip: np.ndarray, rng: np.random.Generator, size: int = 512) -> np.ndarray:
    """Stationary Gaussian noise with the long-term power spectrum and the RMS of `clip`, of its length."""
    frequency = np.fft.rfftfreq(len(clip))
    shape = np.sqrt(np.interp(frequency, np.fft.rfftfreq(size), power_spectrum(clip, size)))
    made = np.fft.irfft(shape * np.fft.rfft(rng.standard_normal(len(clip))), len(clip))
    return (made * (rms(clip) / max(rms(made), 1e-12))).astype(np.float32)


def with_speech(clip: np.ndarray, speech: np.ndarray, speech_to_noise_db: float) -> np.ndarray:
    """`clip` plus `speech` at that energy ratio."""
    gain = rms(clip) / max(rms(speech), 1e-12) * 10 ** (speech_to_noise_db / 20)
    return (clip + gain * speech).astype(np.float32)


def other_utterance(dataset: Any, split: str, row: int, frames: int, rng: np.random.Generator) -> np.ndarray | None:
    """The loudest stretch of another utterance of the row's speaker, at most `frames` long and repeated to it; None
    where the speaker has no other or is unknown. One utterance may be in many mixtures, cut differently: those of the
    row's own source file are passed, as the row itself is; where no file is named, those whose sound is the same."""
    index = dataset.index(split)
    if is_unknown(index.speaker_names[index.speaker[row]]):
        return None
    own, own_file = dataset.read(split, row, "clean"), speech_file(dataset, split, row)
    others = np.flatnonzero(index.speaker == index.speaker[row])
    for other in map(int, rng.permutation(others)):  # itself among them
        other_file = speech_file(dataset, split, other)
        if other_file is not None and other_file == own_file:
            continue
        speech = dataset.read(split, other, "clean")
        if (other_file is None or own_file is None) and same_course(own, speech):
            continue
        energy = np.concatenate([[0.0], np.cumsum(np.square(speech, dtype=np.float64))])
        length = min(frames, len(speech))
        start = int((energy[length:] - energy[: len(energy) - length]).argmax())
        return np.resize(speech[start : start + length], frames)
    return None


def speech_file(dataset: Any, split: str, row: int) -> str | None:
    """The file that a row's speech was cut from, by the names that the builders give it; None where none is told."""
    meta = dataset.facts(split, row).meta
    return next((meta[name] for name in ("speech", "clean", "utterance") if name in meta), None)


def same_course(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two sounds are one from their starts on, whatever their levels."""
    shared = min(len(a), len(b))
    a, b = a[:shared].astype(np.float64), b[:shared].astype(np.float64)
    return abs(float(a @ b)) > 0.9 * math.sqrt((a @ a) * (b @ b))


def equalised(clip: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One drawn smooth zero-phase equaliser, knots an octave apart from 62.5 Hz, the RMS kept: another microphone."""
    frequency = np.fft.rfftfreq(len(clip), 1 / sample_rate)
    octaves = np.log2(np.maximum(frequency, 1.0) / 62.5)
    knots = np.arange(math.ceil(math.log2(sample_rate / 2 / 62.5)) + 1)
    gain_db = np.interp(octaves, knots, EQ_DEVIATION_DB * rng.standard_normal(len(knots)))
    made = np.fft.irfft(np.fft.rfft(clip) * 10 ** (gain_db / 20), len(clip))
    return (made * (rms(clip) / max(rms(made), 1e-12))).astype(np.float32)


def through_mp3(clip: np.ndarray, sample_rate: int) -> np.ndarray:
    """Encoded as MP3 at libsndfile's default rate, decoded, cut or zero-padded to its length."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, clip, sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    buffer.seek(0)
    decoded = soundfile.read(buffer, dtype="float32")[0][: len(clip)]
    return np.pad(decoded, (0, len(clip) - len(decoded)))


def spectral_distance_db(clip: np.ndarray, noise: np.ndarray, sample_rate: int) -> float | None:
    """How far the clip's long-term log-Mel spectrum is from the noise's, level removed: the RMS over 40 bands of the
    difference in dB less its mean. None where either is silent."""
    if not (np.any(clip) and np.any(noise)):
        return None
    difference = long_term_log_mel(clip, sample_rate) - long_term_log_mel(noise, sample_rate)
    return float(np.sqrt(np.mean(np.square(difference - difference.mean()))))


def long_term_log_mel(x: np.ndarray, sample_rate: int, size: int = 1024) -> np.ndarray:
    """Mean power in `MEL_BANDS` Mel bands, in dB (floor 80 dB under the greatest band)."""
    power = mel_filters(sample_rate, size) @ power_spectrum(x, size)
    found: np.ndarray = 10 * np.log10(np.maximum(power, 1e-8 * power.max()))
    return found


def power_spectrum(x: np.ndarray, size: int) -> np.ndarray:
    """Mean over half-overlapping Hann frames of |FFT|^2, (size / 2 + 1,); a shorter signal is one padded frame."""
    padded = np.pad(x.astype(np.float64), (0, max(size - len(x), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2]
    power: np.ndarray = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))).mean(axis=0)
    return power


def mel_filters(sample_rate: int, size: int) -> np.ndarray:
    """Triangles evenly spaced on the Mel scale from 50 Hz; (MEL_BANDS, size / 2 + 1)."""
    edges = to_hertz(np.linspace(to_mel(50), to_mel(sample_rate / 2), MEL_BANDS + 2))
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles: np.ndarray = np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre))
    nearest = np.abs(frequency - centre).argmin(axis=1)
    filters: np.ndarray = np.maximum(triangles, 0.0)
    filters[np.arange(MEL_BANDS), nearest] = np.maximum(filters[np.arange(MEL_BANDS), nearest], 1e-3)  # none is empty
    return filters
