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

import numpy as np

from nrdata.errors import UserError
from nrdata.files import write_text
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import NOISY, Files, Setting, by_setting, read_rows
from nrmodel.evaluation.statistics import interval

CLIP = "disjoint"
DIGITS = {"pesq_wb": 3, "estoi": 3, "si_sdr": 2}

Scored = dict[Setting, Files]


def write_against(folder: Path, out: Path) -> None:
    """`table.md` into `out` from the rows under `folder`. Raises `UserError` naming what is missing."""
    try:
        asked = tomllib.loads((folder / "against.toml").read_text(encoding="utf-8"))
        sides, conditions = (asked["before"], asked["after"]), asked["conditions"]
    except (tomllib.TOMLDecodeError, KeyError) as e:
        raise UserError(f"{folder / 'against.toml'}: before, after and conditions are expected ({e})") from e
    lines = [
        f"{sides[0]} -> {sides[1]}, PESQ-WB / ESTOI / SI-SDR dB; differences of the same files with 95 % "
        "intervals over environments and speakers",
        "",
        "| condition | files | noisy | without clip | with clip | after - before, with clip | the clip, after |",
        "|---|---|---|---|---|---|---|",
    ]
    others = []
    for condition in conditions:
        before, after = (by_setting(read_rows(folder / f"{condition}-{side}" / "rows.jsonl")) for side in sides)
        lines.append(line_of(condition, before, after))
        others += peers(condition, before, after)
    if others:
        lines += ["", "| condition | peer | PESQ-WB / ESTOI / SI-SDR dB | after, with clip, - peer |", "|---" * 4 + "|"]
    write_text(out / "table.md", "\n".join([*lines, *others]) + "\n")


def model(scored: Scored, mode: str) -> Files:
    """What the model scored under a mode. Raises `UserError` (missing)."""
    for setting, files in scored.items():
        if setting.system.startswith("nr:") and setting.mode == mode:
            return files
    raise UserError(f"no rows of a model under {mode}: evaluate with --modes none,{CLIP}", "missing")


def line_of(condition: str, before: Scored, after: Scored) -> str:
    plain, clip = (" -> ".join(means(model(scored, mode)) for scored in (before, after)) for mode in ("none", CLIP))
    gain = difference(model(after, CLIP), model(before, CLIP))
    worth = difference(model(after, CLIP), model(after, "none"))
    count, noisy = len(model(after, CLIP)), means(after[NOISY])
    return f"| {condition} | {count} | {noisy} | {plain} | {clip} | {gain} | {worth} |"


def peers(condition: str, before: Scored, after: Scored) -> list[str]:
    """A line for each peer that either evaluation holds."""
    return [
        f"| {condition} | {setting.system[5:]} | {means(files)} | {difference(model(after, CLIP), files)} |"
        for setting, files in {**after, **before}.items()
        if setting.system.startswith("peer:")
    ]


def means(files: Files) -> str:
    found = {name: [value for row in files.values() if (value := row.score(name)) is not None] for name in METRICS}
    return " / ".join(f"{np.mean(values):.{DIGITS[name]}f}" for name, values in found.items())


def difference(a: Files, b: Files) -> str:
    """Mean of a - b over the files that both have a number for, each metric with its interval."""
    cells = []
    for name in METRICS:
        scores = {key: (a[key].score(name), b[key].score(name)) for key in a if key in b}
        gains = {key: x - y for key, (x, y) in scores.items() if x is not None and y is not None}
        environments, speakers = ([getattr(a[key], of) for key in gains] for of in ("env_id", "speaker"))
        told = interval(np.array(list(gains.values())), np.array(environments), np.array(speakers))
        digits = DIGITS[name]
        span = "" if told.low is None else f" [{told.low:+.{digits}f}, {told.high:+.{digits}f}]"
        cells.append(f"{told.mean:+.{digits}f}{span}")
    return " / ".join(cells)
