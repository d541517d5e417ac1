"""Files in, enhanced files out: what `nr enhance` does, in bounded memory, one file after another.

The enhanced sound first goes to a nameless temporary file as float32, so that one gain for the whole file is known
before anything is quantised; then the outputs are written in a folder of their own, logged and renamed. The same
command again skips what it has made, any other is refused without `--force` (nrmodel.enhancement.log). A process claims
each output while it is at it, so that what it says it has made is what lies there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from nrdata import audio, files, locks
from nrdata.errors import UserError
from nrmodel.enhancement import enhance, log, media
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Job, Outcome
from nrmodel.enhancement.log import Recipe
from nrmodel.enhancement.references import References
from nrmodel.enhancement.source import Header, Source, header, readable

PEAK = 0.999  # integer formats clip above 1: a louder output is brought here, by one gain for the whole file
KEPT_SUBTYPES = {"PCM_24": "PCM_24", "PCM_32": "PCM_32", "FLOAT": "FLOAT", "DOUBLE": "FLOAT"}  # the rest: PCM_16
WAV_LIMIT = 2**32 - 2**16  # bytes of sound that a WAV header can count
Progress = Callable[[float], None]  # called with the seconds of sound just done


def share_left(strength: float = 1.0, max_reduction_db: float = float("inf")) -> float:
    """The share of what the model removes that stays in: 1 - strength, and no less than leaves it `max_reduction_db`
    under what it was. At every frequency alike, so that nothing of it can go down by more."""
    return max(1.0 - strength, float(10 ** (-max_reduction_db / 20)))


def enhance_files(
    model: Model,
    jobs: Sequence[Job],
    nfe: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda seconds: None,
    left: float = 0.0,
    keep_rest: bool = False,
    band: str = "full",
) -> Iterator[Outcome]:
    """Do the jobs one by one; a file that fails becomes an `Outcome` with its reason, and the next one follows.

    `left`: share of what is removed that stays in; `keep_rest`: only what the clip holds goes; `band`: "16k" leaves
    out what lies above the model's band. Raises `UserError` before any work where an output exists that the same
    command did not make (unless `force`), and (lost) where a folder of outputs has gone; `OSError` where the disk
    is full.
    """
    recipes = log.recipes(model, jobs, nfe, seed, left, keep_rest, band)
    before = [log.stamps(job) for job in jobs]
    made = [None if force else log.finished(job, recipe) for job, recipe in zip(jobs, recipes, strict=True)]
    references = References(model, keep_rest)
    folders: set[Path] = set()
    for job, recipe, stamps, done in zip(jobs, recipes, before, made, strict=True):
        if done is not None:
            _tidy(job, folders)
            yield done
            continue
        outcome, begun = Outcome(job), time.monotonic()
        try:
            _must_be_there(job.out.parent, folders)
            job.out.parent.mkdir(parents=True, exist_ok=True)
            folders.add(job.out.parent)
            with _claimed(job, recipe, stamps) as kept:
                outcome = kept or outcome
                if kept is None:
                    _Work(model, references, recipe, outcome, progress).run()
                    outcome.took = time.monotonic() - begun
        except (UserError, OSError) as e:
            if isinstance(e, UserError) and e.kind == "lost":
                raise
            if isinstance(e, OSError) and e.errno == errno.ENOSPC:
                raise OSError(e.errno, e.strerror, str(job.out)) from e
            _must_be_there(job.out.parent, folders)
            outcome.has_failed(e)
        yield outcome


def _must_be_there(folder: Path, folders: set[Path]) -> None:
    if folder in folders and not folder.is_dir():
        raise UserError(f"the folder {folder} has gone while it was written to: start again once it is back", "lost")


def _lock(job: Job) -> Path:
    name = hashlib.sha256(job.out.name.encode(errors="surrogateescape")).hexdigest()[:16]
    return job.out.parent / f".nr-{name}.lock"


def _tidy(job: Job, folders: set[Path]) -> None:
    """Remove what a killed process left beside an output that it had finished."""
    if job.out.parent not in folders:
        files.remove_leftovers(job.out.parent)
        folders.add(job.out.parent)
    if (lock := _lock(job)).exists():
        with contextlib.suppress(UserError), locks.held(lock, "in use"):  # whose holder lives, stays
            pass


@contextlib.contextmanager
def _claimed(job: Job, recipe: Recipe, stamps: list[tuple[int, int, int] | None]) -> Iterator[Outcome | None]:
    """Hold an output against other processes; yields what is there if one of them has made the same meanwhile."""
    with locks.held(_lock(job), f"another nr enhance is making {job.out}"):
        kept = None
        if (now := log.stamps(job)) != stamps and any(now):
            try:
                kept = log.finished(job, recipe)
            except UserError as e:
                text = f"another process has made {job.out} meanwhile, its output stays: --force overwrites it"
                raise UserError(text, kind="exists") from e
        yield kept


@dataclass
class _Work:
    """One job at work."""

    model: Model
    references: References
    recipe: Recipe
    outcome: Outcome
    progress: Progress

    def run(self) -> None:
        job = self.outcome.job
        folder = files.unfinished(job.out)
        folder.mkdir()
        try:
            with readable(job.noisy, folder) as (sound, cut):
                if cut:
                    self.outcome.is_partial(cut)
                try:
                    self._enhance(header(job.noisy), sound, folder)
                except UserError as e:
                    raise UserError(str(e).replace(str(sound), str(job.noisy)), e.kind) from e
        except OSError as e:
            inside = str(e.filename or "").startswith(str(folder))
            raise OSError(e.errno, e.strerror or str(e), str(job.out) if inside else e.filename) from e
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _enhance(self, head: Header, sound: Path, folder: Path) -> None:
        outcome, job = self.outcome, self.outcome.job
        rate, channels = head.sample_rate, head.channels
        if head.decoded:
            info = audio.probe(sound)
            rate, channels = info.sample_rate, info.channels
        suffix = job.out.suffix.lower()
        film = suffix in media.MUXED
        outcome.subtype = media.MUXED[suffix][1] if film else _subtype(job, head, rate, channels)
        block = int(enhance.BLOCK_SECONDS * rate)
        source = Source(sound, block, rate, outcome.is_partial)
        measured = enhance.measure(self.model, source.blocks(), rate)
        outcome.seconds = measured.frames / rate
        width = {"PCM_16": 2, "PCM_24": 3}.get(outcome.subtype, 4)
        if suffix == ".wav" and measured.frames * channels * width > WAV_LIMIT:
            raise UserError(f"{job.out} would be over 4 GiB: --format flac can hold it", kind="container")
        reference = self.references.of(replace(job, noisy=sound), rate, measured.frames)
        if self.recipe.keep_rest:
            reference.must_serve()
        outcome.reference = reference.used
        told = self.references.sentences(reference)
        outcome.notes += [text.replace(str(sound), str(job.noisy)) for text in told]
        if measured.rumbling.any():
            outcome.notes.append("a constant offset or sound under 20 Hz is loud in it: removed, for good")
        if film and head.tracks > 1:
            outcome.notes.append(f"has {head.tracks} sound tracks: the first one is enhanced, the others are left out")
        recipe = self.recipe
        upper = None
        if recipe.band == "full":
            upper = enhance.upper_band(self.model, rate, channels, reference.wave, reference.rate)
        enhanced = enhance.enhance_blocks(
            self.model, source.blocks(), measured, rate, reference.z_r, recipe.nfe, recipe.seed, upper=upper
        )
        with tempfile.TemporaryFile(dir=folder) as spool:
            for y in enhanced:
                spool.write(y.tobytes())
                self.progress(len(y) / rate)

            def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                """(what comes out, what was removed) block by block."""
                left = np.float32(recipe.left)
                for x, y in zip(source.blocks(), _spooled(spool, block, channels), strict=True):
                    out = left * x + (1 - left) * y
                    yield out, x - out

            self._limit(parts())
            gain = np.float32(outcome.gain)
            made = {path: folder / f"{i}{path.suffix}" for i, path in enumerate(job.outputs)}
            if job.residual:
                subtype = outcome.subtype if not film else "PCM_16"
                with audio.writer(made[job.residual_out], rate, channels, subtype) as put:
                    for _, removed in parts():
                        put(removed * gain)
            wave = folder / "sound.w64" if film else made[job.out]
            with audio.writer(wave, rate, channels, "FLOAT" if film else outcome.subtype) as put:
                for out, _ in parts():
                    put(out * gain)
            if film:
                with files.replacing(made[job.out]) as file:
                    media.mux(job.noisy if head.picture and suffix in media.FILMS else None, wave, file, suffix)
        log.append(recipe, outcome, {path.name: lies for path, lies in made.items()})
        for path in reversed(job.outputs):  # the output last: its name means done
            files.rename(made[path], path)

    def _limit(self, parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """One gain for the whole file, where an integer format would clip."""
        outcome = self.outcome
        if outcome.subtype == "FLOAT":
            return
        peak = 0.0
        for out, removed in parts:
            peak = max(peak, float(np.abs(out).max()), float(np.abs(removed).max()) if outcome.job.residual else 0.0)
        if peak > PEAK:
            outcome.gain = PEAK / peak
            outcome.notes.append(f"peak {peak:.3f}: the whole file is scaled by {20 * np.log10(outcome.gain):.2f} dB")


def _spooled(spool: IO[bytes], block: int, channels: int) -> Iterator[np.ndarray]:
    spool.seek(0)
    while data := spool.read(block * channels * 4):
        yield np.frombuffer(data, np.float32).reshape(-1, channels)


def _subtype(job: Job, head: Header, rate: int, channels: int) -> str:
    """The depth of the input, where the container has it. Raises `UserError` (container)."""
    suffix = job.out.suffix.lower()
    kept: str | None = KEPT_SUBTYPES.get(head.subtype, "PCM_16")
    if suffix == ".flac" and kept != "PCM_16":
        kept = "PCM_24"
    elif suffix not in (".wav", ".wave", ".flac"):
        kept = None
    subtypes = [audio.container(path, rate, channels, kept)[1] for path in job.outputs if path.suffix.lower() == suffix]
    return subtypes[0]
