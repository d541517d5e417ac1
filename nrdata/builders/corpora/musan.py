"""MUSAN: `musan/{music,speech,noise}/<source>/<name>.wav`; the noise side.

Nothing says which recordings share a place, so every recording is an environment of its own. The tens of its number
decide the split, so that neighbours, which may come from one hand, stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry, identifier
from nrdata.builders.plan import Refused


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    for path, parts in files(root):
        part = parts[-3] if len(parts) > 2 else ""
        stem = PurePosixPath(path).stem
        number = re.search(r"-(\d+)$", stem)
        if part in ("music", "speech"):
            yield Refused(path, f"MUSAN's {part} is not its noise", "not_drawn")
        elif part != "noise" or not number:
            yield Refused(path, "not noise/<source>/<name>-<number>.wav", "layout")
        else:
            name = identifier(stem)
            split = facts["tens"][int(number[1]) // 10 % 10]
            yield Entry(path, environment=name, recording=name, split=split, license=facts["license"])
