"""The five jobs that are killed, on sound made on the spot."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import corpora
import helpers
import soundfile as sf
import stand_ins
import torch

from cli.main import run
from nrdata.builders import build, plan
from nrdata.errors import UserError
from nrdata.fetch.download import Archive, download
from nrdata.files import sha256
from nrmodel import checkpoint
from nrmodel import config as presets
from nrmodel.network.compact import CompactConfig

# What the commands import when they run: loaded once, for their forks and for the forkserver's.
PRELOAD = [
    "cli.build_shards", "cli.train", "cli.evaluate", "cli.enhance", "webdataset.writer", "soxr", "pesq", "pystoi",
    "scipy.signal", "nrdata.builders.folders", "nrmodel.training.train", "nrmodel.training.validation",
    "nrmodel.evaluation.evaluate", "nrmodel.evaluation.scoring", "nrmodel.enhancement.files",
]  # fmt: skip
TINY = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)
PIECES, PAUSE = 16, 0.01  # of the server: a download lasts long enough to be killed

_given: dict[str, Path] = {}
_archives: list[Archive] = []


@dataclass(frozen=True)
class Job:
    """`run` works in the current folder. `essential` files must be the same in two undisturbed runs, those that `grow`
    differ meanwhile. `fault`: what else is wrong with a folder whose command was killed, "" where nothing is."""

    name: str
    run: Callable[[], int]
    essential: tuple[str, ...]
    grows: tuple[str, ...] = ()
    fault: Callable[[Path], str] = lambda folder: ""


def _build() -> int:
    options = ("--source", "folders", "--speech-index", _given["speech"], "--noise-index", _given["noise"])
    workers = 1 + os.getpid() % 2
    size = ("--per-cell", 1, "--hours", 0.006, "--workers", workers)
    return run(["build-shards", *map(str, (*options, *size)), "--out", "set"])


def _train() -> int:
    steps = "--max-steps 4 --checkpoint-every 1 --validate-every 100 --batch-size 2 --crop-frames 32 --loader-workers 0"
    kind = "--preset nano --ref-mode env --precision float32 --device cpu --out run"
    return run(["train", "--shards", str(_given["set"]), *steps.split(), *kind.split()])


def _evaluate() -> int:
    how = "--modes none,env --limit 2 --nfe 1 --workers 1 --out scores"
    return run(["evaluate", "--shards", str(_given["set"]), "--checkpoint", str(_given["checkpoint"]), *how.split()])


def _enhance() -> int:
    talks = sorted(map(str, _given["talks"].iterdir()))
    ref = str(_given["room"])
    return run(["enhance", *talks, "--ref", ref, "--checkpoint", str(_given["checkpoint"]), "--nfe", "1", "--out", "o"])


def _download() -> int:
    try:
        download(_archives, Path("corpus"))
    except UserError as e:
        print(e)
        return 2
    return 0


def _state_fault(folder: Path) -> str:
    """A run that has saved a state has one that can be read."""
    states = [p for name in ("train-state.pt", "train-state.prev.pt") if (p := folder / "run" / name).exists()]
    for path in states:
        try:
            checkpoint.read_state(path)
        except UserError as e:
            return str(e)
    return ""


def _log_fault(folder: Path) -> str:
    """Every output has a row of its own in the log, the last one whole."""
    log = folder / "o" / "enhance.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    last = {row["out"]: row for row in map(json.loads, lines)}
    made = sorted((folder / "o").glob("talk*.wav"))
    wrong = [path.name for path in made if last.get(path.name, {}).get("sha256", {}).get(path.name) != sha256(path)]
    return f"not as logged: {', '.join(wrong)}" if wrong else ""


GROWING = tuple(
    f"run/{name}"
    for name in ("run.json", "model.safetensors", "best.safetensors", "train-state.pt", "train-state.prev.pt")
)
JOBS = (
    Job("build", _build, ("set/manifest.json", "set/train-000000.tar")),
    Job("train", _train, ("run/model.safetensors",), GROWING, _state_fault),
    Job("evaluate", _evaluate, ("scores/rows.jsonl",)),
    Job("enhance", _enhance, ("o/talk0.wav", "o/talk5.wav"), ("o/enhance.jsonl",), _log_fault),
    Job("download", _download, ("corpus/first/0/0.wav", "corpus/second/0/0.wav"), ("corpus/downloads.json",)),
)  # fmt: skip


@contextlib.contextmanager
def embedded_data(folder: Path) -> Iterator[None]:
    """Everything that the jobs read, made in `folder`, and the server that they download from."""
    torch.set_num_threads(1)
    plan.SAMPLES_PER_SHARD, build.SMALL_BUILD = 4, 0
    _tiny_presets()
    _given["speech"], _given["noise"] = corpora.indexed(folder / "corpus")
    _given["set"] = helpers.make_dataset(folder / "set", {"train": 6, "valid": 3, "test": 6}, seconds=1.0)
    _given["checkpoint"] = stand_ins.tiny_checkpoint(folder)
    _given["talks"], _given["room"] = folder / "talks", folder / "room.wav"
    _given["talks"].mkdir()
    for i in range(6):
        sound = helpers.speech(0.3, i) + helpers.noise(0.3, 1, i)
        sf.write(_given["talks"] / f"talk{i}.wav", 0.5 * sound, helpers.RATE, "PCM_16")
    sf.write(_given["room"], helpers.noise(1.0, 1, 99), helpers.RATE, "PCM_16")
    bodies = {"first": _zip(1), "second": _zip(2)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bodies": bodies}))
    pid = os.fork()
    if pid == 0:
        server.serve_forever()
    server.socket.close()
    for name, body in bodies.items():
        url = f"http://127.0.0.1:{server.server_port}/{name}.zip"
        _archives.append(Archive(url, f"{name}.zip", len(body), f"sha256:{hashlib.sha256(body).hexdigest()}"))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _tiny_presets() -> None:
    init = presets.ModelConfig.__init__

    def tiny(self: presets.ModelConfig, *given: object, **more: object) -> None:
        init(self, *given, **{"network": TINY, **more})  # type: ignore[arg-type]

    presets.ModelConfig.__init__ = tiny  # type: ignore[assignment, method-assign]


def _zip(seed: int) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for i in range(60):
            archive.writestr(f"{i % 6}/{i}.wav", helpers.noise(0.3, seed, i).tobytes())
    return memory.getvalue()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers slowly, ranges too."""

    bodies: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.bodies[Path(self.path).stem]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("Content-Length", str(len(body) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        step = len(body) // PIECES
        with contextlib.suppress(OSError):  # the client was killed
            for at in range(start, len(body), step):
                self.wfile.write(body[at : at + step])
                time.sleep(PAUSE)
        self.close_connection = True
