"""How fast each system was while it was evaluated: speed.json beside the rows, which themselves hold no time.

[{"system": "nr:1ca6256b", "nfe": 5, "seconds": 40.1, "sound_seconds": 312.0, "threads": 2}, ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nrdata import cores
from nrdata.errors import UserError
from nrdata.files import write_json

NAME = "speed.json"


class Stopwatch:
    """Adds up wall time and seconds of sound by (system, nfe), on top of what an interrupted evaluation had; writes
    them when it is left, however it is left."""

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.entries = {(e["system"], e["nfe"]): e for e in read_speed(folder)}

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *raised: object) -> None:
        rounded = [{k: round(v, 3) if isinstance(v, float) else v for k, v in e.items()} for e in self.entries.values()]
        write_json(self.path, rounded)

    def add(self, system: str, nfe: int, seconds: float, sound_seconds: float) -> None:
        """One enhancement."""
        entry = self.entries.setdefault((system, nfe), {"system": system, "nfe": nfe, "seconds": 0.0,
                                                        "sound_seconds": 0.0})  # fmt: skip
        entry["seconds"] += seconds
        entry["sound_seconds"] += sound_seconds
        entry["threads"] = threads()


def read_speed(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder; none where it holds no speed.json. Raises `UserError` for a damaged one."""
    path = folder / NAME
    if not path.is_file():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return entries
    except ValueError as e:
        raise UserError(f"{path} is no JSON ({e}): delete it, the tables then tell no time", "unreadable") from e


def real_time_factors(entries: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """(system, nfe) -> wall time for a second of sound."""
    return {(e["system"], e["nfe"]): e["seconds"] / e["sound_seconds"] for e in entries if e["sound_seconds"]}


def threads() -> int:
    """Of torch, where it is loaded; else the processors for this process."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else cores.usable()
