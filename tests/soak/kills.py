"""N processes killed at random moments; then: is what lies there whole, does the same command go on, in the same bytes?

    python -m tests.soak.kills --kills 1000 --seconds 3600 --out kills.json

Five jobs (build, train, evaluate, enhance, download), each small enough for a second or two, in turn. Their commands
run in forks of one process that has imported everything, so that a kill costs no imports; their helpers (scorers,
builders) come from one forkserver of the same kind. SIGKILL reaches the command alone: its helpers must notice. A job
is killed some times in one folder, then left to finish. After each kill every file that has its final name must be the
one that an undisturbed run writes, and soon no helper may be left; each command that is left alone must exit 0; at the
end all files must be the undisturbed ones, with no lock and no unfinished file among them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from nrdata.environment import git_revision
from nrdata.errors import UserError
from nrmodel.checkpoint import read_state
from tests.soak.jobs import JOBS, PRELOAD, Job, embedded_data

KILLS_A_FOLDER = 8
LOGS = ("o/enhance.jsonl",)  # a job that was killed between row and name has a row more
HELPERS_SECONDS = 20.0  # within which helpers of a killed command must have gone
FINISH_SECONDS = 300.0
COUNTED = ("kills", "while locked", "unfinished found", "folders finished", "finished before the kill",
           "lost: a named file was not whole", "lost: other bytes in the end", "blocked: the next command failed",
           "left: unfinished files", "left: locks", "left: processes")  # fmt: skip


def start(job: Job, folder: Path) -> int:
    """A fork in which the command runs in `folder`; its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        os.chdir(folder)
        told = os.open("../told.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1)
        os.dup2(told, 2)
        try:
            code = job.run()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        Path("../modules.json").write_text(json.dumps(list(sys.modules)))
    os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process (negative: the signal), or None where it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder; of a training state, of its tensors (or why it cannot be read)."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if path.suffix != ".pt":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return str(read_state(path)["sha256"])
    except UserError as e:
        return str(e)


def helpers(server: int) -> list[int]:
    """The living processes that the forkserver has made."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == server and state != "Z":
                found.append(int(entry.name))
    return found


def lingering(server: int) -> int:
    """How many helpers are there after all the time they have; they are ended then."""
    end = time.monotonic() + HELPERS_SECONDS
    while (left := helpers(server)) and time.monotonic() < end:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


class Soak:
    """The jobs with what an undisturbed run of each gives, and what has been counted."""

    def __init__(self, root: Path, seed: int, server: Callable[[], int]):
        self.root, self.random, self.server = root, random.Random(seed), server
        self.counts = {job.name: Counter(dict.fromkeys(COUNTED, 0)) for job in JOBS}
        self.events: list[str] = []
        self.right: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        for job in JOBS:
            one, other = self.undisturbed(job), self.undisturbed(job)  # times and the like differ, and promise nothing
            self.right[job.name] = {name: digest for name, digest in one.items() if other.get(name) == digest}
            if lacking := set(job.essential) - self.right[job.name].keys():
                raise SystemExit(f"{job.name}: two undisturbed runs differ in {', '.join(sorted(lacking))}")
            free = sorted((one.keys() | other.keys()) - self.right[job.name].keys())
            print(f"{job.name}: {self.seconds[job.name]:.2f} s, {len(self.right[job.name])} files compared, not {free}")

    def undisturbed(self, job: Job) -> dict[str, str]:
        folder, began = self.fresh(job), time.monotonic()
        code = ended(start(job, folder), FINISH_SECONDS)
        if code != 0:
            raise SystemExit(f"{job.name} undisturbed: exit {code}\n{self.told()}")
        self.seconds[job.name] = time.monotonic() - began
        for name in json.loads((self.root / "modules.json").read_text()):
            if name not in sys.modules:
                with contextlib.suppress(Exception):  # what a library has made up
                    importlib.import_module(name)
        return digests(folder)

    def fresh(self, job: Job) -> Path:
        folder = self.root / job.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def told(self) -> str:
        return (self.root / "told.txt").read_text(errors="replace")

    def event(self, job: Job, kind: str, detail: str) -> None:
        self.counts[job.name][kind] += 1
        self.events.append(f"{job.name}: {kind}: {detail}"[:1000])
        print(self.events[-1], flush=True)

    def one_folder(self, job: Job, kills: int) -> int:
        """Kill a job up to so many times in one folder, then let it finish; how many kills it were."""
        folder, done, counts = self.fresh(job), 0, self.counts[job.name]
        while done < kills:
            server = self.server()
            pid = start(job, folder)
            code = ended(pid, self.random.uniform(0, 1.1 * self.seconds[job.name]))
            if code is not None:
                counts["finished before the kill"] += 1
                if code != 0:
                    self.event(job, "blocked: the next command failed", f"exit {code}: {self.told()}")
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += 1
            counts["kills"] += 1
            if left := lingering(server):
                self.event(job, "left: processes", str(left))
            names = [path.name for path in folder.rglob("*")]
            counts["while locked"] += any("lock" in name for name in names)
            counts["unfinished found"] += any(name.endswith((".partial", ".part")) for name in names)
            right = self.right[job.name]
            bad = [n for n, d in digests(folder).items() if n in right and n not in job.grows and d != right[n]]
            if fault := ", ".join(bad) or job.fault(folder):
                self.event(job, "lost: a named file was not whole", fault)
        self.finish(job, folder)
        return done

    def finish(self, job: Job, folder: Path) -> None:
        self.server()
        began, pid = time.monotonic(), start(job, folder)
        code = ended(pid, FINISH_SECONDS)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if code != 0:
            self.event(job, "blocked: the next command failed", f"exit {code}: {self.told()}")
            return
        self.seconds[job.name] = max(0.9 * self.seconds[job.name], time.monotonic() - began)
        self.counts[job.name]["folders finished"] += 1
        found, right = digests(folder), self.right[job.name]
        if other := sorted(name for name in right if found.get(name) != right[name] and name not in LOGS):
            self.event(job, "lost: other bytes in the end", ", ".join(other))
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        for kind, ends in (("unfinished files", (".partial", ".part")), ("locks", ("lock",))):
            if left := [name for name in names if name.endswith(ends)]:
                self.event(job, f"left: {kind}", ", ".join(left))

    def report(self, asked: int, began: float) -> dict[str, object]:
        total = sum(counts["kills"] for counts in self.counts.values())
        minutes = round((time.monotonic() - began) / 60, 1)
        return {"asked": asked, "kills": total, "minutes": minutes, "jobs": self.counts, "events": self.events}


def forkserver_for_all() -> Callable[[], int]:
    """One forkserver with everything imported, which commands in forks of this process use as theirs; gives its number.
    Python's ends when a client is killed while it asks: asked for its number, a new one is there then."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    server = forkserver._forkserver  # type: ignore[attr-defined]
    ensure_running = server.ensure_running
    ensure_running()
    resource_tracker.ensure_running()
    # It is no child of the forks, which therefore cannot ask whether it lives.
    server.ensure_running = forkserver.ensure_running = lambda: None
    server.set_forkserver_preload = lambda names: None
    of_kind = multiprocessing.get_context

    def context(kind: str | None = None) -> object:
        return of_kind("forkserver" if kind == "spawn" else kind)

    multiprocessing.get_context = context  # type: ignore[assignment]

    def number() -> int:
        ensure_running()
        return int(server._forkserver_pid)

    return number


def main() -> int:
    asked = argparse.ArgumentParser()
    asked.add_argument("--kills", type=int, default=100)
    asked.add_argument("--seconds", type=float, default=600.0, help="no new folder is begun after this time")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, help="JSON of what was counted, written again after each folder")
    given = asked.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, embedded_data(Path(scratch)):
        root = Path(scratch) / "work"
        root.mkdir()
        git_revision()  # asked once, for all forks: who edits meanwhile changes nothing
        soak, done = Soak(root, given.seed, forkserver_for_all()), 0
        while done < given.kills and time.monotonic() - began < given.seconds:
            job = min(JOBS, key=lambda j: soak.counts[j.name]["kills"])
            done += soak.one_folder(job, min(KILLS_A_FOLDER, given.kills - done))
            report = soak.report(given.kills, began)
            if given.out:
                given.out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps({name: dict(counts) for name, counts in soak.counts.items()}, indent=1))
        print(f"{done} of {given.kills} kills, {len(soak.events)} events")
        return 1 if soak.events else 0


if __name__ == "__main__":
    sys.exit(main())
