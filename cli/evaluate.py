"""`nr evaluate`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


def numbers(kind, value: str, option: str, least: float = -math.inf) -> list:
    """A comma-separated list of finite numbers, each at least `least`."""
    try:
        found = [kind(part) for part in value.split(",")]
    except ValueError as e:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,2", param_hint=option) from e
    if not all(math.isfinite(number) and number >= least for number in found):
        raise click.BadParameter(f"{value!r}: finite numbers of {least:g} or more are expected", param_hint=option)
    return list(dict.fromkeys(found))


@click.command()
@click.option(
    "--checkpoint", type=FOLDER, help="Run folder or .safetensors. Default: the shipped model, or the only run."
)
@click.option("--shards", multiple=True, help="Data set; several: one data set. Default: the only one.")
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@click.option(
    "--modes",
    default="none,oracle,disjoint,env,mismatch",
    show_default=True,
    help="References: these, zeros, white, spectrum, leak:DB; +eq or +mp3 behind one that has sound.",
)
@click.option("--ref-seconds", default="1.0", show_default=True, help="Lengths of the clips.")
@click.option("--nfe", help="Numbers of network calls. Default: the model's own.")
@click.option(
    "--sampler",
    type=click.Choice(["budget", "published"]),
    default="budget",
    show_default=True,
    help="budget: what suits --nfe. published: SGMSE+'s predictor and corrector.",
)
@click.option("--seeds", default="0", show_default=True, help="Seeds of clips and sampler noise.")
@click.option("--peer", "peers", help="Other enhancers on the same files, or all (extra: peers).")
@click.option("--channel", default="", help="All through a channel: telephone, lowpass-4k, 48k, 44.1k, mp3 and so on.")
@click.option("--room", type=click.FloatRange(0.15, 0.6), help="The speech in a room of that T60 in seconds.")
@click.option("--snr", type=click.FloatRange(-40, 60), help="The noise brought to that SNR in dB.")
@click.option(
    "--selective",
    type=click.Choice(["two-noises", "talker"]),
    help="Instead: mixtures of two sounds, the clip from one; decibels taken from each part.",
)
@click.option("--limit", type=click.IntRange(1), help="That many files, drawn evenly from the split.")
@click.option("--out", type=FOLDER, help="Folder of rows and tables. Default: out/evaluate-<system>-<data>.")
@click.option("--clean", type=FOLDER, help="Plain folders instead of shards: the clean files,")
@click.option("--noisy", type=FOLDER, help="the noisy ones of the same names (alone: DNSMOS, extra dnsmos),")
@click.option("--ref", type=FOLDER, help="a noise clip for each,")
@click.option("--enhanced", type=FOLDER, help="and estimates made elsewhere (by key, with --shards).")
@click.option("--workers", type=click.IntRange(1), help="Processes that score. Default: half of the cores.")
@click.option("--force", is_flag=True, help="Start anew where --out holds another evaluation.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of the table.")
def command(
    checkpoint, shards, split, modes, ref_seconds, nfe, sampler, seeds, peers, channel, room, snr, selective, limit,
    out, clean, noisy, ref, enhanced, workers, force, as_json,
):  # fmt: skip
    """Score a model, peers or finished files: PESQ-WB, ESTOI and SI-SDR by reference mode, with clustered intervals.

    The same command goes on with an unfinished evaluation.

    Example: nr evaluate --checkpoint runs/env --shards shards/real --modes none,disjoint,mismatch --out results/env
    """
    if clean is not None and noisy is None:
        raise click.UsageError("--clean and --noisy belong together")
    if noisy is not None and shards:
        raise click.UsageError("--shards or --clean and --noisy, not both")
    if ref is not None and noisy is None:
        raise click.UsageError("--ref is for --clean and --noisy: shards have their own references")
    if clean is not None and (channel or room is not None or snr is not None):
        raise click.UsageError("--channel, --room and --snr are for --shards: folders are taken as they are")
    if selective and (noisy is not None or channel or room is not None or snr is not None):
        raise click.UsageError("--selective makes its own mixtures from --shards: no folders and no conditions")
    if sampler == "published" and (peers or enhanced) and checkpoint is None:
        raise click.UsageError("--sampler is for a model: give its --checkpoint")
    from nrdata.labels import printable
    from nrdata.sampling.pool import MIN_REF_SECONDS
    from nrmodel.evaluation.conditions import Conditions
    from nrmodel.evaluation.evaluate import evaluate
    from nrmodel.evaluation.folders import RATE_RULE

    lengths = numbers(float, ref_seconds, "--ref-seconds", MIN_REF_SECONDS)
    seed_list, budgets = numbers(int, seeds, "--seeds", 0), numbers(int, nfe, "--nfe", 1) if nfe else [None]
    dataset, data = None, "folders"
    if noisy is None:
        import nrdata
        from nrdata.dataset import default_folder

        dataset = nrdata.open(*(shards or [default_folder()]))
        data = f"{dataset.name}-{split}"
        click.echo(f"data: {printable(dataset.name)}, split {printable(split)} ({dataset.fingerprint[:8]})", err=True)
    else:
        click.echo(f"data: {RATE_RULE}", err=True)
    model, system = None, "enhanced" if enhanced else "peers"
    if checkpoint is not None or not (peers or enhanced):
        import nrmodel
        from nrmodel.defaults import default_checkpoint

        path, taken = default_checkpoint() if checkpoint is None else (checkpoint, str(checkpoint))
        model = nrmodel.load(path)
        model.published_sampler = sampler == "published"
        system = model.digest[:8]
        click.echo(f"model: {printable(taken)} ({system})", err=True)
        if model.null(1) is None and modes != "none":
            click.echo("model: trained without references, so evaluated with none", err=True)
    out = out or Path("out") / f"{selective or 'evaluate'}-{system}-{data}"
    click.echo(f"out: {printable(str(out))}", err=True)
    if selective:
        from nrmodel.evaluation import selective as parts

        summary = parts.evaluate(model, dataset, split, selective, out, peers.split(",") if peers else [], limit)
        click.echo(json.dumps(summary, indent=1) if as_json else (out / "table.md").read_text("utf-8"), nl=False)
        return 0
    if noisy is not None and clean is None:
        return rate(noisy, out, enhanced, model, ref, limit, budgets[0], as_json)
    summary = evaluate(
        model,
        dataset,
        split,
        out=out,
        modes=list(dict.fromkeys(modes.split(","))),
        ref_seconds=lengths,
        nfe=budgets,
        seeds=seed_list,
        peers=peers.split(",") if peers else [],
        clean=clean,
        noisy=noisy,
        ref=ref,
        enhanced=enhanced,
        limit=limit,
        workers=workers,
        force=force,
        conditions=Conditions(channel, room, snr),
    )
    click.echo(json.dumps(summary, indent=1) if as_json else (out / "table.md").read_text(encoding="utf-8"), nl=False)
    late = sum(
        f["rows"] for f in summary["failures"] if f["metric"] == "si_sdr" and f["kind"] in ("misaligned", "swapped")
    )
    if late:
        click.echo(f"nr: {late} rows are misaligned or swapped and have no score: see delay_ms in rows.jsonl", err=True)
    return 1 if late and enhanced else 0


def rate(noisy, out, enhanced, model, ref, limit, nfe, as_json) -> int:
    """Without clean files: DNSMOS alone."""
    from nrmodel.evaluation.dnsmos import rate_folders

    def enhance(x, clip):
        return model.enhance(x, 16000, clip, 16000, nfe)

    lines = rate_folders(noisy, out, enhanced, enhance if model else None, ref, limit)
    click.echo(json.dumps(lines, indent=1) if as_json else (out / "dnsmos.md").read_text(encoding="utf-8"), nl=False)
    return 0
