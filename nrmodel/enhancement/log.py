"""`enhance.jsonl` beside the outputs: with which model, reference, seed and versions each was made, and what it holds.
What stands there and is unchanged is not made again, and what somebody else has made is not overwritten.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nrdata import environment, files
from nrdata.errors import UserError
from nrmodel.enhancement.jobs import Job, Outcome

if TYPE_CHECKING:  # what is known before there is a model needs no torch
    from nrmodel.enhancement.interface import Model

LOG = "enhance.jsonl"


@dataclass(frozen=True)
class Recipe:
    """All that decides an output. A SHA-256 is empty where there is no file, or none that can be read."""

    noisy_sha256: str
    ref_sha256: str
    ref_span: list[float] | str  # seconds, "auto" or ""
    model: str  # digest of its weights
    nfe: int
    seed: int
    residual: bool
    left: float  # share of what is removed that stays in
    keep_rest: bool
    ref_as_given: bool
    band: str  # "full", or "16k": nothing above the model's band


OLDER = {"left": 0.0, "keep_rest": False, "ref_as_given": False, "band": "16k"}  # of rows without


def recipes(
    model: Model, jobs: Sequence[Job], nfe: int | None, seed: int, left: float, keep_rest: bool, band: str
) -> list[Recipe]:
    """One a job; every file is hashed once."""
    sha256 = {path: _sha256(path) for path in {path for job in jobs for path in (job.noisy, job.ref)}}
    return [
        Recipe(
            sha256[job.noisy],
            sha256[job.ref],
            list(job.span) if isinstance(job.span, tuple) else job.span or "",
            model.digest,
            nfe or model.nfe,
            seed,
            job.residual,
            left,
            keep_rest,
            job.ref_as_given,
            band,
        )
        for job in jobs
    ]


def _sha256(path: Path | None) -> str:
    """Of the file's bytes; empty where it cannot be read (the job will say why)."""
    try:
        return "" if path is None else files.sha256(path)
    except OSError:
        return ""


def finished(job: Job, recipe: Recipe) -> Outcome | None:
    """A job whose outputs of this recipe are there, byte for byte; None where work is to be done: nothing is there, or
    the residual alone, which is renamed before the output. Raises `UserError` (exists)."""
    row = _last_row(job)
    there = [path for path in job.outputs if path.exists()]
    ours = row is not None and OLDER | row["settings"] == asdict(recipe) and all(_is_made(path, row) for path in there)
    if there and (not ours or (job.out in there and len(there) < len(job.outputs))):
        raise foreign(there[0])
    if row is None or job.out not in there:
        return None
    if row["partial"]:
        return Outcome(job, "partial", notes=["was cut short: the output of its readable part is kept"])
    return Outcome(job, "kept")


def check_foreign(job: Job) -> None:
    """What `finished` can say before the model is there. Raises `UserError` (exists)."""
    row = _last_row(job)
    for path in job.outputs:
        if path.exists() and (row is None or not _is_made(path, row)):
            raise foreign(path)


def foreign(path: Path) -> UserError:
    """Somebody else's output, or one that has been changed."""
    return UserError(f"{path} exists and was not made by this command: --force overwrites it", kind="exists")


def stamps(job: Job) -> list[tuple[int, int, int] | None]:
    """What lies under the names of the outputs, to notice another process that puts something else there."""
    found = [path.stat() if path.exists() else None for path in job.outputs]
    return [s and (s.st_ino, s.st_size, s.st_mtime_ns) for s in found]


def _is_made(path: Path, row: dict[str, Any]) -> bool:
    return path.is_file() and row.get("sha256", {}).get(path.name) == _sha256(path)


def _last_row(job: Job) -> dict[str, Any] | None:
    log = job.out.parent / LOG
    lines = log.read_text(encoding="ascii", errors="replace").splitlines() if log.is_file() else []
    for line in reversed(lines):
        with contextlib.suppress(ValueError):  # the end of a line whose writer was killed
            row: dict[str, Any] = json.loads(line)
            if row["out"] == job.out.name:
                return row
    return None


def append(recipe: Recipe, outcome: Outcome, made: dict[str, Path]) -> None:
    """A row, before the outputs get their names: `made` is where they lie until then."""
    job = outcome.job
    row = {
        "out": job.out.name,
        "noisy": Path(job.name).name,
        "partial": outcome.status == "partial",
        "reference": outcome.reference,
        "gain": outcome.gain,
        "settings": asdict(recipe),
        "sha256": {name: files.sha256(path) for name, path in made.items()},
        "made_with": environment.provenance(),
    }
    with (job.out.parent / LOG).open("a+b") as file:
        torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"  # by a writer that was killed
        file.write(b"\n" * torn + json.dumps(row, allow_nan=False, ensure_ascii=True).encode() + b"\n")
