"""What `nr enhance` is to do (jobs) and what became of it (outcomes). Nothing here opens a model."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nrdata import audio
from nrdata.errors import UserError

Span = tuple[float, float]


@dataclass(frozen=True)
class Job:
    """One file to make. `span`: the reference is this stretch of the noisy file itself, in seconds, or "auto".
    `ref_as_given`: it is used whatever it is judged to be."""

    noisy: Path
    out: Path
    ref: Path | None = None
    span: Span | str | None = None
    residual: bool = False
    ref_as_given: bool = False

    @property
    def residual_out(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.residual{self.out.suffix}")

    @property
    def outputs(self) -> list[Path]:
        return [self.out, self.residual_out] if self.residual else [self.out]


@dataclass
class Outcome:
    """What became of a job. `status`: enhanced, partial (only a part of the input was readable), kept (already there),
    failed. `notes`: warnings, each a clause to follow the file's name."""

    job: Job
    status: str = "enhanced"
    seconds: float = 0.0
    reference: str = "none"
    gain: float = 1.0
    subtype: str = ""
    notes: list[str] = field(default_factory=list)

    def is_partial(self, note: str) -> None:
        """Only a part of the input was readable."""
        self.status = "partial"
        self.notes.append(note)

    def line(self) -> str:
        """One line for people."""
        if self.status == "kept":
            return f"{self.job.out}: already made by this command, kept"
        if self.status == "failed":
            return f"{self.job.noisy}: failed"
        made = " and ".join(str(path) for path in self.job.outputs)
        return f"{self.job.noisy} -> {made}: {self.seconds:.2f} s, {self.subtype}, reference: {self.reference}"

    def warnings(self) -> list[str]:
        """The notes as sentences that name the file."""
        name = str(self.job.noisy)
        named = (name, str(self.job.ref)) if self.job.ref else (name,)  # a clip's faults carry the clip's name
        return [note if note.startswith(named) else f"{name}: {note}" for note in self.notes]

    def as_dict(self) -> dict[str, Any]:
        row = {"noisy": str(self.job.noisy), "out": str(self.job.out), "status": self.status, "seconds": self.seconds}
        return {**row, "reference": self.reference, "gain": self.gain, "subtype": self.subtype, "notes": self.notes}


def jobs_of_files(
    noisy: Sequence[Path], out: Path, ref: Path | None = None, span: Span | str | None = None, residual: bool = False
) -> list[Job]:
    """A job a file, written to `out/<stem>.wav`. Raises `UserError` before any work where two would be one file."""
    return _without_clashes([Job(path, out / f"{stem(path)}.wav", ref, span, residual) for path in noisy])


def jobs_of_pairs(pairs: Path, out: Path | None = None, residual: bool = False) -> list[Job]:
    """Jobs of a CSV with the columns noisy, ref and out. `noisy` and `ref` are relative to the CSV, `out` to the folder
    `out` (by default the CSV's); an empty `ref` is no reference, an empty `out` the noisy file's stem."""
    try:
        text = pairs.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{pairs}: no such CSV file", kind="missing") from None
    rows = csv.DictReader(text.splitlines())
    if "noisy" not in (rows.fieldnames or ()):
        raise UserError(f"{pairs} has no column 'noisy': its first line must be noisy,ref,out", kind="columns")
    jobs = []
    for row in rows:
        if not row["noisy"]:
            raise UserError(f"{pairs}, line {rows.line_num}: the column 'noisy' is empty", kind="columns")
        noisy = pairs.parent / row["noisy"]
        ref = pairs.parent / row["ref"] if row.get("ref") else None
        jobs.append(Job(noisy, (out or pairs.parent) / (row.get("out") or f"{stem(noisy)}.wav"), ref, None, residual))
    if not jobs:
        raise UserError(f"{pairs} lists no files", kind="empty")
    return _without_clashes(jobs)


def stem(path: Path) -> str:
    """A file's name without the extension of a sound file: dots inside names stay."""
    return path.stem if path.suffix.lower() in audio.EXTENSIONS else path.name


def _without_clashes(jobs: list[Job]) -> list[Job]:
    made: dict[Path, Path] = {}
    inputs = {os.path.realpath(path) for job in jobs for path in (job.noisy, job.ref) if path is not None}
    for job in jobs:
        for path in job.outputs:
            if os.path.realpath(path) in inputs:
                raise UserError(f"{path} is an input and would be overwritten: choose another --out", kind="clash")
            if path in made:
                raise UserError(f"{made[path]} and {job.noisy} would both become {path}: rename one", kind="clash")
            made[path] = job.noisy
    return jobs


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


def declared_seconds(jobs: Sequence[Job]) -> float:
    """Seconds of sound that the headers of all inputs declare; unreadable ones count nothing."""
    total = 0.0
    for job in jobs:
        try:
            info = audio.probe(job.noisy, tolerant=True)
        except UserError:
            continue
        total += (info.frames or 0) / info.sample_rate
    return total
