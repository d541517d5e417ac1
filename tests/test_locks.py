"""Locks between real processes, with flock and on file systems without; holders that are killed, old, or elsewhere."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nrdata import holder, locks
from nrdata.errors import UserError

WITHOUT_FLOCK = """
import errno, fcntl
def none(*_): raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = none
"""
HOLD = """
import sys, time
from pathlib import Path
from nrdata import locks
with locks.held(Path(sys.argv[1]), "somebody is at work", shared=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["flock", "records"])
def without(request, monkeypatch) -> str:
    """Both kinds of file system; the code that makes another process see the same."""
    if request.param == "flock":
        return ""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    return WITHOUT_FLOCK


@contextlib.contextmanager
def holding(path: Path, without: str, *shared: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", without + HOLD, str(path), *shared]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_another_process_is_refused_and_told_who_holds_it(tmp_path, without):
    lock = tmp_path / "lock"
    with holding(lock, without) as process:
        told = rf"at work in x \(process {process.pid} on .*\): wait for it"
        with pytest.raises(UserError, match=told) as failure, locks.held(lock, "another is at work in x"):
            pass
        assert failure.value.kind == "locked"
    with locks.held(lock, "") as before:
        assert before is None
    assert names(tmp_path) == []


def test_a_killed_holder_is_followed_at_once(tmp_path, without):
    lock = tmp_path / "lock"
    with holding(lock, without) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locks.held(lock, "") as before:
            assert before is not None and before.pid == process.pid
    assert names(tmp_path) == []


def test_those_who_share_keep_out_who_does_not(tmp_path, without):
    lock = tmp_path / "lock"
    both = holding(lock, without, "shared"), locks.held(lock, "", shared=True)
    with both[0], both[1], pytest.raises(UserError, match="locked out"), locks.held(lock, "locked out"):
        pass
    with locks.held(lock, ""), pytest.raises(UserError, match="shut"), locks.held(lock, "shut", shared=True):
        pass


def test_of_many_who_come_at_one_moment_one_works_at_a_time(tmp_path, without):
    """Each adds one to a number by reading and writing it; who is refused comes again."""
    (tmp_path / "number").write_text("0")
    code = f"""{without}
import random, sys, time
from pathlib import Path
from nrdata import locks
from nrdata.errors import UserError
done, number = 0, Path(sys.argv[1]) / "number"
while done < 5:
    try:
        with locks.held(number.with_name("lock"), "busy"):
            n = int(number.read_text()); time.sleep(0.005); number.write_text(str(n + 1))
            done += 1
    except UserError:
        pass
    time.sleep(random.random() / 50)
"""
    crowd = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in crowd] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "15"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from nrdata import locks
with locks.held(Path(sys.argv[1]), ""):
    if os.fork() == 0:
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print("forked", flush=True)
    os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.read() == "forked\n"
        process.wait()
        with locks.held(tmp_path / "lock", "the child holds it"):
            pass


def record(folder: Path, seconds_ago: float = 0.0, **facts: object) -> Path:
    """What a holder would have written on a file system without flock."""
    path = folder / "lock.0123"
    path.write_text(json.dumps({**asdict(replace(holder.here(), **facts)), "shared": False}))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


@pytest.mark.parametrize(
    ("facts", "seconds_ago", "goes"),
    [
        ({}, 1e6, False),  # this process lives, however long it has been silent
        ({"started": 12345}, 0, True),  # its number is another process's now
        ({"boot": "before"}, 1e9, True),  # the machine has started since
        ({"boot": "before"}, 0, False),  # it was heard of since: another machine of that name
        ({"host": "elsewhere"}, 60, False),
        ({"host": "elsewhere"}, 2 * holder.SILENT_SECONDS, True),
        ({"namespace": "another container"}, 0, False),
        ({"started": 0}, 0, False),  # a system without /proc
    ],
)
def test_a_record_counts_while_its_process_lives(tmp_path, monkeypatch, facts, seconds_ago, goes):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks.time, "sleep", lambda _: None)
    path = record(tmp_path, seconds_ago, **facts)
    if goes:
        with locks.held(tmp_path / "lock", "in use") as before:
            assert before is not None and not path.exists()
    else:
        told = rf"in use \(process .*remove {path} if it is gone"
        with pytest.raises(UserError, match=told), locks.held(tmp_path / "lock", "in use"):
            pass
        assert path.exists()
    assert names(tmp_path) == [] if goes else [path.name]


def test_after_a_quick_reboot_nobody_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(holder, "_booted", lambda: time.time() - 30)
    record(tmp_path, seconds_ago=60, boot="before")
    with locks.held(tmp_path / "lock", "in use") as before:
        assert before is not None


def test_a_record_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with locks.held(tmp_path / "lock", ""):
        (path,) = tmp_path.iterdir()
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_what_is_no_record_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / "lock.x").write_text("?")
    with pytest.raises(UserError, match=r"lock\.x is no lock"), locks.held(tmp_path / "lock", ""):
        pass
    assert names(tmp_path) == ["lock.x"]
