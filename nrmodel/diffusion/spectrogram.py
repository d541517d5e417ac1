"""Waves to compressed complex spectrograms and back (Richter et al. 2023, eq. 1; Welker et al. 2022).

X -> beta |X|^alpha e^(i angle X) on an STFT with 256 bins (n_fft 510), periodic window, centred, reflected ends.
Everything here runs in float32, outside of autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from nrdata.errors import check_known

_TINY = 1e-12  # inside |X|^2: keeps the gradient at silence finite, far below float32 parity


@lru_cache(maxsize=16)
def _window(name: str, n_fft: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept: made while enhancing, it must serve training too
        window = torch.hann_window(n_fft, periodic=True, device=device)
        return window.sqrt() if name == "sqrthann" else window


@dataclass(frozen=True)
class Spectrogram:
    """The transform's settings; `forward` and `inverse` are pure functions of a batch of waves."""

    n_fft: int = 510
    hop: int = 128
    window: str = "hann"  # or "sqrthann"
    transform: str = "exponent"  # or "log", "none"
    exponent: float = 0.5
    factor: float = 0.15

    def __post_init__(self) -> None:
        check_known("window", self.window, ("hann", "sqrthann"))
        check_known("transform", self.transform, ("exponent", "log", "none"))

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def frames(self, samples: int) -> int:
        """STFT frames of a wave of that many samples."""
        return 1 + samples // self.hop

    def stft(self, wave: Tensor) -> Tensor:
        """Real `(B, samples)` -> complex `(B, 1, F, T)`, T = 1 + samples // hop; any length from one sample."""
        with torch.autocast(wave.device.type, enabled=False):
            wave = wave.float()
            pad = self.n_fft // 2
            # Reflection needs more samples than it mirrors; only there zeros stand in, so that parity holds elsewhere.
            mode = "reflect" if wave.shape[-1] > pad else "constant"
            return self.frames_inside(F.pad(wave[:, None], (pad, pad), mode=mode)[:, 0])

    def frames_inside(self, wave: Tensor) -> Tensor:
        """Real `(B, samples)` -> complex `(B, 1, F, T)` of the windows that lie inside the wave, which is filled up
        with zeros to at least one."""
        with torch.autocast(wave.device.type, enabled=False):
            wave = F.pad(wave.float(), (0, max(0, self.n_fft - wave.shape[-1])))
            window = _window(self.window, self.n_fft, wave.device)
            return torch.stft(
                wave, self.n_fft, self.hop, self.n_fft, window, center=False, normalized=False, return_complex=True
            )[:, None]

    def istft(self, spec: Tensor, length: int) -> Tensor:
        """Complex `(B, 1, F, T)` -> real `(B, length)`."""
        with torch.autocast(spec.device.type, enabled=False):
            window = _window(self.window, self.n_fft, spec.device)
            return torch.istft(
                spec[:, 0], self.n_fft, self.hop, self.n_fft, window, center=True, normalized=False, length=length
            )

    def compress(self, spec: Tensor) -> Tensor:
        """beta |X|^alpha e^(i angle X), element by element."""
        if self.transform == "none":
            return spec
        if self.transform == "log":
            magnitude = _abs(spec)
            return spec * (self.factor * torch.log1p(magnitude) / magnitude)
        if self.exponent == 1.0:
            return spec * self.factor
        return spec * (self.factor * _abs(spec) ** (self.exponent - 1.0))

    def expand(self, spec: Tensor) -> Tensor:
        """The inverse of `compress`."""
        if self.transform == "none":
            return spec
        spec = spec / self.factor
        if self.transform == "log":
            magnitude = _abs(spec)
            return spec * (torch.expm1(magnitude) / magnitude)
        if self.exponent == 1.0:
            return spec
        return spec * _abs(spec) ** (1.0 / self.exponent - 1.0)

    def forward(self, wave: Tensor) -> Tensor:
        """Real `(B, samples)` -> compressed complex `(B, 1, F, T)`."""
        return self.compress(self.stft(wave))

    def inverse(self, spec: Tensor, length: int) -> Tensor:
        """Compressed complex `(B, 1, F, T)` -> real `(B, length)`."""
        return self.istft(self.expand(spec), length)


def _abs(spec: Tensor) -> Tensor:
    return torch.sqrt(spec.real**2 + spec.imag**2 + _TINY)
