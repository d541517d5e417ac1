"""Files that are either whole or not there, and what may be named as a data set.

A file is written under a name of its own process, `.nr-<machine>-<process>-<start>-<random>.partial` in the folder
where it will lie, brought to the disk, and renamed. So two writers of one file never write into each other, the last
one wins whole, and what a killed one has left is recognised by its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from nrdata import holder
from nrdata.errors import UserError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
PARTIAL = re.compile(r"\.nr-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.partial")
SILENT_SECONDS = 24 * 3600.0  # without a write: the writer on another host has gone
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # file systems that cannot bring a folder to the disk


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the file system can."""
    if os.name == "nt":  # folders are no files there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def unfinished(path: Path) -> Path:
    """A new name beside `path`, never used twice, for what becomes `path` when it is whole."""
    me = holder.here()
    _tidy(path.parent, me.pid)
    name = f".nr-{_machine(me)}-{me.pid}-{me.started}-{secrets.token_hex(4)}.partial"
    return path.with_name(name)


def finish(file: IO[bytes], partial: Path, path: Path) -> None:
    """Bring the open `file`, written as `partial`, to the disk and give it its name."""
    file.flush()
    os.fsync(file.fileno())
    rename(partial, path)


def rename(partial: Path, path: Path) -> None:
    """Give what is whole its name, for good. `UserError` (in_use) where the system keeps a file from being replaced
    because it is open."""
    try:
        partial.replace(path)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY) or not path.is_file():
            raise
        raise UserError(f"{path} cannot be replaced: close it where it is open, and start again", "in_use") from e
    partial.unlink(missing_ok=True)  # two names of one file: renaming one to the other does nothing
    fsync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write `path` under an unfinished name, then fsync and rename; on any exception an older file is untouched."""
    partial = unfinished(path)
    try:
        with partial.open("x+b") as file:
            yield file
            finish(file, partial, path)
    except OSError as e:
        raise OSError(e.errno, e.strerror or str(e), str(path)) from e
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Bytes, whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, sort_keys: bool = False) -> None:
    """Strict JSON in ASCII, a level a blank, whole or not at all; `ValueError` for what is no number."""
    write_text(path, json.dumps(value, indent=1, sort_keys=sort_keys, allow_nan=False) + "\n")


def remove_leftovers(folder: Path, alone: bool = False) -> None:
    """Remove the unfinished files and folders of writers that have gone: of processes of this host that have ended, of
    others what was not written to for a day. `alone`, where a lock keeps others out: all but those of living processes
    here, and whatever else ends in `.partial`."""
    me = holder.here()
    for path in folder.glob("*.partial"):
        name = PARTIAL.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):  # another process cleans too
            if name and name[1] == _machine(me) and me.started:
                gone = holder.started(int(name[2])) != int(name[3])
            else:
                gone = alone or (name is not None and time.time() - path.stat().st_mtime > SILENT_SECONDS)
            if gone:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def _tidy(folder: Path, pid: int) -> None:
    """Once a process and folder: unfinished files have names of their own, so that nothing else would remove them."""
    remove_leftovers(folder)


def _machine(process: holder.Holder) -> str:
    """The part of the name that only processes which see each other share."""
    return hashlib.sha256(f"{process.host}/{process.boot}/{process.namespace}".encode()).hexdigest()[:8]


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
