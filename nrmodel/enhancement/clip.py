"""The noise reference on its way to the network: read once, judged once, embedded once.

--ref, or a wave  ->  `from_file`, `from_wave`  ->  ReferenceClip  ->  its z_r, given to every call of the network
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from nrdata import audio
from nrdata.errors import UserError
from nrdata.sampling.pool import MIN_REF_SECONDS
from nrmodel.enhancement import rumble, speech_activity
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.source import beginning

MAX_REF_SECONDS = 30.0  # of a longer one the beginning is used
FRAME_SECONDS = 0.032
SILENT_DBFS = -84.0  # a frame under this is digital silence or dither of the last of 16 bits
MOSTLY_SILENT = 0.25  # share of sound under which a clip does not serve ...
PARTLY_SILENT = 0.9  # ... and under which that is told
HOLDS_SPEECH = 0.1  # share of speech from which that is told ...
IS_SPEECH = 0.3  # ... and from which a clip does not serve
WITHOUT = ": works without reference"


@dataclass(frozen=True)
class ReferenceClip:
    """What became of a clip. `z_r (1, D)`: that of the null reference where there is none or it cannot serve. `used`:
    what it is, for people; "none" for the null reference. `judged`: a sentence with what was measured of it; `notes`:
    sentences on what is doubtful; both name the clip. `mono`: the clip at `speech_activity.RATE`. `wave`, `rate`: the
    clip as it came, `(frames, channels)`, where it serves: what is above the model's band learns from it."""

    z_r: Tensor
    used: str = "none"
    judged: str = ""
    notes: tuple[str, ...] = ()
    mono: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    wave: np.ndarray | None = None
    rate: int = 0

    def must_serve(self) -> None:
        """Raises `UserError` (no_clip) for the null reference: without a clip nobody knows what is to stay."""
        if self.used == "none":
            why = f" ({self.notes[-1].partition(WITHOUT)[0]})" if self.notes else ""
            text = f"to keep the rest, a clip of what is to go is needed{why}: give --ref or --ref-span"
            raise UserError(text, kind="no_clip")


def none(model: Model, *notes: str) -> ReferenceClip:
    """The null reference, and why."""
    return ReferenceClip(model.null(1), notes=notes)


@dataclass(frozen=True)
class Judged:
    """What is measured of a clip: its length, the share of its frames that are not digitally silent, its level, and the
    share of those frames that are speech."""

    seconds: float
    sound: float
    dbfs: float
    speech: float

    def __str__(self) -> str:
        level = f"{self.dbfs:.1f} dBFS" if self.sound else "no level"
        return f"{self.seconds:.2f} s, sound in {self.sound:.0%}, {level}, speech in {self.speech:.0%}"

    def refusal(self, speech_may_go: bool = False) -> str | None:
        """Why the clip does not serve as a reference, as the rest of a sentence."""
        if self.seconds < MIN_REF_SECONDS:
            return f"is very short ({self.seconds:.2f} s, {MIN_REF_SECONDS} s needed)"
        if self.sound < MOSTLY_SILENT:
            return f"is silent{' for the most part' if self.sound else ''} (sound in {self.sound:.0%})"
        if self.speech >= IS_SPEECH and not speech_may_go:
            return f"is speech (in {self.speech:.0%} of it)"
        return None

    def doubts(self) -> list[str]:
        """What is doubtful about a clip that serves."""
        told = []
        if self.sound < PARTLY_SILENT:
            told.append(f"is silent in part (sound in {self.sound:.0%}): its silence counts as noise")
        if self.speech >= HOLDS_SPEECH:
            told.append(f"holds speech (in {self.speech:.0%} of it): speech may be removed with the noise")
        return told


