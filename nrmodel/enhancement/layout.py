"""What a caller holds as a sound, arrays and tensors of either layout, as the one thing that enhancement takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from nrdata.errors import UserError

CHANNELS = 32  # a first axis up to here, shorter than the second, counts channels, as torchaudio.load gives them ...
TINY = 8  # ... unless both are this short and nothing tells them apart: then it counts samples, as soundfile has it
Wave = TypeVar("Wave", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Sound:
    """Floats `(samples, channels)`, a view of the caller's, and whether his axes are the other way round."""

    samples: np.ndarray
    channels_first: bool


def sound_of(x: np.ndarray | torch.Tensor, sample_rate: int, what: str) -> Sound:
    """`(samples,)`, `(samples, channels)` or, with few channels, `(channels, samples)`. Raises `UserError` (empty,
    layout) naming `what` and its shape; integers are refused, since nobody knows their full scale."""
    if sample_rate <= 0:
        raise UserError(f"{what} has a sample rate of {sample_rate} Hz")
    if isinstance(x, torch.Tensor):
        x = (x.detach().float() if x.dtype is torch.bfloat16 else x.detach()).cpu().numpy()
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{what} is {x.dtype}: floats in [-1, 1) are expected, as soundfile reads them")
    if x.ndim not in (1, 2) or x.size == 0:
        expected = "(samples,), (samples, channels) or (channels, samples) is expected"
        raise UserError(f"{what} has shape {x.shape}: {expected}", kind="empty")
    channels_first = x.ndim == 2 and x.shape[0] < x.shape[1] > TINY and x.shape[0] <= CHANNELS
    samples = x.T if channels_first else x.reshape(len(x), -1)
    if samples.shape[0] < samples.shape[1] > TINY:
        counted = f"{samples.shape[0]} samples of {samples.shape[1]} channels"
        raise UserError(f"{what} has shape {x.shape}, {counted}: give it one sound at a time", kind="layout")
    return Sound(samples, channels_first)


def joined(blocks: Iterable[np.ndarray], sound: Sound, given: Wave) -> Wave:
    """Blocks `(n, channels)`, as many samples as `sound` has, as float32 in the layout and type of what was given, a
    tensor on its device. Written block by block: nothing but the result is as long as the sound."""
    laid = np.empty(np.shape(given), np.float32)
    samples = laid.T if sound.channels_first else laid.reshape(sound.samples.shape)
    done = 0
    for block in blocks:
        samples[done : done + len(block)] = block
        done += len(block)
    return torch.from_numpy(laid).to(given.device) if isinstance(given, torch.Tensor) else laid
