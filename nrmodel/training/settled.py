"""What follows from a run's configuration: the model's configuration, every choice that was left open, the stream's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from nrdata.errors import UserError
from nrdata.options import plain
from nrdata.sampling.config import StreamConfig
from nrdata.sampling.laws import parse_law
from nrmodel.config import ModelConfig, preset
from nrmodel.diffusion.objective import Preconditioning
from nrmodel.diffusion.process import OUVE
from nrmodel.network.compact import CompactConfig
from nrmodel.training.config import TrainConfig, ref_range


def model_for(config: TrainConfig, sample_rate: int | None, given: ModelConfig | None) -> ModelConfig:
    """The model that a run trains. `sample_rate`: of the data, None where they are not opened yet. `given`: the model
    of `init_from`, which stands where no preset is named."""
    if given is not None and config.preset is None:
        base = dataclasses.replace(given, encoder=config.encoder)
        if given.conditioning == "none":
            base = dataclasses.replace(base, conditioning=preset(_family(given)).conditioning)
    else:
        base = preset(config.preset or "nano", encoder=config.encoder)
    if sample_rate not in (None, base.sample_rate):
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


def _family(config: ModelConfig) -> str:
    return "nano" if isinstance(config.network, CompactConfig) else "base"


@dataclass(frozen=True)
class Optimisation:
    """How a network is optimised."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float  # inf: none
    crop_frames: int
    cooldown_steps: int


def optimisation(config: TrainConfig, model_config: ModelConfig) -> Optimisation:
    """What the run says; else compact: measured (COMPACT recipe), NCSN++: as published, Adam 1e-4 without decay or
    clipping on 256 frames."""
    fifth = config.max_steps // 5
    if isinstance(model_config.network, CompactConfig):
        base = Optimisation(1.5e-3, (0.9, 0.99), 0.01, 1.0, 128, fifth)
    else:
        base = Optimisation(1e-4, (0.9, 0.999), 0.0, math.inf, 256, fifth)
    own = {f.name: getattr(config, f.name, None) for f in dataclasses.fields(base)}
    return dataclasses.replace(base, **{name: value for name, value in own.items() if value is not None})


def settled(config: TrainConfig, model_config: ModelConfig) -> dict[str, Any]:
    """The configuration as plain data with every choice made that was left to the presets."""
    chosen = dataclasses.asdict(optimisation(config, model_config))
    del chosen["betas"]
    if math.isinf(chosen["clip_norm"]):
        chosen["clip_norm"] = None
    chosen |= {"preset": model_config.preset, "objective": model_config.objective.kind,
               "start_share": model_config.objective.start_share,
               "conditioning": None if model_config.conditioning == "none" else model_config.conditioning}  # fmt: skip
    return plain(config) | chosen


def stream_config(config: TrainConfig, model_config: ModelConfig) -> StreamConfig:
    """What the stream is asked for. The crop gives exactly `crop_frames` STFT frames."""
    hop, longest, shortest = model_config.spectrogram.hop, optimisation(config, model_config).crop_frames, None
    if config.shortest_crop is not None:
        if config.shortest_crop > longest:
            raise UserError(f"--shortest-crop {config.shortest_crop} is over --crop-frames {longest}", "bad_option")
        shortest = (config.shortest_crop - 1) * hop
    return StreamConfig(
        batch_size=config.batch_size,
        crop_samples=(longest - 1) * hop,
        law=config.ref_mode,
        ref_seconds=ref_range(config),
        ref_dropout=config.ref_dropout,  # the stream drops none where the law itself names none
        on_missing_ref=config.on_missing_ref,
        seed=config.seed,
        remix=config.remix,
        remix_snr_db=config.remix_snr,
        shortest_crop_samples=shortest,
        channel_share=config.channel,
        room_share=config.room,
        two_noise_share=config.two_noises,
        talker_share=config.talker,
        keep_share=config.keep,
    )
