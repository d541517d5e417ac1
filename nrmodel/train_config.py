"""The configuration of a training run, and what follows from it: the model's configuration and the stream's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nrdata.errors import UserError
from nrdata.sampling.references import parse_law
from nrdata.sampling.stream import StreamConfig
from nrmodel.network.compact import CompactConfig
from nrmodel.network.presets import ModelConfig, preset
from nrmodel.objective import Preconditioning
from nrmodel.process import OUVE


@dataclass(frozen=True)
class TrainConfig:
    """All of a run; stands in its `config.toml`. `None`: what the network is published or was measured with."""

    shards: tuple[str, ...]  # folders of one data set
    out: str  # the run folder
    ref_mode: str = "disjoint:0.5,env:0.2,none:0.3"  # law of the reference, or a mixture of laws
    preset: str | None = None  # "nano", "small", "base"; None: that of init_from, else nano
    objective: str | None = None  # "score", "denoiser", "data"
    conditioning: str | None = None  # "additive", "film", "spectrum"
    encoder: str = "conv"  # "conv", "stats"
    ref_seconds: str = "1.0"  # length of the clips, or a range "0.25:2.0" drawn per batch
    ref_dropout: float = 0.15  # share of references replaced by null (0 where ref_mode names none)
    on_missing_ref: str = "refuse"  # "none": items that the law cannot serve train without reference, counted
    remix: bool = False  # mixtures made anew each epoch, with invented environments
    remix_snr: str = "-5:15"  # dB of the remixed mixtures, a range
    channel: float = 0.0  # share of items that went through one drawn channel (nrdata.sampling.channel)
    room: float = 0.0  # share of items with a room around the speech
    two_noises: float = 0.0  # share of items with a second noise of another environment
    talker: float = 0.0  # share of items with another talker as the noise, and his clip
    keep: float = 0.0  # share of items of two noises or a talker whose target keeps all but the clip's noise
    batch_size: int = 8
    accumulate: int = 1  # batches a step
    crop_frames: int | None = None  # STFT frames of a training crop (compact 128, NCSN++ 256)
    shortest_crop: int | None = None  # STFT frames: crops are drawn per batch from here to crop_frames; None: all alike
    max_steps: int = 5000
    learning_rate: float | None = None  # compact 1.5e-3, NCSN++ 1e-4
    warmup_steps: int = 100
    cooldown_steps: int | None = None  # linear decay at the end; None: the last fifth
    weight_decay: float | None = None  # compact 0.01, NCSN++ 0
    clip_norm: float | None = None  # compact 1.0, NCSN++ none
    ema_decay: float = 0.999
    start_share: float | None = None  # share of items at the sampler's own start
    lambda_ref: float = 0.0  # weight of the embedding consistency loss
    lambda_env: float = 0.0  # weight of the loss that ties embeddings to environments
    checkpoint_every: int = 500
    validate_every: int = 500
    loader_workers: int = 0
    in_memory: bool = False  # every worker keeps what it decoded: for accelerators that outrun decoding
    precision: str = "auto"  # "auto", "float32", "bf16"
    device: str = "auto"
    threads: int | None = None
    tensorboard: bool = False  # scalars for TensorBoard beside the log
    seed: int = 0
    init_from: str | None = None  # weights to start from (a new EMA, step 0)
    encoder_from: str | None = None  # a run whose encoder is taken over
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        at_least = {"batch_size": 1, "accumulate": 1, "crop_frames": 2, "max_steps": 1, "warmup_steps": 0,
                    "cooldown_steps": 0, "shortest_crop": 2, "checkpoint_every": 1, "validate_every": 1,
                    "loader_workers": 0, "threads": 1, "seed": 0}  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be {least} or more, not {value}")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} must be a number above 0, not {value}")
        for name in ("ref_dropout", "ema_decay", "weight_decay", "start_share", "channel", "room", "two_noises",
                     "talker", "keep"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must lie in 0 to 1, not {value}")
        for name in ("lambda_ref", "lambda_env"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.lambda_env:
            law = parse_law(self.ref_mode)
            if law.modes != ("none",) and not {"oracle", "disjoint", "env"} & set(law.modes):
                raise UserError(f"lambda_env ties clips to their own environment: {self.ref_mode} gives none of it")
            if self.freeze_encoder or self.batch_size < 2:
                why = "freeze_encoder" if self.freeze_encoder else "batches of one item"
                raise UserError(f"lambda_env trains the encoder by comparison: it has no effect with {why}")
        choices = {"objective": ("score", "denoiser", "data"), "conditioning": ("additive", "film", "spectrum"),
                   "encoder": ("conv", "stats"), "precision": ("auto", "float32", "bf16"),
                   "on_missing_ref": ("refuse", "none")}  # fmt: skip
        for name, known in choices.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise UserError(f"{name} '{value}' is unknown: {', '.join(known)}")


def entry(record: dict[str, Any], name: str) -> Any:
    """An entry of a recorded configuration; of one that is older than the entry, what was done then: the default."""
    return record[name] if name in record else getattr(TrainConfig, name, None)


def model_config(config: TrainConfig, sample_rate: int, given: ModelConfig | None) -> ModelConfig:
    """The model that a run trains. `given`: that of `init_from`, which stands where no preset is named."""
    if given is not None and config.preset is None:
        base = dataclasses.replace(given, encoder=config.encoder)
        if given.conditioning == "none":
            base = dataclasses.replace(base, conditioning=preset(_family(given)).conditioning)
    else:
        base = preset(config.preset or "nano", encoder=config.encoder)
    if base.sample_rate != sample_rate:
        raise UserError(f"the model works at {base.sample_rate} Hz, the data are at {sample_rate} Hz")
    changes: dict[str, Any] = {}
    if config.conditioning is not None:
        changes["conditioning"] = config.conditioning
    if parse_law(config.ref_mode).modes == ("none",):
        changes["conditioning"] = "none"
    if config.keep:
        changes["keep"] = True
    aim: dict[str, Any] = {}
    if config.objective is not None:
        aim["kind"] = config.objective
    if config.start_share is not None:
        aim["start_share"] = config.start_share
    changes["objective"] = dataclasses.replace(base.objective, **aim)
    compact = isinstance(base.network, CompactConfig)
    if compact and config.objective == "denoiser":
        raise UserError("the compact networks take objective data or score; denoiser belongs to base")
    if config.objective is not None and config.objective != base.objective.kind:
        if not compact:
            changes["precondition"] = _published(base, config.objective)
        changes["nfe"] = 1 if config.objective == "data" else 60
    return dataclasses.replace(base, **changes)


def _published(base: ModelConfig, objective: str) -> Preconditioning:
    """The published wrapping of NCSN++ for another objective (Richter et al. 2024)."""
    if base.precondition.form != "v2":
        raise UserError("NCSN++ v1 predicts the score: its objective cannot be changed")
    if objective == "data" and isinstance(base.process, OUVE):
        raise UserError("NCSN++ with objective data belongs to the Schroedinger bridge: start from one, or take nano")
    scaling = "1/sigma" if objective == "score" else "none"
    return dataclasses.replace(base.precondition, predicts=objective, network_scaling=scaling)


def resolved(config: TrainConfig, settings: ModelConfig) -> dict[str, Any]:
    """The configuration as plain data with every choice that was left to the presets made."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    chosen = dataclasses.asdict(optimisation(config, settings))
    chosen["clip_norm"] = chosen["clip_norm"] if math.isfinite(chosen["clip_norm"]) else None
    del chosen["betas"]
    chosen |= {"preset": settings.preset, "objective": settings.objective.kind,
               "start_share": settings.objective.start_share,
               "conditioning": None if settings.conditioning == "none" else settings.conditioning}  # fmt: skip
    if config.cooldown_steps is None:
        chosen["cooldown_steps"] = config.max_steps // 5
    return plain | chosen


