"""Models for tests of what surrounds a model: a local one whose right answer is known, and a tiny real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nrmodel import checkpoint
from nrmodel.config import preset
from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.model import Model, loudness
from nrmodel.network.compact import CompactConfig


class Local:
    """Passes sound through a short filter (so that windows can be compared with the whole), and adds `noise_gain` times
    the sampler's noise of each frame, held for a hop. Keeps what it was asked."""

    def __init__(self, sample_rate: int = 16000, taps: tuple[float, ...] = (1.0,), noise_gain: float = 0.0):
        self.sample_rate, self.taps, self.noise_gain = sample_rate, taps, noise_gain
        self.spectrogram, self.device = Spectrogram(), torch.device("cpu")
        self.takes_reference, self.level_is_peak = True, False
        self.digest, self.nfe = "0" * 64, 1
        self.windows: list[torch.Tensor] = []
        self.conditions: list[torch.Tensor] = []

    def level(self, waves):
        return loudness(waves)

    def null(self, batch):
        return torch.zeros(batch, 1)

    def embed(self, ref, sample_rate, keep_rest=False):
        assert sample_rate == self.sample_rate
        return torch.tensor([[float(np.sqrt(np.mean(ref**2)))]])

    def enhance_window(self, noisy, z_r, nfe, noise, sampler="budget"):
        self.windows.append(noisy)
        self.conditions.append(z_r)
        out = torch.zeros_like(noisy)
        for delay, tap in enumerate(self.taps):
            out[:, delay:] += tap * noisy[:, : noisy.shape[1] - delay]
        if self.noise_gain:
            frames = noisy.shape[1] // 128 + 1
            z = noise((len(noisy), 1, 4, frames)).real[:, 0, 0]
            out += self.noise_gain * z.repeat_interleave(128, dim=1)[:, : noisy.shape[1]]
        return out


def tiny_model(conditioning: str = "spectrum") -> Model:
    """A real network of 8 and 16 channels whose zero-initialised heads have been given weights."""
    network = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)
    model = Model(preset("nano", network=network, conditioning=conditioning, z_dim=8))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() == 0:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def tiny_checkpoint(folder: Path, conditioning: str = "spectrum") -> Path:
    """`tiny_model` as a file."""
    model = tiny_model(conditioning)
    path = folder / f"tiny-{conditioning}.safetensors"
    checkpoint.save_model(path, model.state_dict(), model.config)
    return path
