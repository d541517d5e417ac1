"""The encoders' modules: a clip's spectrogram -> one vector (called as nrmodel.network.encoders says)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata.errors import UserError
from nrmodel.diffusion.spectrogram import Spectrogram


def _mask(x: Tensor, frames: Tensor) -> Tensor:
    """Zero beyond each item's valid frames (last axis)."""
    inside = torch.arange(x.shape[-1], device=x.device) < frames[:, None]
    return x * inside.view(x.shape[0], *([1] * (x.dim() - 2)), x.shape[-1])


def mean_and_deviation(x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the valid frames of the last axis."""
    count = frames.clamp(min=1).view(-1, *([1] * (x.dim() - 2)))
    mean = _mask(x, frames).sum(-1) / count
    deviation = _mask((x - mean[..., None]) ** 2, frames).sum(-1) / count
    return mean, (deviation + 1e-8).sqrt()


class ConvEncoder(nn.Module):
    """Complex STFT -> z. Frequency structure is kept (16 rows); SiLU stands before time is pooled, so that phases do
    not cancel; mean and deviation over time."""

    def __init__(self, z_dim: int, bins: int, width: int = 32, rows: int = 16):
        super().__init__()
        widths = (3, width, width * 2, width * 2)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=(2, 2 if i else 1), padding=1) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.rows = rows
        self.out = nn.Linear(2 * widths[-1] * rows, z_dim)

    def forward(self, spec: Tensor, frames: Tensor) -> Tensor:
        """Complex `(B, 1, F, Tr)`, valid `frames (B,)` -> `(B, z_dim)`."""
        re, im = spec.real / 0.1, spec.imag / 0.1
        h = torch.cat([re, im, torch.sqrt(re**2 + im**2 + 1e-6)], dim=1)
        for i, conv in enumerate(self.convs):
            h = F.silu(conv(_mask(h, frames)))
            if i:
                frames = (frames + 1) // 2
        mean, deviation = mean_and_deviation(h, frames)
        pooled = torch.cat([mean, deviation], dim=1)
        z: Tensor = self.out(F.adaptive_avg_pool1d(pooled, self.rows).flatten(1))
        return z


class StatsEncoder(nn.Module):
    """Log-Mel mean and deviation over time (48 bands) and a two-layer perceptron: what a learned encoder must beat."""

    def __init__(self, z_dim: int, sample_rate: int, spectrogram: Spectrogram, bands: int = 48):
        super().__init__()
        try:
            from torchaudio.functional import melscale_fbanks
        except (ImportError, OSError) as e:
            raise UserError(
                f"torchaudio does not load beside this torch ({type(e).__name__}): "
                "install a matching pair, or take --encoder conv"
            ) from e
        bank = melscale_fbanks(spectrogram.bins, 20.0, sample_rate / 2, bands, sample_rate)
        self.register_buffer("bank", bank, persistent=False)
        self.spectrogram = spectrogram
        self.hidden = nn.Linear(2 * bands, 128)
        self.out = nn.Linear(128, z_dim)

    def forward(self, spec: Tensor, frames: Tensor) -> Tensor:
        """Complex `(B, 1, F, Tr)`, valid `frames (B,)` -> `(B, z_dim)`."""
        power = self.spectrogram.expand(spec).abs().square()[:, 0]
        mel = torch.log(torch.einsum("bft,fm->bmt", power, self.bank) + 1e-6)
        mean, deviation = mean_and_deviation(mel, frames)
        z: Tensor = self.out(F.silu(self.hidden(torch.cat([mean / 4 + 1, deviation], dim=1))))
        return z
