"""`nr train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nrdata.options import read_toml, to_toml
from nrmodel.training.config import TrainConfig

from .options import FOLDER, Command, from_fields, given


@click.command(cls=Command)
@from_fields(TrainConfig)
@click.option("--config", "config_file", type=FOLDER, help="TOML file of these options; flags override it.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and stop.")
def command(config_file: Path | None, dry_run: bool, **flags: Any) -> int:
    """Train a (reference-conditioned) SGMSE+ on shards; the same command again goes on where it stopped.

    Example: nr train --shards shards/real --ref-mode env --max-steps 20000 --out runs/env
    """
    values = read_toml(TrainConfig, config_file) if config_file else {}
    values |= given(TrainConfig, flags)
    config = TrainConfig(**({"shards": (), "out": ""} | values))  # judged before any data is looked for
    if not config.shards:
        from nrdata.store.dataset import default_folder

        config = replace(config, shards=(str(default_folder()),))
    if not config.out:
        mode = config.ref_mode.replace(":", "").replace(",", "-")
        config = replace(config, out=f"runs/{Path(config.shards[0]).name}-{mode}")
    click.echo(f"data {', '.join(config.shards)}; run {config.out}; references {config.ref_mode}", err=True)
    from nrmodel.training.train import Stopped, resolve, train

    if dry_run:
        click.echo(to_toml(resolve(config)), nl=False)
        return 0
    try:
        folder = train(config)
    except Stopped as e:
        click.echo(f"nr: {e}: state written to {config.out}; the same command goes on", err=True)
        return 128 + e.signum
    click.echo(str(folder))
    return 0
