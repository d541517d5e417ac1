"""`nr inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nrdata.checks.inspect import Contents


@click.command()
@click.argument("folder", required=False)
@click.option(
    "--plot", "picture", is_flag=False, flag_value="inspect.png", metavar="[FILE.png]",
    help="Draw SNR histogram and mean spectra; default: inspect.png.",
)  # fmt: skip
@click.option("--logged", is_flag=True, help="Compare logged with measured SNRs (reads every sample's JSON).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(folder: str | None, picture: str | None, logged: bool, as_json: bool) -> int:
    """Hours, speakers, environments and SNRs of a data set.

    Example: nr inspect shards/real --plot real.png
    """
    import json
    from dataclasses import asdict

    from nrdata.checks import inspect
    from nrdata.labels import printable
    from nrdata.store.dataset import default_folder

    if folder is None and picture and Path(picture).is_dir():  # nr inspect --plot FOLDER
        folder, picture = picture, "inspect.png"
    folder = folder or str(default_folder())
    found = inspect.contents(folder)
    count, deviations = inspect.logged_deviations(folder) if logged else (0, [])
    if picture:
        inspect.plot(folder, picture)
    if as_json:
        extra = {"logged": count, "deviations": deviations} if logged else {}
        click.echo(json.dumps({**asdict(found), **extra}, indent=1, allow_nan=False))
        return 0
    clips = "no reserved clips"
    if found.has_ref:
        clips = "reserved clips of " + " to ".join(f"{s:g}" for s in sorted(set(found.ref_seconds))) + " s"
    head = f"{found.folder}: {found.name}, {found.sample_rate} Hz, {clips}, fingerprint {found.fingerprint[:8]}"
    click.echo(printable(head))
    _tables(found)
    heard, doubts = inspect.doubtful(folder)
    if doubts:
        click.echo(f"{len(doubts)} of {heard} samples heard have speech in their noise; nr verify-shards hears all:")
        for line in doubts[:10]:
            click.echo(f"  {printable(line)}")
    if logged:
        click.echo(f"logged SNR: {count} samples have one, {len(deviations)} are over 3 dB from the measured")
        for line in deviations:
            click.echo(f"  {printable(line)}")
    if picture:
        click.echo(printable(f"picture: {picture}"))
    return 0


def _tables(found: Contents) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nrdata.labels import printable

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    splits = Table(title="splits", title_justify="left")
    for name in ("split", "samples", "hours", "speakers", "environments", "recordings", "SNR, dB"):
        splits.add_column(name, justify="left" if name == "split" else "right", overflow="fold")
    for name, part in found.splits.items():
        snr = f"{part.snr_edges_db[0]:g} to {part.snr_edges_db[-1]:g}"
        row = (part.samples, f"{part.hours:.2f}", part.speakers, len(part.environments), part.recordings, snr)
        splits.add_row(escape(printable(name)), *map(str, row))
    console.print(splits)

    environments = Table(title="environments: samples, minutes, recordings", title_justify="left")
    environments.add_column("environment", overflow="fold")
    for name in found.splits:
        environments.add_column(escape(printable(name)), justify="right")
    for env in sorted({env for part in found.splits.values() for env in part.environments}):
        cells = [part.environments.get(env) for part in found.splits.values()]
        environments.add_row(
            escape(printable(env)), *("-" if c is None else f"{c[0]}  {c[1]:.1f}  {c[2]}" for c in cells)
        )
    console.print(environments)

    histogram = Table(title="SNR, dB, measured", title_justify="left")
    histogram.add_column("from", justify="right")
    for name in found.splits:
        histogram.add_column(escape(printable(name)))
    counts = {
        name: dict(zip(part.snr_edges_db[:-1], part.snr_counts, strict=True)) for name, part in found.splits.items()
    }
    most = {name: max(part.snr_counts) for name, part in found.splits.items()}
    for edge in sorted({edge for c in counts.values() for edge in c}):
        bars = [(c.get(edge, 0), most[name]) for name, c in counts.items()]
        histogram.add_row(f"{edge:g}", *(f"{'#' * round(20 * n / top)}{' ' if n else ''}{n or ''}" for n, top in bars))
    console.print(histogram)
