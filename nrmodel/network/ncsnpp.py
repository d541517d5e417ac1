"""NCSN++ as SGMSE+ has it (Richter et al. 2023; Song et al. 2021), the preset `base` and every published size.

    maps (Re x_t, Im x_t, Re y, Im y) -> stem -> levels down -> middle -> levels up -> output pyramid -> complex
Each level down halves both axes and adds the FIR-downsampled input to the result; each level up takes the skips in
reverse and adds its own estimate to the FIR-upsampled output pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata.errors import UserError
from nrmodel.network.blocks import Attention, Combine, Head, ResBlock, TimeEmbedding, conv, zero
from nrmodel.network.resample import fir_down, fir_up

MAPS = 4  # Re x_t, Im x_t, Re y, Im y
DESIGN_BINS = 256  # attention belongs to the levels that have a listed size when there are this many bins


@dataclass(frozen=True)
class NCSNppConfig:
    """Published names where there are such: `version` is the backbone `ncsnpp`, `ncsnpp_v2` or `ncsnpp_48k`."""

    version: str = "v2"  # "v1": output pyramid / t, then 1x1; "v2": 1x1 alone; "48k": 1x1, then / t
    nf: int = 128  # channels of the first level
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)  # a level each, in nf
    num_res_blocks: int = 2  # a level, one more on the way up
    attn_resolutions: tuple[int, ...] = (16,)  # frequency sizes with attention
    output_pyramid: bool = True  # progressive: "output_skip" or "none"
    input_pyramid: bool = True  # progressive_input: "input_skip" or "none"
    centered: bool = True  # False: the network sees 2 x - 1


def memory_format(training: bool, device: torch.device) -> torch.memory_format:
    """Channels-last, but for training on a processor with AVX2 and no AVX-512: there the gradients of weights and of
    norms are quicker in the default format by a fifth of a step (`python benchmarks/network.py`)."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if training and slow else torch.channels_last


