"""`nr train`."""

from __future__ import annotations

import click

# Options that stand in the configuration under their own name. None: not given, so that a --config file may speak.
_OPTIONS = [
    ("--ref-mode", str, "none, oracle, disjoint, env, mismatch, or a mixture such as oracle:0.5,env:0.4,none:0.1."),
    ("--preset", str, "Size: nano, small, base."),
    ("--objective", str, "score, denoiser or data."),
    ("--conditioning", str, "How the reference enters: additive, film or spectrum."),
    ("--encoder", str, "Noise encoder: conv or stats."),
    ("--ref-seconds", str, "Length of the clips, or a range such as 0.25:2.0 drawn per batch."),
    ("--ref-dropout", float, "Share of references replaced by the learned null."),
    ("--on-missing-ref", str, "refuse, or none: items that the law cannot serve train without reference, counted."),
    ("--remix-snr", str, "dB of remixed mixtures, a range such as -15:15."),
    ("--channel", float, "Share of items that went through one drawn channel: telephone, codec, resampler ..."),
    ("--room", float, "Share of remixed items with a room around the speech, which the target keeps."),
    ("--two-noises", float, "Share of remixed items with a second noise of another environment."),
    ("--talker", float, "Share of remixed items with another talker as the noise, and a clip of his."),
    ("--keep", float, "Share of those two whose target keeps all but the clip's noise (nr enhance --keep-rest)."),
    ("--shortest-crop", int, "STFT frames; crops are drawn per batch between this and --crop-frames."),
    ("--batch-size", int, "Items a batch."),
    ("--accumulate", int, "Batches a step."),
    ("--crop-frames", int, "STFT frames of a training crop."),
    ("--max-steps", int, "Steps in all; a larger number later goes on."),
    ("--learning-rate", float, "Rate after the warm-up."),
    ("--warmup-steps", int, "Steps of linear warm-up."),
    ("--cooldown", int, "Steps of linear decay at the end (default: the last fifth)."),
    ("--start-share", float, "Share of items trained at the sampler's own start."),
    ("--lambda-ref", float, "Weight of the embedding consistency loss."),
    ("--lambda-env", float, "Weight of the contrastive loss that ties a clip's embedding to its environment."),
    ("--checkpoint-every", int, "Steps between states on disk."),
    ("--validate-every", int, "Steps between validations."),
    ("--loader-workers", int, "Processes that read ahead."),
    ("--precision", str, "auto, float32 or bf16."),
    ("--device", str, "auto, cpu, cuda."),
    ("--threads", int, "Threads of torch."),
    ("--seed", int, "Seed of weights, stream, times and noise."),
    ("--encoder-from", str, "Run or model whose encoder is taken over."),
]


@click.command()
@click.option(
    "--shards",
    multiple=True,
    help="Folder of shards, or its address (https://, s3://); several times: one data set.",
)
@click.option("--from", "--init-from", "init_from", help="Model to start from: its weights, a new EMA, step 0.")
@click.option("--out", help="Run folder. Default: runs/<data set>-<ref mode>.")
@click.option("--remix", is_flag=True, default=None, help="Make mixtures anew each epoch, with invented environments.")
@click.option("--in-memory", is_flag=True, default=None, help="Keep decoded sound in memory, for fast accelerators.")
@click.option("--tensorboard", is_flag=True, default=None, help="Scalars for TensorBoard (extra: tensorboard).")
@click.option("--freeze-encoder", is_flag=True, default=None, help="Do not train the encoder.")
@click.option("--config", "config_file", type=click.Path(), help="TOML file of these options; flags override it.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and stop.")
def command(shards, out, config_file, dry_run, **given):
    """Train a (reference-conditioned) SGMSE+ on shards; the same command again goes on where it stopped.

    Example: nr train --shards shards/real --ref-mode env --max-steps 20000 --out runs/env
    """
    from pathlib import Path

    from nrmodel.run_folder import to_toml
    from nrmodel.train import Interrupted, resolve, train
    from nrmodel.train_config import TrainConfig, read_config

    values = read_config(Path(config_file)) if config_file else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if "cooldown" in values:
        values["cooldown_steps"] = values.pop("cooldown")
    if shards or "shards" not in values:
        from nrdata.dataset import default_folder

        values["shards"] = tuple(shards) or (str(default_folder()),)
    values["shards"] = tuple(values["shards"])
    if out:
        values["out"] = out
    mode = values.get("ref_mode", TrainConfig.ref_mode)
    values.setdefault("out", f"runs/{Path(values['shards'][0]).name}-{mode.replace(':', '').replace(',', '-')}")
    config = TrainConfig(**values)
    click.echo(f"data {', '.join(config.shards)}; run {config.out}; references {config.ref_mode}", err=True)
    if dry_run:
        click.echo(to_toml(resolve(config)), nl=False)
        return 0
    try:
        folder = train(config)
    except Interrupted as e:
        click.echo(f"nr: {e}: state written to {config.out}; the same command goes on", err=True)
        return 128 + e.signum
    click.echo(str(folder))
    return 0


for _flag, _type, _help in reversed(_OPTIONS):
    command = click.option(_flag, type=_type, help=_help)(command)
