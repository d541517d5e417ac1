"""Shards made on a Ray cluster: the same function as in local processes, so the same bytes.

Ray's own settings say where the cluster is (`RAY_ADDRESS`, or a `ray.init` before the call); without them it runs on
this machine. `nr` is installed on every node, and all of them see sources and output under the same names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from nrdata.builders.plan import Options, Shard
from nrdata.errors import UserError

R = TypeVar("R")


def results(
    make: Callable[[Shard, Options, Path, bool], R], todo: Sequence[Shard], options: Options, out: Path, has_ref: bool
) -> Iterator[tuple[Shard, R]]:
    """(shard, what `make` returned) as they are done, few more in flight than the cluster has cores.

    Raises `UserError` where Ray is not installed or a worker died, and what `make` raised.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=None if "RAY_ADDRESS" in os.environ else False, log_to_driver=False)
    try:
        task = ray.remote(max_retries=0)(make)
        places = _absolute(options), out.resolve(), has_ref
        in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = iter(todo)
        waiting: dict[Any, Shard] = {}
        while True:
            for shard in left:
                waiting[task.remote(shard, *places)] = shard
                if len(waiting) >= in_flight:
                    break
            if not waiting:
                return
            done, _ = ray.wait(list(waiting))
            for reference in done:
                yield waiting.pop(reference), _outcome(ray, reference)
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--engine ray needs the extra 'ray': pip install 'nr[ray]'", kind="no_extra") from None
    return ray


def _outcome(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, RuntimeError) and "failed to import" in str(e.cause):
            raise UserError(
                "a node of the Ray cluster cannot import nr: install it on every node", "no_extra"
            ) from None
        raise e.cause from None  # as a local process raises it
    except ray.exceptions.RayError as e:
        raise UserError(
            f"a Ray worker was lost ({type(e).__name__}; out of memory?): run the same command again",
            kind="worker_died",
        ) from None


def _absolute(options: Options) -> Options:
    """Relative paths are this process's, not those of a node."""

    def resolved(value: Any) -> Any:
        if isinstance(value, Path):
            return value.resolve()
        if isinstance(value, tuple):
            return tuple(resolved(v) for v in value)
        return value

    return replace(options, **{f.name: resolved(getattr(options, f.name)) for f in fields(options)})
