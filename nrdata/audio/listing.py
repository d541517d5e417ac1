"""Which files below a folder are sound."""

from __future__ import annotations

import os
from pathlib import Path

from nrdata.errors import UserError

EXTENSIONS = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
              ".w64", ".rf64")  # fmt: skip


def list_audio(folder: Path | str) -> list[Path]:
    """All sound files under `folder` (by extension, any case), sorted; what operating systems leave is ignored."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", kind="missing")
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name != "__MACOSX"]
        found += [Path(root) / n for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith("._")]
    return sorted(found)
