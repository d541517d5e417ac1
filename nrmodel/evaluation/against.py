"""Two models under the same conditions: their evaluations side by side, file by file.

`against.toml` in a folder names them; the evaluations of a condition lie beside it as `CONDITION-BEFORE` and
`CONDITION-AFTER` (`nr evaluate --out`), with rows of the same files.

    before = "first"
    after = "shipped"
    conditions = ["telephone", "room-0.6"]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from nrdata.errors import UserError
from nrdata.files import write_text
from nrmodel.evaluation.statistics import interval
from nrmodel.evaluation.tables import METRICS, read_rows

CLIP = "disjoint"
DIGITS = {"pesq_wb": 3, "estoi": 3, "si_sdr": 2}

Scores = dict[tuple[str, str], dict[str, dict[str, Any]]]  # (system, mode) -> key -> row


def write_against(folder: Path, out: Path) -> None:
    """`table.md` into `out` from the rows under `folder`."""
    asked = tomllib.loads((folder / "against.toml").read_text(encoding="utf-8"))
    lines = [
        f"{asked['before']} -> {asked['after']}, PESQ-WB / ESTOI / SI-SDR dB; differences of the same files with 95 % "
        "intervals over environments and speakers",
        "",
        "| condition | files | noisy | without clip | with clip | after - before, with clip | the clip, after |",
        "|---|---|---|---|---|---|---|",
    ]
    others = []
    for condition in asked["conditions"]:
        before, after = (scores(folder / f"{condition}-{asked[side]}") for side in ("before", "after"))
        lines.append(row(condition, before, after))
        others += peers(condition, before, after)
    if others:
        lines += ["", "| condition | peer | PESQ-WB / ESTOI / SI-SDR dB | after, with clip, - peer |", "|---" * 4 + "|"]
    write_text(out / "table.md", "\n".join([*lines, *others]) + "\n")


def scores(folder: Path) -> Scores:
    found: Scores = {}
    for line in read_rows(folder / "rows.jsonl"):
        found.setdefault((line["system"], line["mode"]), {})[line["key"]] = line
    return found


def model(found: Scores, mode: str) -> dict[str, dict[str, Any]]:
    for (system, of), rows in found.items():
        if system.startswith("nr:") and of == mode:
            return rows
    raise UserError(f"no rows of a model under {mode}: evaluate with --modes none,{CLIP}", "missing")


def row(condition: str, before: Scores, after: Scores) -> str:
    noisy = means(after["noisy", "none"])
    plain, clip = (
        " -> ".join(means(model(found, mode)) for found in (before, after)) for mode in ("none", CLIP)
    )
    gain = difference(model(after, CLIP), model(before, CLIP))
    worth = difference(model(after, CLIP), model(after, "none"))
    return f"| {condition} | {len(model(after, CLIP))} | {noisy} | {plain} | {clip} | {gain} | {worth} |"


def peers(condition: str, before: Scores, after: Scores) -> list[str]:
    """A line for each peer that either evaluation holds."""
    return [
        f"| {condition} | {system[5:]} | {means(rows)} | {difference(model(after, CLIP), rows)} |"
        for (system, _), rows in {**after, **before}.items()
        if system.startswith("peer:")
    ]


def means(rows: dict[str, dict[str, Any]]) -> str:
    found = {name: [line[name] for line in rows.values() if line[name] is not None] for name in METRICS}
    return " / ".join(f"{np.mean(values):.{DIGITS[name]}f}" for name, values in found.items())


def difference(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> str:
    """Mean of a - b over the files that both have a number for, each metric with its interval."""
    cells = []
    for name in METRICS:
        keys = [k for k in a if k in b and a[k][name] is not None and b[k][name] is not None]
        values = np.array([a[k][name] - b[k][name] for k in keys])
        environments, speakers = (np.array([a[k][label] for k in keys]) for label in ("env_id", "speaker"))
        told = interval(values, environments, speakers)
        digits = DIGITS[name]
        span = "" if told.low is None else f" [{told.low:+.{digits}f}, {told.high:+.{digits}f}]"
        cells.append(f"{told.mean:+.{digits}f}{span}")
    return " / ".join(cells)
