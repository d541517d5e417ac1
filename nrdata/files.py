"""Files that are either whole or not there, and what may be named as a data set."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nrdata.errors import UserError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write `path` as `<name>.partial`, then fsync and rename; on any exception an older file is untouched."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_folder(path.parent)
    except OSError as e:
        raise OSError(e.errno, e.strerror or str(e), str(path)) from e
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_path(name: str | Path) -> Path:
    """A local path, taken literally; `UserError` (scheme) for `pipe:`, URLs and the like, before anything is opened."""
    path = Path(name)
    scheme = SCHEME.match(str(name))
    if scheme and not path.exists():
        raise UserError(f"{name}: scheme '{scheme[1]}' is not allowed; give a folder, https:// or s3://", kind="scheme")
    return path
