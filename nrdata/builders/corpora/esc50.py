"""ESC-50: `audio/<fold>-<source>-<take>-<class>.wav`, 5 s, and `meta/esc50.csv`.

The class is the environment, the Freesound file (`src_file`) the recording, and the fold decides the split: clips of
one `src_file` are always in one fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry, identifier, read_csv
from nrdata.builders.plan import Refused
from nrdata.errors import UserError

COLUMNS = ("filename", "fold", "category", "esc10", "src_file")


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    names = {parts[-1]: path for path, parts in files(root) if parts[-2] == "audio"}
    told = set()
    for line, row in enumerate(_rows(root), 2):
        name = row["filename"]
        path = names.get(name, f"audio/{name}")
        if name in told:
            yield Refused(f"esc50.csv line {line}", f"{name} appears twice", "duplicate")
        elif name not in names:
            yield Refused(path, "in esc50.csv, but there is no such file", "no_file")
        elif row["fold"] not in facts["folds"]:
            yield Refused(path, f"fold '{row['fold']}' is none of {', '.join(facts['folds'])}", "bad_index")
        else:
            yield Entry(
                path,
                environment=identifier(row["category"]),
                recording=identifier(row["src_file"]),
                split=facts["folds"][row["fold"]],
                license=facts["license_esc10"] if row["esc10"] == "True" else facts["license"],
            )
        told.add(name)
    for path, parts in files(root):
        if parts[-2] != "audio" or parts[-1] not in told or names[parts[-1]] != path:
            yield Refused(path, "no line of esc50.csv names it", "no_line")


def _rows(root: Path) -> list[dict[str, str]]:
    found = sorted(root.rglob("esc50.csv"))
    if not found:
        raise UserError(f"meta/esc50.csv is nowhere below {root}: it says which clip is what", kind="no_index")
    rows, _ = read_csv(found[0])
    lacking = [c for c in COLUMNS if not rows or any(row.get(c) is None for row in rows)]
    if lacking:
        raise UserError(f"{found[0]} lacks {', '.join(lacking)}: take the published file", kind="bad_index")
    return rows
