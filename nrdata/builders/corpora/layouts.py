"""Corpora that `folders` knows by name: `--noise wham:ROOT` reads ROOT as WHAM! was published.

A corpus is its facts, `manifests/<name>.toml` (side, layout, licence, splits ...), and a module of its name here with
`items(root, facts)`: every sound file below `root` once, as an entry or as refused. A root may be the published
folder, one below it (a single split), or any folder above.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from nrdata import audio, manifests
from nrdata.builders.entries import Entry
from nrdata.builders.plan import Refused
from nrdata.errors import UserError

Items = Callable[[Path, dict[str, Any]], Iterator[Entry | Refused]]


def items(source: str, side: str, root: Path) -> list[Entry | Refused] | None:
    """The files of a corpus known by name, None for other names. Raises `UserError` for the name of a corpus that is
    of another side, or nearly one (`esc-50`), and where nothing is as published."""
    if source not in manifests.sources():
        near = [name for name in manifests.sources() if _letters(name) == _letters(source)]
        if near:
            raise UserError(f"{source} is no corpus, {near[0]} is: --{side} {near[0]}:{root}", "bad_option")
        return None
    facts = manifests.load(source)
    if facts["side"] == "both":
        raise UserError(f"{source} is mixed already: --source {source} --root {root}", "bad_option")
    if facts["side"] != side:
        raise UserError(f"{source} is {facts['side']}, not {side}: --{facts['side']} {source}:{root}", "bad_option")
    layout: Items = import_module(f"nrdata.builders.corpora.{source}").items
    found = list(layout(root, facts))
    if all(isinstance(entry, Refused) for entry in found):
        reason = next((f" ({e.item}: {e.reason})" for e in found if isinstance(e, Refused)), "")
        published = f"{source} as published, {facts['layout']}{reason}"
        raise UserError(f"{root} holds nothing of {published}: give other folders another name", kind="layout")
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def files(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every sound file below `root`: its name relative to root, and its parts from the root's own name on."""
    top = root.resolve().name
    for path in audio.list_audio(root):
        name = path.relative_to(root).as_posix()
        yield name, (top, *name.split("/"))
