"""`nr enhance`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("noisy", nargs=-1, type=click.Path(path_type=Path))
@click.option("--pairs", type=click.Path(path_type=Path), help="CSV with the columns noisy,ref,out, instead of NOISY.")
@click.option("--ref", type=click.Path(path_type=Path), help="A clip of the noise alone, 0.25 s or longer.")
@click.option("--ref-span", metavar="A-B|auto", help="Take the clip from the file: seconds, or its longest pause.")
@click.option("--keep-rest", is_flag=True, help="Remove only what the clip holds; speech and all else stay.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results. Default: enhanced.")
@click.option("--residual", is_flag=True, help="Also write what was removed, <stem>.residual.wav.")
@click.option("--nfe", type=click.IntRange(1, 1000), help="Calls of the network. Default: the model's own.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the sampler's noise.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Run folder or .safetensors. Default: the shipped.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(noisy, pairs, ref, ref_span, keep_rest, out, residual, nfe, seed, checkpoint, force, as_json):
    """Remove noise from files of any rate, length and channel count; each is written to OUT/<stem>.wav.

    Example: nr enhance talk.wav --ref room.wav --out clean
    """
    if bool(noisy) == bool(pairs):
        raise click.UsageError("name the noisy files, or a CSV with --pairs" + (", not both" if pairs else ""))
    if (ref is not None) + (ref_span is not None) + (pairs is not None) > 1:
        raise click.UsageError("--ref, --ref-span and --pairs exclude one another")

    import nrmodel
    from nrdata import audio
    from nrdata.labels import printable
    from nrdata.progress import Progress
    from nrmodel.defaults import default_checkpoint
    from nrmodel.enhance_files import enhance_files
    from nrmodel.enhance_jobs import declared_seconds, jobs_of_files, jobs_of_pairs, parse_span

    if pairs is not None:
        jobs = jobs_of_pairs(pairs, out, residual)
    else:
        span = None if ref_span is None else parse_span(ref_span)
        jobs = jobs_of_files(noisy, out or Path("enhanced"), ref, span, residual)
    if ref is not None:
        audio.probe(ref, tolerant=True)
    path, taken = default_checkpoint(keep_rest=keep_rest) if checkpoint is None else (checkpoint, str(checkpoint))
    model = nrmodel.load(path)
    click.echo(f"model: {printable(taken)} ({model.digest[:8]})", err=as_json)

    done = []
    with Progress(round(declared_seconds(jobs)), "seconds of sound") as progress:

        def advance(seconds: float) -> None:
            progress.advance(round(seconds))

        for outcome in enhance_files(model, jobs, nfe, seed, force, advance, keep_rest):
            done.append(outcome)
            for note in outcome.warnings():
                click.echo(f"nr: {printable(note)}", err=True)
            if not as_json:
                click.echo(printable(outcome.line()))
    failed = [outcome for outcome in done if outcome.status in ("failed", "partial")]
    if as_json:
        click.echo(json.dumps({"model": model.digest, "files": [outcome.as_dict() for outcome in done]}, indent=1))
    elif len(jobs) > 1:
        click.echo(f"{len(done) - len(failed)} of {len(done)} files whole")
        for outcome in failed:
            click.echo(f"  {outcome.status}: {printable(str(outcome.job.noisy))}")
    if len(jobs) == 1 and done[0].status == "failed":
        return 2
    return 1 if failed else 0
