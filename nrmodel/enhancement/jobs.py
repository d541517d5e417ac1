"""What `nr enhance` is to do (jobs) and what became of it (outcomes). Nothing here opens a model."""

from __future__ import annotations

import contextlib
import errno
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import media
from nrmodel.enhancement.intake import Input
from nrmodel.enhancement.source import Header, header

Span = tuple[float, float]


@dataclass(frozen=True)
class Job:
    """One file to make. `span`: the reference is this stretch of the noisy file itself, in seconds, or "auto".
    `ref_as_given`: it is used whatever it is judged to be. `called`: what the user calls the files where they lie
    elsewhere, as pairs (path, name)."""

    noisy: Path
    out: Path
    ref: Path | None = None
    span: Span | str | None = None
    residual: bool = False
    called: tuple[tuple[Path, str], ...] = ()
    ref_as_given: bool = False

    @property
    def residual_out(self) -> Path:
        suffix = self.out.suffix if self.out.suffix.lower() not in media.MUXED else ".wav"
        return self.out.with_name(f"{self.out.stem}.residual{suffix}")

    @property
    def outputs(self) -> list[Path]:
        return [self.out, self.residual_out] if self.residual else [self.out]

    @property
    def name(self) -> str:
        """Of the noisy file, for people."""
        return self.told(str(self.noisy))

    def told(self, text: str) -> str:
        """A sentence with the files called as the user calls them."""
        for path, name in self.called:
            text = text.replace(str(path), name)
        return text


@dataclass
class Outcome:
    """What became of a job. `status`: enhanced, partial (only a part of the input was readable), kept (already there),
    failed. `notes`: warnings, each a clause to follow the file's name. `took`: seconds of work."""

    job: Job
    status: str = "enhanced"
    seconds: float = 0.0
    reference: str = "none"
    gain: float = 1.0
    subtype: str = ""
    took: float = 0.0
    notes: list[str] = field(default_factory=list)

    def is_partial(self, note: str) -> None:
        """Only a part of the input was readable."""
        self.status = "partial"
        self.notes.append(note)

    def has_failed(self, error: UserError | OSError) -> Outcome:
        """Nothing was made."""
        self.status = "failed"
        told = self.job.told(sentence(error))
        self.notes.append(told if told.startswith(self.job.name) else f"{self.job.name}: {told}")
        return self

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work a second of sound; None where there was no work."""
        return self.took / self.seconds if self.took and self.seconds else None

    def line(self) -> str:
        """One line for people."""
        if self.status == "kept":
            return f"{self.job.out}: already made by this command, kept"
        if self.status == "failed":
            return f"{self.job.name}: failed"
        made = " and ".join(str(path) for path in self.job.outputs)
        return f"{self.job.name} -> {made}: {self.seconds:.2f} s, {self.subtype}, reference: {self.reference}"

    def warnings(self) -> list[str]:
        """The notes as sentences that name the file."""
        notes = [self.job.told(note) for note in self.notes]
        own = tuple(self.job.told(str(path)) for path in (self.job.noisy, self.job.ref) if path)
        return [note if note.startswith(own) else f"{self.job.name}: {note}" for note in notes]

    def as_dict(self) -> dict[str, Any]:
        notes, speed = [self.job.told(note) for note in self.notes], self.real_time_factor
        row = {"noisy": self.job.name, "out": str(self.job.out), "status": self.status, "seconds": self.seconds}
        row = {**row, "reference": self.reference, "gain": self.gain, "subtype": self.subtype, "notes": notes}
        return {**row, "real_time_factor": None if speed is None else round(speed, 4)}


def sentence(error: UserError | OSError) -> str:
    """What an error of one file says to people."""
    if isinstance(error, UserError):
        return str(error)
    if error.errno == errno.ENAMETOOLONG:
        return "its output's name is too long for this file system: give it a shorter one in a --pairs CSV"
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")


def jobs_of_files(
    inputs: Sequence[Input],
    out: Path,
    ref: Path | None = None,
    span: Span | str | None = None,
    residual: bool = False,
    file_format: str | None = None,
) -> list[Job]:
    """A job an input, written to `out/<its place>/<stem>.wav`, films to films; a single one to `out` itself where that
    is the name of a sound file. Raises `UserError` before any work where two would be one file."""
    if is_file_name(out):
        if len(inputs) > 1 or inputs[0].place is not None:
            raise UserError(f"--out {out} is one file: name a folder for what may be several", kind="out")
        if file_format and out.suffix.lower() != f".{file_format}":
            raise UserError(f"--out {out} and --format {file_format} differ: give one of them", kind="out")
        return without_clashes([Job(inputs[0].path, out, ref, span, residual)])
    jobs = []
    for one in inputs:
        name = f"{stem(one.path)}{suffix_of(one.path, file_format)}"
        jobs.append(Job(one.path, out / (one.place or Path()) / name, ref, span, residual))
    return without_clashes(jobs)


def is_file_name(out: Path) -> bool:
    """Whether `--out` is the name of a sound file or a film, not of a folder."""
    return out.suffix.lower() in (*audio.EXTENSIONS, *media.EXTENSIONS) and not out.is_dir()


def stem(path: Path) -> str:
    """A file's name without the extension of a sound file: dots inside names stay."""
    return path.stem if path.suffix.lower() in (*audio.EXTENSIONS, *media.EXTENSIONS) else path.name


