"""The blocks of NCSN++ (Song et al. 2021, appendix H) on maps (B, C, F, T).

Every convolution and dense layer starts from the variance-scaling law of DDPM (uniform, fan average), its scale 1 but
where a comment says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrmodel.network.resample import fir_down, fir_up

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
_RESCALE = 1 / math.sqrt(2)  # keeps the variance of x + h


class Norm(nn.GroupNorm):
    """Group norm with at least four channels a group and at most 32 groups."""

    def __init__(self, channels: int):
        super().__init__(min(channels // 4, 32), channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """At least in float32: exact sums, and under bf16 autocast twice as fast on a CPU."""
        return super().forward(_exact(x))


class NormSiLU(Norm):
    """SiLU(norm x); with `film` (B, 2 C) scaled and shifted between the two."""

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        h = super().forward(x) if film is None else self._modulated(x, *_exact(film).chunk(2, dim=1))
        return F.silu(h).to(x.dtype)

    def _modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """norm(x) (1 + scale) + shift. On a CPU every item's norm has that as its affine part, and one copy joins the
        items: cheaper than a product of maps and its gradients (`python benchmarks/network.py`: film)."""
        if x.device.type != "cpu":
            return torch.addcmul(shift[:, :, None, None], super().forward(x), 1 + scale[:, :, None, None])
        weight, bias = self.weight * (1 + scale), torch.addcmul(shift, self.bias, 1 + scale)
        items = zip(torch.split(_exact(x), 1), weight, bias, strict=True)
        return torch.cat([F.group_norm(item, self.num_groups, w, b, self.eps) for item, w, b in items])


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class TimeEmbedding(nn.Module):
    """t (B,) -> (B, 4 width): log t at `width` fixed random frequencies, sine and cosine, two dense layers."""

    def __init__(self, width: int):
        super().__init__()
        self.frequencies = nn.Parameter(16 * torch.randn(width), requires_grad=False)
        self.dense_1 = scaled(nn.Linear(2 * width, 4 * width))
        self.dense_2 = scaled(nn.Linear(4 * width, 4 * width))

    def forward(self, t: Tensor) -> Tensor:
        embedding: Tensor = self.dense_2(F.silu(self.dense_1(self.features(t))))
        return embedding

    def features(self, t: Tensor) -> Tensor:
        """(B, 2 width)."""
        angle = t.log()[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResBlock(nn.Module):
    """(x + conv(SiLU(norm(conv(SiLU(norm x)) + time)))) / sqrt 2, resampled by the FIR after the first activation.

    `time` (B, time_dim) is the activated time embedding. `film` (B, 2 out) scales and shifts after the second norm.
    """

    def __init__(self, channels: int, out: int, time_dim: int, resample: str = "none"):
        super().__init__()
        self.channels, self.out = channels, out
        self.resample = {"none": None, "down": fir_down, "up": fir_up}[resample]
        self.norm_1 = NormSiLU(channels)
        self.conv_1 = conv(channels, out, 3)
        self.time = scaled(nn.Linear(time_dim, out))
        self.norm_2 = NormSiLU(out)
        self.conv_2 = conv(out, out, 3, scale=1e-10)
        self.shortcut = conv(channels, out, 1) if channels != out or resample != "none" else None
        self.film: nn.Module | None = None

    def add_film(self, layer: Callable[[int, int], nn.Module], z_dim: int) -> None:
        """Own scale and shift from z_r, zero at first: the block stays what it was."""
        self.film = layer(z_dim, 2 * self.out)

    def forward(self, x: Tensor, time: Tensor, z_r: Tensor | None = None) -> Tensor:
        film = self.film(z_r) if self.film is not None and z_r is not None else None
        h = self.norm_1(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_1(h) + self.time(time)[:, :, None, None]
        h = self.conv_2(self.norm_2(h, film))
        if self.shortcut is not None:
            x = self.shortcut(x)
        out: Tensor = (x + h) * _RESCALE
        return out


class Attention(nn.Module):
    """One head over all F x T positions, added to its input, / sqrt 2. Memory grows linearly with the positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels)
        self.query, self.key, self.value = (scaled(nn.Linear(channels, channels), 0.1) for _ in range(3))
        self.out = scaled(nn.Linear(channels, channels), 1e-10)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, frames = x.shape
        h = self.norm(x).permute(0, 2, 3, 1).reshape(batch, 1, rows * frames, channels)
        h = self.out(F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h)))
        out: Tensor = (x + h.view(batch, rows, frames, channels).permute(0, 3, 1, 2)) * _RESCALE
        return out


class Combine(nn.Module):
    """Adds the input, FIR-downsampled to this size, through a 1x1 convolution."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = conv(channels, out, 1)

    def forward(self, h: Tensor, pyramid: Tensor) -> Tensor:
        out: Tensor = h + self.conv(pyramid)
        return out


class Head(nn.Module):
    """What a level adds to the output pyramid: conv(SiLU(norm h))."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm = NormSiLU(channels)
        self.conv = conv(channels, out, 3, scale=1e-10)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(h))
        return out


def conv(channels: int, out: int, size: int, scale: float = 1.0) -> nn.Conv2d:
    return scaled(nn.Conv2d(channels, out, size, padding=size // 2), scale)


def scaled(layer: Layer, scale: float = 1.0) -> Layer:
    """Uniform with variance scale x 2 / (fan_in + fan_out); biases zero."""
    fan = sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))
    bound = math.sqrt(6 * scale / fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def zero(features: int, out: int) -> nn.Linear:
    """A dense layer that starts at zero and draws no random number."""
    with torch.device("meta"):
        layer = nn.Linear(features, out)
    return zeroed(layer.to_empty(device="cpu"))


def zeroed(layer: Layer) -> Layer:
    """A layer that starts at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
