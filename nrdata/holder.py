"""Which process wrote a file or holds a lock, and whether it has gone: told apart across reboots, reused process
numbers, containers and hosts.

A process is its host, the host's boot, its process namespace, its number there and the moment it started. On this
host's namespace the kernel answers. Elsewhere, and where there is no /proc, only the last sign of life can be judged.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SILENT_SECONDS = 300.0  # without a sign of life: gone


@dataclass(frozen=True)
class Holder:
    """`boot`, `namespace` and `started` (clock ticks after boot) are "" or 0 where the system does not tell."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def here() -> Holder:
    """The process that asks."""
    return Holder(*_machine(), os.getpid(), started(os.getpid()))


def is_gone(holder: Holder, seen: float) -> bool:
    """Whether a process, last heard of at `seen` (seconds since 1970), has ended."""
    host, boot, namespace = _machine()
    if (holder.host, holder.boot, holder.namespace) == (host, boot, namespace) and holder.started:
        return started(holder.pid) != holder.started
    if holder.host == host and holder.boot != boot and seen < _booted():
        return True  # another machine of the same name would have been heard of since
    return time.time() - seen > SILENT_SECONDS


def started(pid: int) -> int:
    """When a process of this namespace began, in clock ticks after boot; 0 where there is none, or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])  # a zombie has ended, though nobody has asked yet


@cache
def _machine() -> tuple[str, str, str]:
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return socket.gethostname(), boot, namespace


def _booted() -> float:
    """When this host started, in seconds since 1970; 0 where the system does not tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if clock is None else time.time() - time.clock_gettime(clock)
