"""How many processors there are for this process."""

from __future__ import annotations

import os


def usable() -> int:
    """Those that it may run on (a container or a scheduler may have bound it to a few); all of the machine's where the
    system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
