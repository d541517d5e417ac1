"""Resampling by two with the FIR [1, 3, 3, 1] in both axes, as NCSN++ has it (Song et al. 2021, after StyleGAN2).

    down   y[n] = (x[2n-1] + 3 x[2n] + 3 x[2n+1] + x[2n+2]) / 8
    up     y[2n] = (x[n-1] + 3 x[n]) / 4,   y[2n+1] = (3 x[n] + x[n+1]) / 4
with zeros outside, on maps (B, C, F, T): constants keep their value inside and fade at the border. Both are one strided
depthwise convolution; no zeros are inserted, so none are multiplied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fir_down(x: Tensor) -> Tensor:
    """(B, C, F, T) -> (B, C, F // 2, T // 2)."""
    return F.conv2d(x, _kernel(x) / 64, stride=2, padding=1, groups=x.shape[1])


def fir_up(x: Tensor) -> Tensor:
    """(B, C, F, T) -> (B, C, 2 F, 2 T)."""
    return F.conv_transpose2d(x, _kernel(x) / 16, stride=2, padding=1, groups=x.shape[1])


def _kernel(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
