"""What a user names as sound, made files on this machine: folders are listed, pipes are read to their end into a
temporary file, addresses are refused.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import media
from nrmodel.enhancement.source import header

ADDRESS = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)
STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


@dataclass(frozen=True)
class Input:
    """A file to enhance. `place`: the folder below `--out` where its output goes; None for a file named by itself."""

    path: Path
    place: Path | None = None


@dataclass
class Intake:
    """Takes what is named. `folder`: a temporary one, for what pipes give. `called` and `notes`: what came from where,
    and what was passed over."""

    folder: Path
    called: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def sound(self, name: str, base: Path | None = None) -> Path:
        """The file of that name (relative to `base`), or the one that a pipe was read into. Raises `UserError`
        (address, empty, terminal)."""
        path = Path(name) if base is None or name in STDIN else base / name
        if ADDRESS.match(name) and not path.exists():
            raise UserError(f"{name} is an address: download it first, then give the file", kind="address")
        if name.startswith("file:/") and not path.exists():
            raise UserError(f"{name} is an address: give the file's path, without file://", kind="address")
        if name == "-" or _is_stream(path):
            return self._spooled(name)
        return path

    def check(self, path: Path) -> None:
        """Raises `UserError` where a file is no sound, with its name as the user knows it."""
        try:
            header(path)
        except UserError as e:
            raise UserError(str(e).replace(str(path), self.called.get(path, str(path))), e.kind) from e

    def inputs(self, names: Sequence[str], recursive: bool, out: Path) -> list[Input]:
        """Files, and the sound files of folders, without those below `out`. Raises `UserError` (empty) too."""
        found: list[Input] = []
        for name in names:
            path = self.sound(name)
            found += self._listed(path, recursive, out) if path.is_dir() else [Input(path)]
        return found

    def _listed(self, folder: Path, recursive: bool, out: Path) -> list[Input]:
        found: list[Input] = []
        others: Counter[str] = Counter()
        deeper, seen = 0, {os.path.realpath(out)}
        for root, folders, names in os.walk(folder, followlinks=True, onerror=self._unread):
            seen.add(os.path.realpath(root))
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
            folders[:] = [f for f in folders if os.path.realpath(Path(root) / f) not in seen]
            if not recursive:
                deeper += len(folders)
                folders.clear()
            for name in sorted(n for n in names if not n.startswith(".")):
                sound = name.lower().endswith((*audio.EXTENSIONS, *media.EXTENSIONS))
                if sound and not _is_stream(Path(root) / name):
                    found.append(Input(Path(root) / name, Path(root).relative_to(folder)))
                else:
                    others[Path(name).suffix or name] += 1
        hint = f"; --recursive takes its {deeper} folders too" if deeper else ""
        if not found:
            raise UserError(f"{folder} is a folder without sound files{hint}", kind="empty")
        if others:
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
            self.notes.append(f"{folder}: passed over what is not a sound file by its name ({kinds})")
        if deeper:
            self.notes.append(f"{folder}: its own files only{hint}")
        return found

    def _unread(self, error: OSError) -> None:
        self.notes.append(f"{error.filename} is passed over: {error.strerror}")

    def _spooled(self, name: str) -> Path:
        shown = "stdin" if name in STDIN else name
        here = self.folder / str(len(self.called))
        here.mkdir()
        path = here / ("stdin" if name in STDIN else Path(name).name)
        if shown in self.called.values():
            raise UserError(f"{shown} is named twice, it can be read once: write it to a file", kind="clash")
        if name in STDIN and (sys.stdin is None or sys.stdin.isatty()):
            raise UserError("stdin is no pipe: pipe sound into it, or name a file", kind="terminal")
        with path.open("xb") as file, _stream(name) as stream:
            shutil.copyfileobj(stream, file, 1 << 20)
            size = file.tell()
        if not size:
            raise UserError(f"{shown} gave nothing: did what writes into the pipe fail?", kind="empty")
        self.called[path] = shown
        self.notes.append(f"{shown}: {size} bytes are read into a temporary file")
        return path


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a terminal: what has no size and cannot be read twice."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # said when the file is opened
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def _stream(name: str) -> IO[bytes]:
    if name in STDIN:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    return Path(name).open("rb")
