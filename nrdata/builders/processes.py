"""Builder processes: from one forkserver that has webdataset loaded (its import costs seconds), gone when we are.

Signals wait for the end of a sample: raised inside libsndfile's callbacks an exception would be printed and lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from typing import Any

from nrdata.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us: at the end, on any exception (partial files removed), and when we are killed."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise UserError("this system has no fork, which builder processes need: build with --workers 1", "processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["webdataset.writer", "nrdata.builders.build", "soxr"])
    try:  # asks for shared memory and for a process: where there is none, it is known before the first shard
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
        forkserver.ensure_running()
    except (OSError, ImportError) as e:
        raise UserError(f"no builder processes can be started here ({e}): build with --workers 1", "processes") from e
    try:
        yield executor
    except BaseException:
        for process in list((executor._processes or {}).values()):
            if process.is_alive():
                process.terminate()
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    else:
        executor.shutdown(wait=True)


def _start() -> None:
    def stop(signum: int, frame: Any) -> None:
        sys.exit(143)  # an exception: the partial file is removed on the way

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us
    threading.Thread(target=watch, daemon=True).start()
    # Last: before there is work a SIGTERM may simply kill, and an exception in here would be reported with its trace.
    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """SIGINT and SIGTERM are acted on when the block ends. Only the main thread has signals; elsewhere: no change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, Any]] = []
    handlers = {s: signal.signal(s, lambda signum, frame: caught.append((signum, frame))) for s in SIGNALS}
    try:
        yield
    finally:
        for which, before in handlers.items():
            signal.signal(which, before)
    for signum, frame in caught:
        handler = handlers[signal.Signals(signum)]
        if callable(handler):
            handler(signum, frame)
        elif handler == signal.SIG_DFL:
            signal.raise_signal(signum)
