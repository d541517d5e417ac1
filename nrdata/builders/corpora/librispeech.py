"""LibriSpeech: `LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`; the part is the split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import manifests
from nrdata.builders.corpora.layouts import Entry, files, refuse


def items(root: Path) -> Iterator[Entry]:
    facts = manifests.load("librispeech")
    for path, parts in files(root):
        if len(parts) < 4 or parts[-4] not in facts["parts"]:
            yield refuse(path, f"it lies in none of {', '.join(facts['parts'])}")
            continue
        part, speaker, chapter, _ = parts[-4:]
        if PurePosixPath(path).stem.split("-")[:-1] != [speaker, chapter]:
            yield refuse(path, f"its name is not {speaker}-{chapter}-<utterance>")
            continue
        yield {"path": path, "speaker": speaker, "split": facts["parts"][part], "license": facts["license"]}
