"""`nr build-shards`: parse, plan, build, say what came of it."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from pathlib import Path

import click

from nrdata.errors import UserError

EXAMPLE = """\b
Example:
  nr build-shards --source folders --speech voices --noise places --out shards/mine
"""


class Numbers(click.ParamType):
    """Finite numbers with something between them: `-5:15`, `-5,0,5,10`."""

    def __init__(self, separator: str, name: str, count: int | None = None):
        self.separator, self.name, self.count = separator, name, count

    def convert(self, value, param, ctx) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(self.separator))
        except ValueError:
            numbers = ()
        if not numbers or not all(map(math.isfinite, numbers)) or (self.count and len(numbers) != self.count):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        if self.count and list(numbers) != sorted(numbers):
            self.fail(f"{value!r}: the lower number stands first", param, ctx)
        return numbers


class NamedFolder(click.ParamType):
    """`[NAME:]DIR` -> (name, folder)."""

    name = "[NAME:]DIR"

    def convert(self, value, param, ctx) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        named = re.fullmatch(r"([a-z0-9][a-z0-9_-]*):(.+)", value, re.DOTALL)
        if named and not Path(value).exists():
            return named[1], Path(named[2])
        return "local", Path(value)


FOLDER = click.Path(path_type=Path)


@click.command("build-shards", epilog=EXAMPLE)
@click.option("--source", default="synthetic", show_default=True, help="voicebank-demand, pairs, folders or synthetic.")
@click.option("--root", type=FOLDER, help="Where a corpus lies.  [default: data/SOURCE]")
@click.option("--out", type=FOLDER, help="Folder of the data set.  [default: shards/SOURCE]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every draw.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: the cores]")
@click.option("--strict", is_flag=True, help="Exit 1 where an item was refused for a fault of its own.")
@click.option("--force", is_flag=True, help="Overwrite a data set that is there.")
@click.option("--speech", type=NamedFolder(), multiple=True, help="folders: clean speech, <speaker>/; see nr sources.")
@click.option("--noise", type=NamedFolder(), multiple=True, help="folders: noise, <environment>/; see nr sources.")
@click.option("--speech-index", type=FOLDER, help="CSV: path, split, speaker, license.")
@click.option("--noise-index", type=FOLDER, help="CSV: path, split, environment, recording, license.")
@click.option("--clean", type=FOLDER, help="pairs: the clean files.")
@click.option("--noisy", type=FOLDER, help="pairs: the noisy files of the same names.")
@click.option("--pairs", type=FOLDER, help="pairs: CSV with clean, noisy and perhaps split, env_id, speaker, ref.")
@click.option(
    "--reserve-ref",
    type=click.FloatRange(0, 60),
    help="Seconds kept of each noise unit for the reference; 0: none.  [default: 1, 2 in units of 6 s and more]",
)
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    help="Of training mixtures.  [default: twice the training speech or noise, whichever is more]",
)
@click.option("--snr", type=Numbers(":", "LOW:HIGH", 2), default="-5:15", show_default=True, help="dB, training.")
@click.option("--snr-test", type=Numbers(",", "a list"), default="-5,0,5,10", show_default=True, help="dB, the others.")
@click.option(
    "--per-cell",
    type=click.IntRange(1),
    help="Draws per environment and SNR of validation and test.  [default: 4, 1 for synthetic]",
)
@click.option("--unseen", help="Environments kept for test: A,B,... or '' for none.  [default: a fifth, without index]")
@click.option("--seen-split", is_flag=True, help="A fourth split: training recordings, other time, test speakers.")
@click.option("--sample-rate", type=click.IntRange(4000, 192000), default=16000, show_default=True, help="Hz, stored.")
@click.option(
    "--source-rate",
    type=click.Choice(["48000", "16000"]),
    default="48000",
    show_default=True,
    help="voicebank-demand: Hz of the files.",
)
@click.option("--rooms", type=click.IntRange(0, 1000), default=0, help="Simulated rooms per environment.  [default: 0]")
@click.option("--t60", type=Numbers(":", "LOW:HIGH", 2), default="0.2:0.5", show_default=True, help="s, of the rooms.")
@click.option("--augment", type=click.IntRange(0, 1000), default=0, help="Filters per environment.  [default: 0]")
@click.option("--plan", "plan_file", type=FOLDER, help="Render this plan; nothing is drawn.")
@click.option("--plan-only", is_flag=True, help="Write OUT/plan.jsonl, build nothing.")
@click.option("--shards", "part", help="Build the shards numbered A:B only (for batch schedulers).")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who builds.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def command(
    source: str,
    root: Path | None,
    out: Path | None,
    workers: int | None,
    strict: bool,
    force: bool,
    plan_file: Path | None,
    plan_only: bool,
    part: str | None,
    engine: str,
    as_json: bool,
    **given,
) -> int:
    """Build a sharded data set of (clean, noisy, noise) triplets from sources.

    The same command again finishes what is unfinished; the same options and seed give the same bytes."""
    from nrdata.builders import build as builds
    from nrdata.builders.plan import Options

    numbers = _part(part)
    out = out or Path("shards") / source
    root = root or Path("data") / source
    options = Options(
        source=source,
        root=root,
        seed=given["seed"],
        sample_rate=given["sample_rate"],
        source_rate=int(given["source_rate"]),
        speech=given["speech"],
        noise=given["noise"],
        speech_index=given["speech_index"],
        noise_index=given["noise_index"],
        clean=given["clean"],
        noisy=given["noisy"],
        pairs=given["pairs"],
        reserve_seconds=_finite("--reserve-ref", given["reserve_ref"]),
        hours=_finite("--hours", given["hours"]),
        snr_db=given["snr"],
        snr_test_db=given["snr_test"],
        per_cell=given["per_cell"],
        unseen=None if given["unseen"] is None else tuple(n for n in given["unseen"].split(",") if n.strip()),
        seen_split=given["seen_split"],
        rooms=given["rooms"],
        t60_s=given["t60"],
        augment=given["augment"],
    )
    plan = builds.make_plan(options, plan_file)
    if plan_only:
        path = builds.save_plan(plan, out, force)
        click.echo(f"{path}: {len(plan.rows)} rows, {len(plan.refused)} items refused")
        return int(strict and any(r.fault for r in plan.refused))
    workers = workers or _cores()
    summary = builds.build(options, plan, out, workers, force, numbers, engine)
    click.echo(json.dumps(summary.record(), allow_nan=False) if as_json else _text(summary))
    return int(strict and any(r.fault for r in summary.refused))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finite(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise UserError(f"{name} {value}: a finite number is expected", kind="bad_option")
    return value


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", text)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise UserError(f"--shards {text}: A:B is expected, the first and one behind the last", kind="bad_option")
    return int(numbers[1]), int(numbers[2])


def _text(summary) -> str:
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
