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
from nrmodel.enhancement import speech_activity
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.source import beginning

MAX_REF_SECONDS = 30.0  # of a longer one the beginning is used
SILENT_DBFS = -90.0
WITHOUT = ": works without reference"


@dataclass(frozen=True)
class ReferenceClip:
    """What became of a clip. `z_r (1, D)`: that of the null reference where there is none or it cannot serve. `used`:
    what it is, for people; "none" for the null reference. `notes`: clauses on what is doubtful about it. `mono`: the
    clip at `speech_activity.RATE`."""

    z_r: Tensor
    used: str = "none"
    notes: tuple[str, ...] = ()
    mono: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def must_serve(self) -> None:
        """Raises `UserError` (no_clip) for the null reference: without a clip nobody knows what is to stay."""
        if self.used == "none":
            why = f" ({self.notes[-1].removesuffix(WITHOUT)})" if self.notes else ""
            text = f"to keep the rest, a clip of what is to go is needed{why}: give --ref or --ref-span"
            raise UserError(text, kind="no_clip")


def none(model: Model, *notes: str) -> ReferenceClip:
    """The null reference, and why."""
    return ReferenceClip(model.null(1), notes=notes)


def from_wave(
    model: Model, clip: np.ndarray, sample_rate: int, used: str, *notes: str, keep_rest: bool = False
) -> ReferenceClip:
    """A clip `(frames, channels)`, judged and embedded; `keep_rest`: only its sound is to go, which may be speech.
    Raises `UserError` (not_finite)."""
    if not np.isfinite(clip).all():
        raise UserError("the reference holds non-finite samples", kind="not_finite")
    wave, cancel = audio.downmix(clip[: int(MAX_REF_SECONDS * sample_rate)])
    mono = audio.resample(wave, sample_rate, speech_activity.RATE)
    if cancel:
        notes = (*notes, "the reference's channels cancel (opposite phase): the first one is taken")
    if not model.takes_reference:
        notes = (*notes, "the reference is not used: this model was trained without one")
        return ReferenceClip(model.null(1), "none", notes, mono)
    wave = audio.resample(wave, sample_rate, model.sample_rate)
    serves, doubts = judge_reference(wave, model.sample_rate, speech_may_go=keep_rest)
    z_r = model.embed(wave, model.sample_rate, keep_rest) if serves else model.null(1)
    return ReferenceClip(z_r, used if serves else "none", (*notes, *doubts), mono)


def from_file(model: Model, path: Path, keep_rest: bool = False) -> ReferenceClip:
    """The beginning of a file. Raises `UserError` where nothing of it can be read."""
    clip, rate, cut = beginning(path, MAX_REF_SECONDS)
    used = f"{path.name}, {len(clip) / rate:.2f} s"
    if rate != model.sample_rate:
        used += f", {rate} -> {model.sample_rate} Hz"
    notes = [f"the reference is cut short: {cut}"] if cut else []
    return from_wave(model, clip, rate, used, *notes, keep_rest=keep_rest)


def judge_reference(clip: np.ndarray, sample_rate: int, speech_may_go: bool = False) -> tuple[bool, list[str]]:
    """Mono sound -> (whether it serves as a reference, clauses on what is doubtful about it)."""
    seconds = len(clip) / sample_rate
    if seconds < MIN_REF_SECONDS:
        found = f"the reference is very short ({seconds:.2f} s, {MIN_REF_SECONDS} s needed)"
        return False, [found + WITHOUT]
    if audio.rms_dbfs(clip) < SILENT_DBFS:
        return False, ["the reference is silent" + WITHOUT]
    at_rate = audio.resample(clip, sample_rate, speech_activity.RATE)
    if not speech_may_go and speech_activity.is_speech(at_rate):
        return False, ["the reference is speech with little noise" + WITHOUT]
    doubts = []
    if is_clipped(clip):
        doubts.append("the reference is clipped: its spectrum is not that of the noise")
    if speech_activity.holds_speech(at_rate):
        doubts.append("the reference holds speech: speech may be removed with the noise")
    return True, doubts


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
