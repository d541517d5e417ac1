"""The channel's members by their physics: sums stay sums, nothing is delayed, levels are as stated, clips go along."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import RATE, noise, speech

from nrdata.errors import UserError
from nrdata.sampling import channel
from nrdata.sampling.channel import CODECS, NAMED, SHARES, Channel, apply, draw_channel, named

LINEAR = [name for name, member in NAMED.items() if member.linear]
ONE_BIT = 2.0**-15


def white(seconds: float = 1.0, seed: int = 0, rms: float = 0.05) -> np.ndarray:
    return (rms * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def tone(hz: float, seconds: float = 1.0, peak: float = 0.1) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def alone(member: Channel, x: np.ndarray) -> np.ndarray:
    return apply(member, x, [], [], RATE)[0]


def gain_db(member: Channel, hz: float) -> float:
    x = tone(hz)
    middle = slice(RATE // 4, 3 * RATE // 4)
    y = alone(member, x)
    return 20 * float(np.log10(max(np.std(y[middle]), 1e-9) / np.std(x[middle])))


@pytest.mark.parametrize("name", [*LINEAR, "agc"])
def test_noisy_stays_clean_plus_noise_within_16_bits(name):
    clean, rest = speech(1.0), noise(1.0)
    noisy, (clean_out, rest_out), _ = apply(named(name), clean + rest, [clean, rest], [], RATE)
    assert np.abs(noisy - clean_out - rest_out).max() < ONE_BIT


@pytest.mark.parametrize("name", NAMED)
def test_nothing_is_delayed_and_lengths_stay(name):
    x = speech(1.0) * 0.5 + white(seed=3, rms=0.02)
    y, (part,), (clip,) = apply(named(name), x, [x[: len(x)]], [x[:7001]], RATE)
    assert len(y) == len(part) == len(x) and len(clip) == 7001
    product = np.fft.irfft(np.fft.rfft(y, 2 * len(x)) * np.conj(np.fft.rfft(x, 2 * len(x))))
    assert int(np.argmax(product)) == 0


@pytest.mark.parametrize("name", LINEAR)
def test_a_kilohertz_passes_linear_members_at_the_stated_level(name):
    assert gain_db(named(name), 1000.0) == pytest.approx(named(name).gain_db, abs=0.2)


@pytest.mark.parametrize("name", NAMED)
def test_a_clip_of_the_mixture_goes_through_the_same_numbers(name):
    x = speech(1.0)
    y, (part,), (clip,) = apply(named(name), x, [x], [x], RATE)
    assert clip == pytest.approx(y, abs=ONE_BIT) and part == pytest.approx(y, abs=ONE_BIT)


@pytest.mark.parametrize(
    "member, hz, expected, tolerance",
    [
        (Channel(rate=8000), 4600, -60, 60), (Channel(rate=11025), 6500, -60, 60), (Channel(rate=48000), 3000, 0, 0.1),
        (Channel(rate=44100), 7400, 0, 0.1), (Channel(rate=22050), 7000, 0, 0.1), (Channel(rate=24000), 7000, 0, 0.1),
        (Channel(band_hz=(0.0, 4000.0)), 3000, 0, 0.2), (Channel(band_hz=(0.0, 4000.0)), 6000, -56, 4),
        (Channel(band_hz=(300.0, 3400.0)), 100, -76, 5), (Channel(tilt_db=-12.0), 8000 * 0.9, -11.4, 0.3),
        (Channel(tilt_db=12.0), 500, -4, 0.2), (Channel(microphone_db=(6.0, 0.0, 0.0)), 60, 6, 0.5),
        (Channel(gain_db=-30.0), 2000, -30, 0.01),
    ],
)  # fmt: skip
def test_linear_members_do_what_they_say(member, hz, expected, tolerance):
    if tolerance == 60:  # gone, however deep
        assert gain_db(member, hz) < -40
    else:
        assert gain_db(member, hz) == pytest.approx(expected, abs=tolerance)


def test_clipping_is_at_a_share_of_the_mixtures_peak_and_the_target_is_clean_clipped_there():
    clean, rest = speech(1.0), noise(1.0)
    noisy, (target,), (clip,) = apply(Channel(clip=0.4), clean + rest, [clean], [rest[:5000]], RATE)
    threshold = np.float32(0.4 * np.abs(clean + rest).max())
    assert np.abs(noisy).max() == threshold and (np.abs(noisy) == threshold).sum() > 10
    assert np.array_equal(target, np.clip(clean, -threshold, threshold))
    assert np.array_equal(clip, np.clip(rest[:5000], -threshold, threshold))


def test_automatic_gain_lifts_what_is_quiet_by_the_same_gain_in_mixture_and_target():
    quiet = np.where(np.arange(2 * RATE) < RATE, np.float32(1.0), np.float32(0.1)) * white(2.0)
    clean = tone(700, 2.0, 0.01)
    noisy, (target,), _ = apply(Channel(agc=0.5, agc_seconds=0.05), quiet, [clean], [], RATE)
    loud, soft = slice(0, 12000), slice(20000, None)
    halves = [20 * np.log10(np.std(noisy[part]) / np.std(quiet[part])) for part in (loud, soft)]
    assert halves[0] == pytest.approx(0.5, abs=1.0) and halves[1] - halves[0] == pytest.approx(10, abs=1)
    gain = noisy / quiet
    assert np.allclose(target, gain * clean, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_the_sound_roughly_and_code_the_target_alone(name):
    clean, rest = speech(1.0), noise(1.0, 1)
    noisy, (target,), _ = apply(Channel(codec=name), clean + rest, [clean], [], RATE)
    assert not np.array_equal(noisy, clean + rest)
    scale = channel.PEAK / float(np.abs(clean + rest).max())
    assert np.array_equal(target, channel.through_codec(clean, name, RATE, scale))
    error = target - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(error**2)) > 4  # a low rate, not another sound


def test_silence_comes_out_as_silence_or_nearly():
    for name, member in NAMED.items():
        y, (part,), _ = apply(member, np.zeros(8000, np.float32), [np.zeros(8000, np.float32)], [], RATE)
        assert np.abs(y).max(initial=0) < 1e-4 and np.isfinite(y).all() and np.isfinite(part).all(), name


def test_draws_are_keyed_and_reach_every_member():
    drawn = [draw_channel(np.random.default_rng(i)) for i in range(600)]
    assert drawn == [draw_channel(np.random.default_rng(i)) for i in range(600)]
    shares = {
        "rate": lambda c: c.rate and c.band_hz[1] == np.inf and not c.codec,
        "low-pass": lambda c: c.band_hz[0] == 0 and c.band_hz[1] < np.inf,
        "agc": lambda c: c.agc, "clipping": lambda c: c.clip < 1, "codec": lambda c: c.codec,
    }  # fmt: skip
    for kind, found in shares.items():
        share = np.mean([bool(found(c)) for c in drawn])
        assert share == pytest.approx(SHARES[kind], abs=0.05) and share > 0, kind


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="'walkie-talkie' is unknown: choose from 8k"):
        named("walkie-talkie")