def _family(config: ModelConfig) -> str:
    return "nano" if isinstance(config.network, CompactConfig) else "base"


@dataclass(frozen=True)
class Optimisation:
    """What a network is optimised with where the run does not say."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float  # inf: none
    crop_frames: int


def optimisation(config: TrainConfig, settings: ModelConfig) -> Optimisation:
    """Compact: measured (COMPACT recipe); NCSN++: as published, Adam 1e-4 without decay or clipping on 256 frames."""
    if isinstance(settings.network, CompactConfig):
        base = Optimisation(1.5e-3, (0.9, 0.99), 0.01, 1.0, 128)
    else:
        base = Optimisation(1e-4, (0.9, 0.999), 0.0, math.inf, 256)
    own = {name: getattr(config, name) for name in ("learning_rate", "weight_decay", "clip_norm", "crop_frames")}
    return dataclasses.replace(base, **{name: value for name, value in own.items() if value is not None})


def stream_config(config: TrainConfig, settings: ModelConfig) -> StreamConfig:
    """What the stream is asked for. The crop gives exactly `crop_frames` STFT frames."""
    low, high = _range(config.ref_seconds, "--ref-seconds", "0.25:2.0")
    hop = settings.spectrogram.hop
    return StreamConfig(
        batch_size=config.batch_size,
        crop_frames=(optimisation(config, settings).crop_frames - 1) * hop,
        law=config.ref_mode,
        ref_seconds=(low, high),
        ref_dropout=config.ref_dropout,  # the stream drops none where the law itself names none
        on_missing_ref=config.on_missing_ref,
        seed=config.seed,
        remix=config.remix,
        remix_snr_db=_range(config.remix_snr, "--remix-snr", "-15:15"),
        shortest_crop_frames=None if config.shortest_crop is None else (config.shortest_crop - 1) * hop,
        channel_share=config.channel,
        room_share=config.room,
        two_noise_share=config.two_noises,
        talker_share=config.talker,
        keep_share=config.keep,
    )


def _range(text: str, option: str, example: str) -> tuple[float, float]:
    """A number, or two with a colon between them."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise UserError(f"{option} '{text}' is neither a number nor a range such as {example}") from None


def read_config(path: Path) -> dict[str, Any]:
    """A run's configuration from TOML; unknown names are refused."""
    import tomllib

    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such configuration file") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not TOML ({e})") from e
    if "cooldown" in values:
        values["cooldown_steps"] = values.pop("cooldown")
    if isinstance(values.get("shards"), str):
        values["shards"] = [values["shards"]]
    types = get_type_hints(TrainConfig)
    for name, value in values.items():
        if name not in types:
            raise UserError(f"{path} has an unknown entry '{name}'")
        allowed = [list] if name == "shards" else list(get_args(types[name]) or (types[name],))
        if float in allowed:
            allowed.append(int)
        if type(value) not in allowed:
            raise UserError(f"{path}: {name} = {value!r} should be of type {allowed[0].__name__}")
    return values
