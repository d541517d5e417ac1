"""VCTK 0.92: `wav48_silence_trimmed/<speaker>/<speaker>_<number>_mic1.flac`. The second microphone heard the same
utterances (p280 and p315 lack it): only the first is an item. Texts are not needed, so p315, which has none, stays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry
from nrdata.builders.plan import Refused

UTTERANCE = re.compile(r"(?P<speaker>[a-z]\d+)_\d+_mic(?P<mic>[12])")


def items(root: Path, facts: dict[str, Any]) -> Iterator[Entry | Refused]:
    splits = {speaker: split for split in ("valid", "test") for speaker in facts["splits"][split]}
    for path, parts in files(root):
        name = UTTERANCE.fullmatch(PurePosixPath(path).stem)
        if not name or name["speaker"] != parts[-2]:
            yield Refused(path, "not <speaker>/<speaker>_<number>_mic1.flac", "layout")
        elif name["mic"] == "2":
            yield Refused(path, "only mic1 is used: mic2 heard the same utterance", "not_drawn")
        else:
            speaker = name["speaker"]
            yield Entry(path, speaker=speaker, split=splits.get(speaker, "train"), license=facts["license"])
