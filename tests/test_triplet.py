"""Mixing: the sum is exact, the SNR is the asked one, nothing leaves the range."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.errors import UserError
from nrdata.store.triplet import KEY, Mixture, check_mixture, energy_snr_db, mix


@settings(max_examples=40, deadline=None)
@given(
    snr_db=st.floats(-20, 30),
    speech_gain=st.floats(0.02, 20),
    noise_gain_db=st.sampled_from([-30.0, 0.0, 30.0]),
    seed=st.integers(0, 5),
)
def test_the_sum_is_exact_and_the_snr_the_asked_one(snr_db, speech_gain, noise_gain_db, seed):
    clean = speech_gain * speech(0.5, seed)
    bed = 10 ** (noise_gain_db / 20) * noise(0.5, 1, seed)
    m = mix(clean, bed, snr_db, ref=bed[:2000])
    assert m.noisy16.dtype == m.clean16.dtype == m.noise16.dtype == np.int16
    assert np.array_equal(m.noisy16.astype(int), m.clean16.astype(int) + m.noise16.astype(int))
    assert check_mixture(m) == ""
    assert m.snr_db == energy_snr_db(m.clean16, m.noise16)
    # Quantising adds 1/12 of a step squared to each: under a level of a few steps the SNR is not the asked one.
    steps = min(np.sqrt(np.mean(x.astype(float) ** 2)) for x in (m.clean16, m.noise16))
    assert abs(m.snr_db - snr_db) < (0.05 if steps > 5 else 1.0)
    assert 0 < m.gain <= 1
    peak = max(np.abs(x.astype(int)).max() for x in (m.clean16, m.noise16, m.noisy16, m.ref16))
    assert peak <= 32767
    # one gain for all: the clip keeps its relation to the noise
    assert np.array_equal(m.ref16, m.noise16[:2000])


def test_half_pauses_do_not_change_what_snr_means():
    clean = np.concatenate([speech(0.5, 1), np.zeros(8000, np.float32)])
    for level_db in (-30, 0, 30):
        m = mix(clean, noise(1.0, 0, 3) * 10 ** (level_db / 20), 5.0)
        assert abs(m.snr_db - 5.0) <= 0.05


def test_integers_in_integers_out():
    rng = np.random.default_rng(0)
    clean16, noise16 = rng.integers(-16000, 16000, (2, 5000)).astype(np.int16)
    m = mix(clean16 / 32768, noise16 / 32768, None)
    assert m.gain == 1.0
    assert np.array_equal(m.clean16, clean16) and np.array_equal(m.noise16, noise16)


def test_without_an_snr_the_levels_stay():
    clean, bed = speech(0.3, 0), noise(0.3, 0)
    m = mix(4 * clean, 4 * bed, None)
    assert m.gain < 1
    assert abs(m.snr_db - energy_snr_db(clean, bed)) < 0.02


@pytest.mark.parametrize(
    ("clean", "bed", "ref", "kind"),
    [
        (np.ones(4), np.ones(5), None, "wrong_length"),
        (np.zeros((2, 2)), np.zeros((2, 2)), None, "wrong_length"),
        (np.zeros(0), np.zeros(0), None, "empty"),
        (np.ones(3), np.ones(3), np.zeros(0), "empty"),
        (np.array([0, np.nan, 1]), np.ones(3), None, "not_finite"),
        (np.ones(3), np.array([0, np.inf, 1]), None, "not_finite"),
        (np.zeros(3), np.ones(3), None, "silent_clean"),
        (np.ones(3), np.zeros(3), None, "silent_noise"),
        (np.ones(3), np.ones(3), np.zeros(3), "silent_ref"),
        (1e-6 * np.ones(3), 0.5 * np.ones(3), None, "silent_clean"),
    ],
)
def test_refusals_have_a_kind(clean, bed, ref, kind):
    with pytest.raises(UserError) as e:
        mix(clean, bed, None, ref)
    assert e.value.kind == kind


def test_extreme_snr_that_rounds_the_noise_away_is_refused():
    with pytest.raises(UserError) as e:
        mix(speech(0.2), noise(0.2), 120.0)
    assert e.value.kind == "silent_noise"


def test_check_mixture_finds_one_wrong_sample():
    m = mix(speech(0.2), noise(0.2), 0.0)
    noisy = m.noisy16.copy()
    noisy[7] += 1
    assert "in 1 samples" in check_mixture(Mixture(m.clean16, m.noise16, noisy, None, 1.0, 0.0))
    assert "lengths" in check_mixture(Mixture(m.clean16[1:], m.noise16, m.noisy16, None, 1.0, 0.0))
    assert "silent" in check_mixture(Mixture(m.clean16, m.noise16, m.noisy16, np.zeros(9, np.int16), 1.0, 0.0))


def test_wrapped_sum_is_no_sum():
    clean = np.full(4, 30000, np.int16)
    with np.errstate(over="ignore"):
        wrapped = clean + clean
    assert check_mixture(Mixture(clean, clean, wrapped, None, 1.0, 0.0)) != ""


@given(st.text(max_size=12))
def test_keys_are_plain(text):
    if KEY.fullmatch(text):
        assert text.isascii() and text == text.lower() and "." not in text and "/" not in text
