"""What is known of a sound file before it is heard, by the layout of its corpus, an index or its folders."""

from __future__ import annotations

import csv
import re
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
    shown = "".join(c if c.isprintable() else "-" for c in text.strip().lower())
    return re.sub(r"[\s/~]+", "-", shown) or "unnamed"


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and header. Raises `UserError` for a file that is not there or is no CSV."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader), list(reader.fieldnames or [])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", kind="missing") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({e})", kind="bad_index") from None
