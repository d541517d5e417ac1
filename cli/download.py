"""`nr download`."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLE = """\b
Example:
  nr download librispeech dev-clean test-clean
"""


@click.command(epilog=EXAMPLE)
@click.argument("source")
@click.argument("parts", nargs=-1)
@click.option(
    "--source-dir", type=click.Path(path_type=Path), help="Where archives lie already: these are not fetched."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the corpus.  [default: data/SOURCE]")
def command(source: str, parts: tuple[str, ...], source_dir: Path | None, out: Path | None) -> int:
    """Bring the archives of SOURCE (all, or the PARTS named), check them and unpack them.

    The same command again goes on where it stopped. `nr sources` lists sources, sizes and licences."""
    from nrdata.fetch import download
    from nrdata.labels import printable

    options = download.bring(source, parts, out, source_dir, say=lambda text: click.echo(printable(text)))
    click.echo(printable(f"next: nr build-shards {options}"))
    return 0
