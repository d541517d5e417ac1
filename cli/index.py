"""`nr index`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
def command(paths: tuple[Path, ...]) -> int:
    """Make the index of shards again from the tars alone, and the manifest of a folder that has none.

    Example: nr index shards/real
    """
    from nrdata.labels import printable
    from nrdata.store.dataset import default_folder
    from nrdata.store.reindex import reindex

    for path in paths or [default_folder()]:
        for line in reindex(path):
            click.echo(printable(line))
    return 0
