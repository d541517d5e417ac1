"""Committed facts per source: layouts, licences, environment names and aliases, split rules; fixed evaluation plans."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def load(source: str) -> dict[str, Any]:
    """The facts of a source (`voicebank-demand`), from `manifests/<source>.toml`."""
    return tomllib.loads(resources.files(__name__).joinpath(f"{source}.toml").read_text(encoding="utf-8"))


def sources() -> list[str]:
    """The names of all sources that have facts, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files(__name__).iterdir() if p.name.endswith(".toml"))
