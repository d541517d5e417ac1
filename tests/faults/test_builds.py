"""Builds that are killed, interrupted, starved of disk: whole shards stay, the same command ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import build, digests, indexed

from nrdata.checks.verify import verify

REPOSITORY = Path(__file__).parents[2]
# A line in front of the command: few samples a shard, processes even for small builds.
SMALL = (
    "from nrdata.builders import plan, build; plan.SAMPLES_PER_SHARD = 6; build.SMALL_BUILD = 0;"
    "from cli.main import main; main()"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    speech, noise = indexed(tmp_path_factory.mktemp("corpus"))
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", noise, "--per-cell", 2, "--hours", 0.04)
    return tuple(map(str, argv))


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    with start(corpus, out, workers=1) as process:
        assert process.wait(timeout=300) == 0
    return digests(out)


def start(argv, out: Path, workers: int = 2, wrap: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*wrap, sys.executable, "-c", SMALL, "build-shards", *argv, "--out", str(out), "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def partials(out: Path) -> list[str]:
    return [p.name for p in out.iterdir() if p.name.endswith(".partial")] if out.exists() else []


def descendants(pid: int) -> list[int]:
    """Processes in the session that the builder has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_whole_shards_and_no_process(corpus, undisturbed, tmp_path, sent):
    """C1: Ctrl-C 130, SIGTERM 143, one line, no partial file; the same command goes on."""
    out = tmp_path / "set"
    with start(corpus, out) as process:
        wait_for(lambda: len(list(out.glob("*.tar"))) >= 1 or process.poll() is not None)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else 143), stderr
    assert stderr.strip().splitlines()[-1] in ("nr: interrupted", "nr: terminated") and "Traceback" not in stderr
    wait_for(lambda: not descendants(process.pid), 20)
    assert not partials(out) and "manifest.json" not in [p.name for p in out.iterdir()]
    whole = {name: digest for name, digest in digests(out).items() if name.endswith(".tar")}
    assert whole and whole.items() <= undisturbed.items()
    with start(corpus, out) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "were there" in stdout and digests(out) == undisturbed and not verify(out).faults


def kill_once(argv, out: Path, delay: float | None, undisturbed: dict[str, str]) -> None:
    """SIGKILL some time after the plan is there; None: once shards are being written."""
    with start(argv, out) as process:
        pattern = "plan.jsonl" if delay is not None else ".nr-*.partial"
        wait_for(lambda: list(out.glob(pattern)) or process.poll() is not None)
        time.sleep(delay or 0)
        process.kill()
        process.communicate(timeout=60)
    wait_for(lambda: not descendants(process.pid), 20)
    for name, digest in digests(out).items():
        assert undisturbed[name] == digest


@needs_proc
def test_a_killed_build_goes_on_to_the_same_bytes(corpus, undisturbed, tmp_path):
    out = tmp_path / "set"
    kill_once(corpus, out, None, undisturbed)
    with start(corpus, out, workers=1) as process:
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert digests(out) == undisturbed and not partials(out) and not verify(out).faults


@needs_proc
@pytest.mark.slow
def test_twenty_kills_in_one_build(corpus, undisturbed, tmp_path):
    """B2: at random moments, each going on from what the one before left."""
    out, rng = tmp_path / "set", random.Random(0)
    for _ in range(20):
        kill_once(corpus, out, rng.uniform(0.0, 4.0), undisturbed)
    with start(corpus, out) as process:
        assert process.wait(timeout=300) == 0
    assert digests(out) == undisturbed and not partials(out) and not verify(out).faults


@needs_proc
def test_a_worker_that_dies_is_a_sentence(corpus, tmp_path):
    out = tmp_path / "set"
    with start(corpus, out) as process:

        def workers() -> list[int]:
            return [pid for pid in descendants(process.pid) if pid != process.pid and is_worker(pid)]

        wait_for(lambda: (workers() and list(out.glob(".nr-*.partial"))) or process.poll() is not None)
        os.kill(max(workers()), signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and "a builder process died" in stderr and "Traceback" not in stderr
    wait_for(lambda: not descendants(process.pid), 20)


def is_worker(pid: int) -> bool:
    """Children of the fork server, not the server or the resource tracker."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return "forkserver" in Path(f"/proc/{parent}/cmdline").read_text()
    except OSError:
        return False


def small_disk() -> bool:
    """May we mount a file system of our own, in a name space that goes with the process?"""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.skipif(not small_disk(), reason="mounting in a name space is not allowed here")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_full_disk_is_a_sentence_and_whole_shards_stay(corpus, undisturbed, tmp_path, workers):
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=3m tmpfs {disk} && "$@"; code=$?; cp -r {disk}/set {saved}; exit $code'
    wrap = ("unshare", "-rm", "sh", "-c", script, "sh")
    with start(corpus, disk / "set", workers, wrap) as process:
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2, stderr
    last = stderr.strip().splitlines()[-1]
    assert "no space left writing" in last and "needs about" in last and "Traceback" not in stderr
    assert not partials(saved) and not (saved / "manifest.json").exists()
    whole = digests(saved)
    assert whole and whole.items() <= undisturbed.items()


def test_what_a_killed_builder_left_is_swept(corpus, tmp_path, monkeypatch):
    from nrdata.builders import plan

    monkeypatch.setattr(plan, "SAMPLES_PER_SHARD", 6)
    out = tmp_path / "set"
    out.mkdir()
    (out / "train-000000.tar.partial").write_bytes(bytes(1000))
    (out / "plan.jsonl.partial").write_bytes(b"{")
    assert build(*corpus, "--out", out, "--workers", 1) == 0
    assert not partials(out) and json.loads((out / "manifest.json").read_text())["schema"] == 1
