"""`nr evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nrmodel.evaluation.request import EvaluationRequest

from .options import FOLDER, Command, Flag, from_fields, given


@click.command(cls=Command)
@click.option(
    "--checkpoint", cls=Flag, main=True, type=FOLDER,
    help="Run folder or .safetensors.  [default: the shipped model, or the only run]",
)  # fmt: skip
@click.option(
    "--shards", cls=Flag, main=True, multiple=True, help="Data set; several: one data set.  [default: the only one]"
)
@click.option(
    "--out", cls=Flag, main=True, type=FOLDER,
    help="Folder of rows and tables.  [default: out/evaluate-<system>-<data>]",
)  # fmt: skip
@from_fields(EvaluationRequest)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of the table.")
def command(
    checkpoint: Path | None, shards: tuple[str, ...], out: Path | None, as_json: bool, **flags: Any
) -> int:  # fmt: skip
    """Score a model, peers or finished files: PESQ-WB, ESTOI and SI-SDR by reference mode, with clustered intervals.

    The same command goes on with an unfinished evaluation.

    Example: nr evaluate --checkpoint runs/env --shards shards/real --modes none,disjoint,mismatch --out results/env
    """
    values = given(EvaluationRequest, flags)
    for name in ("modes", "ref_seconds", "nfe", "seeds"):
        if name in values:
            values[name] = tuple(dict.fromkeys(values[name]))
    request = EvaluationRequest(**values)
    if request.clean is not None and request.noisy is None:
        raise click.UsageError("--clean and --noisy belong together")
    if request.noisy is not None and shards:
        raise click.UsageError("--shards or --clean and --noisy, not both")
    if request.ref is not None and request.noisy is None:
        raise click.UsageError("--ref is for --clean and --noisy: shards have their own references")
    if request.sampler != "budget" and (request.peers or request.enhanced) and checkpoint is None:
        raise click.UsageError("--sampler is for a model: give its --checkpoint")
    unused = values.keys() - {"selective", "split", "peers", "limit"} if request.selective else ()
    if unused:
        raise click.UsageError(f"--selective takes --split, --peer and --limit, not {', '.join(sorted(unused))}")
    if request.sampler != "budget":
        from nrmodel.diffusion.choice import check_name

        check_name(request.sampler)
    from nrdata.labels import printable
    from nrmodel.evaluation import selective
    from nrmodel.evaluation.evaluate import evaluate
    from nrmodel.evaluation.folders import RATE_RULE

    dataset, data = None, "folders"
    if request.noisy is None:
        import nrdata
        from nrdata.store.dataset import default_folder

        dataset = nrdata.open(*(shards or [default_folder()]))
        data = f"{dataset.name}-{request.split}"
        told = f"data: {printable(dataset.name)}, split {printable(request.split)} ({dataset.fingerprint[:8]})"
        click.echo(told, err=True)
    else:
        click.echo(f"data: {RATE_RULE}", err=True)
    model, system = None, "enhanced" if request.enhanced else "peers"
    if checkpoint is not None or not (request.peers or request.enhanced):
        import nrmodel
        from nrmodel.defaults import default_checkpoint

        path, taken = default_checkpoint() if checkpoint is None else (checkpoint, str(checkpoint))
        model = nrmodel.load(path)
        system = model.digest[:8]
        click.echo(f"model: {printable(taken)} ({system})", err=True)
        if not model.takes_reference and request.modes != ("none",):
            click.echo("model: trained without references, so evaluated with none", err=True)
    out = out or Path("out") / f"{request.selective or 'evaluate'}-{system}-{data}"
    click.echo(f"out: {printable(str(out))}", err=True)
    if request.noisy is not None and request.clean is None:
        return rate(request, model, out, as_json)
    if request.selective:
        assert dataset is not None
        parts = selective.evaluate(model, dataset, request, out)
        click.echo(json.dumps(parts, indent=1) if as_json else (out / "table.md").read_text("utf-8"), nl=False)
        return 0
    summary = evaluate(model, dataset, request, out)
    table = (out / "table.md").read_text(encoding="utf-8")
    click.echo(json.dumps(summary, indent=1) if as_json else table, nl=False)
    late = sum(
        f["rows"] for f in summary["failures"] if f["metric"] == "si_sdr" and f["kind"] in ("misaligned", "swapped")
    )
    for flag, what in (("offset", "hold a constant offset: it was removed"), ("inverted", "are upside down")):
        if n := summary["flags"].get(flag):
            click.echo(f"nr: {n} rows {what}, see their flags in rows.jsonl", err=True)
    if late:
        click.echo(f"nr: {late} rows are misaligned or swapped and have no score: see delay_ms in rows.jsonl", err=True)
    return 1 if late and request.enhanced else 0


def rate(request: EvaluationRequest, model: Any, out: Path, as_json: bool) -> int:
    """Without clean files: DNSMOS alone, the model at each of its numbers of calls."""
    from nrmodel.evaluation.dnsmos import rate_folders
    from nrmodel.evaluation.metrics import SAMPLE_RATE

    budgets = request.nfe or (None,)

    def at(nfe: int | None) -> Callable[[Any, Any], Any]:
        return lambda x, clip: model.enhance(x, SAMPLE_RATE, clip, SAMPLE_RATE, nfe, sampler=request.sampler)

    enhancers = {"nr" if len(budgets) == 1 else f"nr {nfe}": at(nfe) for nfe in budgets} if model else {}
    assert request.noisy is not None
    lines = rate_folders(request.noisy, out, request.enhanced, enhancers, request.ref, request.limit)
    table = (out / "dnsmos.md").read_text(encoding="utf-8")
    click.echo(json.dumps(lines, indent=1) if as_json else table, nl=False)
    return 0
