"""How far a long job is: one line rewritten on a terminal, one line a minute elsewhere; rate and time left. On
stderr.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

EVERY_SECONDS = 60.0  # without a terminal
REDRAW_SECONDS = 0.2  # on one


class Progress:
    """`with Progress(1200, "samples") as progress: progress.advance(8)`."""

    def __init__(self, total: int, label: str):
        self.total, self.label, self.done = total, label, 0
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self.started = time.monotonic()
        self.shown = self.started if not self.terminal else 0.0
        return self

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown >= (REDRAW_SECONDS if self.terminal else EVERY_SECONDS):
            self.shown = now
            self._show(now)

    def _show(self, now: float) -> None:
        rate = self.done / max(now - self.started, 1e-9)
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        text = f"{self.label}: {self.done} of {self.total}, {rate:.1f}/s, {left} left"
        sys.stderr.write(f"\r\x1b[K{text}" if self.terminal else f"{text}\n")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """`7 s`, `3 min 20 s`, `2 h 05 min`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    return f"{s // 3600} h {s % 3600 // 60:02d} min"
