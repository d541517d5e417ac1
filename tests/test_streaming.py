"""Sound fed piece by piece: the same whatever the pieces, on time, in bounded memory, without clicks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers import noise, speech
from stand_ins import Local, tiny_model

from nrdata.errors import UserError
from nrmodel.enhancement.enhance import ReferenceWarning
from nrmodel.enhancement.interface import Embedding
from nrmodel.enhancement.streaming import Stream


def through(stream: Stream, x: np.ndarray, size: int) -> np.ndarray:
    parts = [stream.feed(x[i : i + size]) for i in range(0, len(x), size)]
    return np.concatenate([*parts, stream.flush()])


def talk(seconds: float, rate: int = 16000, channels: int = 0) -> np.ndarray:
    x = speech(seconds, rate=rate) + 0.3 * noise(seconds, rate=rate)
    return np.stack([x] * channels, axis=1) * np.linspace(1, 0.5, channels, dtype=np.float32) if channels else x


@pytest.mark.parametrize(("rate", "channels"), [(8000, 0), (16000, 1), (22050, 0), (44100, 2), (48000, 0)])
def test_a_model_that_changes_nothing_gives_the_sound_back_at_its_length(rate, channels):
    x = talk(2.3, rate, channels)
    y = through(Stream(Local(), rate), x, 1000)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    inside = slice(None) if rate >= 16000 else slice(400, -400)  # up and down again: the last hertz are lost
    assert np.abs(y - x)[inside].max() < (1e-5 if rate >= 16000 else 5e-3)


def test_pieces_of_any_size_give_the_same():
    x = talk(2.0, 48000)
    whole = through(Stream(tiny_model(), 48000), x, len(x))
    for size in (331, 9600, 70000):
        assert np.array_equal(through(Stream(tiny_model(), 48000), x, size), whole)


@pytest.mark.parametrize(("rate", "full_band"), [(16000, True), (48000, True), (48000, False), (44100, True)])
def test_the_latency_is_the_stated_one(rate, full_band):
    """Sample by sample, in steps of 1 ms or less: how far the output is behind, at most."""
    stream = Stream(Local(), rate, chunk_seconds=0.25, full_band=full_band)
    x, fed, given, behind = talk(1.5, rate), 0, 0, 0
    step = 16
    for i in range(0, len(x) - step, step):
        given += len(stream.feed(x[i : i + step]))
        fed += step
        behind = max(behind, fed - given)
    stated = round(stream.latency_seconds * rate)
    assert stated - step <= behind <= stated


def test_what_comes_out_is_what_went_in_then():
    """An impulse is where it was, in the output as a whole."""
    x = talk(2.0, 48000)
    x[40000] = 0.9
    assert int(np.argmax(through(Stream(Local(), 48000), x, 4800))) == 40000


def test_memory_does_not_grow():
    stream, sizes = Stream(Local(), 16000), []
    block = talk(5.0)
    for _ in range(24):
        stream.feed(block)
        sizes.append(sum(v.nbytes for v in vars(stream).values() if isinstance(v, np.ndarray)))
    assert 0 < max(sizes[12:]) < 1.01 * max(sizes[:12])
    assert max(len(window[0]) for window in stream.model.windows) < 1.7 * 16000


def test_no_click_where_chunks_meet():
    """Noise is taken to a half; each window to another half: the second difference at the borders is that elsewhere."""

    class Unsteady(Local):
        def enhance_window(self, noisy, z_r, nfe, noise):
            return super().enhance_window(noisy, z_r, nfe, noise) * (0.5 + 0.2 * (len(self.windows) % 2))

    t = np.arange(64000) / 16000
    x = (0.3 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    stream = Stream(Unsteady(), 16000)
    y = through(stream, x, 1600)
    jolt = np.abs(np.diff(y, 2))[8000:-8000]
    assert jolt.max() < 1.5 * np.quantile(jolt, 0.99)


def test_the_level_runs_along_and_the_output_keeps_that_of_the_input():
    x = talk(6.0)
    x[48000:] *= 0.1
    model = Local()
    stream = Stream(model, 16000)
    stream.feed(x)
    loud = float(np.abs(stream.levels[0]))
    assert 0 < loud < 10
    y = through(Stream(Local(), 16000), x, 4000)
    assert np.abs(y - x).max() < 1e-5


def test_silence_costs_no_call_and_stays_silence():
    model = Local()
    y = through(Stream(model, 48000), np.zeros((96000, 2), np.float32), 4096)
    assert y.shape == (96000, 2)
    assert not y.any()
    assert not model.windows


def test_a_clip_is_used_from_the_first_chunk_and_a_pause_from_when_it_was_heard():
    clip = noise(1.0)
    given = Local()
    through(Stream(given, 16000, clip), talk(2.0), 4000)
    assert all(float(z) == pytest.approx(float(np.sqrt(np.mean(clip**2)))) for z in given.conditions)

    room = 0.3 * noise(2.2)
    sound = np.concatenate([room, speech(4.0) + 0.3 * noise(4.0)])
    found = Local()
    stream = Stream(found, 16000, "pause")
    through(stream, sound, 4000)
    assert stream.has_reference
    assert float(found.conditions[0]) == 0
    assert float(found.conditions[-1]) == pytest.approx(float(np.sqrt(np.mean(room**2))), rel=0.2)


def test_a_clip_that_is_silent_is_said_not_to_be_used():
    with pytest.warns(ReferenceWarning, match="silent"):
        stream = Stream(Local(), 16000, np.zeros(16000, np.float32))
    assert not stream.has_reference


def test_what_was_embedded_before_is_used_as_it_is():
    model = Local()
    through(Stream(model, 16000, torch.tensor([[7.0]]).as_subclass(Embedding)), talk(1.0), 4000)
    assert all(float(z) == 7 for z in model.conditions)


def test_after_a_flush_the_next_recording_begins():
    x = talk(1.2)
    stream = Stream(tiny_model(), 16000)
    first, second = (through(stream, x, 1600) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("samples", [0, 1, 100, 5000])
def test_short_sound_keeps_its_length(samples):
    x = talk(1.0)[:samples]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert through(Stream(tiny_model(), 16000), x, 50).shape == x.shape


def test_what_cannot_be_enhanced_is_refused_in_a_sentence():
    stream = Stream(Local(), 16000)
    with pytest.raises(UserError, match="floats"):
        stream.feed(np.zeros(10, np.int16))
    stream.feed(np.zeros(10, np.float32))
    with pytest.raises(UserError, match="2 channels fed after 1"):
        stream.feed(np.zeros((10, 2), np.float32))
    with pytest.raises(UserError, match="non-finite samples fed"):
        stream.feed(np.full(10, np.nan, np.float32))
    with pytest.raises(UserError, match=r"0\.032"):
        Stream(Local(), 16000, chunk_seconds=0.01)
