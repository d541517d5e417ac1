"""Committed facts per source: layouts, licences, environment names and aliases, split rules; fixed evaluation plans."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

# A wheel carries the folder manifests/ as nrdata/facts (pyproject.toml); in a tree it lies beside nrdata.
_CARRIED = resources.files("nrdata") / "facts"
FOLDER = _CARRIED if _CARRIED.is_dir() else Path(__file__).parents[1] / "manifests"


@cache
def table() -> dict[str, dict[str, Any]]:
    """Source -> its facts, from `manifests/<source>.toml`: all that is known of it, read once."""
    files = [p for p in FOLDER.iterdir() if p.name.endswith(".toml")]
    return {p.name.removesuffix(".toml"): tomllib.loads(p.read_text(encoding="utf-8")) for p in files}


def load(source: str) -> dict[str, Any]:
    """The facts of a source (`voicebank-demand`)."""
    return table()[source]


def sources() -> list[str]:
    """The names of all sources, sorted."""
    return sorted(table())