def suffix_of(path: Path, file_format: str | None = None) -> str:
    """`.wav`, or what was asked for; of a film a film, .mkv where its own kind cannot be written."""
    if file_format:
        return f".{file_format}"
    if path.suffix.lower() in media.EXTENSIONS:
        with contextlib.suppress(UserError, OSError):  # said when its turn comes
            if header(path).picture:
                return path.suffix if path.suffix.lower() in media.FILMS else ".mkv"
    return ".wav"


def without_clashes(jobs: list[Job]) -> list[Job]:
    """The jobs; `UserError` (clash) where one would overwrite an input, or two are one file under any spelling."""
    made: dict[str, str] = {}
    inputs = {os.path.realpath(path) for job in jobs for path in (job.noisy, job.ref) if path is not None}
    for job in jobs:
        for path in job.outputs:
            if os.path.realpath(path) in inputs:
                raise UserError(f"{path} is an input and would be overwritten: choose another --out", kind="clash")
            place = unicodedata.normalize("NFC", os.path.realpath(path))
            if place in made:
                remedy = "rename one, or name their outputs in a --pairs CSV"
                raise UserError(f"{made[place]} and {job.name} would both become {path}: {remedy}", kind="clash")
            made[place] = job.name
    return jobs


def check(job: Job) -> Header:
    """What can be known of a job before any work. Raises `UserError` or `OSError`."""
    found = header(job.noisy)
    if job.ref is not None:
        header(job.ref)
    for path in job.outputs:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # of the latter more below
            path.lstat()
        if path.is_dir():
            raise UserError(f"{path} is a folder: rename it, or choose another --out", kind="folder")
        if path.suffix.lower() in media.EXTENSIONS:
            media.check_writable(path, found.channels)
        else:
            audio.container(path, found.sample_rate, found.channels, None)
    above = next(folder for folder in job.out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above} is a file, not a folder: choose another --out", kind="folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{above} may not be written to: choose another --out, or check its permissions", "permission")
    return found


def parse_span(text: str) -> Span | str:
    """`auto`, or `A-B` in seconds."""
    if text == "auto":
        return text
    try:
        start, stop = (float(part) for part in text.split("-"))
    except ValueError:
        start = stop = float("nan")
    if not start < stop < float("inf"):
        raise UserError(f"--ref-span {text}: A-B in seconds (0.5-2.0) or auto is expected", kind="span")
    return start, stop
