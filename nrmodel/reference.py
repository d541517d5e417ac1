"""From a noise clip to z_r: level removed, an embedding (`conv` or `stats`), and the clip's spectrum.

z_r is one vector an utterance, `(B, z_dim)` or, with `spectrum`, `(B, z_dim + F + 1)`: the embedding, the clip's mean
compressed magnitude in each bin (its mean over bins set to 0.05), and a flag of one. The null reference is a learned
embedding with zeros and flag 0 behind it. Where the model has the switch (`keep`), a learned vector, zero at first, is
added to the embedding of a clip whose noise alone is to go. Clips may be padded with zeros at their end: only frames
that lie whole inside the clip count, so that a clip gives the same z_r alone and in any batch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata.errors import UserError
from nrmodel.spectrogram import Spectrogram, _window

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
        ref = F.pad(ref.float(), (0, max(0, spectrogram.n_fft - ref.shape[-1])))
        window = _window(spectrogram.window, spectrogram.n_fft, ref.device)
        spec = torch.stft(
            ref, spectrogram.n_fft, spectrogram.hop, spectrogram.n_fft, window, center=False, return_complex=True
        )
        return spectrogram.compress(spec[:, None])


def _mask(x: Tensor, frames: Tensor) -> Tensor:
    """Zero beyond each item's valid frames (last axis)."""
    inside = torch.arange(x.shape[-1], device=x.device) < frames[:, None]
    return x * inside.view(x.shape[0], *([1] * (x.dim() - 2)), x.shape[-1])


def _mean_and_deviation(x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
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
            nn.Conv2d(a, b, 3, stride=(2, 2 if i else 1), padding=1)
            for i, (a, b) in enumerate(pairwise(widths))
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
        mean, deviation = _mean_and_deviation(h, frames)
        pooled = torch.cat([mean, deviation], dim=1)
        return self.out(F.adaptive_avg_pool1d(pooled, self.rows).flatten(1))


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
        mean, deviation = _mean_and_deviation(mel, frames)
        return self.out(F.silu(self.hidden(torch.cat([mean / 4 + 1, deviation], dim=1))))


def spectrum(spec: Tensor, frames: Tensor) -> Tensor:
    """Mean compressed magnitude of a clip in each bin, its mean over bins set to 0.05: `(B, F)`."""
    mean = _mean_and_deviation(spec[:, 0].abs(), frames)[0]
    return mean * (_SPECTRUM_MEAN / mean.mean(-1, keepdim=True).clamp(min=1e-6))


class Reference(nn.Module):
    """Encoder, learned null and the clip's spectrum behind one call: clips -> z_r."""

    def __init__(
        self, kind: str, z_dim: int, with_spectrum: bool, sample_rate: int, spectrogram: Spectrogram, keep: bool = False
    ):
        super().__init__()
        if kind == "conv":
            self.encoder: nn.Module = ConvEncoder(z_dim, spectrogram.bins)
        elif kind == "stats":
            self.encoder = StatsEncoder(z_dim, sample_rate, spectrogram)
        else:
            raise UserError(f"encoder '{kind}' is unknown: conv or stats")
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

        `keep` bool (B,): which clips say that only their noise goes. Raises `UserError` where the model has no switch.
        """
        frames = clip_frames(samples, self.spectrogram)
        spec = clip_spectrogram(normalise(ref, samples), self.spectrogram)
        z_r = self.encoder(spec, frames)
        if keep is not None:
            if self.keep_embedding is None:
                raise UserError("this model was not trained to keep the rest: take one that was (nr train --keep)")
            z_r = z_r + keep[:, None] * self.keep_embedding
        if self.with_spectrum:
            z_r = torch.cat([z_r, spectrum(spec, frames), torch.ones_like(z_r[:, :1])], dim=1)
        return torch.where((frames > 0)[:, None], z_r, self.null(len(ref)))
