"""The compact network of the presets `nano` and `small`: a strided stem, a small U of residual blocks with one
recurrent layer at its bottom, and heads that mask the noisy and the diffused spectrogram. Not an NCSN++ configuration.

    inputs (7, with a spectrum 11 channels)  ->  stem 4 x 2  ->  levels down  ->  GRU over frames  ->  levels up
    F = R + M1 y / 0.1 + M2 state        (R, M1, M2 complex, at full resolution)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrmodel.network.blocks import zeroed
from nrmodel.network.conditioning import NONE, Conditioning, Layer

STEM = (4, 2)  # frequency x frames of one stem patch


@dataclass(frozen=True)
class CompactConfig:
    widths: tuple[int, ...] = (48, 64, 96)
    blocks: tuple[int, ...] = (1, 1, 2)  # residual blocks a level, down and up alike
    recurrent: int = 192  # hidden size of the bidirectional GRU, 0: none
    time_dim: int = 128
    bins: int = 256

    def build(self, z_dim: int, conditioning: Conditioning) -> CompactNetwork:
        return CompactNetwork(self, z_dim, conditioning)


class ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm x))) scaled and shifted by time))); `film`: and by z_r."""

    def __init__(self, width: int, time_dim: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * width)
        zeroed(self.conv2)
        self.film: nn.Module | None = None

    def add_film(self, layer: Layer, z_dim: int) -> None:
        self.film = layer(z_dim, 2 * self.conv1.out_channels)

    def forward(self, x: Tensor, time: Tensor, z: Tensor | None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        h = modulate(h, self.time(time))
        if self.film is not None and z is not None:
            h = modulate(h, self.film(z))
        out: Tensor = x + self.conv2(F.silu(h))
        return out


def modulate(h: Tensor, scale_shift: Tensor) -> Tensor:
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    return h * (1 + scale) + shift


class Recurrent(nn.Module):
    """One bidirectional GRU over frames on 12 channels x all rows, added to its input; the identity at first."""

    def __init__(self, width: int, rows: int, hidden: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, 12, 1)
        self.gru = nn.GRU(12 * rows, hidden, batch_first=True, bidirectional=True)
        self.back = nn.Linear(2 * hidden, 24 * rows)
        self.expand = zeroed(nn.Conv2d(24, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, rows, frames = x.shape
        h = self.squeeze(x).permute(0, 3, 1, 2).reshape(batch, frames, -1)
        h = self.back(self.gru(h)[0])
        h = h.view(batch, frames, 24, rows).permute(0, 2, 3, 1)
        out: Tensor = x + self.expand(F.silu(h))
        return out


class CompactNetwork(nn.Module):
    """network(state, cond, t, z_r=None) -> complex (B, 1, F, T).

    `state`: c_in (u - y); `cond`: y; `t (B,)`; `z_r (B, z_dim [+ bins + 1])` (nrmodel.network.reference).
    The backbone is drawn first, so that it is the same with any conditioning; `z_r` None is the backbone alone.
    """

    def __init__(self, config: CompactConfig, z_dim: int = 0, conditioning: Conditioning = NONE):
        super().__init__()
        self.config, self.z_dim = config, z_dim
        widths, rows, dim = config.widths, config.bins // STEM[0], config.time_dim
        self.stem = nn.Conv2d(7, widths[0], STEM, stride=STEM)
        self.row_bias = nn.Parameter(torch.zeros(widths[0], rows, 1))
        self.time = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))

        def level(i: int) -> nn.ModuleList:
            return nn.ModuleList(ResBlock(widths[i], dim) for _ in range(config.blocks[i]))

        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(level(i) for i in range(last))
        self.down = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(last))
        self.bottom = level(last)
        self.recurrent = Recurrent(widths[-1], rows >> last, config.recurrent) if config.recurrent else None
        self.up = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(last))
        self.up_blocks = nn.ModuleList(level(i) for i in range(last))
        self.norm = nn.GroupNorm(8, widths[0])
        self.head = nn.ConvTranspose2d(widths[0], 6, STEM, stride=STEM)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        # Conditioning after the backbone, all of it zero at first: step 0 is the network without it, exactly.
        self.embed = conditioning.time(z_dim, dim) if conditioning.time else None
        self.row_map = conditioning.rows(z_dim, widths[0] * rows) if conditioning.rows else None
        spectrum_stem = nn.Conv2d(4, widths[0], STEM, stride=STEM, bias=False) if conditioning.with_spectrum else None
        self.spectrum_stem = spectrum_stem and zeroed(spectrum_stem)
        if conditioning.film:
            for block in self.modules():
                if isinstance(block, ResBlock):
                    block.add_film(conditioning.film, z_dim)

    @property
    def frame_multiple(self) -> int:
        return STEM[1] << (len(self.config.widths) - 1)

    @property
    def enhancement_multiple(self) -> int:
        """Frames of a file are filled up to this multiple; the estimate of those is cut off."""
        return self.frame_multiple

    keeps_filled_frames = False

    def forward(self, state: Tensor, cond: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        z = None if z_r is None else z_r[:, : self.z_dim]
        time = self.time(_time_features(t))
        if self.embed is not None and z is not None:
            time = time + self.embed(z)
        time = F.silu(time)
        y = cond / 0.1
        magnitude = _abs(cond)
        maps = torch.cat(
            [state.real, state.imag, y.real, y.imag, magnitude / 0.1, _log_scale(magnitude), _abs(state)], dim=1
        )
        h = self.stem(maps) + self.row_bias
        if self.row_map is not None and z is not None:
            h = h + self.row_map(z).view(len(h), h.shape[1], h.shape[2], 1)
        if self.spectrum_stem is not None and z_r is not None:
            h = h + self.spectrum_stem(_spectrum_maps(z_r[:, self.z_dim :], magnitude))
        skips = []
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            h = _run(blocks, h, time, z)
            skips.append(h)
            h = down(h)
        h = _run(self.bottom, h, time, z)
        if self.recurrent is not None:
            h = self.recurrent(h)
        for blocks, up in zip(reversed(self.up_blocks), reversed(self.up), strict=True):
            h = F.interpolate(up(h), scale_factor=2.0, mode="nearest") + skips.pop()
            h = _run(blocks, h, time, z)
        out = self.head(F.silu(self.norm(h))).float()
        residual, mask_y, mask_state = (torch.complex(o[:, :1], o[:, 1:]) for o in out.chunk(3, dim=1))
        return residual + mask_y * y + mask_state * state


def _run(blocks: nn.Module, h: Tensor, time: Tensor, z: Tensor | None) -> Tensor:
    for block in blocks.children():
        h = block(h, time, z)
    return h


def _time_features(t: Tensor) -> Tensor:
    """sin and cos of log t at 32 frequencies from 1/4 to 16: `(B, 64)`."""
    frequency = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), 32, device=t.device))
    angle = t.log()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _spectrum_maps(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """The clip's spectrum `(B, F + 1)` (flag last) as four maps beside y; all zero where the flag is 0."""
    flag = spectrum[:, -1].view(-1, 1, 1, 1)
    r = spectrum[:, None, :-1, None].expand_as(magnitude)
    ratio = torch.log(magnitude + 0.003) - torch.log(r + 0.003)
    return flag * torch.cat([r / 0.1, _log_scale(r), ratio, torch.ones_like(r)], dim=1)


def _log_scale(magnitude: Tensor) -> Tensor:
    return (torch.log(magnitude + 0.003) + 3) / 1.2


def _abs(x: Tensor) -> Tensor:
    return torch.sqrt(x.real**2 + x.imag**2 + 1e-10)
