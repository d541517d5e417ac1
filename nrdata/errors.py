"""The one exception type for what a user can mend."""


class UserError(Exception):
    """One sentence naming the file (or value) at fault and the remedy; the command line prints it and exits 2.

    `kind` is a short machine-readable name (`unreadable`, `wrong_rate`, ...) for lists of refused items.
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Failure(RuntimeError):
    """One sentence about what went wrong though nothing the user gave was wrong (a worker died): exit 1."""
