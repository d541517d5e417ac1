"""Torch glue: batches from worker processes, in the stream's order, from any position, for ever.

The stream is a pure function of its position, so a worker needs nothing but the position; nothing here is random.
Workers are forked: they share the index with the parent instead of copying it, and never touch torch's thread pool.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from nrdata.errors import Failure, UserError
from nrdata.sampling.stream import Batch, Stream

Position = tuple[int, int]
POLL_S = 5.0  # a dead worker is noticed within this
REMEDY = "try --loader-workers 0"


class LoaderError(Failure):
    """A worker died or no batch came; one sentence. Nothing the user gave was wrong: exit code 1."""


def batches(
    stream: Stream,
    position: Position = (0, 0),
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    timeout_s: float = 300.0,
) -> Iterator[tuple[Position, Batch]]:
    """Yield ((epoch, index), Batch) for ever, from `position`; the same for any number of workers.

    Raises `LoaderError` where a worker dies or no batch comes for `timeout_s`, and what `stream.batch` raises.
    Close the generator (or let it go) to end the workers.
    """
    if workers == 0:
        for at in positions(stream, position):
            yield at, stream.batch(*at, rank=rank, ranks=ranks)
    iterator = _worker_iterator(stream, position, workers, rank, ranks, min(timeout_s, POLL_S))
    try:
        while True:
            at, parts = _receive(iterator, timeout_s)
            if isinstance(parts, Exception):
                raise parts
            yield at, Batch(**{name: part.numpy() if hasattr(part, "numpy") else part for name, part in parts.items()})
    finally:  # now, and not when a traceback that holds the iterator happens to be collected
        iterator._shutdown_workers()


def positions(stream: Stream, position: Position) -> Iterator[Position]:
    """`position` and all that follow it."""
    while True:
        yield position
        position = stream.next(*position)


class _Batches:
    """A map from position to batch, as `torch.utils.data.DataLoader` wants it. Arrays travel as shared tensors."""

    def __init__(self, stream: Stream, rank: int, ranks: int):
        self.stream, self.rank, self.ranks = stream, rank, ranks

    def __getitem__(self, at: Position) -> tuple[Position, dict[str, Any] | Exception]:
        import torch

        from_numpy: Any = torch.from_numpy  # share_memory_ has no types
        try:
            batch = self.stream.batch(*at, rank=self.rank, ranks=self.ranks)
        except (UserError, OSError) as e:  # carried to the parent as it is; torch would rebuild it from its text
            return at, e
        parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
        try:  # here, where a failure can be told: in the queue's own thread the batch would be lost without a word
            shared = {k: from_numpy(v).share_memory_() for k, v in parts.items() if isinstance(v, np.ndarray)}
        except RuntimeError as e:
            return at, LoaderError(f"no shared memory for a batch ({_shared_memory_mb()} free), {REMEDY}: {e}")
        return at, parts | shared


def _worker_iterator(stream: Stream, position: Position, workers: int, rank: int, ranks: int, poll_s: float) -> Any:
    from torch import Generator
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Batches(stream, rank, ranks),  # type: ignore[arg-type]
        batch_size=None,
        sampler=positions(stream, position),
        num_workers=workers,
        collate_fn=_as_it_is,
        timeout=poll_s,
        worker_init_fn=_ignore_signals,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        generator=Generator(),  # else the iterator would draw from the global one
    )
    # Torch's handler would raise in the middle of whatever the parent does when a worker dies; `_receive` finds out.
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        iterator = iter(loader)
    except (OSError, ImportError) as e:  # no shared memory at all, or no process
        raise LoaderError(f"no loader process can be started here ({e}), {REMEDY}") from e
    if on_main_thread:
        signal.signal(signal.SIGCHLD, before)
    return iterator


def _receive(iterator: Iterator[Any], timeout_s: float) -> Any:
    """The next batch, waiting in short turns so that a dead worker is noticed long before the time is out."""
    waited = 0.0
    while True:
        try:
            return next(iterator)
        except RuntimeError as e:
            text = str(e)
            dead = re.search(r"worker \(pid(?:\(s\))? ([\d, ]+)\)(?:.*killed by signal: (\w+))?", text)
            if dead:
                how = f"killed by signal {dead[2]}" if dead[2] else "killed; out of memory?"
                raise LoaderError(f"loader worker (pid {dead[1]}) died ({how}); try fewer --loader-workers") from e
            if "timed out" not in text:
                raise
            waited += min(timeout_s, POLL_S)
            if waited >= timeout_s:
                raise LoaderError(
                    f"no batch for {timeout_s:g} s; shared memory free: {_shared_memory_mb()}, {REMEDY}"
                ) from e


def _as_it_is(parts: Any) -> Any:
    return parts


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group: the parent decides, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _shared_memory_mb() -> str:
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        return "unknown"
    return f"{memory.f_bavail * memory.f_frsize / 2**20:.0f} MB"
