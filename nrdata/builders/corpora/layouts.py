"""Corpora that `folders` knows by name: `--noise wham:ROOT` reads ROOT as WHAM! was published.

Each layout is a module of the corpus's name with `items(root) -> Iterator[Entry]`: every sound file below `root` once,
as an item (environment and recording, or speaker; split; licence) or as `refused` (reason, kind). A root may be the
published folder, one below it (a single split), or any folder above.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import manifests
from nrdata import audio
from nrdata.errors import UserError

SIDES = {
    "demand": "noise",
    "esc50": "noise",
    "musan": "noise",
    "wham": "noise",
    "librispeech": "speech",
    "vctk": "speech",
}

# path, and split, license with environment and recording or with speaker; or path, and refused (reason, kind).
Entry = dict[str, Any]


def items(source: str, side: str, root: Path) -> list[Entry] | None:
    """The items of a corpus known by name, None for other names. Raises `UserError` where nothing is as published."""
    if source not in SIDES:
        return None
    if SIDES[source] != side:
        raise UserError(f"{source} is {SIDES[source]}, not {side}: --{SIDES[source]} {source}:{root}", "bad_option")
    found = list(import_module(f"nrdata.builders.corpora.{source}").items(root))
    if all("refused" in entry for entry in found):
        layout = manifests.load(source)["layout"]
        reason = f" ({found[0]['path']}: {found[0]['refused'][0]})" if found else ""
        raise UserError(
            f"{root} holds nothing of {source} as published, {layout}{reason}: give other folders another name",
            kind="layout",
        )
    return found


def files(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every sound file below `root`: its name relative to root, and its parts from the root's own name on."""
    top = root.resolve().name
    for path in audio.list_audio(root):
        name = path.relative_to(root).as_posix()
        yield name, (top, *name.split("/"))


def refuse(path: str, reason: str, kind: str = "layout") -> Entry:
    return {"path": path, "refused": (reason, kind)}
