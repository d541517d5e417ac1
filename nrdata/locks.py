"""One process at a time at a place, or several that share it; the lock ends with its process, however that ends.

Where the file system has flock, the kernel keeps the lock, and the file's text only says who holds it. Elsewhere (some
network file systems, Windows) everyone who comes writes a record of his own beside it, then looks for others that
stand in the way, and steps back where there are any: so nobody ever removes a lock that another has just taken. A
record counts while its process lives (see `holder`), which it shows by touching it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from nrdata import files
from nrdata.errors import UserError
from nrdata.holder import Holder, here, is_gone

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
BEAT_SECONDS = 20.0
TRIES = 5  # of those who come at one moment and step back from each other


_held: set[IO[bytes]] = set()  # a fork that outlives its parent must not keep the parent's locks


class Unsupported(UserError):
    """The file system has no flock."""


@contextlib.contextmanager
def held(path: Path, what: str, shared: bool = False) -> Iterator[Holder | None]:
    """Hold the lock `path` for as long as the block lasts; with `shared`, beside others who share it. Yields who had it
    before and ended without giving it back, None where nobody has.

    `UserError` (locked), saying that `what` ("another nr download is at work in X") and who it is, where another
    process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            before = stack.enter_context(_flocked(path, what, shared))
        except Unsupported:
            before = stack.enter_context(_recorded(path, what, shared))
        yield before


def flock(file: IO[bytes], shared: bool = False, wait: bool = False) -> bool:
    """Take the kernel's lock of an open file, which closing it gives back; False where another holds it. Raises
    `Unsupported` where the file system has none."""
    none = Unsupported(f"{file.name}: this file system keeps no locks: take a folder on a local disk", kind="no_flock")
    if fcntl is None:
        raise none
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno in NO_FLOCK:
            raise none from e
        raise


@contextlib.contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold the kernel's lock on the file of this name, made where it is not there, once nobody else does (and not on
    one that has been renamed away or removed meanwhile)."""
    while True:
        with path.open("ab") as file:
            flock(file, wait=True)
            if is_named(file, path):
                yield
                return


def is_named(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _flocked(path: Path, what: str, shared: bool) -> Iterator[Holder | None]:
    while True:
        with path.open("a+b") as file:
            try:
                taken = flock(file, shared)
            except Unsupported:
                path.unlink(missing_ok=True)  # made by asking
                raise
            before = _told(path)
            if not taken:
                raise UserError(f"{what}{f' ({before})' if before else ''}: wait for it", kind="locked")
            if not is_named(file, path):  # its holder has removed it just now
                continue
            file.truncate(0)
            if not shared:
                file.write(json.dumps(asdict(here())).encode())
                file.flush()
            _held.add(file)
            try:
                yield before
            finally:
                _held.discard(file)
                if not shared:  # others who share it still hold it
                    path.unlink(missing_ok=True)
            return


def _told(path: Path) -> Holder | None:
    """Who holds a lock, or held it last, as far as its file says."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # nobody yet; shared; removed just now
        return None


@contextlib.contextmanager
def _recorded(path: Path, what: str, shared: bool) -> Iterator[Holder | None]:
    mine = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, done), daemon=True)
    try:
        for left in reversed(range(TRIES)):
            files.write_json(mine, {**asdict(here()), "shared": shared})
            others, gone = _others(path, mine)
            in_the_way = [(other, holder) for other, (holder, theirs) in others.items() if not (shared and theirs)]
            if not in_the_way:
                break
            mine.unlink()
            if not left:
                other, holder = in_the_way[0]
                raise UserError(f"{what} ({holder}): wait for it, or remove {other} if it is gone", kind="locked")
            time.sleep(random.uniform(0.05, 0.5))
        beating.start()
        yield gone
    finally:
        done.set()
        mine.unlink(missing_ok=True)


def _others(path: Path, mine: Path) -> tuple[dict[Path, tuple[Holder, bool]], Holder | None]:
    """The records of living processes (who, and whether shared), and one who has gone, whose record is removed."""
    living: dict[Path, tuple[Holder, bool]] = {}
    gone = None
    for other in path.parent.glob(f"{path.name}.*"):
        if other == mine:
            continue
        try:
            record, seen = json.loads(other.read_bytes()), other.stat().st_mtime
            shared = bool(record.pop("shared"))
            holder = Holder(**record)
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{other} is no lock that nr has written: remove it", kind="locked") from None
        if is_gone(holder, seen):
            other.unlink(missing_ok=True)
            gone = holder
        else:
            living[other] = holder, shared
    return living, gone


def _beat(record: Path, done: threading.Event) -> None:
    """Touch a record from time to time, for those who cannot ask the kernel about its process."""
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a server that does not answer for a while
            os.utime(record)


def _forget() -> None:
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
