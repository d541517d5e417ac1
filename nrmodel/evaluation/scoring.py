"""Scoring in worker processes that may die: a crash inside PESQ costs one figure, not the evaluation.

`ProcessPoolExecutor` gives up as a whole when a worker dies; here each worker has a pipe of its own, so that it is
known which pair it held, and another takes its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from nrdata.errors import UserError
from nrmodel.evaluation.metrics import METRICS, Metric, Scores, score_steps


@dataclass
class Worker:
    """A process, its pipe, and the pair it holds at the moment (None: idle)."""

    process: BaseProcess
    pipe: Connection
    tag: Any = None
    scores: Scores | None = None  # what it has told of this pair so far


class ScoringPool:
    """`submit(tag, clean, estimate, sample_rate, alignment)` hands over a pair and yields `(tag, Scores)` of those
    that are done meanwhile; `drain()` yields the rest. At most `workers` pairs are held: memory stays bounded."""

    def __init__(self, workers: int):
        self._context = multiprocessing.get_context("spawn")  # torch's threads and fork do not go together
        self._workers = [self._started() for _ in range(max(workers, 1))]

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker leaves at the end of its pipe
            worker.process.terminate()
            worker.process.join()

    def submit(
        self, tag: Any, clean: np.ndarray, estimate: np.ndarray, sample_rate: int, alignment: bool = True
    ) -> Iterator[tuple[Any, Scores]]:
        yield from self._finished(timeout=0)
        while all(w.scores is not None for w in self._workers):
            yield from self._finished(timeout=None)
        slot = next(i for i, w in enumerate(self._workers) if w.scores is None)
        for _ in range(2):
            try:
                self._workers[slot].pipe.send((clean, estimate, sample_rate, alignment))
            except OSError:  # killed while it had nothing to do, or while it read
                self._replace(slot)
                continue
            self._workers[slot].tag, self._workers[slot].scores = tag, Scores()
            return
        yield tag, _crashed(Scores())

    def drain(self) -> Iterator[tuple[Any, Scores]]:
        while any(w.scores is not None for w in self._workers):
            yield from self._finished(timeout=None)

    def _finished(self, timeout: float | None) -> Iterator[tuple[Any, Scores]]:
        busy = {w.pipe: i for i, w in enumerate(self._workers) if w.scores is not None}
        for pipe in wait(list(busy), timeout):
            slot = busy[pipe]  # type: ignore[index]
            worker = self._workers[slot]
            assert worker.scores is not None
            try:
                scores = worker.pipe.recv()
            except (EOFError, ConnectionError):
                tag, scores = worker.tag, _crashed(worker.scores)
                self._replace(slot)
                yield tag, scores
                continue
            if scores is not None:
                worker.scores = scores
                continue
            tag, scores = worker.tag, worker.scores
            worker.tag = worker.scores = None
            yield tag, scores

    def _started(self) -> Worker:
        here, there = self._context.Pipe()
        with _one_thread():
            process = self._context.Process(target=_work, args=(there, dict(METRICS)), daemon=True)
            try:
                process.start()
            except OSError as e:
                told = f"no process can be started to score in ({e.strerror or e})"
                raise UserError(f"{told}: allow more (ulimit -u), or fewer --workers", kind="processes") from e
        there.close()  # else the end of the pipe is never seen
        return Worker(process, here)

    def _replace(self, slot: int) -> None:
        self._workers[slot].pipe.close()
        self._workers[slot].process.join()
        self._workers[slot] = self._started()


def _work(pipe: Connection, metrics: dict[str, Metric]) -> None:
    """A worker's life: a pair in, its `Scores` after each metric out, None after the last. `metrics`: the table as it
    is in the process that asks."""
    METRICS.clear()
    METRICS.update(metrics)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its workers
    with contextlib.suppress(EOFError, ConnectionError):  # whoever asked has gone: ended, or killed
        while True:
            for scores in score_steps(*pipe.recv()):
                pipe.send(scores)
            pipe.send(None)


def _crashed(scores: Scores) -> Scores:
    """What a dead worker had told, its missing metrics named `crashed`."""
    for name in reversed(METRICS):
        if name not in scores.values and name not in scores.failures:
            scores.failures[name] = "crashed"
    return scores


@contextmanager
def _one_thread() -> Iterator[None]:
    """The environment a worker is born into: one BLAS thread, or every worker takes all cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
