"""A CSV of jobs: columns noisy, ref and out, each file with its own reference."""

from __future__ import annotations

import csv
import difflib
import io
from pathlib import Path

from nrdata.errors import UserError
from nrmodel.enhancement.intake import STDIN, Intake
from nrmodel.enhancement.jobs import Job, stem, suffix_of, without_clashes

COLUMNS = ("noisy", "ref", "out")
OTHER_NAMES = {"reference": "ref", "clip": "ref", "noise": "ref", "output": "out", "enhanced": "out", "input": "noisy",
               "file": "noisy"}  # fmt: skip


def jobs_of_pairs(
    pairs: Path, intake: Intake, out: Path | None = None, residual: bool = False, file_format: str | None = None
) -> list[Job]:
    """Jobs of a CSV. `noisy` and `ref` are relative to the CSV, `out` to the folder `out` (by default the CSV's); an
    empty `ref` is no reference, an empty `out` the noisy file's stem. Blanks around names and values do not count;
    columns that mean nothing here are told. Raises `UserError` (missing, columns, empty, clash)."""
    try:
        data = intake.sound(str(pairs)).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{pairs}: no such CSV file", kind="missing") from None
    base = Path() if str(pairs) in STDIN or not pairs.is_file() else pairs.parent
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{pairs} is UTF-16: save it as CSV in UTF-8", kind="columns")
    text = data.decode("utf-8-sig", errors="surrogateescape")
    jobs = []
    for line, row in _rows(pairs, text, intake):
        if not row["noisy"]:
            raise UserError(f"{pairs}, line {line}: the column 'noisy' is empty", kind="columns")
        noisy = intake.sound(row["noisy"], base)
        ref = intake.sound(row["ref"], base) if row.get("ref") else None
        name = row.get("out") or f"{stem(noisy)}{suffix_of(noisy, file_format)}"
        jobs.append(Job(noisy, (out or base) / name, ref, None, residual))
    if not jobs:
        raise UserError(f"{pairs} lists no files", kind="empty")
    return without_clashes(jobs)


def _rows(pairs: Path, text: str, intake: Intake) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, its values by column)."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = []
    try:
        columns = _columns(pairs, next(reader, []), intake)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(columns):
                found = f"{len(values)} values for {len(columns)} columns"
                raise UserError(f"{pairs}, line {reader.line_num}: {found} (quote names with commas)", kind="columns")
            rows.append((reader.line_num, {c: v.strip() for c, v in zip(columns, values, strict=True)}))
    except csv.Error as e:
        raise UserError(f"{pairs}, line {reader.line_num}: no CSV ({e})", kind="columns") from e
    return rows


def _columns(pairs: Path, first: list[str], intake: Intake) -> list[str]:
    """The names of the columns; those that are not known are told, or refused where one of ours is meant."""
    columns = [name.strip().lower() for name in first]
    unknown = [name for name in columns if name not in COLUMNS]
    for name in unknown:
        near = OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, COLUMNS, 1, 0.6)), None)
        if near and near not in columns:
            raise UserError(f"{pairs}: the column '{name}' is unknown: did you mean '{near}'?", kind="columns")
    if "noisy" not in columns:
        found = ", ".join(f"'{name}'" for name in columns) or "nothing"
        expected = "its first line must be noisy,ref,out, with commas"
        raise UserError(f"{pairs} has no column 'noisy' but {found}: {expected}", kind="columns")
    if twice := next((name for name in COLUMNS if columns.count(name) > 1), None):
        raise UserError(f"{pairs} has the column '{twice}' twice", kind="columns")
    if unknown:
        intake.notes.append(f"{pairs}: columns that are not used: {', '.join(unknown)}")
    return columns
