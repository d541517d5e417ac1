"""The transform: against its definition in numpy, both ways, at awkward lengths and for silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.errors import UserError
from nrmodel.diffusion.spectrogram import Spectrogram

KINDS = [
    Spectrogram(),
    Spectrogram(window="sqrthann"),
    Spectrogram(transform="log", factor=0.4),
    Spectrogram(transform="none"),
    Spectrogram(exponent=1.0),
    Spectrogram(n_fft=1534, hop=384, factor=0.065, exponent=0.667),
]


def wave(samples: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return 0.2 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_stft_is_its_definition(kind):
    """Reflected ends, periodic window, frames at multiples of the hop, a plain DFT of each."""
    x = wave(900)
    padded = np.pad(x[0].double().numpy(), kind.n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(kind.n_fft) / kind.n_fft)
    window = np.sqrt(window) if kind.window == "sqrthann" else window
    phases = np.exp(-2j * np.pi * np.outer(np.arange(kind.bins), np.arange(kind.n_fft)) / kind.n_fft)
    expected = np.stack([phases @ (window * padded[i : i + kind.n_fft]) for i in range(0, 900 + 1, kind.hop)], axis=1)
    got = kind.stft(x)
    assert got.shape == (1, 1, kind.bins, kind.frames(900)) == (1, 1, 256, 8)
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [2000, 4097, 12345])
def test_inverse_of_forward(kind, samples):
    x = wave(samples, batch=2)
    back = kind.inverse(kind.forward(x), samples)
    assert (back - x).abs().max() < 1e-6 * max(1.0, x.abs().max())


@given(st.integers(1, 900))
@settings(max_examples=40, deadline=None)
def test_any_length_from_one_sample(samples):
    kind = Spectrogram()
    x = wave(samples)
    spec = kind.forward(x)
    assert spec.shape[-1] == 1 + samples // 128
    if samples >= 256:
        assert (kind.inverse(spec, samples) - x).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_expand_undoes_compress_and_phases_stay(kind):
    generator = torch.Generator().manual_seed(0)
    spec = torch.randn(1, 1, 4, 5, dtype=torch.complex64, generator=generator)
    compressed = kind.compress(spec)
    torch.testing.assert_close(kind.expand(compressed), spec, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compressed.angle(), spec.angle(), rtol=1e-5, atol=1e-5)


def test_compression_by_hand():
    spec = torch.tensor([[[[-4.0 + 0j, 9j]]]])
    got = Spectrogram(exponent=0.5, factor=0.15).compress(spec)
    torch.testing.assert_close(got, torch.tensor([[[[-0.3 + 0j, 0.45j]]]]))
    got = Spectrogram(transform="log", factor=0.5).compress(spec)
    torch.testing.assert_close(
        got, torch.tensor([[[[-0.5 * np.log(5.0) + 0j, 0.5j * np.log(10.0)]]]]).to(torch.complex64)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_silence_with_a_finite_gradient(kind):
    x = torch.zeros(1, 3000, requires_grad=True)
    spec = kind.forward(x)
    assert not spec.abs().any()
    kind.inverse(spec, 3000).square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_autocast_does_not_reach_it():
    with torch.autocast("cpu", torch.bfloat16):
        spec = Spectrogram().forward(wave(3000))
        back = Spectrogram().inverse(spec, 3000)
    assert spec.dtype == torch.complex64
    assert (back - wave(3000)).abs().max() < 1e-6


@pytest.mark.parametrize("wrong", [{"window": "hamming"}, {"transform": "cube"}])
def test_an_unknown_kind_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong.values()))):
        Spectrogram(**wrong)
