"""DEMAND: `ENV/ch01.wav .. ch16.wav`, 300 s each. The channels are one moment, so only the first is an item."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry
from nrdata.builders.plan import Refused


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    names = {folder: name for name, folder in facts["environments"].items()}
    splits = {name: split for split, some in facts["splits"].items() for name in some}
    taken: dict[str, str] = {}
    for path, parts in sorted(files(root), key=lambda f: "_16k" in f[0]):  # 48 kHz before its 16 kHz copy
        folder, channel = parts[-2].upper(), PurePosixPath(path).stem.lower()
        if folder not in names:
            yield Refused(path, f"'{parts[-2]}' is no environment of DEMAND", "no_environment")
        elif channel != "ch01":
            yield Refused(path, "only ch01 is used: the channels hold one moment", "not_drawn")
        elif folder in taken:
            yield Refused(path, f"the same recording as {taken[folder]}", "not_drawn")
        else:
            taken[folder] = path
            yield Entry(
                path,
                environment=names[folder],
                recording=folder.lower(),
                split=splits[names[folder]],
                license=facts["license"],
            )
