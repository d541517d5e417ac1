"""What lies in the folder of an evaluation, and whether it answers the request that is made now.

config.json is the request: what was asked, and of what has no fingerprint (plain files, a peer's package) what it was.
Rows are added to, and tables answered from, only where it is the same; where folders lie does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nrdata.errors import UserError
from nrdata.files import write_json
from nrmodel.evaluation.conditions import conditions_of
from nrmodel.evaluation.folders import Inputs
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.evaluation.schema import Row, row_of
from nrmodel.evaluation.systems import System

MADE = ("rows.jsonl", "rows.partial", "speed.json", "summary.json", "table.csv", "table.md")  # beside config.json


def request_of(
    asked: EvaluationRequest, split: str, fingerprint: str, keys: Sequence[str], modes: Sequence[str],
    systems: Sequence[System], inputs: Mapping[str, Inputs],
) -> dict[str, Any]:  # fmt: skip
    """What rows depend on, as it stands in config.json; what most evaluations do not have only where it is there."""
    seldom = {
        "sampler": asked.sampler if asked.sampler != "budget" else "",
        "conditions": conditions_of(asked).told(),
        "inputs": {role: {key: files.content(key) for key in keys} for role, files in inputs.items()},
        "versions": {system.name: system.version for system in systems if system.version},
    }
    return {
        "split": split, "fingerprint": fingerprint, "files": len(keys), "limit": asked.limit, "modes": list(modes),
        "ref_seconds": list(asked.ref_seconds), "seeds": list(asked.seeds),
        "systems": {system.name: list(system.budgets) for system in systems},
    } | {name: value for name, value in seldom.items() if value}  # fmt: skip


def prepare(out: Path, request: dict[str, Any], inputs: Mapping[str, Inputs], force: bool) -> None:
    """`out` is new, or holds the same request (then it goes on), or `force` clears what is there. `inputs`: the files
    of now, by what they are used as."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "config.json"
    there = [out / name for name in MADE if (out / name).exists()]
    if config.exists() and not force:
        before = json.loads(config.read_text(encoding="utf-8"))
        before.pop("folders", None)  # older ones name the places
        if before == request:
            return
        raise UserError(f"{out} {differing(before, request, inputs)}: choose another --out, or --force", "exists")
    if there and not force:
        raise UserError(
            f"{there[0]} is there, and no config.json beside it says of what: choose another --out, or --force",
            "exists",
        )
    for path in there:
        path.unlink()
    write_json(config, request)


def differing(before: dict[str, Any], request: dict[str, Any], inputs: Mapping[str, Inputs]) -> str:
    """What an evaluation is of, that it should not be: the first changed file by name, or the entries that differ."""
    changed = [
        files.paths[name]
        for role, files in inputs.items()
        for name, was in before.get("inputs", {}).get(role, {}).items()
        if name in files.contents and files.contents[name] != was
    ]
    if changed:
        return f"was made from another {changed[0]} than lies there now ({len(changed)} changed in all)"
    entries = sorted(name for name in before.keys() | request.keys() if before.get(name) != request.get(name))
    return f"holds an evaluation of something else (another {', '.join(entries)})"


def resumable(partial: Path) -> list[Row]:
    """The rows of an unfinished file, each identity once; a last line without its end is cut off."""
    if not partial.exists():
        return []
    data = partial.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with partial.open("r+b") as file:
            file.truncate(len(whole))
    rows = [row_of(json.loads(line)) for line in whole.splitlines()]
    return list({row.identity: row for row in rows}.values())