class DownLevel(nn.Module):
    """[ResBlock, attention] x blocks, then half the size and the input pyramid; every result is a skip."""

    def __init__(self, channels: int, out: int, time_dim: int, config: NCSNppConfig, attention: bool, last: bool):
        super().__init__()
        inputs = [channels] + [out] * (config.num_res_blocks - 1)
        self.blocks = nn.ModuleList(ResBlock(c, out, time_dim) for c in inputs)
        self.attend = nn.ModuleList(Attention(out) if attention else nn.Identity() for _ in inputs)
        self.shrink = None if last else ResBlock(out, out, time_dim, "down")
        self.combine = Combine(MAPS, out) if config.input_pyramid and not last else None

    def forward(
        self, h: Tensor, pyramid: Tensor, time: Tensor, z_r: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        for block, attend in zip(self.blocks, self.attend, strict=True):
            h = attend(block(h, time, z_r))
            skips.append(h)
        if self.shrink is not None:
            h = self.shrink(h, time, z_r)
            if self.combine is not None:
                pyramid = fir_down(pyramid)
                h = self.combine(h, pyramid)
            skips.append(h)
        return h, pyramid


class Middle(nn.Module):
    """ResBlock, attention at any size, ResBlock."""

    def __init__(self, channels: int, time_dim: int):
        super().__init__()
        self.before = ResBlock(channels, channels, time_dim)
        self.attend = Attention(channels)
        self.after = ResBlock(channels, channels, time_dim)

    def forward(self, h: Tensor, time: Tensor, z_r: Tensor | None) -> Tensor:
        return self.after(self.attend(self.before(h, time, z_r)), time, z_r)


class UpLevel(nn.Module):
    """ResBlocks on (h, skip), attention, this level's share of the output, then twice the size."""

    def __init__(self, inputs: list[int], out: int, time_dim: int, attention: bool, head: bool, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(c, out, time_dim) for c in inputs)
        self.attend = Attention(out) if attention else nn.Identity()
        self.head = Head(out, MAPS) if head else None
        self.grow = None if last else ResBlock(out, out, time_dim, "up")

    def forward(
        self, h: Tensor, output: Tensor | None, time: Tensor, z_r: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time, z_r)
        h = self.attend(h)
        if self.head is not None:
            output = self.head(h) if output is None else fir_up(output) + self.head(h)
        if self.grow is not None:
            h = self.grow(h, time, z_r)
        return h, output


class NCSNpp(nn.Module):
    """network(state, cond, t, z_r=None) -> complex (B, 1, F, T); F and T multiples of `frame_multiple`.

    `state`, `cond` complex (B, 1, F, T), `t` (B,), `z_r` (B, z_dim). `conditioning` "additive": W z_r is added to the
    time embedding; "film": every ResBlock scales and shifts by z_r after its second norm; None: z_r is ignored. Both
    are drawn after the backbone and start at zero: at first the network is exactly the one without.
    """

    def __init__(self, config: NCSNppConfig, z_dim: int = 0, conditioning: str | None = None):
        super().__init__()
        if config.version not in ("v1", "v2", "48k"):
            raise UserError(f"NCSN++ version '{config.version}' is unknown: v1, v2 or 48k")
        self.config = config
        widths = [config.nf * m for m in config.ch_mult]
        attention = [DESIGN_BINS >> i in config.attn_resolutions for i in range(len(widths))]
        time_dim, last = 4 * config.nf, len(widths) - 1

        self.time = TimeEmbedding(config.nf)
        self.stem = conv(MAPS, config.nf, 3)
        self.down = nn.ModuleList()
        channels, skips = config.nf, [config.nf]
        for i, width in enumerate(widths):
            self.down.append(DownLevel(channels, width, time_dim, config, attention[i], last=i == last))
            channels = width
            skips += [width] * (config.num_res_blocks + (i < last))
        self.middle = Middle(channels, time_dim)
        self.up = nn.ModuleList()
        for i in reversed(range(len(widths))):
            inputs = []
            for _ in range(config.num_res_blocks + 1):
                inputs.append(channels + skips.pop())
                channels = widths[i]
            head = config.output_pyramid or i == 0
            self.up.append(UpLevel(inputs, channels, time_dim, attention[i], head, last=i == 0))
        self.output = nn.Conv2d(MAPS, 2, 1)

        self.embed = zero(z_dim, time_dim) if conditioning == "additive" else None
        if conditioning == "film":
            for block in self.modules():
                if isinstance(block, ResBlock):
                    block.add_film(z_dim)
        self.train()

    def train(self, mode: bool = True) -> NCSNpp:
        """As `nn.Module.train`, and the memory format that suits."""
        self.memory_format = memory_format(mode, next(self.parameters()).device)
        return super().train(mode).to(memory_format=self.memory_format)

    @property
    def frame_multiple(self) -> int:
        return 1 << (len(self.config.ch_mult) - 1)

    @property
    def enhancement_multiple(self) -> int:
        """Frames of a file are filled up to this multiple: 64 for every published network, however few its levels."""
        return max(64, self.frame_multiple)

    def forward(self, state: Tensor, cond: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        maps = torch.cat([state.real, state.imag, cond.real, cond.imag], dim=1)
        maps = maps.contiguous(memory_format=self.memory_format)
        if not self.config.centered:
            maps = 2 * maps - 1
        time = self.time(t)
        if self.embed is not None and z_r is not None:
            time = time + self.embed(z_r)
        time = F.silu(time)

        h, pyramid = self.stem(maps), maps
        output: Tensor | None = None
        skips = [h]
        for level in self.down:
            h, pyramid = level(h, pyramid, time, z_r, skips)
        h = self.middle(h, time, z_r)
        for level in self.up:
            h, output = level(h, output, time, z_r, skips)

        assert output is not None  # the last level has a head
        sigma = t[:, None, None, None]
        out = self.output(output / sigma if self.config.version == "v1" else output).to(state.real.dtype)
        if self.config.version == "48k":
            out = out / sigma
        return torch.complex(out[:, :1], out[:, 1:])
