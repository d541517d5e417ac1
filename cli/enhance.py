"""`nr enhance`."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nrdata.audio.writing import FORMATS

if TYPE_CHECKING:
    from nrmodel.enhancement.jobs import Job, Outcome

STDOUT = Path("-")


def _number(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A range lets NaN through."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number.", ctx, option)
    return value


@click.command()
@click.argument("noisy", nargs=-1)
@click.option("--pairs", type=click.Path(path_type=Path), help="CSV with the columns noisy,ref,out, instead of NOISY.")
@click.option("--ref", help="A clip of the noise alone, 0.25 s or longer.")
@click.option("--ref-span", metavar="A-B|auto", help="Take the clip from the file: seconds, or its longest pause.")
@click.option("--keep-rest", is_flag=True, help="Remove only what the clip holds; speech and all else stay.")
@click.option("--ref-as-given", is_flag=True, help="Use the clip whatever it is judged to be: speech, silent, short.")
@click.option("-o", "--out", type=click.Path(path_type=Path, allow_dash=True),
              help="Folder for the results; for one file also a file name, or - for WAV to stdout. Default: enhanced.")
@click.option("--format", "file_format", type=click.Choice([suffix[1:] for suffix in FORMATS], case_sensitive=False),
              help="Kind of the results. Default: wav, and films stay films.")
@click.option("--recursive", is_flag=True, help="Of folders also the folders below; their structure is kept.")
@click.option("--strength", type=click.FloatRange(0, 1), default=1.0, show_default=True, callback=_number,
              help="Share of what the model removes that is removed.")
@click.option("--max-reduction-db", type=click.FloatRange(0), callback=_number,
              help="What is removed goes down by at most so much, at all frequencies alike. Default: no limit.")
@click.option("--band", type=click.Choice(["full", "16k"]), default="full", show_default=True,
              help="16k: nothing above 8 kHz, as the model hears it.")
@click.option("--residual", is_flag=True, help="Also write what was removed, <stem>.residual.wav.")
@click.option("--nfe", type=click.IntRange(1, 1000), help="Calls of the network. Default: the model's own.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the sampler's noise.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Run folder or .safetensors. Default: the shipped.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(noisy: tuple[str, ...], pairs: Path | None, out: Path | None, as_json: bool, **options: Any) -> int:
    """Remove noise from files, folders, films or a pipe (-), of any rate, length and channel count; each is written to
    OUT/<stem>.wav.

    Example: nr enhance talk.wav --ref room.wav --out clean
    """
    if bool(noisy) == bool(pairs):
        raise click.UsageError("name the noisy files, or a CSV with --pairs" + (", not both" if pairs else ""))
    if (options["ref"] is not None) + (options["ref_span"] is not None) + (pairs is not None) > 1:
        raise click.UsageError("--ref, --ref-span and --pairs exclude one another")
    if options["ref_as_given"] and not pairs and options["ref"] is None and options["ref_span"] is None:
        raise click.UsageError("--ref-as-given needs a reference: --ref, --ref-span or --pairs")
    if out == STDOUT and (pairs or len(noisy) > 1 or as_json or options["residual"] or options["file_format"]):
        raise click.UsageError("--out - takes one file and writes WAV: no --pairs, --residual, --format or --json")
    if out == STDOUT and sys.stdout.isatty():
        raise click.UsageError("--out - is a terminal here: pipe it, or name a file")
    with tempfile.TemporaryDirectory(prefix="nr-") as folder:
        return _enhance(noisy, pairs, out, as_json, options, Path(folder))


def _enhance(
    noisy: tuple[str, ...], pairs: Path | None, out: Path | None, as_json: bool, options: dict[str, Any], folder: Path
) -> int:
    import nrmodel
    from nrdata.labels import printable
    from nrdata.progress import Progress
    from nrmodel.defaults import default_checkpoint

    to_stdout = out == STDOUT
    jobs = _jobs(noisy, pairs, folder / "stdout.wav" if to_stdout else out, options, folder)
    quiet = as_json or to_stdout
    done: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        done.append(outcome)
        for note in outcome.warnings():
            click.echo(f"nr: {printable(note)}", err=True)
        if not as_json:
            line = outcome.line().replace(str(folder / "stdout.wav"), "stdout")
            click.echo(printable(line), err=to_stdout)

    ready, seconds = _checked(jobs, options["force"], tell)
    digest = None
    if ready:
        from nrmodel.enhancement.files import enhance_files, share_left  # torch

        chosen = options["checkpoint"]
        path, taken = (chosen, str(chosen)) if chosen else default_checkpoint(keep_rest=options["keep_rest"])
        model = nrmodel.load(path)
        digest = model.digest
        click.echo(f"model: {printable(taken)} ({digest[:8]})", err=quiet)
        reduction = options["max_reduction_db"]
        left = share_left(options["strength"], math.inf if reduction is None else reduction)
        with Progress(round(seconds), "seconds of sound") as progress:
            rest = enhance_files(model, ready, options["nfe"], options["seed"], options["force"],
                                 lambda part: progress.advance(round(part)), left, options["keep_rest"],
                                 options["band"])  # fmt: skip
            for outcome in rest:
                tell(outcome)
    if as_json:
        click.echo(json.dumps({"model": digest, "files": [outcome.as_dict() for outcome in done]}, indent=1))
    else:
        _summary(done, to_stdout)
    failed = [outcome for outcome in done if outcome.status in ("failed", "partial")]
    if to_stdout and done[0].status != "failed":
        with done[0].job.out.open("rb") as made:
            shutil.copyfileobj(made, sys.stdout.buffer)
    if len(jobs) == 1 and done[0].status == "failed":
        return 2
    return 1 if failed else 0


def _jobs(
    noisy: tuple[str, ...], pairs: Path | None, out: Path | None, options: dict[str, Any], folder: Path
) -> list[Job]:
    """What is to be done; what was passed over or spooled on the way is told."""
    from dataclasses import replace

    from nrdata.labels import printable
    from nrmodel.enhancement.intake import Intake
    from nrmodel.enhancement.jobs import jobs_of_files, parse_span
    from nrmodel.enhancement.pairs import jobs_of_pairs

    intake = Intake(folder)
    residual, file_format = options["residual"], options["file_format"]
    if pairs is not None:
        jobs = jobs_of_pairs(pairs, intake, out, residual, file_format)
    else:
        out = out or Path("enhanced")
        span = None if options["ref_span"] is None else parse_span(options["ref_span"])
        ref = None if options["ref"] is None else intake.sound(options["ref"])
        inputs = intake.inputs(noisy, options["recursive"], out)
        if ref is not None:
            intake.check(ref)
        jobs = jobs_of_files(inputs, out, ref, span, residual, file_format)
    for note in intake.notes:
        click.echo(f"nr: {printable(note)}", err=True)
    called, as_given = tuple(intake.called.items()), options["ref_as_given"]
    return [replace(job, called=called, ref_as_given=as_given) for job in jobs]


def _checked(jobs: list[Job], force: bool, tell: Any) -> tuple[list[Job], float]:
    """The jobs that can be done as far as is known before any work, and the seconds of their sound."""
    from nrdata.errors import UserError
    from nrmodel.enhancement import log
    from nrmodel.enhancement.jobs import Outcome, check

    ready, seconds = [], 0.0
    for job in jobs:
        try:
            seconds += check(job).seconds
        except (UserError, OSError) as e:
            tell(Outcome(job).has_failed(e))
            continue
        if not force:
            log.check_foreign(job)
        ready.append(job)
    return ready, seconds


def _summary(done: list[Outcome], err: bool) -> None:
    from nrdata.labels import printable
    from nrdata.progress import duration

    failed = [outcome for outcome in done if outcome.status in ("failed", "partial")]
    speeds = [speed for outcome in done if (speed := outcome.real_time_factor) is not None]
    told = [f"{len(done) - len(failed)} of {len(done)} files whole"]
    if speeds:
        sound = sum(outcome.seconds for outcome in done if outcome.took)
        told.append(f"{duration(sound)} of sound, median real-time factor {statistics.median(speeds):.2f}")
    if len(done) > 1 or speeds:
        click.echo(", ".join(told), err=err)
    if len(done) > 1:
        for outcome in failed:
            click.echo(f"  {outcome.status}: {printable(outcome.job.name)}", err=err)
