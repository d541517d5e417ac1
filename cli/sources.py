"""`nr sources`."""

from __future__ import annotations

from typing import Any

import click

EXAMPLE = """\b
Example:
  nr sources
"""


@click.command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(as_json: bool) -> int:
    """The corpora that are known: size, licence, environments, recordings, how they are split."""
    import json

    from nrdata.fetch import download

    found = download.sources()
    if as_json:
        click.echo(json.dumps({"sources": found}, indent=1, allow_nan=False))
        return 0
    _table(found)
    return 0


def _table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(caption="nr download SOURCE brings one; nr sources --json has every archive", caption_justify="left")
    for name in ("source", "side", "size", "licence", "environments", "recordings per environment"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for row in found:
        places = str(len(row["environments"])) if row["environments"] else row["environments_are"] or "-"
        size = f"{row['bytes'] / 1e9:.1f} GB" if row["bytes"] else "not known"
        if row["bytes"] is None and row["bytes_known"]:
            size = f"over {row['bytes_known'] / 1e9:.1f} GB"
        per_place = row["recordings_per_environment"] or "-"
        table.add_row(row["source"], row["side"], size, row["license"], places, per_place)
    console.print(table)
