"""Encoders of a noise clip: one row a kind. No torch is loaded for the names alone.

A row is a function `(z_dim, sample_rate, spectrogram) -> module`; the module is called `(spec complex (B, 1, F, Tr),
frames (B,)) -> (B, z_dim)`, and frames beyond the valid ones of an item must not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from nrmodel.diffusion.spectrogram import Spectrogram

Encoder = Callable[[int, int, "Spectrogram"], "nn.Module"]


def conv(z_dim: int, sample_rate: int, spectrogram: Spectrogram) -> nn.Module:
    from nrmodel.network.clip_encoders import ConvEncoder

    return ConvEncoder(z_dim, spectrogram.bins)


def stats(z_dim: int, sample_rate: int, spectrogram: Spectrogram) -> nn.Module:
    from nrmodel.network.clip_encoders import StatsEncoder

    return StatsEncoder(z_dim, sample_rate, spectrogram)


ENCODERS: dict[str, Encoder] = {"conv": conv, "stats": stats}
