"""From a noise clip to z_r: level removed, an embedding (nrmodel.network.encoders), and the clip's spectrum.

z_r is one vector an utterance, `(B, z_dim)` or, with `spectrum`, `(B, z_dim + F + 1)`: the embedding, the clip's mean
compressed magnitude in each bin (its mean over bins set to 0.05), and a flag of one. The null reference is a learned
embedding with zeros and flag 0 behind it. Where the model has the switch (`keep`), a learned vector, zero at first, is
added to the embedding of a clip whose noise alone is to go. Clips may be padded with zeros at their end: only frames
that lie whole inside the clip count, so that a clip gives the same z_r alone and in any batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata.errors import check_known
from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.network.clip_encoders import mean_and_deviation
from nrmodel.network.encoders import ENCODERS

REF_RMS = 0.05  # a clip is brought to this level
_RMS_FLOOR = 1e-4  # relative to full scale: silence stays silence
_SPECTRUM_MEAN = 0.05


def normalise(ref: Tensor, samples: Tensor) -> Tensor:
    """`(B, R)` clips, `samples (B,)` of them valid, each brought to RMS `REF_RMS` (silence stays silence)."""
    inside = torch.arange(ref.shape[-1], device=ref.device) < samples[:, None]
    ref = torch.where(inside, ref, 0.0)
    rms = (ref.square().sum(-1) / samples.clamp(min=1)).sqrt()
    return ref * (REF_RMS / rms.clamp(min=_RMS_FLOOR))[:, None]


def clip_frames(samples: Tensor, spectrogram: Spectrogram) -> Tensor:
    """STFT frames that lie whole inside a clip of `samples (B,)`; 0 for a clip shorter than one window."""
    return torch.where(samples >= spectrogram.n_fft, 1 + (samples - spectrogram.n_fft) // spectrogram.hop, 0)


def clip_spectrogram(ref: Tensor, spectrogram: Spectrogram) -> Tensor:
    """`(B, R)` -> compressed complex `(B, 1, F, Tr)`, not centred: no frame mirrors the clip's ends."""
    with torch.autocast(ref.device.type, enabled=False):
        return spectrogram.compress(spectrogram.frames_inside(ref))


def spectrum(spec: Tensor, frames: Tensor) -> Tensor:
    """Mean compressed magnitude of a clip in each bin, its mean over bins set to 0.05: `(B, F)`."""
    mean = mean_and_deviation(spec[:, 0].abs(), frames)[0]
    return mean * (_SPECTRUM_MEAN / mean.mean(-1, keepdim=True).clamp(min=1e-6))


class Reference(nn.Module):
    """Encoder, learned null and the clip's spectrum behind one call: clips -> z_r."""

    def __init__(
        self, kind: str, z_dim: int, with_spectrum: bool, sample_rate: int, spectrogram: Spectrogram, keep: bool = False
    ):
        super().__init__()
        check_known("encoder", kind, ENCODERS)
        self.encoder = ENCODERS[kind](z_dim, sample_rate, spectrogram)
        self.spectrogram, self.with_spectrum, self.z_dim = spectrogram, with_spectrum, z_dim
        self.null_embedding = nn.Parameter(torch.zeros(z_dim))
        self.keep_embedding = nn.Parameter(torch.zeros(z_dim)) if keep else None

    @property
    def size(self) -> int:
        """Length of z_r."""
        return self.z_dim + (self.spectrogram.bins + 1 if self.with_spectrum else 0)

    def null(self, batch: int) -> Tensor:
        """z_r of the null reference, `(batch, size)`."""
        return F.pad(self.null_embedding, (0, self.size - self.z_dim)).expand(batch, -1)

    def forward(self, ref: Tensor, samples: Tensor, keep: Tensor | None = None) -> Tensor:
        """Clips `(B, R)` at the model's rate, `samples (B,)` valid ones -> z_r `(B, size)`; 0 samples: null.

        `keep` bool (B,), where the model has the switch: which clips say that only their sound goes.
        """
        frames = clip_frames(samples, self.spectrogram)
        spec = clip_spectrogram(normalise(ref, samples), self.spectrogram)
        z_r = self.encoder(spec, frames)
        if keep is not None:
            assert self.keep_embedding is not None
            z_r = z_r + keep[:, None] * self.keep_embedding
        if self.with_spectrum:
            z_r = torch.cat([z_r, spectrum(spec, frames), torch.ones_like(z_r[:, :1])], dim=1)
        return torch.where((frames > 0)[:, None], z_r, self.null(len(ref)))
