"""`nr app`."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from nrdata.errors import UserError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: all that reach it may use it.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any free one.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Run folder or .safetensors. Default: the shipped.")
def command(host: str, port: int, checkpoint: Path | None) -> int:
    """A page in the browser: bring or record a talk and its room, hear it before and after. Ctrl-C ends it.

    Example: nr app --port 8000
    """
    try:
        from nrmodel.app import page
    except ModuleNotFoundError as e:
        if e.name != "gradio":
            raise
        raise UserError("gradio is not installed: pip install 'nr[app]'", "extra") from None
    import nrmodel
    from nrmodel.defaults import default_checkpoint

    model = nrmodel.load(default_checkpoint()[0] if checkpoint is None else checkpoint)
    with page.serving(model, host, port) as address:
        click.echo(f"{address} (Ctrl-C ends it)")
        wait()
    return 0


def wait() -> None:
    """Until Ctrl-C: the end of the page, not of the command."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
