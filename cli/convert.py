"""`nr convert`."""

from __future__ import annotations

import click


@click.command()
@click.argument("checkpoint", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder for model.safetensors.")
@click.option("--sample-rate", type=int, help="In Hz, where the checkpoint does not say it.")
@click.option("--force", is_flag=True, help="Overwrite a model that is already there.")
def command(checkpoint: str, out: str, sample_rate: int | None, force: bool) -> int:
    """Read an SGMSE+ checkpoint (.ckpt of the reference project) and write it as a model of nr.

    Example: nr convert train_vb_29nqe0uh_epoch=115.ckpt --out runs/sgmse
    """
    from pathlib import Path

    from nrmodel.published.convert import convert

    done = convert(Path(checkpoint), Path(out), sample_rate, force)
    config = done.config
    click.echo(
        f"{done.path}: NCSN++ {done.version}, {done.parameters:,} parameters, {config.sample_rate} Hz, "
        f"objective {config.objective.kind}, {done.sha256[:8]}"
    )
    return 0
