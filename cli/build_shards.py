"""`nr build-shards`: parse, plan, build, say what came of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nrdata import cores
from nrdata.builders.plan import Options
from nrdata.errors import UserError

from .options import FOLDER, Command, Flag, from_fields, given

if TYPE_CHECKING:
    from nrdata.builders.build import Summary

EXAMPLE = """\b
Example:
  nr build-shards --source folders --speech voices --noise places --out shards/mine
"""


@click.command("build-shards", cls=Command, epilog=EXAMPLE)
@click.option("--out", cls=Flag, main=True, type=FOLDER, help="Folder of the data set.  [default: shards/SOURCE]")
@from_fields(Options)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: the cores]")
@click.option("--strict", is_flag=True, help="Exit 1 where an item was refused for a fault of its own.")
@click.option("--force", is_flag=True, help="Overwrite a data set that is there.")
@click.option("--plan", "plan_file", type=FOLDER, help="Render this plan; nothing is drawn.")
@click.option("--plan-only", is_flag=True, help="Write OUT/plan.jsonl, build nothing.")
@click.option("--shards", "part", help="Build the shards numbered A:B only (for batch schedulers).")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who builds.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def command(
    out: Path | None, workers: int | None, strict: bool, force: bool, plan_file: Path | None, plan_only: bool,
    part: str | None, engine: str, as_json: bool, **flags: Any,
) -> int:  # fmt: skip
    """Build a sharded data set of (clean, noisy, noise) triplets from sources.

    The same command again finishes what is unfinished; the same options and seed give the same bytes."""
    from nrdata.builders import build as builds

    numbers = _part(part)
    options = Options(**given(Options, flags))
    out = out or Path("shards") / options.source
    options = replace(options, root=options.root or Path("data") / options.source)
    plan = builds.make_plan(options, plan_file)
    if plan_only:
        path = builds.save_plan(plan, out, force)
        click.echo(f"{path}: {len(plan.rows)} rows, {len(plan.refused)} items refused")
        return int(strict and any(r.fault for r in plan.refused))
    workers = workers or cores.usable()
    summary = builds.build(options, plan, out, workers, force, numbers, engine)
    click.echo(json.dumps(summary.record(), allow_nan=False) if as_json else _text(summary))
    return int(strict and any(r.fault for r in summary.refused))


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", text)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise UserError(f"--shards {text}: A:B is expected, the first and one behind the last", kind="bad_option")
    return int(numbers[1]), int(numbers[2])


def _text(summary: Summary) -> str:
    from nrdata.labels import printable

    lines = [printable(note) for note in summary.notes]
    if summary.snr_deviations:
        lines.append(f"{len(summary.snr_deviations)} samples differ from the logged SNR by over 3 dB:")
        lines += [f"  {line}" for line in summary.snr_deviations[:20]]
        if len(summary.snr_deviations) > 20:
            lines.append(f"  and {len(summary.snr_deviations) - 20} more")
    if summary.refused:
        kinds = Counter(r.kind for r in summary.refused)
        shown = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        where = summary.out / "refused.jsonl"
        lines.append(f"{len(summary.refused)} items refused ({shown}): {printable(str(where))}")
    samples = ", ".join(f"{split} {n}" for split, n in summary.samples.items())
    if not summary.complete:
        state = f"{summary.made} shards of this part built, {summary.kept} were there; without --shards it is finished"
    elif summary.made:
        state = f"{summary.made} shards built" + (f", {summary.kept} were there" if summary.kept else "")
    else:
        state = f"already complete, {summary.kept} shards"
    lines.append(f"{printable(str(summary.out))}: {state}; samples: {samples}")
    return "\n".join(lines)
