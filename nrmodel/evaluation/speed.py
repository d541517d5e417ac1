"""How fast each system was while it was evaluated: speed.json beside the rows, which themselves hold no time.

    [{"system": "nr:1ca6256b", "nfe": 5, "seconds": 40.1, "sound_seconds": 312.0, "threads": 2}, ...]
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nrdata.files import write_text

NAME = "speed.json"


class Stopwatch:
    """Adds up wall time and seconds of sound by (system, nfe), to what an interrupted evaluation had."""

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.entries = {(e["system"], e["nfe"]): e for e in read_speed(folder)}

    @contextmanager
    def timing(self, system: str, nfe: int, sound_seconds: float) -> Iterator[None]:
        """Around one enhancement."""
        begun = time.perf_counter()
        yield
        start = {"system": system, "nfe": nfe, "seconds": 0.0, "sound_seconds": 0.0, "threads": threads()}
        entry = self.entries.setdefault((system, nfe), start)
        entry["seconds"] += time.perf_counter() - begun
        entry["sound_seconds"] += sound_seconds

    def save(self) -> None:
        rounded = [{k: round(v, 3) if isinstance(v, float) else v for k, v in e.items()} for e in self.entries.values()]
        write_text(self.path, json.dumps(rounded, indent=1) + "\n")


def read_speed(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder; none where it holds no speed.json."""
    path = folder / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def real_time_factors(entries: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """(system, nfe) -> wall time for a second of sound."""
    return {(e["system"], e["nfe"]): e["seconds"] / e["sound_seconds"] for e in entries if e["sound_seconds"]}


def threads() -> int:
    """Of torch, where it is loaded; else the processors of this machine."""
    import sys

    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else os.cpu_count() or 1
