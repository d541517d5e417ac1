"""The one exception type for what a user can mend."""

from __future__ import annotations

from collections.abc import Collection


class UserError(Exception):
    """One sentence naming the file (or value) at fault and the remedy; the command line prints it and exits 2.

    `kind` is a short machine-readable name (`unreadable`, `wrong_rate`, ...) for lists of refused items.
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Failure(RuntimeError):
    """One sentence about what went wrong though nothing the user gave was wrong (a worker died): exit 1."""


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not in its table (of two or more): "encoder 'x' is unknown: conv or stats"."""
    if name not in known:
        *most, last = known
        raise UserError(f"{what} '{name}' is unknown: {', '.join(most)} or {last}")
