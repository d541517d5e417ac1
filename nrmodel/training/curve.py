"""What the log of a run tells, for a picture: loss, validation, and where own estimates begin."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from nrmodel.config import preset

CONFIGS = ("config.toml", "train-config.toml")


@dataclass(frozen=True)
class Curve:
    """Steps and their training loss, (step, loss) of validation by clip (`right`, `wrong`, `none`), and the step from
    which on a share of the items starts from the network's own estimate (None: never, or not told)."""

    steps: list[int]
    loss: list[float]
    validation: dict[str, list[tuple[int, float]]]
    own_from: int | None


def read_curve(folder: Path) -> Curve:
    """From log.jsonl of a run folder; where its lines do not say when own estimates began, from the configuration."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    training = [line for line in lines if isinstance(line.get("loss"), float)]
    steps = [line["step"] for line in training]
    validation: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for clip, loss in line.get("validation", {}).get("loss", {}).items():
            validation.setdefault(clip, []).append((line["step"], loss))
    told = next((line["own_from"] for line in lines if "own_from" in line), None)
    own_from = planned(folder) if told is None else told
    begun = own_from is not None and own_from < max(steps, default=0)
    return Curve(steps, [line["loss"] for line in training], validation, own_from if begun else None)


def planned(folder: Path) -> int | None:
    """The step at which own estimates were to begin, by the configuration of a run that was not resumed with another
    budget."""
    path = next((folder / name for name in CONFIGS if (folder / name).exists()), None)
    if path is None:
        return None
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    objective = preset(config["preset"]).objective
    return round(objective.own_after * config["max_steps"]) if objective.own_share else None
