"""What enhancement asks of a model: no more than this, so that a test's stand-in can be one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nrmodel.diffusion.sampler import Noise
from nrmodel.diffusion.spectrogram import Spectrogram


class Embedding(Tensor):
    """z_r `(1, D)` of one clip. A type of its own, so that the tensor of a wave is never taken for it; what is computed
    from it is a plain tensor again."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Model(Protocol):
    """Enhances waves at its own rate. z_r `(B, D)` is the embedded reference, D = 0 where the model takes none."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def spectrogram(self) -> Spectrogram: ...

    @property
    def nfe(self) -> int:
        """Network calls of a window, where none are asked for."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""

    @property
    def takes_reference(self) -> bool: ...

    @property
    def level_is_peak(self) -> bool:
        """Whether `level` is the largest sample of a wave, not its loudness."""

    def level(self, wave: Tensor) -> Tensor:
        """What waves `(B, samples)` are divided by, `(B,)`; 0 for silence."""

    def null(self, batch: int) -> Embedding:
        """z_r of the null reference, `(batch, D)`."""

    def embed(self, ref: np.ndarray, sample_rate: int, keep_rest: bool = False) -> Embedding:
        """z_r `(1, D)` of a clip `(samples,)`, taken as it is; `keep_rest`: only its sound is to go."""

    def enhance_window(
        self, noisy: Tensor, z_r: Tensor, nfe: int | None, noise: Noise, sampler: str = "budget"
    ) -> Tensor:
        """Waves `(B, samples)`, divided by their level, and z_r `(1 or B, D)` -> enhanced waves `(B, samples)`;
        `sampler` as in nrmodel.diffusion.choice."""
