"""The upper band: exact where nothing is removed, silent where nothing is, the same in pieces, and cleaner."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest

from nrdata import audio
from nrmodel.enhancement import fullband
from nrmodel.enhancement.fullband import UpperBand, join_bands

MODEL = 16000


def white(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))).astype(np.float32)


def falling(x: np.ndarray, rate: int) -> np.ndarray:
    """A decibel less each kilohertz, as speech roughly is."""
    decibels = np.fft.rfftfreq(len(x), 1 / rate)[:, None] / 1000
    return np.fft.irfft(np.fft.rfft(x, axis=0) * 10 ** (-decibels / 20), len(x), axis=0).astype(np.float32)


def lowered(x: np.ndarray, rate: int) -> np.ndarray:
    """Through the model's rate and back."""
    low = audio.resample(audio.resample(x, rate, MODEL), MODEL, rate)[: len(x)]
    return np.pad(low, ((0, len(x) - len(low)), (0, 0)))


def joined(upper: UpperBand, x: np.ndarray, low: np.ndarray, enhanced: np.ndarray, size: int = 0) -> np.ndarray:
    """All of it in pieces of one size."""
    size = size or len(x)
    cuts = [slice(i, i + size) for i in range(0, len(x), size)]
    return np.concatenate([*(upper.feed(x[cut], low[cut], enhanced[cut]) for cut in cuts), upper.flush()])


def above(x: np.ndarray, rate: int, hertz: float = 8500) -> np.ndarray:
    """What lies above a frequency, mono."""
    spectrum = np.fft.rfft(x[:, 0])
    spectrum[np.fft.rfftfreq(len(x), 1 / rate) < hertz] = 0
    return np.fft.irfft(spectrum, len(x))


@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (44100, 2), (22050, 1)])
def test_a_model_that_removes_nothing_gives_the_recording_back(rate, channels):
    x = white(1.3, rate, channels)
    low = lowered(x, rate)
    y = joined(UpperBand(rate, channels, MODEL), x, low, low)
    assert y.shape == x.shape
    assert np.abs(y - x).max() < 1e-6  # across the seam, too: the sound is white


def test_gains_of_one_are_the_identity_whatever_the_model_did_below(monkeypatch):
    x = white(1.0, 48000)
    low = lowered(x, 48000)
    monkeypatch.setattr(fullband, "gains", lambda upper, *rest: np.ones_like(upper))
    y = joined(UpperBand(48000, 1, MODEL), x, low, 0.3 * low)
    assert np.abs(y - (x - 0.7 * low)).max() < 1e-6


@pytest.mark.parametrize("size", [1, 777, 48000])
def test_pieces_of_any_size_give_the_same(size):
    x = white(0.4 if size == 1 else 1.5, 48000, 2)
    low = lowered(x, 48000)
    whole = joined(UpperBand(48000, 2, MODEL, x[:9600], 48000), x, low, 0.2 * low)
    assert np.array_equal(joined(UpperBand(48000, 2, MODEL, x[:9600], 48000), x, low, 0.2 * low, size), whole)


def test_a_silent_upper_band_stays_silent():
    x = lowered(white(1.0, 48000) * np.hanning(48000)[:, None].astype(np.float32), 48000)  # no edges that would spread
    low = lowered(x, 48000)
    y = joined(UpperBand(48000, 1, MODEL), x, low, 0.5 * low)
    assert np.sqrt(np.mean(above(y, 48000) ** 2)) < 1e-5 * np.sqrt(np.mean(x**2))


def test_silence_is_silence_and_a_sound_shorter_than_a_frame_keeps_its_length():
    nothing = np.zeros((4800, 1), np.float32)
    assert not joined(UpperBand(48000, 1, MODEL), nothing, nothing, nothing).any()
    x = white(0.005, 48000)
    assert len(joined(UpperBand(48000, 1, MODEL), x, lowered(x, 48000), x)) == len(x)


