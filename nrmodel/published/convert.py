"""Lightning checkpoints of the SGMSE+ project -> our safetensors, and the one table of names between the two.

There the layers of NCSN++ stand in one flat list, `all_modules.<i>`, in the order in which they are made; here they
are named blocks. `published_layers` walks our network in that order, `_INSIDE` names the tensors of a layer.
Inference uses the exponential moving average, `ema["shadow_params"]`: a list without names, in the order of the
checkpoint's `state_dict`. A file is read with `weights_only=True`; the one class it may name is never instantiated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel.config import ModelConfig
from nrmodel.network.blocks import Attention, Combine, Head, ResBlock
from nrmodel.network.ncsnpp import DownLevel, NCSNpp, NCSNppConfig, UpLevel
from nrmodel.published.hyperparameters import configuration

# --- names ------------------------------------------------------------------------------------------------------------

# Their tensor of a layer -> ours, in their order. ".T": stored as (in, out) there, (out, in) here.
_PLAIN = {"weight": "weight", "bias": "bias"}
_INSIDE: dict[type, dict[str, str]] = {
    nn.Conv2d: _PLAIN,
    nn.Linear: _PLAIN,
    nn.GroupNorm: _PLAIN,
    ResBlock: {
        f"{theirs}.{part}": f"{ours}.{part}"
        for theirs, ours in {
            "GroupNorm_0": "norm_1",
            "Conv_0": "conv_1",
            "Dense_0": "time",
            "GroupNorm_1": "norm_2",
            "Conv_1": "conv_2",
            "Conv_2": "shortcut",
        }.items()
        for part in _PLAIN
    },
    Attention: {
        **{f"GroupNorm_0.{part}": f"norm.{part}" for part in _PLAIN},
        **{
            f"NIN_{i}.{theirs}": f"{ours}.{part}"
            for i, ours in enumerate(("query", "key", "value", "out"))
            for theirs, part in (("W", "weight.T"), ("b", "bias"))
        },
    },
    Combine: {f"Conv_0.{part}": f"conv.{part}" for part in _PLAIN},
}


def published_layers(network: NCSNpp) -> Iterator[tuple[str, nn.Module | None]]:
    """(our name, layer) of every entry of the flat list, in its order; the random frequencies have no layer here."""
    yield "time.frequencies", None
    for name in ("time.dense_1", "time.dense_2", "stem"):
        yield name, network.get_submodule(name)
    for i, down in enumerate(network.down):
        assert isinstance(down, DownLevel)
        for j, (block, attend) in enumerate(zip(down.blocks, down.attend, strict=True)):
            yield f"down.{i}.blocks.{j}", block
            if isinstance(attend, Attention):
                yield f"down.{i}.attend.{j}", attend
        if down.shrink is not None:
            yield f"down.{i}.shrink", down.shrink
        if down.combine is not None:
            yield f"down.{i}.combine", down.combine
    for part in ("before", "attend", "after"):
        yield f"middle.{part}", network.get_submodule(f"middle.{part}")
    for i, up in enumerate(network.up):
        assert isinstance(up, UpLevel)
        for j, block in enumerate(up.blocks):
            yield f"up.{i}.blocks.{j}", block
        if isinstance(up.attend, Attention):
            yield f"up.{i}.attend", up.attend
        if isinstance(up.head, Head):
            yield f"up.{i}.head.norm", up.head.norm
            yield f"up.{i}.head.conv", up.head.conv
        if up.grow is not None:
            yield f"up.{i}.grow", up.grow


def name_table(network: NCSNpp) -> dict[str, tuple[str, bool]]:
    """Published name -> (our name, whether the matrix is transposed), in the order of a published `state_dict`."""
    table = {f"output_layer.{part}": (f"output.{part}", False) for part in _PLAIN}
    for index, (ours, layer) in enumerate(published_layers(network)):
        if layer is None:
            table[f"all_modules.{index}.W"] = (ours, False)
            continue
        inside = next(names for kind, names in _INSIDE.items() if isinstance(layer, kind))
        for theirs, part in inside.items():
            part, transposed = part.removesuffix(".T"), part.endswith(".T")
            if not (isinstance(layer, ResBlock) and layer.shortcut is None and part.startswith("shortcut")):
                table[f"all_modules.{index}.{theirs}"] = (f"{ours}.{part}", transposed)
    return table


def to_ours(published: dict[str, Tensor], network: NCSNpp) -> dict[str, Tensor]:
    """Tensors under published names -> under ours."""
    table = name_table(network)
    return {ours: _turn(published[theirs], turned) for theirs, (ours, turned) in table.items()}


def to_published(state: dict[str, Tensor], network: NCSNpp) -> dict[str, Tensor]:
    """The inverse of `to_ours`, in the order of a published `state_dict`; conditioning has no published name."""
    return {theirs: _turn(state[ours], turned) for theirs, (ours, turned) in name_table(network).items()}


def _turn(tensor: Tensor, turned: bool) -> Tensor:
    return tensor.t().contiguous() if turned else tensor


# --- files ------------------------------------------------------------------------------------------------------------


class _DataModule:
    """Stands in for the class that published checkpoints name; never instantiated."""


def read_published(path: Path) -> dict[str, Any]:
    """The plain content of a checkpoint; nothing in it is executed. Every fault is a sentence of its own."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", kind="missing")
    try:
        with torch.serialization.safe_globals([(_DataModule, "sgmse.data_module.SpecsDataModule")]):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as e:
        asked = checkpoint.asked_for(e)
        raise UserError(f"{path} is not a plain checkpoint{asked}: it is not opened", kind="hostile") from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        raise UserError(f"{path} is truncated or no checkpoint: fetch it again", kind="unreadable") from e
    for name in ("hyper_parameters", "state_dict", "ema"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise UserError(f"{path} is not an SGMSE+ checkpoint: it lacks '{name}'", kind="foreign")
    return content


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote."""

    path: Path
    config: ModelConfig
    version: str  # of NCSN++
    parameters: int
    sha256: str


def convert(path: Path, out: Path, sample_rate: int | None = None, force: bool = False) -> Converted:
    """Write `out/model.safetensors` from a published checkpoint. An existing one of other content needs `force`."""
    content = read_published(path)
    try:
        config = configuration(content["hyper_parameters"], str(path), sample_rate)
    except (TypeError, ValueError) as e:
        raise UserError(f"{path} has a hyperparameter of the wrong kind ({e})", kind="foreign") from e
    assert isinstance(config.network, NCSNppConfig)
    with torch.device("meta"):
        network = NCSNpp(config.network)
    published = averaged_weights(content, network, path)
    tensors = {f"network.{name}": tensor for name, tensor in to_ours(published, network).items()}
    target = out / "model.safetensors"
    if target.exists() and not force and checkpoint.read_model(target)[2]["sha256"] != checkpoint.digest(tensors):
        raise UserError(f"{target} exists and is another model: give another --out, or --force")
    out.mkdir(parents=True, exist_ok=True)
    sha256 = checkpoint.save_model(target, tensors, config)
    return Converted(target, config, config.network.version, sum(t.numel() for t in tensors.values()), sha256)


def averaged_weights(content: dict[str, Any], network: NCSNpp, path: Path) -> dict[str, Tensor]:
    """Published name -> averaged weight, float32, names and shapes checked against the network."""
    shapes = {name: tuple(t.shape) for name, t in to_published(network.state_dict(), network).items()}
    # Prefixes of a compiled or a distributed model are no part of a name; a loss may have weights of its own.
    names = [re.sub(r"(^|(?<=\.))(module|_orig_mod)\.", "", n) for n in content["state_dict"]]
    names = [n.removeprefix("dnn.") for n in names if not n.startswith("pesq_loss.")]
    for what, wrong in (("lacks", shapes.keys() - set(names)), ("has the unknown weight", set(names) - shapes.keys())):
        if wrong:
            first = sorted(wrong)[0]
            raise UserError(f"{path} {what} '{first}' ({len(wrong)} in all): its options do not fit its weights")
    shadow = content["ema"].get("shadow_params")
    if not isinstance(shadow, list) or len(shadow) != len(names):
        raise UserError(f"{path} has {len(shadow or ())} averaged weights for {len(names)} names: it is incomplete")
    weights = {}
    for name, tensor in zip(names, shadow, strict=True):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shapes[name]:
            raise UserError(f"{path} has another shape of '{name}': its options do not fit its weights")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path} holds non-finite weights in '{name}'", kind="not_finite")
        weights[name] = tensor.float()
    return weights
