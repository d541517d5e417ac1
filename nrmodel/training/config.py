"""The configuration of a training run. What follows from it stands in settled.py; this file needs no network, so that
`nr train --help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nrdata.errors import UserError
from nrdata.options import Affects, check, option
from nrdata.sampling.laws import parse_law
from nrmodel.network.conditioning import CONDITIONINGS
from nrmodel.network.encoders import ENCODERS
from nrmodel.presets import PRESETS

# Nothing else may change when a run goes on; the data are compared by their fingerprint.
FIXED: tuple[Affects, ...] = ("result", "reference", "seed")
# What two finished runs are compared in; their seeds are paired.
COMPARED: tuple[Affects, ...] = ("result", "reference", "length")


@dataclass(frozen=True)
class TrainConfig:
    """All of a run; stands in its `config.toml`. `None`: what the network is published or was measured with."""

    shards: tuple[str, ...] = option(
        help="Folder of shards, or its address (https://, s3://); several times: one data set.",
        unset="the only one", affects="place", repeated=True, main=True,
    )  # fmt: skip
    out: str = option(help="Run folder.", unset="runs/DATA-MODE", affects="place", main=True)
    ref_mode: str = option(
        "disjoint:0.5,env:0.2,none:0.3",
        "References: none, oracle, disjoint, env, mismatch, or a mixture such as oracle:0.5,env:0.4,none:0.1.",
        main=True,
    )
    preset: str | None = option(
        None, "Size of the network.", choices=PRESETS, unset="that of --from, else nano", main=True
    )
    objective: str | None = option(
        None, "What the network predicts.", choices=("score", "denoiser", "data"), unset="the preset's"
    )
    conditioning: str | None = option(
        None, "How the reference enters.", choices=CONDITIONINGS, unset="the preset's",
        affects="reference",
    )  # fmt: skip
    encoder: str = option("conv", "Noise encoder.", choices=ENCODERS, affects="reference")
    ref_seconds: str = option(
        "1.0", "Length of the clips, or a range such as 0.25:2.0 drawn per batch.", unit="s", affects="reference"
    )
    ref_dropout: float = option(
        0.15, "Share of references replaced by the learned null, where --ref-mode names no none.",
        at_least=0, at_most=1, affects="reference",
    )  # fmt: skip
    on_missing_ref: str = option(
        "refuse", "none: items that the law cannot serve train without reference, counted.",
        choices=("refuse", "none"), affects="reference",
    )  # fmt: skip
    remix: bool = option(False, "Make mixtures anew each epoch, with invented environments.", main=True)
    remix_snr: tuple[float, float] = option((-5.0, 15.0), "SNR of remixed mixtures, drawn uniformly.", unit="dB")
    channel: float = option(
        0.0, "Share of items that went through one drawn channel: telephone, microphone, codec and so on.",
        at_least=0, at_most=1, main=True,
    )  # fmt: skip
    room: float = option(
        0.0, "Share of remixed items with a room around the speech, which the target keeps.", at_least=0, at_most=1
    )
    two_noises: float = option(
        0.0, "Share of remixed items with a second noise of another environment.", at_least=0, at_most=1
    )
    talker: float = option(
        0.0, "Share of remixed items with another talker as the noise, and a clip of his.", at_least=0, at_most=1
    )
    keep: float = option(
        0.0, "Share of those two whose target keeps all but the clip's sound (nr enhance --keep-rest).",
        at_least=0, at_most=1, affects="reference",
    )  # fmt: skip
    batch_size: int = option(8, "Items a batch.", at_least=1, main=True)
    accumulate: int = option(1, "Batches a step.", at_least=1)
    crop_frames: int | None = option(None, "STFT frames of a training crop.", at_least=2, unset="128, of base 256")
    shortest_crop: int | None = option(
        None, "STFT frames: crops are drawn per batch between this and --crop-frames.", at_least=2, unset="all as long"
    )
    max_steps: int = option(
        5000, "Steps in all; a larger number later goes on.", at_least=1, affects="length", main=True
    )
    learning_rate: float | None = option(None, "Rate after the warm-up.", above=0, unset="1.5e-3, of base 1e-4")
    warmup_steps: int = option(100, "Steps of linear warm-up.", at_least=0)
    cooldown_steps: int | None = option(
        None, "Steps of linear decay at the end.", at_least=0, unset="the last fifth", affects="length", flag="cooldown"
    )
    weight_decay: float | None = option(None, "Of AdamW.", at_least=0, at_most=1, unset="0.01, of base 0")
    clip_norm: float | None = option(None, "Norm that gradients are clipped to.", above=0, unset="1, of base none")
    ema_decay: float = option(0.999, "Of the moving average of weights.", at_least=0, at_most=1)
    start_share: float | None = option(
        None, "Share of items trained at the sampler's own start.", at_least=0, at_most=1, unset="the preset's"
    )
    lambda_ref: float = option(0.0, "Weight of the embedding consistency loss.", at_least=0, affects="reference")
    lambda_env: float = option(
        0.0, "Weight of the contrastive loss that ties a clip's embedding to its environment.",
        at_least=0, affects="reference",
    )  # fmt: skip
    checkpoint_every: int = option(500, "Steps between states on disk.", at_least=1, affects="speed")
    validate_every: int = option(500, "Steps between validations.", at_least=1, affects="speed")
    loader_workers: int = option(0, "Processes that read ahead.", at_least=0, affects="speed")
    in_memory: bool = option(False, "Keep decoded sound in memory, for fast accelerators.", affects="speed")
    precision: str = option("auto", "Of the network's sums.", choices=("auto", "float32", "bf16"))
    device: str = option("auto", "auto, cpu, cuda.", affects="speed")
    threads: int | None = option(None, "Threads of torch.", at_least=1, unset="torch's choice", affects="speed")
    tensorboard: bool = option(False, "Scalars for TensorBoard (extra: tensorboard).", affects="speed")
    seed: int = option(0, "Of weights, stream, times and noise.", at_least=0, affects="seed", main=True)
    init_from: str | None = option(
        None, "Model to start from: its weights, a new EMA, step 0.", flag="from", older="init_from"
    )
    encoder_from: str | None = option(None, "Run or model whose encoder is taken over.", affects="reference")
    freeze_encoder: bool = option(False, "Do not train the encoder.", affects="reference")

    def __post_init__(self) -> None:
        check(self)
        law = parse_law(self.ref_mode)
        ref_range(self)
        if self.lambda_env:
            if law.modes != ("none",) and not law.same_place:
                raise UserError(f"lambda_env ties clips to their own environment: {self.ref_mode} gives none of it")
            if self.freeze_encoder or self.batch_size < 2:
                why = "freeze_encoder" if self.freeze_encoder else "batches of one item"
                raise UserError(f"lambda_env trains the encoder by comparison: it has no effect with {why}")


def ref_range(config: TrainConfig) -> tuple[float, float]:
    """Shortest and longest clip, in seconds."""
    low, _, high = config.ref_seconds.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        text = f"--ref-seconds '{config.ref_seconds}' is neither a number nor a range such as 0.25:2.0"
        raise UserError(text) from None


def entry(record: dict[str, Any], name: str) -> Any:
    """An entry of a recorded configuration; of one that is older than the entry, what was done then: the default."""
    default = getattr(TrainConfig, name, None)
    return record[name] if name in record else list(default) if isinstance(default, tuple) else default
