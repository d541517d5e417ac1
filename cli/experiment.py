"""`nr experiment`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nrmodel.experiment.plan import Plan, read_plan

from .options import FOLDER


@click.command()
@click.argument("plan_file", metavar="PLAN.toml", type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder of the answer. Default: out/experiment-<plan>.")
@click.option("--dry-run", is_flag=True, help="Print the cells and the estimated time, run nothing.")
@click.option("--cell", type=int, help="Run this cell alone (its number in --dry-run): for batch schedulers.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="ray: cells on a Ray cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print verdicts.json (the cells with --dry-run).")
def command(plan_file: Path, out: Path | None, dry_run: bool, cell: int | None, engine: str, as_json: bool) -> int:
    """Train, evaluate and compare what a plan says; print the verdicts.

    The same command again does what is left. Cells that need nothing of each other run side by side with --engine ray,
    or, from a batch scheduler, each with --cell, over one folder; the command without --cell then writes the report.

    Example: nr experiment experiments/smoke.toml
    """
    if engine == "ray" and cell is not None:
        raise click.UsageError("--engine ray runs all cells, --cell one here: not both")
    from nrdata.labels import printable
    from nrmodel.experiment.run import run
    from nrmodel.training.train import Stopped

    out = out or Path("out") / f"experiment-{plan_file.stem}"
    plan = read_plan(plan_file, out)
    if dry_run:
        return _dry_run(plan, out, as_json)
    try:
        if engine == "ray":
            from nrmodel.experiment.cluster import run_on_ray

            run_on_ray(plan, out)
        complete = run(plan, out, cell)
    except Stopped as e:
        click.echo(f"nr: {e}: state written; the same command goes on", err=True)
        return 128 + e.signum
    if cell is not None:
        click.echo("all cells are done: the command without --cell writes the report" if complete else "cell done")
        return 0
    from nrmodel.experiment.report import write_report

    found = write_report(plan, out)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)
        click.echo(f"\nreport: {printable(str(out / 'report.html'))}")
    return 0


def _dry_run(plan: Plan, out: Path, as_json: bool) -> int:
    """The cells with their estimates."""
    from nrdata.progress import duration
    from nrmodel.experiment.estimate import estimate

    cells = estimate(plan, out)
    total = sum(seconds for _, seconds, _ in cells)
    if as_json:
        told = [
            {"cell": k, "name": c.name, "kind": c.kind, "needs": list(c.needs), "seconds": round(s, 1), "done": done}
            for k, (c, s, done) in enumerate(cells, 1)
        ]
        click.echo(json.dumps({"cells": told, "seconds": round(total, 1)}, indent=1))
        return 0
    width = max(len(cell.name) for cell, _, _ in cells)
    for k, (cell, seconds, done) in enumerate(cells, 1):
        click.echo(f"{k:4d}  {cell.name:<{width}}  {'done' if done else duration(seconds)}")
    same = [f"{arm.name} is {arm.same_as}" for arm in plan.arms.values() if arm.same_as]
    if same:
        click.echo(f"shared: {', '.join(same)}")
    click.echo(f"{len(cells)} cells, about {duration(total)} one after another on this machine")
    return 0
