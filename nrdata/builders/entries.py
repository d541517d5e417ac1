"""What is known of a sound file before it is heard, by the layout of its corpus, an index or its folders."""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nrdata.errors import UserError

LOCAL = "local"  # the source of sound that has no other name


@dataclass(frozen=True)
class Entry:
    """A file of speech (`speaker`) or of noise (`environment`, `recording`)."""

    path: str  # relative to its source's root
    speaker: str = ""
    environment: str = ""
    recording: str = ""
    split: str = ""  # "": not fixed
    license: str = "unknown"
    meta: dict[str, str] = field(default_factory=dict)


def identifier(text: str) -> str:
    """A name as it stands in `env_id`, `recording`, `speaker`: lower case, printable, no slash, no blank, no `~`."""
    composed = unicodedata.normalize("NFC", text.strip()).lower()
    shown = "".join(c if c.isprintable() else "-" for c in composed)
    return re.sub(r"[\s/~]+", "-", shown) or "unnamed"


def same_name(text: str) -> str:
    """One text for the spellings of one file name: two Unicode forms, two cases."""
    return unicodedata.normalize("NFC", text).casefold()


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and header, without the blanks around columns' names and values. Raises `UserError` for a file that is not
    there or is no CSV, for a column that stands twice, and for a row with more cells than there are columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            twice = [name for name, n in Counter(header).items() if name and n > 1]
            if twice:
                raise UserError(f"{path} has the column '{twice[0]}' twice", kind="bad_index")
            rows = []
            for cells in filter(None, reader):
                if any(cells[len(header) :]):
                    n, m = len(cells), len(header)
                    raise UserError(f"{path} line {reader.line_num} has {n} cells, the header {m}", kind="bad_index")
                values = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
                rows.append({name: value for name, value in zip(header, values, strict=False) if name})
            return rows, header
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", kind="missing") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({e})", kind="bad_index") from None


# What people call a column that has another name here.
ALSO = {
    "reference": "ref", "ref_path": "ref", "noise_ref": "ref", "noise_reference": "ref", "room_tone": "ref",
    "environment": "env_id", "env": "env_id", "env_id": "environment", "speaker_id": "speaker", "spk": "speaker",
    "subset": "split",
    "licence": "license", "file": "path", "filename": "path", "place": "environment", "scene": "environment",
    "clean_path": "clean", "noisy_path": "noisy",
}  # fmt: skip


def check_columns(path: Path, header: Sequence[str], known: Sequence[str]) -> list[str]:
    """The columns beyond `known`, for a note. Raises `UserError` for one that is meant for a known one, by its spelling
    (case, hyphen, a slip) or by its sense, where that one is not there."""
    more = [name for name in header if name and name not in known]
    for name in more:
        plain = re.sub(r"[\s-]+", "_", name.lower())
        near = difflib.get_close_matches(plain, known, 1, 0.75)
        meant = ALSO.get(plain) or (near[0] if near else "")
        if meant in known and meant not in header:
            raise UserError(f"{path}: column '{name}' is not known, is it '{meant}'? Rename it", kind="bad_index")
    return more
