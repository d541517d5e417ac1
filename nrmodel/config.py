"""The whole configuration of a model, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nrdata.errors import UserError, check_known
from nrmodel.diffusion.objective import Objective, Preconditioning
from nrmodel.diffusion.process import OUVE, SBVE
from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.network.compact import CompactConfig
from nrmodel.network.ncsnpp import NCSNppConfig
from nrmodel.presets import PRESETS


@dataclass(frozen=True)
class ModelConfig:
    """Everything that a model needs to be built and used; stands in the metadata of its weights."""

    preset: str = "nano"
    sample_rate: int = 16000
    spectrogram: Spectrogram = field(default_factory=Spectrogram)
    process: OUVE | SBVE = field(default_factory=OUVE)
    network: CompactConfig | NCSNppConfig = field(default_factory=CompactConfig)
    precondition: Preconditioning = field(default_factory=Preconditioning)
    objective: Objective = field(default_factory=Objective)
    conditioning: str = "spectrum"  # of CONDITIONINGS (nrmodel.network.conditioning)
    encoder: str = "conv"  # of ENCODERS (nrmodel.network.encoders)
    z_dim: int = 64
    keep: bool = False  # has the switch from "all noise goes" to "only the clip's sound goes" (network.reference)
    level: str = "loudness"  # what a wave is divided by: "loudness" (a robust RMS) or "max" (its largest sample)
    pad: str = "zeros"  # how frames are filled up to the network's multiple: "zeros", "reflection"
    nfe: int = 1  # network calls of an enhancement, where none are asked for


def preset(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a preset, with some fields changed."""
    check_known("preset", name, PRESETS)
    return dataclasses.replace(from_dict(PRESETS[name]), preset=name, **changes)


_KINDS = {c.__name__: c for c in (Spectrogram, OUVE, SBVE, CompactConfig, NCSNppConfig, Preconditioning, Objective)}


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """Plain data, a nested part with its `type`."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"type": type(value).__name__, **fields}
        return list(value) if isinstance(value, tuple) else value

    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(data: dict[str, Any]) -> ModelConfig:
    """The inverse of `to_dict`; an unknown name is refused, never ignored."""

    def build(kind: type, fields: dict[str, Any]) -> Any:
        known = {f.name for f in dataclasses.fields(kind)}
        for name in fields:
            if name not in known:
                raise UserError(f"the model's configuration has an unknown entry '{name}': written by a newer nr?")
        return kind(**{name: value_of(value) for name, value in fields.items()})

    def value_of(value: Any) -> Any:
        if isinstance(value, dict):
            fields = dict(value)
            kind = fields.pop("type", None)
            if kind not in _KINDS:
                raise UserError(f"the model's configuration has an unknown part '{kind}': written by a newer nr?")
            return build(_KINDS[kind], fields)
        return tuple(value) if isinstance(value, list) else value

    made: ModelConfig = build(ModelConfig, data)
    return made
