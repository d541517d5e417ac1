"""Shards made on a Ray cluster: the same function as in local processes, so the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from nrdata.builders.plan import Options, ShardPlan
from nrdata.ray_cluster import connected, outcome

R = TypeVar("R")


def results(
    make: Callable[[ShardPlan, Options, Path, bool], R],
    todo: Sequence[ShardPlan],
    options: Options,
    out: Path,
    has_ref: bool,
) -> Iterator[tuple[ShardPlan, R]]:
    """(shard, what `make` returned) as they are done, few more in flight than the cluster has cores.

    Raises `UserError` where Ray is not installed or a worker died, and what `make` raised.
    """
    with connected() as ray:
        task = ray.remote(max_retries=0)(make)
        places = _absolute(options), out.resolve(), has_ref
        in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = iter(todo)
        waiting: dict[Any, ShardPlan] = {}
        while True:
            for shard in left:
                waiting[task.remote(shard, *places)] = shard
                if len(waiting) >= in_flight:
                    break
            if not waiting:
                return
            done, _ = ray.wait(list(waiting))
            for reference in done:
                yield waiting.pop(reference), outcome(ray, reference)


def _absolute(options: Options) -> Options:
    """Relative paths are this process's, not those of a node."""

    def resolved(value: Any) -> Any:
        if isinstance(value, Path):
            return value.resolve()
        if isinstance(value, tuple):
            return tuple(resolved(v) for v in value)
        return value

    return replace(options, **{f.name: resolved(getattr(options, f.name)) for f in fields(options)})
