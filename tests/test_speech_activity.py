"""Pauses in noisy speech, and speech in clips; on sound made here, and on real sound where the corpus is."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import noise, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.enhancement.speech_activity import HOP, RATE, holds_speech, is_speech, longest_pause, speech_frames

CORPUS = Path(__file__).parents[1].parent / "shared" / "data" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real sound is not here")


def with_pause(start: float, stop: float, seconds: float = 8.0, gain: float = 0.05) -> np.ndarray:
    x = speech(seconds, 1)
    x[int(start * RATE) : int(stop * RATE)] = 0
    return x + gain * noise(seconds, 1)


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.2), (3.1, 4.0), (6.8, 8.0)])
def test_the_pause_is_found_wherever_it_is(start, stop):
    found = longest_pause(with_pause(start, stop))
    assert start * RATE - 1 <= found[0] < found[1] <= stop * RATE + 1
    assert found[1] - found[0] > 0.5 * (stop - start) * RATE


@settings(max_examples=10, deadline=None)
@given(st.floats(0.003, 30.0))
def test_the_level_does_not_matter(gain):
    x = with_pause(3.0, 4.0)
    assert longest_pause(np.float32(gain) * x) == longest_pause(x)


def test_noise_alone_is_one_pause():
    start, stop = longest_pause(noise(5.0, 1))
    assert stop - start > 4 * RATE


@pytest.mark.parametrize("frames", [1, 100, HOP, HOP + 1, 511, 512, 513, 16000])
def test_any_length(frames):
    x = noise(1.0)[:frames]
    assert len(speech_frames(x)) == 1 + frames // HOP
    start, stop = longest_pause(x)
    assert 0 <= start <= stop <= frames
    assert holds_speech(np.zeros(frames, np.float32)) is False


def test_voiced_sound_is_speech_and_noise_is_not():
    assert holds_speech(speech(1.5, 1))
    assert holds_speech(speech(1.5, 1) + 0.1 * noise(1.5))
    assert is_speech(speech(1.5, 1)) and not is_speech(speech(1.5, 1) + noise(1.5))
    assert not any(holds_speech(noise(1.0, environment, seed)) for environment in range(4) for seed in range(3))
    gusts = np.clip(np.sin(2 * np.pi * 3 * np.arange(RATE) / RATE), 0.05, None)
    assert not any(holds_speech(gusts * noise(1.0, environment)) for environment in (2, 3))


@needs_corpus
def test_real_speech_and_real_noise_are_told_apart():
    def clips(name: str, column: str, wanted: tuple[str, ...] | None) -> list[np.ndarray]:
        with (CORPUS / name).open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["split"] == "train" and (not wanted or r[column] in wanted)]
        picked = np.random.default_rng(0).choice(len(rows), 40, replace=False)
        return [sf.read(CORPUS / rows[i]["path"], dtype="float32", frames=2 * RATE)[0][-RATE:] for i in picked]

    ambience = ("rain", "sea", "wind", "train", "engine", "helicopter", "fan", "street", "kitchen", "stream")
    assert np.mean([holds_speech(x) for x in clips("speech.csv", "language", None)]) > 0.8
    assert np.mean([holds_speech(x) for x in clips("noise.csv", "environment", ambience)]) < 0.15


@needs_corpus
def test_real_speech_with_one_pause_in_real_rain():
    """CASES R6: speech from 0.3 s on, one pause at 5.2 to 6.4 s, noise throughout."""
    with (CORPUS / "speech.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train" and float(r["seconds"]) > 3]
    talk = np.concatenate([_trimmed(sf.read(CORPUS / r["path"], dtype="float32")[0]) for r in rows[:6]])
    x = np.zeros(9 * RATE, np.float32)
    x[int(0.3 * RATE) : int(5.2 * RATE)] = talk[: int(4.9 * RATE)]
    x[int(6.4 * RATE) :] = talk[int(4.9 * RATE) : int(7.5 * RATE)]
    rain = sf.read(sorted((CORPUS / "noise" / "rain").glob("*.flac"))[0], dtype="float32")[0]
    rain = np.resize(rain, len(x))
    x += rain * 0.2 * np.sqrt(np.mean(x**2) / np.mean(rain**2))
    start, stop = longest_pause(x)
    assert 5.2 * RATE <= start < stop <= 6.4 * RATE
    assert stop - start > 0.25 * RATE


def _trimmed(x: np.ndarray) -> np.ndarray:
    """Level 0.05, silence at both ends cut off."""
    x = x * (0.05 / np.sqrt(np.mean(x**2)))
    loud = np.flatnonzero(np.convolve(x**2, np.ones(400) / 400, "same") > 1e-5)
    return x[loud[0] : loud[-1]]
