"""Resampling by two with the FIR [1, 3, 3, 1] in both axes, as NCSN++ has it (Song et al. 2021, after StyleGAN2).

    down   y[n] = (x[2n-1] + 3 x[2n] + 3 x[2n+1] + x[2n+2]) / 8
    up     y[2n] = (x[n-1] + 3 x[n]) / 4,   y[2n+1] = (3 x[n] + x[n+1]) / 4
with zeros outside, on maps (B, C, F, T): constants keep their value inside and fade at the border. Both are one strided
depthwise convolution; no zeros are inserted, so none are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def fir_down(x: Tensor) -> Tensor:
    """(B, C, F, T) -> (B, C, F // 2, T // 2)."""
    return _depthwise(F.conv2d, x, 1 / 64)


def fir_up(x: Tensor) -> Tensor:
    """(B, C, F, T) -> (B, C, 2 F, 2 T)."""
    return _depthwise(F.conv_transpose2d, x, 1 / 16)


def _depthwise(convolve: Callable[..., Tensor], x: Tensor, gain: float) -> Tensor:
    """At least in float32 (a depthwise convolution in bf16 is 8 to 50 times slower on a CPU), in the dtype of x."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=wide.dtype, device=x.device)
    kernel = gain * torch.outer(taps, taps)
    with torch.autocast(x.device.type, enabled=False):
        return convolve(wide, kernel.expand(x.shape[1], 1, 4, 4), stride=2, padding=1, groups=x.shape[1]).to(x.dtype)
