"""WHAM! noise: `wham_noise/{tr,cv,tt}/<utterance>.wav` and `wham_noise/metadata/noise_meta_{tr,cv,tt}.csv`.

The metadata says where a clip was recorded (`Location ID`: the environment) and of which recording it is a piece
(`File ID`). Without any metadata the names must carry both, `<venue>_<day>_<...>.wav`; the published names, which are
those of WSJ0 mixtures, carry neither.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry, identifier
from nrdata.builders.plan import Refused
from nrdata.errors import UserError

WSJ_MIXTURE = re.compile(r"\w{8}_-?[\d.]+_\w{8}_-?[\d.]+(sp\d+)?")


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    told = _metadata(root)
    for path, parts in files(root):
        part, stem = parts[-2], PurePosixPath(path).stem
        if part not in facts["folders"]:
            yield Refused(path, f"it lies in none of {', '.join(facts['folders'])}", "layout")
            continue
        place = told.get((part, stem)) if told else _named(stem)
        if place is None:
            reason = f"noise_meta_{part}.csv does not name it" if told else "metadata/noise_meta_*.csv is not there"
            yield Refused(path, reason, "no_line")
            continue
        yield Entry(
            path, environment=place[0], recording=place[1], split=facts["folders"][part], license=facts["license"]
        )


def _metadata(root: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(folder, stem) -> environment and recording. `root` may be one of the three folders: metadata lies beside it."""
    above = [root.parent] if root.resolve().name in ("tr", "cv", "tt") else []
    found = {}
    for path in sorted(p for r in (root, *above) for p in r.rglob("noise_meta_*.csv")):
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            for row in csv.DictReader(file):
                lacking = [c for c in ("utterance_id", "File ID", "Location ID") if not row.get(c)]
                if lacking:
                    raise UserError(f"{path} has a row without {', '.join(lacking)}", kind="bad_index")
                stem = row["utterance_id"].removesuffix(".wav")
                place = f"location-{identifier(row['Location ID'])}", f"file-{identifier(row['File ID'])}"
                found[path.stem.removeprefix("noise_meta_"), stem] = place
    return found


def _named(stem: str) -> tuple[str, str] | None:
    words = stem.split("_")
    if WSJ_MIXTURE.fullmatch(stem) or len(words) < 2:
        return None
    return identifier(words[0]), identifier("_".join(words[:2]))
