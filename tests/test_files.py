"""Files that are whole or not there: writers that are killed or come two at a time, file systems that lack things."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nrdata import files, holder
from nrdata.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    """A real process that dies in the middle of a file."""
    code = (
        "import os, signal, sys; from pathlib import Path; from nrdata import files\n"
        "with files.replacing(Path(sys.argv[1])) as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9


def test_an_exception_leaves_the_older_file(tmp_path):
    path = tmp_path / "x"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"new")
        file.write(bytes(1 // 0))
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write(b"1" * 100_000)
        other.write(b"22")
        one.write(b"1" * 100_000)
    assert path.read_bytes() == b"1" * 200_000 and names(tmp_path) == ["x"]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    files.write_bytes(path, b"1")
    assert path.read_bytes() == b"1"


def test_json_is_strict_and_ends_with_a_line_end(tmp_path):
    files.write_json(tmp_path / "x", {"b": "é", "a": [1]}, sort_keys=True)
    text = (tmp_path / "x").read_text(encoding="ascii")
    assert text.endswith("}\n") and text.index('"a"') < text.index('"b"') and json.loads(text) == {"a": [1], "b": "é"}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "y", float("nan"))
    assert names(tmp_path) == ["x"]


def test_what_a_killed_writer_left_goes_with_the_next_process(tmp_path):
    killed_while_writing(tmp_path / "x")
    (left,) = names(tmp_path)
    assert left.startswith(".nr-") and left.endswith(".partial")
    (tmp_path / "rows.partial").write_text("another program's, or rows of an evaluation")
    files.write_text(tmp_path / "x", "whole")
    assert names(tmp_path) == ["rows.partial", "x"]


def test_leftovers_of_the_living_stay(tmp_path):
    with files.replacing(tmp_path / "x") as file:
        files.remove_leftovers(tmp_path, alone=True)
        file.write(b"1")
    assert names(tmp_path) == ["x"]


def test_of_another_host_only_what_is_old_or_under_a_lock_is_removed(tmp_path):
    foreign = tmp_path / ".nr-00000000-1-1-00000000.partial"
    for old, alone, stays in ((False, False, True), (True, False, False), (False, True, False)):
        foreign.write_bytes(b"half")
        if old:
            os.utime(foreign, (time.time() - 2 * files.SILENT_SECONDS,) * 2)
        files.remove_leftovers(tmp_path, alone)
        assert foreign.exists() == stays


def test_without_proc_nobody_is_taken_for_dead(tmp_path, monkeypatch):
    mine = files.unfinished(tmp_path / "x")
    mine.write_bytes(b"half")
    monkeypatch.setattr(holder, "started", lambda pid: 0)  # as on systems without /proc
    files.remove_leftovers(tmp_path)
    assert mine.exists()


def fail_to_sync(monkeypatch, number: int, folders: bool) -> None:
    """Let fsync fail with `number`, of folders or of files."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() == folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch, number):
    fail_to_sync(monkeypatch, number, folders=True)
    files.write_text(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole"


@pytest.mark.parametrize("folders", [True, False])
def test_another_failure_to_sync_is_told(tmp_path, monkeypatch, folders):
    fail_to_sync(monkeypatch, errno.EIO, folders)
    with pytest.raises(OSError, match=r"Input/output error: .*x'"):
        files.write_text(tmp_path / "x", "whole")
    assert not [name for name in names(tmp_path) if name != "x"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY])
def test_a_file_that_is_open_and_cannot_be_replaced_is_named(tmp_path, monkeypatch, number):
    files.write_text(tmp_path / "x", "old")

    def replace(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(UserError, match="x cannot be replaced: close it") as failure:
        files.write_text(tmp_path / "x", "new")
    assert failure.value.kind == "in_use"
    assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]


def test_a_second_name_of_the_same_file_does_not_stay(tmp_path):
    """Renaming one name of a file to another one does nothing, says POSIX: a killed training leaves such a pair."""
    path, partial = tmp_path / "state", tmp_path / "copy.partial"
    path.write_bytes(b"x")
    os.link(path, partial)
    files.rename(partial, path)
    assert [p.name for p in tmp_path.iterdir()] == ["state"] and path.read_bytes() == b"x"
