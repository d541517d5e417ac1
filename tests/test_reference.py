"""Noise encoders: what must not matter (padding, level, sign) and what must (the clip)."""

import pytest
import torch

from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.network.reference import Reference, clip_frames, normalise, spectrum

SPEC = Spectrogram()


def clip(seed, samples=8000):
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(seed)) * 0.03


def reference(kind, with_spectrum=True):
    torch.manual_seed(0)
    return Reference(kind, 32, with_spectrum, 16000, SPEC).eval()


@pytest.mark.parametrize("kind", ["conv", "stats"])
@torch.no_grad()
def test_a_clip_gives_the_same_alone_and_padded_in_a_batch(kind):
    model = reference(kind)
    short, long = clip(1, 5003), clip(2, 16000)
    batch = torch.zeros(2, 16000)
    batch[0, :5003], batch[1] = short[0], long[0]
    together = model(batch, torch.tensor([5003, 16000]))
    alone = torch.cat([model(short, torch.tensor([5003])), model(long, torch.tensor([16000]))])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["conv", "stats"])
@torch.no_grad()
def test_level_does_not_matter_and_the_clip_does(kind):
    model, n = reference(kind), torch.tensor([8000])
    z = model(clip(1), n)
    assert torch.allclose(model(3.0 * clip(1), n), z, atol=1e-4)
    shaped = clip(1).cumsum(-1) * 0.05
    assert (model(shaped, n) - z).abs().max() > 0.01


@torch.no_grad()
def test_conv_does_not_cancel_phases():
    """The mean of a stationary clip's complex STFT is near zero; what is pooled must not be: two noises with different
    spectra stay apart at any length."""
    model = reference("conv", False)
    white, red = clip(1, 32000), clip(1, 32000).cumsum(-1) * 0.05
    red = red - red.mean()
    apart = (model(white, torch.tensor([32000])) - model(red, torch.tensor([32000]))).norm()
    same = (model(white, torch.tensor([32000])) - model(clip(3, 32000), torch.tensor([32000]))).norm()
    assert apart > 5 * same


@torch.no_grad()
def test_null_and_too_short_clips():
    model = reference("conv")
    model.null_embedding.add_(1.0)
    batch = torch.zeros(3, 8000)
    batch[0] = clip(1)[0]
    z = model(batch, torch.tensor([8000, 0, 400]))
    assert torch.equal(z[1:2], model.null(1)) and torch.equal(z[2:], model.null(1))
    assert z[0, -1] == 1 and z[1, -1] == 0 and z[1, 32:].abs().max() == 0


@torch.no_grad()
def test_silence_stays_finite():
    z = reference("conv")(torch.zeros(1, 8000), torch.tensor([8000]))
    assert torch.isfinite(z).all()
    assert normalise(torch.full((1, 100), 1e-9), torch.tensor([100])).abs().max() < 1e-4


@torch.no_grad()
def test_spectrum_is_level_free_and_shaped():
    from nrmodel.network.reference import clip_spectrogram

    t = torch.arange(16000) / 16000
    tone = 0.05 * torch.sin(2 * torch.pi * 1000 * t)[None]
    n = torch.tensor([16000])
    r = spectrum(clip_spectrogram(tone, SPEC), clip_frames(n, SPEC))
    assert abs(r.mean() - 0.05) < 1e-6
    assert abs(int(r.argmax()) - round(1000 / (16000 / 510))) <= 1


def test_gradients_reach_encoder_and_null():
    model = reference("conv").train()
    z = model(torch.cat([clip(1), clip(2)]), torch.tensor([8000, 0]))
    z.square().sum().backward()
    assert model.encoder.convs[0].weight.grad.abs().sum() > 0
    (model.null(1) - 1).square().sum().backward()
    assert model.null_embedding.grad.abs().sum() > 0