@pytest.mark.parametrize("with_clip", [False, True])
def test_noise_above_goes_as_the_model_removes_it_below_and_speech_above_stays(with_clip):
    """Syllables of hiss, a quarter of a second each half, in white noise; the model below is perfect."""
    rate = 48000
    gate = np.arange(3 * rate) % (rate // 2) < rate // 4
    clean = falling(white(3.0, rate, seed=1), rate) * gate[:, None]
    noise = 0.3 * falling(white(3.0, rate, seed=2), rate)
    noisy = clean + noise
    clip = 0.3 * falling(white(1.0, rate, seed=3), rate) if with_clip else None
    y = joined(UpperBand(rate, 1, MODEL, clip, rate), noisy, lowered(noisy, rate), lowered(clean, rate))
    left, was = (above(sound - clean, rate) for sound in (y, noisy))
    place = np.arange(3 * rate) % (rate // 2) / rate
    pauses = (place > 0.3) & (place < 0.45) & (np.arange(3 * rate) > rate)  # in the first second it learns
    assert np.mean(left[pauses] ** 2) < 0.01 * np.mean(was[pauses] ** 2)  # 20 dB
    assert np.mean(left**2) < np.mean(was**2)
    assert np.mean(above(y, rate)[gate] ** 2) > 0.5 * np.mean(above(clean, rate)[gate] ** 2)


def test_loud_noise_that_has_no_lower_band_is_learnt_though_the_model_removes_next_to_nothing():
    rate = 48000
    clean = 0.1 * falling(white(3.0, rate, seed=1), rate) * (np.arange(3 * rate) % (rate // 2) < rate // 4)[:, None]
    noise = white(3.0, rate, seed=2)
    noisy = clean + noise - 0.997 * lowered(noise, rate)
    y = joined(UpperBand(rate, 1, MODEL), noisy, lowered(noisy, rate), 0.99 * lowered(clean, rate))
    assert np.mean(above(y, rate)[rate:] ** 2) < 0.1 * np.mean(above(noisy, rate)[rate:] ** 2)


def test_a_clip_without_an_upper_band_of_its_own_is_not_taken_for_silence_up_there():
    rate = 48000
    noisy, clip = white(1.0, rate), white(1.0, MODEL, seed=1)
    low = lowered(noisy, rate)
    with_it = joined(UpperBand(rate, 1, MODEL, clip, MODEL), noisy, low, 0.01 * low)
    without = joined(UpperBand(rate, 1, MODEL), noisy, low, 0.01 * low)
    assert np.array_equal(with_it, without)


def test_a_long_file_goes_through_in_blocks_without_being_held():
    """Twenty seconds at 48 kHz; `lower` halves its sound in windows of 4 s, as an enhancer does."""
    rate, seconds, block = 48000, 20, 48000
    piece = white(1.0, rate)
    alive, most = 0, 0

    def blocks():
        nonlocal alive, most
        for _ in range(seconds):
            alive += block
            most = max(most, alive - out)
            yield piece

    def lower(inside):
        held = []
        for x in inside:
            held.append(x)
            if len(held) == 4:
                yield 0.5 * np.concatenate(held)
                held = []
        if held:
            yield 0.5 * np.concatenate(held)

    out = 0
    for y in join_bands(blocks(), lower, rate, MODEL, UpperBand(rate, 1, MODEL)):
        out += len(y)
    assert out == seconds * rate
    assert most < 8 * rate


def test_blocks_give_what_the_whole_gives_and_a_model_that_changes_nothing_the_recording():
    rate = 44100
    x = white(2.0, rate, 2)

    def through(gain: float, *places: int) -> np.ndarray:
        parts = (x[a:b] for a, b in itertools.pairwise([0, *places, len(x)]))
        lower = lambda inside: (gain * block for block in inside)  # noqa: E731
        return np.concatenate(list(join_bands(parts, lower, rate, MODEL, UpperBand(rate, 2, MODEL))))

    assert np.abs(through(0.5, 1, 5000, 5001, 60000) - through(0.5)).max() < 1e-6
    y = through(1.0, 1, 5000, 5001, 60000)
    assert y.shape == x.shape
    assert np.abs(y - x).max() < 1e-6


def test_blocks_that_all_readers_have_had_are_let_go():
    """However many have gone by: of an hour at 48 kHz in minutes, 57 would be 0.65 GiB."""
    made: list[weakref.ref[np.ndarray]] = []

    def blocks():
        for _ in range(100):
            block = np.zeros((4800, 1), np.float32)
            made.append(weakref.ref(block))
            yield block

    most = 0
    for _ in join_bands(blocks(), lambda inside: inside, 48000, MODEL, UpperBand(48000, 1, MODEL)):
        most = max(most, sum(block() is not None for block in made))
    assert most < 10
