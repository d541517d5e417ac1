"""MUSAN: `musan/{music,speech,noise}/<source>/<name>.wav`; the noise side.

Nothing says which recordings share a place, so every recording is an environment of its own. The tens of its number
decide the split, so that neighbours, which may come from one hand, stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import manifests
from nrdata.builders.corpora.layouts import Entry, files, refuse
from nrdata.builders.folders import identifier


def items(root: Path) -> Iterator[Entry]:
    facts = manifests.load("musan")
    for path, parts in files(root):
        part = parts[-3] if len(parts) > 2 else ""
        stem = PurePosixPath(path).stem
        number = re.search(r"-(\d+)$", stem)
        if part in ("music", "speech"):
            yield refuse(path, f"MUSAN's {part} is not its noise", "not_drawn")
        elif part != "noise" or not number:
            yield refuse(path, "not noise/<source>/<name>-<number>.wav")
        else:
            name = identifier(stem)
            split = facts["tens"][int(number[1]) // 10 % 10]
            yield {
                "path": path,
                "environment": name,
                "recording": name,
                "split": split,
                "license": facts["license"],
            }
