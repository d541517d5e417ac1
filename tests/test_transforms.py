"""Crops, gains, filters, and the decoder for stock pipelines."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.errors import UserError
from nrdata.sampling.transforms import apply_eq, crop_start, decode_audio, draw_eq, noise_gain, sounding_start

RATE = 16000


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 9))
def test_crop_start(frames, crop, seed):
    start = crop_start(frames, crop, np.random.default_rng(seed))
    assert start == 0 if frames <= crop else 0 <= start <= frames - crop


def test_crop_start_reaches_both_ends():
    rng = np.random.default_rng(0)
    assert {crop_start(5, 3, rng) for _ in range(100)} == {0, 1, 2}


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0]), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 9))
def test_sounding_start(values, crop, seed):
    sound = np.array(values, np.float32)
    start = sounding_start(sound, crop, np.random.default_rng(seed))
    if start is None:
        assert not sound.any()
    else:
        assert 0 <= start <= max(len(sound) - crop, 0) and sound[start : start + crop].any()


@settings(deadline=None)
@given(st.floats(-30, 60), st.floats(1e-4, 1), st.floats(1e-4, 1))
def test_noise_gain_gives_the_snr(snr_db, clean_level, noise_level):
    rng = np.random.default_rng(0)
    clean = (clean_level * rng.standard_normal(500)).astype(np.float32)
    noise = (noise_level * rng.standard_normal(500)).astype(np.float32)
    scaled = noise * noise_gain(clean, noise, snr_db)
    assert 10 * np.log10(np.sum(clean**2) / np.sum(scaled**2)) == pytest.approx(snr_db, abs=1e-3)


def test_noise_gain_of_silence():
    silence, sound = np.zeros(9, np.float32), np.ones(9, np.float32)
    assert noise_gain(silence, sound, 5) == noise_gain(sound, silence, 5) == 1


def test_eq_is_the_drawn_curve():
    """A tone at a drawn point changes by that point's gain; zero gains change nothing; it is linear."""
    rng = np.random.default_rng(1)
    gains = draw_eq(rng)
    assert np.abs(gains).max() <= 10 and np.ptp(gains) > 5
    points = np.geomspace(60, RATE / 2, len(gains))
    time = np.arange(2 * RATE) / RATE
    for point, gain_db in list(zip(points, gains, strict=True))[1:-1]:
        tone = np.sin(2 * np.pi * point * time).astype(np.float32)
        middle = slice(RATE // 2, -RATE // 2)
        out = apply_eq(tone, gains, RATE)[middle]
        assert 20 * np.log10(np.std(out) / np.std(tone[middle])) == pytest.approx(gain_db, abs=0.3)
    noise = rng.standard_normal(16001).astype(np.float32)
    assert apply_eq(noise, np.zeros(8), RATE) == pytest.approx(noise, abs=1e-5)
    assert apply_eq(3 * noise, gains, RATE) == pytest.approx(3 * apply_eq(noise, gains, RATE), abs=1e-4)
    assert apply_eq(noise, gains, RATE).dtype == np.float32


@pytest.mark.parametrize("frames", [1, 2, 255, 4000, 33333])
def test_eq_is_the_same_filter_at_any_length(frames):
    """A part of a long sound, filtered, is the part of the filtered long sound, away from its edges."""
    rng = np.random.default_rng(2)
    gains, noise = draw_eq(rng), rng.standard_normal(60000).astype(np.float32)
    part = apply_eq(noise[10000 : 10000 + frames], gains, RATE)
    assert len(part) == frames
    inner = slice(1600, frames - 1600)
    whole = apply_eq(noise, gains, RATE)[10000 : 10000 + frames]
    if frames > 3200:
        assert np.sqrt(np.mean((part - whole)[inner] ** 2)) < 0.02 * np.std(whole)


@pytest.mark.parametrize("at", [0, -1])
def test_eq_does_not_wrap_around(at):
    """A click at one end does not come back at the other, also where the length suits the FFT."""
    click = np.zeros(32768, np.float32)
    click[at] = 1
    out = apply_eq(click, draw_eq(np.random.default_rng(3)), RATE)
    far = out[:16384] if at else out[16384:]
    assert np.sum(out**2) > 0.1 and np.sum(far**2) < 1e-4


def encoded(samples: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype="VORBIS" if kind == "OGG" else "PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG"])
def test_decode_audio(kind):
    samples = np.sin(np.arange(1600) / 20).astype(np.float32) / 2
    decoded, rate = decode_audio(f".noisy.{kind.lower()}", encoded(samples, kind))
    assert rate == RATE and decoded.dtype == np.float32 and decoded.shape == (1600,)
    assert np.abs(decoded - samples).max() < (0.1 if kind == "OGG" else 1e-4)
    stereo, _ = decode_audio(".WAV", encoded(np.stack([samples, -samples], 1), "WAV"))
    assert stereo.shape == (1600, 2)


def test_decode_audio_leaves_or_refuses_the_rest():
    assert decode_audio(".json", b"{}") is None
    with pytest.raises(UserError, match=r"member '\.clean\.flac' cannot be decoded"):
        decode_audio(".clean.flac", b"fLaC")
    for name in (".pkl", ".pickle", ".pyd", ".x.PTH"):
        with pytest.raises(UserError, match="can run any code"):
            decode_audio(name, b"")
