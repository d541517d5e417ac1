"""Cells of an experiment on a Ray cluster, each as soon as the cells that it needs are done.

A cell takes one processor core, a training also a GPU where the cluster has any. Killed and started again, it goes on:
cells that were under way go on by themselves, as they do without Ray.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nrdata.ray_cluster import connected, outcome
from nrmodel.experiment.plan import Plan
from nrmodel.experiment.run import is_done, prepare, run, say


def run_on_ray(plan: Plan, out: Path) -> None:
    """Run all cells that are not done. Raises `UserError` where Ray is not installed or a worker died, and what a cell
    raised, after those beside it have come to their end."""
    prepare(plan, out)
    todo = {k: cell for k, cell in enumerate(plan.cells, 1) if not is_done(plan, out, cell)}
    with connected() as ray:
        gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
        task = ray.remote(max_retries=0)(one_cell)
        waiting: dict[Any, int] = {}
        failure: Exception | None = None
        while waiting or (todo and failure is None):
            unfinished = {cell.name for cell in todo.values()}
            for k, cell in todo.items():
                if failure is None and k not in waiting.values() and unfinished.isdisjoint(cell.needs):
                    asked = task.options(num_cpus=1, num_gpus=gpus if cell.kind == "train" else 0)
                    waiting[asked.remote(plan, out, k, Path.cwd())] = k
            done, _ = ray.wait(list(waiting))
            for reference in done:
                k = waiting.pop(reference)
                try:
                    outcome(ray, reference)
                except Exception as e:
                    say(f"cell {k} of {len(plan.cells)}: {todo.pop(k).name}: failed, {e}")
                    failure = failure or e
                else:
                    say(f"cell {k} of {len(plan.cells)}: {todo.pop(k).name}: done")
        if failure is not None:
            raise failure


def one_cell(plan: Plan, out: Path, number: int, where: Path) -> None:
    """On a node: the cell of that number, names of files as the command's folder has them."""
    os.chdir(where)
    run(plan, out, number, scoring_processes=1)
