"""Weights and training states on disk: written whole or not at all, checked when read.

Weights are safetensors with the configuration and a SHA-256 of the tensors in the metadata; a training state is a
plain `torch.save` of tensors, numbers, strings, lists and dictionaries, read with `weights_only=True`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nrdata.errors import UserError
from nrdata.files import rename, unfinished, write_bytes
from nrmodel.config import ModelConfig, from_dict, to_dict

# Of file systems without hard links (exFAT, some network and object stores), or with all of a file's taken.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def save_model(path: Path, tensors: dict[str, Tensor], config: ModelConfig, **metadata: str) -> str:
    """Write weights as safetensors; returns their digest."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sha = digest(tensors)
    head = {"format": "nr-1", "config": json.dumps(to_dict(config), sort_keys=True), "sha256": sha, **metadata}
    write_bytes(path, _ordered(save(tensors, head)))
    return sha


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its metadata in order of names: the library's order differs from run to run."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_model(path: Path) -> tuple[dict[str, Tensor], ModelConfig, dict[str, str]]:
    """Tensors, configuration and metadata of a safetensors file; every fault is a sentence of its own."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such model file", kind="missing")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: take an older checkpoint", kind="empty")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(
            f"{path} is truncated or no safetensors file ({e}): take an older one", kind="unreadable"
        ) from e
    if metadata.get("format") != "nr-1" or "config" not in metadata:
        raise UserError(f"{path} was not written by nr: `nr convert` reads SGMSE+ checkpoints", kind="foreign")
    if digest(tensors) != metadata.get("sha256"):
        raise UserError(
            f"{path} is damaged (its tensors do not match their SHA-256): take an older one", kind="damaged"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path} holds non-finite weights in '{name}': take an older one", kind="not_finite")
    return tensors, from_dict(json.loads(metadata["config"])), metadata


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Exact names and shapes, or one sentence."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    for what, names in (("lacks", missing), ("has the unknown", unknown), ("has another shape of", sorted(wrong))):
        if names:
            raise UserError(f"{path} {what} '{names[0]}' ({len(names)} in all): it is of another configuration")
    module.load_state_dict(tensors)


STATE_ENTRIES = (
    "step", "position", "model", "ema", "ema_updates", "optimizer", "rng", "best", "config", "fingerprint", "machine",
    "own_from",
)  # fmt: skip


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state; the one before stays as `*.prev.pt`."""
    import io

    buffer = io.BytesIO()
    state = {**state, "sha256": digest(state["model"] | {f"ema.{k}": v for k, v in state["ema"].items()})}
    torch.save(state, buffer)
    if path.exists():
        previous = path.with_suffix(".prev.pt")
        copy = unfinished(path)
        try:
            os.link(path, copy)
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            write_bytes(previous, path.read_bytes())
        else:
            rename(copy, previous)
    write_bytes(path, buffer.getvalue())


def asked_for(error: Exception) -> str:
    """" (it asks for TYPE)", where torch says which type it has refused to load."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" (it asks for {found[1]})" if found else ""


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state from disk, always anew (an optimiser keeps the tensors that it is given)."""
    import pickle

    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty", kind="empty")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UserError(f"{path} is not a plain checkpoint{asked_for(e)}: it is not opened", kind="hostile") from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        raise UserError(f"{path} is truncated or damaged ({str(e).splitlines()[0]})", kind="unreadable") from e
    for name in STATE_ENTRIES:
        if not isinstance(state, dict) or name not in state:
            raise UserError(f"checkpoint {path} lacks '{name}'", kind="incomplete")
    if digest(state["model"] | {f"ema.{k}": v for k, v in state["ema"].items()}) != state.get("sha256"):
        raise UserError(f"{path} is damaged (its tensors do not match their SHA-256)", kind="damaged")
    return state