def judge(wave: np.ndarray, sample_rate: int, mono: np.ndarray) -> Judged:
    """Mono sound as it is (a filter would smear it over its silence), and without rumble at `speech_activity.RATE`."""
    frame = max(round(FRAME_SECONDS * sample_rate), 1)
    frames = np.pad(wave, (0, -len(wave) % frame), "edge").reshape(-1, frame)
    sounding = np.var(frames, axis=1, dtype=np.float64) > 10 ** (SILENT_DBFS / 10)
    speech = speech_activity.speech_probability(mono) >= speech_activity.SPEECH if sounding.any() else sounding
    share = float(np.sum(speech)) / max(int(np.sum(sounding)), 1)
    return Judged(len(wave) / sample_rate, float(sounding.mean()), audio.rms_dbfs(mono), min(share, 1.0))


def from_wave(
    model: Model, clip: np.ndarray, sample_rate: int, name: str, used: str, as_given: bool = False, cut: str = "",
    keep_rest: bool = False,
) -> ReferenceClip:  # fmt: skip
    """A clip `(frames, channels)`, judged and embedded; `as_given`: used whatever it is judged to be; `keep_rest`: only
    its sound is to go, which may be speech. Every sentence about it begins with `name`; `cut` says where its file ends
    early. Raises `UserError` (not_finite, empty)."""
    if not np.isfinite(clip).all():
        raise UserError(f"{name} holds non-finite samples", kind="not_finite")
    if not len(clip):
        raise UserError(f"{name} holds no samples", kind="empty")
    clip = clip[: int(MAX_REF_SECONDS * sample_rate)]
    wave, cancel = audio.downmix(rumble.without(clip, sample_rate))
    mono = audio.resample(wave, sample_rate, speech_activity.RATE)
    told = [f"is cut short: {cut}"] if cut else []
    if cancel:
        told.append("is taken from its first channel: the channels cancel (opposite phase)")
    if not model.takes_reference:
        notes = [*told, "is not used: this model was trained without a reference"]
        return ReferenceClip(model.null(1), notes=tuple(f"{name} {note}" for note in notes), mono=mono)
    wave = audio.resample(wave, sample_rate, model.sample_rate)
    judged = judge(audio.downmix(clip)[0], sample_rate, mono)
    refusal = judged.refusal(speech_may_go=keep_rest)
    serves = as_given or refusal is None
    if refusal is not None:
        remedy = ": it is used as given" if as_given else f"{WITHOUT} (ref-as-given uses it all the same)"
        told.append(refusal + remedy)
    else:
        told += judged.doubts()
        if is_clipped(wave):
            told.append("is clipped: its spectrum is not that of the noise")
    z_r = model.embed(wave, model.sample_rate, keep_rest) if serves else model.null(1)
    sentences = tuple(f"{name} {note}" for note in told)
    heard = (clip, sample_rate) if serves else (None, 0)
    return ReferenceClip(z_r, used if serves else "none", f"{name}: {judged}", sentences, mono, *heard)


def from_file(model: Model, path: Path, as_given: bool = False, keep_rest: bool = False) -> ReferenceClip:
    """The beginning of a file. Raises `UserError` where nothing of it can be read."""
    clip, rate, cut = beginning(path, MAX_REF_SECONDS)
    used = f"{path.name}, {len(clip) / rate:.2f} s"
    if rate != model.sample_rate:
        used += f", {rate} -> {model.sample_rate} Hz"
    return from_wave(model, clip, rate, str(path), used, as_given, cut, keep_rest)


def is_clipped(clip: np.ndarray) -> bool:
    """Whether three samples in a row stay at a peak near full scale."""
    peak = float(np.abs(clip).max(initial=0.0))
    at_peak = np.abs(clip) >= 0.999 * peak
    return peak > 0.98 and bool((at_peak[2:] & at_peak[1:-1] & at_peak[:-2]).any())


def same_sound(clip: np.ndarray, noisy: np.ndarray) -> bool:
    """Whether two mono sounds of one rate are the same recording from the start, whatever their level and codec."""
    n = min(len(clip), len(noisy))
    if n == 0 or abs(len(clip) - len(noisy)) > 0.01 * n:
        return False
    a, b = clip[:n].astype(np.float64), noisy[:n].astype(np.float64)
    scale = np.sqrt((a @ a) * (b @ b))
    return bool(scale > 0 and abs(a @ b) > 0.99 * scale)
