"""`enhance.jsonl` beside the outputs: with which model, reference, seed and versions each was made. What stands there
is not made again, and what somebody else has made is not overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nrdata import environment, files
from nrdata.errors import UserError
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Job, Outcome

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
    ref_as_given: bool = False


def recipes(model: Model, jobs: Sequence[Job], nfe: int | None, seed: int) -> list[Recipe]:
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
            job.ref_as_given,
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
    """A job whose output of this recipe is there; None where work is to be done. The output itself is renamed last, so
    a row without it, or with the residual alone, is an interrupted job of this command. Raises `UserError` (exists)."""
    row = _last_row(job)
    settings = row and {"ref_as_given": False, **row["settings"]}  # older rows do not have it
    same = settings == asdict(recipe)
    there = [path for path in job.outputs if path.exists()]
    if there and (not same or (job.out in there and len(there) < len(job.outputs))):
        raise UserError(f"{there[0]} exists and was not made by this command: --force overwrites it", kind="exists")
    if row is None or job.out not in there:
        return None
    if row["partial"]:
        return Outcome(job, "partial", notes=["was cut short: the output of its readable part is kept"])
    return Outcome(job, "kept")


def _last_row(job: Job) -> dict[str, Any] | None:
    log = job.out.parent / LOG
    rows = []
    if log.is_file():
        lines = log.read_text(encoding="ascii", errors="replace").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
    return next((row for row in reversed(rows) if row["out"] == job.out.name), None)


def append(recipe: Recipe, outcome: Outcome) -> None:
    """A row, before the output gets its name."""
    job = outcome.job
    row = {
        "out": job.out.name,
        "noisy": job.noisy.name,
        "partial": outcome.status == "partial",
        "reference": outcome.reference,
        "gain": outcome.gain,
        "settings": asdict(recipe),
        "made_with": environment.provenance(),
    }
    with (job.out.parent / LOG).open("a", encoding="ascii") as file:
        file.write(json.dumps(row, allow_nan=False, ensure_ascii=True) + "\n")
