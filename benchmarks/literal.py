"""NCSN++ with the operators of the reference implementation, one by one: what our speed is measured against.

`literal(network)` is a copy with the same weights, in which
* resampling inserts zeros, filters at the full rate, and drops samples;
* normalisation and activation are two passes, in the default memory format;
* every block activates the time embedding again;
* dense layers over positions permute to channels last and back, attention builds its whole matrix.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrmodel.network import blocks, ncsnpp

ROOT_2 = math.sqrt(2.0)


def upfirdn(x: Tensor, gain: float, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, filter, drop samples, on maps (B, C, F, T)."""
    batch, channels, rows, frames = x.shape
    x = F.pad(x.reshape(-1, rows, 1, frames, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(-1, 1, rows * up, frames * up), [*pad, *pad])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    x = F.conv2d(x, gain * torch.outer(taps, taps)[None, None] / 64)[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


def down_by_2(x: Tensor) -> Tensor:
    return upfirdn(x, 1.0, up=1, down=2, pad=(1, 1))


def up_by_2(x: Tensor) -> Tensor:
    return upfirdn(x, 4.0, up=2, down=1, pad=(2, 1))


class ResBlock(blocks.ResBlock):
    def forward(self, x: Tensor, time: Tensor, z_r: Tensor | None = None) -> Tensor:
        h = F.silu(nn.GroupNorm.forward(self.norm_1, x))
        if self.resample is not None:
            resample = down_by_2 if self.resample is blocks.fir_down else up_by_2
            h, x = resample(h), resample(x)
        h = self.conv_1(h)
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = F.silu(nn.GroupNorm.forward(self.norm_2, h))
        h = self.conv_2(h)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return (x + h) / ROOT_2


class Attention(blocks.Attention):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, frames = x.shape
        h = self.norm(x)
        q, k, v = (_dense(layer, h) for layer in (self.query, self.key, self.value))
        w = torch.einsum("bchw,bcij->bhwij", q, k) * (int(channels) ** (-0.5))
        w = F.softmax(w.reshape(batch, rows, frames, rows * frames), dim=-1)
        h = torch.einsum("bhwij,bcij->bchw", w.reshape(batch, rows, frames, rows, frames), v)
        return (x + _dense(self.out, h)) / ROOT_2


def _dense(layer: nn.Linear, x: Tensor) -> Tensor:
    y = torch.tensordot(x.permute(0, 2, 3, 1), layer.weight.t(), dims=1) + layer.bias
    return y.permute(0, 3, 1, 2)


class Head(blocks.Head):
    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.silu(nn.GroupNorm.forward(self.norm, h)))


class NCSNpp(ncsnpp.NCSNpp):
    def train(self, mode: bool = True) -> NCSNpp:
        return nn.Module.train(self, mode)  # no memory format but the default

    def forward(self, state: Tensor, cond: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        maps = torch.cat([state.real, state.imag, cond.real, cond.imag], dim=1)
        time = self.time(t)
        h, pyramid, output = self.stem(maps), maps, None
        skips = [h]
        for level in self.down:
            for block, attend in zip(level.blocks, level.attend, strict=True):
                h = attend(block(h, time))
                skips.append(h)
            if level.shrink is not None:
                h = level.shrink(h, time)
                if level.combine is not None:
                    pyramid = down_by_2(pyramid)
                    h = level.combine(h, pyramid)
                skips.append(h)
        h = self.middle(h, time, None)
        for level in self.up:
            for block in level.blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), time)
            h = level.attend(h)
            if level.head is not None:
                output = level.head(h) if output is None else up_by_2(output) + level.head(h)
            if level.grow is not None:
                h = level.grow(h, time)
        sigma = t[:, None, None, None]
        out = self.output(output / sigma if self.config.version == "v1" else output)
        if self.config.version == "48k":
            out = out / sigma
        return torch.complex(out[:, :1].contiguous(), out[:, 1:].contiguous())


def literal(network: ncsnpp.NCSNpp) -> NCSNpp:
    """A copy of `network` with the literal operators and the default memory format."""
    theirs = {blocks.ResBlock: ResBlock, blocks.Attention: Attention, blocks.Head: Head, ncsnpp.NCSNpp: NCSNpp}
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in network.modules():
        module.__class__ = theirs.get(type(module), type(module))
    return network
