"""LibriSpeech: `LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`; the part is the split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry
from nrdata.builders.plan import Refused


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    for path, parts in files(root):
        if len(parts) < 4 or parts[-4] not in facts["parts"]:
            yield Refused(path, f"it lies in none of {', '.join(facts['parts'])}", "layout")
            continue
        part, speaker, chapter, _ = parts[-4:]
        if PurePosixPath(path).stem.split("-")[:-1] != [speaker, chapter]:
            yield Refused(path, f"its name is not {speaker}-{chapter}-<utterance>", "layout")
            continue
        yield Entry(path, speaker=speaker, split=facts["parts"][part], license=facts["license"])
