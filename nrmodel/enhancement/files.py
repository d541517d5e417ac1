"""Files in, enhanced files out: what `nr enhance` does, in bounded memory, one file after another.

The enhanced sound first goes to a nameless temporary file as float32, so that one gain for the whole file is known
before anything is quantised; then the output is written under a temporary name and renamed. The same command again
skips what it has made, any other is refused without `--force` (nrmodel.enhancement.log).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import enhance, log
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Job, Outcome
from nrmodel.enhancement.log import Recipe
from nrmodel.enhancement.references import References
from nrmodel.enhancement.source import Source

PEAK = 0.999  # integer formats clip above 1: a louder output is brought here, by one gain for the whole file
KEPT_SUBTYPES = {"PCM_24": "PCM_24", "PCM_32": "PCM_32", "FLOAT": "FLOAT", "DOUBLE": "FLOAT"}  # the rest: PCM_16
WAV_LIMIT = 2**32 - 2**16  # bytes of sound that a WAV header can count
Progress = Callable[[float], None]  # called with the seconds of sound just done


def enhance_files(
    model: Model,
    jobs: Sequence[Job],
    nfe: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda seconds: None,
) -> Iterator[Outcome]:
    """Do the jobs one by one; a file that fails becomes an `Outcome` with its reason, and the next one follows.

    Raises `UserError` before any work where an output exists that the same command did not make (unless `force`).
    """
    recipes = log.recipes(model, jobs, nfe, seed)
    made = [None if force else log.finished(job, recipe) for job, recipe in zip(jobs, recipes, strict=True)]
    references = References(model)
    for job, recipe, before in zip(jobs, recipes, made, strict=True):
        outcome = before or Outcome(job)
        if before is None:
            try:
                _enhance_file(model, references, recipe, outcome, progress)
            except UserError as e:
                outcome.status, outcome.notes = "failed", [*outcome.notes, str(e)]
        yield outcome


def _enhance_file(model: Model, references: References, recipe: Recipe, outcome: Outcome, progress: Progress) -> None:
    job = outcome.job
    info = audio.probe(job.noisy, tolerant=True)
    rate, channels = info.sample_rate, info.channels
    suffix = job.out.suffix.lower()
    subtype = _subtype(info.subtype, suffix)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    for path in job.outputs:
        _, outcome.subtype = audio.container(path, rate, channels, subtype)
    block = int(enhance.BLOCK_SECONDS * rate)
    source = Source(job.noisy, block, rate, outcome.is_partial)
    measured = enhance.measure(model, source.blocks(), rate)
    outcome.seconds = measured.frames / rate
    width = {"PCM_16": 2, "PCM_24": 3}.get(outcome.subtype, 4)
    if suffix == ".wav" and measured.frames * channels * width > WAV_LIMIT:
        raise UserError(f"{job.out} would be over 4 GiB: name it .flac in a --pairs CSV", kind="container")
    reference = references.of(job, rate, measured.frames)
    outcome.reference = reference.used
    outcome.notes += references.sentences(reference)
    if measured.rumbling.any():
        outcome.notes.append("a constant offset or sound under 20 Hz is loud in it: removed before the model, for good")
    enhanced = enhance.enhance_blocks(model, source.blocks(), measured, rate, reference.z_r, recipe.nfe, recipe.seed)
    with tempfile.TemporaryFile(dir=job.out.parent) as spool:
        peak = 0.0
        for y in enhanced:
            spool.write(y.tobytes())
            peak = max(peak, float(np.abs(y).max()))
            progress(len(y) / rate)
        if job.residual:
            parts = zip(source.blocks(), _spooled(spool, block, channels), strict=True)
            peak = max(peak, *(float(np.abs(x - y).max()) for x, y in parts))
        if outcome.subtype != "FLOAT" and peak > PEAK:
            outcome.gain = PEAK / peak
            outcome.notes.append(f"peak {peak:.3f}: the whole file is scaled by {20 * np.log10(outcome.gain):.2f} dB")
        log.append(recipe, outcome)
        gain = np.float32(outcome.gain)
        if job.residual:
            with audio.writer(job.residual_out, rate, channels, outcome.subtype) as put:
                for x, y in zip(source.blocks(), _spooled(spool, block, channels), strict=True):
                    put((x - y) * gain)
        with audio.writer(job.out, rate, channels, outcome.subtype) as put:  # last: its name means done
            for y in _spooled(spool, block, channels):
                put(y * gain)


def _spooled(spool: IO[bytes], block: int, channels: int) -> Iterator[np.ndarray]:
    spool.seek(0)
    while data := spool.read(block * channels * 4):
        yield np.frombuffer(data, np.float32).reshape(-1, channels)


def _subtype(subtype: str, suffix: str) -> str | None:
    """The depth of the input, where the container has it."""
    kept = KEPT_SUBTYPES.get(subtype, "PCM_16")
    if suffix == ".flac" and kept != "PCM_16":
        return "PCM_24"
    return kept if suffix in (".wav", ".wave", ".flac") else None
