"""Machines and file systems that lack something: work goes on, or one sentence names what is missing and what helps.

Each test takes a call away. File systems without fsync of folders and without flock are in `test_files.py` and
`test_locks.py`.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpora import bare_folders, build
from helpers import RATE, noise, speech

from cli.main import run
from nrdata import cores, drawing, locks
from nrdata.builders import build as builds
from nrdata.errors import UserError
from nrdata.fetch import cache
from nrdata.sampling import loader
from nrmodel import checkpoint, pictures
from nrmodel.evaluation import scoring

REPOSITORY = Path(__file__).parents[2]


def refusing(number: int):
    """A call that the system does not have, or does not allow."""

    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


# Processors -----------------------------------------------------------------------------------------------------------


def test_of_sixteen_cores_those_that_are_ours_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for ours in ({0}, {3, 5}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, ours=ours: ours)
        assert cores.usable() == len(ours)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on systems that do not tell
    assert cores.usable() == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable() == 1


def test_nobody_else_counts_cores():
    for folder in ("nrdata", "nrmodel", "cli"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert path.name == "cores.py" or "cpu_count" not in path.read_text(encoding="utf-8"), path


# Homes and names ------------------------------------------------------------------------------------------------------


def test_without_a_home_the_cache_asks_for_a_folder(monkeypatch):
    monkeypatch.delenv("NR_CACHE", raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(UserError, match="no home folder here: name one for the cache in NR_CACHE"):
        cache.base_folder()
    monkeypatch.setenv("NR_CACHE", "/somewhere")
    assert cache.base_folder() == Path("/somewhere")


NOBODY = """
import getpass, os, pwd
def unknown(*_): raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = pwd.getpwnam = unknown
"""


@pytest.mark.parametrize("command", ["doctor", "build"])
def test_a_user_without_name_and_home_can_work(tmp_path, command):
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    speech_folder, noise_folder = bare_folders(tmp_path)
    argv = {
        "doctor": ["doctor"],
        "build": ["build-shards", "--source", "folders", "--speech", str(speech_folder), "--noise", str(noise_folder),
                  "--per-cell", "1", "--hours", "0.003", "--out", str(tmp_path / "out")],
    }[command]  # fmt: skip
    line = [sys.executable, "-m", "cli.main", *argv]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Screens --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def matplotlib_is_not_loaded():
    """As in a child of the notebook; afterwards the modules that other tests hold are the loaded ones again."""

    def taken() -> dict[str, object]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "matplotlib"}

    loaded = taken()
    yield
    taken()
    sys.modules.update(loaded)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg", ""])
def test_pictures_are_drawn_whatever_a_notebook_has_chosen(tmp_path, monkeypatch, matplotlib_is_not_loaded, backend):
    monkeypatch.setenv("MPLBACKEND", backend)
    assert drawing.matplotlib().get_backend().lower() == "agg" and os.environ["MPLBACKEND"] == backend
    pictures.spectrograms({"a": speech(0.3), "b": noise(0.3)}, RATE, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert run(["doctor"]) == 0


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_states_are_kept_where_there_are_no_hard_links(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refusing(number))
    path, weights = tmp_path / "train-state.pt", {"w": torch.zeros(2)}
    for step in (1, 2):
        state = dict.fromkeys(checkpoint.STATE_ENTRIES, 0) | {"step": step, "model": weights, "ema": weights}
        checkpoint.save_state(path, state)
    assert checkpoint.read_state(path)["step"] == 2
    assert checkpoint.read_state(path.with_suffix(".prev.pt"))["step"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_another_failure_to_link_is_told(tmp_path, monkeypatch):
    path, weights = tmp_path / "train-state.pt", {"w": torch.zeros(2)}
    state = dict.fromkeys(checkpoint.STATE_ENTRIES, 0) | {"model": weights, "ema": weights}
    checkpoint.save_state(path, state)
    monkeypatch.setattr(os, "link", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.save_state(path, state)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_cache_where_nothing_can_be_locked_says_which_option_helps(tmp_path, monkeypatch, number):
    monkeypatch.setattr(locks.fcntl, "flock", refusing(number))
    entries = cache.Cache(tmp_path, 1000)
    with pytest.raises(UserError, match=r"keeps no locks \(flock\).*NR_CACHE"), entries.opened("0" * 64, 1, print):
        pass


def test_a_cache_on_nfs_makes_room(tmp_path, monkeypatch):
    """There an exclusive lock is a lock for writing: only a file that is open for it can have one."""
    real = locks.fcntl.flock

    def flock(file, how):
        if how & locks.fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return real(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    (tmp_path / ("1" * 64)).write_bytes(bytes(900))
    cache.Cache(tmp_path, 1000)._make_room(500)
    assert not list(tmp_path.iterdir())


# Processes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["shared memory", "fork", "semaphores", "no start method"])
def test_where_no_builder_can_be_started_the_option_is_named(tmp_path, monkeypatch, capsys, what):
    bare_folders(tmp_path)
    monkeypatch.setattr(builds, "SMALL_BUILD", 0)
    monkeypatch.setattr("nrdata.builders.plan.SAMPLES_PER_SHARD", 2)
    processes = builds.processes
    if what == "shared memory":
        monkeypatch.setattr(processes, "ProcessPoolExecutor", refusing(errno.ENOENT))
    elif what == "semaphores":

        def none(*_: object, **__: object) -> None:
            raise ImportError("This platform lacks a functioning sem_open implementation")

        monkeypatch.setattr(processes, "ProcessPoolExecutor", none)
    elif what == "fork":
        monkeypatch.setattr(processes.forkserver, "ensure_running", refusing(errno.EAGAIN))
    else:
        monkeypatch.setattr(processes.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    options = ("--source", "folders", "--speech", tmp_path / "speech", "--noise", tmp_path / "noise", "--per-cell", 1)
    size = ("--hours", 0.01, "--out", tmp_path / "out")
    assert build(*options, *size, "--workers", 2) == 2
    assert "build with --workers 1" in capsys.readouterr().err
    monkeypatch.undo()
    assert build(*options, *size, "--workers", 1) == 0


def test_where_no_scorer_can_be_started_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refusing(errno.EAGAIN))
    with pytest.raises(UserError, match=r"no process can be started to score in.*ulimit -u"):
        scoring.ScoringPool(2)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOENT, errno.EAGAIN])
def test_where_no_loader_can_be_started_the_option_is_named(monkeypatch, number):
    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", refusing(number))
    with pytest.raises(loader.LoaderError, match="try --loader-workers 0"):
        loader._worker_iterator(None, (0, 0), 1, 0, 1, 1.0)  # type: ignore[arg-type]

