"""Noisy minus clean: what is noise passes, whatever its level; what is none is named, and undone where it can be."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import RATE, noise, speech, spoken

from nrdata.audio.pairing import mended, pairing


def mixed(snr_db: float, seconds: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    clean, bed = speech(seconds, seed), noise(seconds, seed % 3, seed)
    bed = bed * np.sqrt(np.sum(clean**2) / np.sum(bed**2)) * 10 ** (-snr_db / 20)
    return clean, (clean + bed).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-20.0, -5.0, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("seconds", [0.3, 1.2, 3.0])
def test_a_mixture_passes_at_any_level_and_length(snr_db, seconds):
    for seed in range(3):
        assert not pairing(*mixed(snr_db, seconds, seed), RATE).fault


def test_another_voice_is_noise():
    clean = speech(3.0, 1)
    assert not pairing(clean, clean + speech(3.0, 2), RATE).fault


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.2, -1.0, 32768.0, 1 / 32768])
def test_one_scale_is_told_with_its_number_and_undone(scale):
    clean, noisy = mixed(5.0)
    found = pairing(clean, scale * noisy, RATE)
    assert found.fault == ("integers" if abs(np.log2(abs(scale))) > 8 else "scaled") and found.mendable
    assert found.scale == pytest.approx(scale, rel=0.01) and f"{found.scale:.4g}" in str(found)
    assert not pairing(*mended(clean, scale * noisy, found), RATE).fault


@pytest.mark.parametrize("delay", [3, 800, -800])
def test_one_delay_is_told_with_its_number_and_undone(delay):
    clean, noisy = mixed(5.0)
    late = np.roll(noisy, delay)
    found = pairing(clean, late, RATE)
    assert (found.fault, found.delay, found.mendable) == ("delayed", delay, True)
    assert f"{abs(delay)} samples" in str(found) and ("late" if delay > 0 else "early") in str(found)
    assert not pairing(*mended(clean, late, found), RATE).fault


def slow_gain(x: np.ndarray) -> np.ndarray:
    return x * 10 ** (6 * np.sin(2 * np.pi * 0.5 * np.arange(len(x)) / RATE) / 20)


def low_pass(x: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(x)
    spectrum[len(spectrum) // 8 :] *= 0.1
    return np.fft.irfft(spectrum, len(x))


def automatic_gain(x: np.ndarray) -> np.ndarray:
    """Brings a fifth of a second half-way, in dB, to one level."""
    level = np.sqrt(np.convolve(x**2, np.ones(3200) / 3200, "same") + 1e-8)
    return x * np.clip(np.sqrt(0.05 / level), 0.3, 3)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 5.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_loud_noise_hides_no_fault(snr_db, seed):
    """The true pair passes, and of each fault the kind is told, so that nothing is undone that cannot be."""
    clean, bed, other = spoken(3.0, seed), noise(3.0, seed, seed), spoken(3.0, seed + 50)
    bed = bed * np.sqrt(np.sum(clean**2) / np.sum(bed**2)) * 10 ** (-snr_db / 20)
    noisy = clean + bed
    assert not pairing(clean, noisy, RATE).fault
    half = pairing(clean, 0.5 * noisy, RATE)
    assert (half.fault, half.delay, half.mendable) == ("scaled", 0, True) and half.scale == pytest.approx(0.5, rel=0.02)
    late = pairing(clean, np.concatenate([np.zeros(37), noisy[:-37]]), RATE)
    assert (late.fault, late.delay, late.mendable) == ("delayed", 37, True)
    assert pairing(clean, other + bed, RATE).fault == "unrelated"
    found = pairing(clean, slow_gain(noisy), RATE)
    assert (found.fault, found.mendable) == ("gain", False)
    found = pairing(clean, automatic_gain(noisy), RATE)
    # Where steady noise drowns the voice, an automatic gain hardly moves: a scale is what is left of it.
    assert found.fault == "gain" if snr_db > -5 else found.fault in ("gain", "scaled")


@pytest.mark.parametrize(("harm", "kind"), [(slow_gain, "gain"), (low_pass, "filtered")])
def test_what_cannot_be_undone_says_so(harm, kind):
    clean, noisy = mixed(15.0, 4.0)
    found = pairing(clean, harm(noisy), RATE)
    assert found.fault == kind and not found.mendable


def test_another_utterance_is_unrelated():
    found = pairing(speech(3.0, 8), mixed(5.0)[1], RATE)
    assert found.fault == "unrelated" and not found.mendable
