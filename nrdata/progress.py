"""How far a long job is: a bar on a terminal, one line a minute elsewhere; rate and time left. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY_SECONDS = 60.0  # without a terminal


class Progress:
    """`with Progress(1200, "samples") as progress: progress.advance(8)`. What is printed meanwhile stands on lines of
    its own."""

    def __init__(self, total: int, label: str):
        self.total, self.label, self.done = total, label, 0
        self.bar: Any = _bar() if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        self.started = self.shown = time.monotonic()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total or None, rate="", left="")
        return self

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        rate = self.done / max(now - self.started, 1e-9)
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:.1f}/s", left=f"{left} left")
        elif now - self.shown >= EVERY_SECONDS:
            self.shown = now
            sys.stderr.write(f"{self.label}: {self.done} of {self.total}, {rate:.1f}/s, {left} left\n")
            sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()


def _bar() -> Any:
    """Of rich; stdout goes through it only where it is a terminal too, so that `> file` stays whole."""
    from rich import progress
    from rich.console import Console

    columns = ("{task.description}", "{task.completed:.0f} of {task.total:.0f}", "{task.fields[rate]}",
               "{task.fields[left]}")  # fmt: skip
    texts = [progress.TextColumn(text, markup=False) for text in columns]
    console = Console(file=sys.stderr)
    return progress.Progress(
        texts[0], progress.BarColumn(), *texts[1:], console=console, transient=True, redirect_stdout=sys.stdout.isatty()
    )


def duration(seconds: float) -> str:
    """`7 s`, `3 min 20 s`, `2 h 05 min`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    return f"{s // 3600} h {s % 3600 // 60:02d} min"
