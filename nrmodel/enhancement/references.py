"""The reference of a job of `nr enhance`: a file, a stretch of the noisy file itself, its longest pause, or none."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrdata.sampling.pool import MIN_REF_SECONDS
from nrmodel.enhancement import clip, rumble, speech_activity
from nrmodel.enhancement.clip import ReferenceClip
from nrmodel.enhancement.enhance import BLOCK_SECONDS
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Job
from nrmodel.enhancement.source import Source, beginning, stretch

KEPT = 32  # clips of files that are kept, up to 2 MB each


class References:
    """The reference of each job; a file that jobs share is read, judged and embedded once."""

    def __init__(self, model: Model, keep_rest: bool = False):
        self.model, self.keep_rest = model, keep_rest
        self.read = lru_cache(maxsize=KEPT)(partial(clip.from_file, model, keep_rest=keep_rest))
        self.told: set[str] = set()

    def sentences(self, found: ReferenceClip) -> list[str]:
        """What is to be said of a clip and was not said before: with the first file that it serves."""
        new = [text for text in (found.judged, *found.notes) if text and text not in self.told]
        self.told.update(new)
        return new

    def of(self, job: Job, rate: int, frames: int) -> ReferenceClip:
        """For a noisy file of `frames` at `rate`. Raises `UserError` where what is asked for cannot be read."""
        if job.span is not None:
            return self._within(job, rate, frames)
        if job.ref is None:
            return clip.none(self.model)
        found = self.read(job.ref, job.ref_as_given)
        if job.ref_as_given or not clip.same_sound(found.mono, _start(job.noisy)):
            return found
        remedy = "works without reference (--ref-span auto looks for a pause)"
        note = f"{job.ref} is the noisy file itself: {remedy}"
        return replace(clip.none(self.model, note), judged=found.judged)

    def _within(self, job: Job, rate: int, frames: int) -> ReferenceClip:
        limit = int(clip.MAX_REF_SECONDS * rate)
        if isinstance(job.span, tuple):
            start, stop = (round(seconds * rate) for seconds in job.span)
            if stop > frames:
                raise UserError(f"{job.noisy} ends at {frames / rate:.2f} s, before --ref-span does", kind="span")
        else:
            start, stop = _pause(job.noisy, rate)
            if (stop - start) / rate < MIN_REF_SECONDS:
                note = f"{job.noisy}: no speech-free stretch of 0.25 s found: works without reference"
                return clip.none(self.model, note)
        stop = min(stop, start + limit)
        used = f"{start / rate:.2f}-{stop / rate:.2f} s of the file itself"
        name = f"{job.noisy} at {start / rate:.2f}-{stop / rate:.2f} s"
        wave = stretch(job.noisy, start, stop)
        return clip.from_wave(self.model, wave, rate, name, used, job.ref_as_given, keep_rest=self.keep_rest)


def _start(path: Path) -> np.ndarray:
    """The beginning of a file, mono at `speech_activity.RATE`."""
    wave, rate, _ = beginning(path, clip.MAX_REF_SECONDS)
    return audio.resample(audio.downmix(rumble.without(wave, rate))[0], rate, speech_activity.RATE)


def _pause(path: Path, rate: int) -> tuple[int, int]:
    """The longest pause of a file, [start, stop) at its rate; of a long file, in one of its blocks."""
    best, done = (0, 0), 0
    for block in Source(path, int(BLOCK_SECONDS * rate), rate, on_cut=lambda cut: None).blocks():
        mono = audio.resample(audio.downmix(block)[0], rate, speech_activity.RATE)
        start, stop = (done + i * rate // speech_activity.RATE for i in speech_activity.longest_pause(mono))
        best = max(best, (start, stop), key=lambda span: span[1] - span[0])
        done += len(block)
    return best
