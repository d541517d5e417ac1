"""Files from elsewhere, kept here by content: an entry is named by its SHA-256, so two addresses never mix.

An entry is filled under its unfinished name, checked, and renamed. Its modification time is then set to a number that
belongs to its digest: whatever writes to it later moves that, and it is read through and checked again. An entry is in
use while someone holds it open, with a shared lock; only what nobody holds is removed to make room. All of this holds
between processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nrdata import files, locks
from nrdata.errors import UserError
from nrdata.fetch import transfer

log = logging.getLogger(__name__)

DEFAULT_GB = 100.0
TOUCH_SECONDS = 60.0  # the time of the last use is noted this finely

Fetch = Callable[[Path], object]  # brings the bytes to `<path>.part`, as `transfer.fetch` does


@dataclass(frozen=True)
class Cache:
    """A folder of entries that together stay under `limit_bytes`, but for those in use."""

    folder: Path
    limit_bytes: int

    @contextlib.contextmanager
    def opened(self, digest: str, size: int, fetch: Fetch, again: bool = False) -> Iterator[IO[bytes]]:
        """The file of SHA-256 `digest` and `size` bytes, open for reading; `fetch` is called where it is not there.

        `again`: read it through even where nothing seems to have touched it. Bytes that are not those of the digest
        are deleted and fetched once more, then `UserError` (wrong_sha256).
        """
        path = self.folder / digest
        try:
            file = self._held(path, size, again)
            log.debug("cache %s %s %s", self.folder, "lacks" if file is None else "holds", digest[:12])
            while file is None:
                self._fill(path, size, fetch)
                file = self._held(path, size, False)
        except locks.Unsupported as e:
            raise UserError(
                f"{self.folder}: this file system keeps no locks (flock), which the cache needs: name a folder on a "
                "local disk in NR_CACHE",
                kind="no_flock",
            ) from e
        with file:
            yield file

    def _held(self, path: Path, size: int, again: bool) -> IO[bytes] | None:
        """The entry, locked against removal; None where there is none, or where it was bad and is deleted."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("rb", buffering=0))
            except FileNotFoundError:
                return None
            locks.flock(file, shared=True, wait=True)
            facts = os.fstat(file.fileno())
            if facts.st_nlink == 0:  # removed between the two lines above
                return None
            touched = facts.st_mtime_ns != mark(path.name)
            if facts.st_size != size or ((touched or again) and files.sha256(path) != path.name):
                path.unlink(missing_ok=True)
                return None
            if touched or time.time() - facts.st_atime > TOUCH_SECONDS:
                os.utime(file.fileno(), ns=(time.time_ns(), mark(path.name)))
            stack.pop_all()
            return file

    def _fill(self, path: Path, size: int, fetch: Fetch) -> None:
        """Fetch an entry; of several processes that want it one does, the others wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = transfer.part(path)
        with locks.waited_for(part):
            if path.exists():
                part.unlink()  # made by asking for the lock
                return
            self._make_room(size)
            for last in (False, True):
                fetch(path)
                came, found = part.stat().st_size, files.sha256(part)
                if came == size and found == path.name:
                    break
                transfer.forget(part)
                with part.open("wb"):  # emptied, not removed: the lock is on it
                    pass
                if last:
                    raise UserError(
                        f"{came} bytes of SHA-256 {found[:12]}... came twice, {size} of "
                        f"{path.name[:12]}... were promised; run nr verify-shards where the data set is kept",
                        kind="wrong_sha256",
                    )
            os.utime(part, ns=(time.time_ns(), mark(path.name)))
            with part.open("rb") as file:
                os.fsync(file.fileno())
            files.rename(part, path)
            transfer.forget(part)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago and is not in use until `size` more bytes fit, within the limit and on the
        disk, or nothing is left."""
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                if path.suffix != ".json":
                    entries.append((path.stat().st_atime_ns, path.stat().st_size, path))
        held = sum(entry[1] for entry in entries)
        excess = size - min(self.limit_bytes - held, shutil.disk_usage(self.folder).free)
        for _, entry_size, path in sorted(entries):
            if excess <= 0:
                return
            if _remove(path):
                excess -= entry_size


def _remove(path: Path) -> bool:
    """Remove an entry, or what a killed process left of one, unless someone holds it."""
    try:
        with path.open("r+b") as file:  # on NFS only a file that may be written can be locked against all others
            if not locks.flock(file):
                return False
            path.unlink(missing_ok=True)
            transfer.forget(path)
            return True
    except FileNotFoundError:
        return False


def mark(digest: str) -> int:
    """The modification time (ns) of an entry that was found to be whole: belongs to its digest, in 1970 to 2038."""
    return int(digest[:7], 16) * 8 * 10**9


def base_folder() -> Path:
    """`NR_CACHE`, else `~/.cache/nr`."""
    if given := os.environ.get("NR_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "nr"
    except (RuntimeError, KeyError) as e:
        raise UserError("there is no home folder here: name one for the cache in NR_CACHE", kind="cache") from e


def default() -> Cache:
    """Shards below `base_folder()`, at most `NR_CACHE_GB` (10^9 bytes; default 100)."""
    text = os.environ.get("NR_CACHE_GB", str(DEFAULT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise UserError(f"NR_CACHE_GB is {text!r}; give the size of the cache in 10^9 bytes, such as 100", "cache")
    return Cache(base_folder() / "shards", int(limit * 1e9))
