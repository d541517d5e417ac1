"""A Ray cluster as a place where functions run: connecting, and what became of a task.

Ray's own settings say where the cluster is (`RAY_ADDRESS`, or a `ray.init` before the call); without them it runs on
this machine. `nr` is installed on every node, and all of them see every file under the same name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nrdata.errors import UserError


@contextmanager
def connected() -> Iterator[Any]:
    """The module `ray`, connected; a connection made here ends here. Raises `UserError` where Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--engine ray needs the extra 'ray': pip install 'nr[ray]'", kind="no_extra") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=None if "RAY_ADDRESS" in os.environ else False, log_to_driver=False)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def outcome(ray: Any, reference: Any) -> Any:
    """What a task returned. Raises what it raised, as a local call would, and `UserError` where its worker died."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, RuntimeError) and "failed to import" in str(e.cause):
            raise UserError(
                "a node of the Ray cluster cannot import nr: install it on every node", "no_extra"
            ) from None
        raise e.cause from None
    except ray.exceptions.RayError as e:
        raise UserError(
            f"a Ray worker was lost ({type(e).__name__}; out of memory?): run the same command again",
            kind="worker_died",
        ) from None
