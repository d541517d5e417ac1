"""Pauses in noisy speech, and speech in clips; on sound made here, and on real sound where the corpus is."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import noise, spoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.enhancement.clip import HOLDS_SPEECH, IS_SPEECH, judge
from nrmodel.enhancement.speech_activity import FRAME, RATE, longest_pause, speech_probability

CORPUS = Path(__file__).parents[1].parent / "shared" / "data" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real sound is not here")


def share(x: np.ndarray) -> float:
    return judge(x, RATE, x).speech


def with_pause(start: float, stop: float, seconds: float = 8.0, gain: float = 0.05) -> np.ndarray:
    x = spoken(seconds, 1)
    x[int(start * RATE) : int(stop * RATE)] = 0
    return x + gain * noise(seconds, 1)


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.2), (3.1, 4.2), (6.8, 8.0)])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_pause_is_found_wherever_it_is(start, stop, offset):
    found = longest_pause(with_pause(start, stop) + np.float32(offset))
    assert start * RATE - 1 <= found[0] < found[1] <= stop * RATE + 1
    assert found[1] - found[0] > 0.4 * (stop - start) * RATE


@settings(max_examples=5, deadline=None)
@given(st.floats(0.003, 30.0))
def test_the_level_does_not_matter(gain):
    x = with_pause(3.0, 4.0)
    assert np.abs(np.subtract(longest_pause(np.float32(gain) * x), longest_pause(x))).max() <= FRAME


def test_noise_alone_is_one_pause():
    start, stop = longest_pause(noise(5.0, 1))
    assert stop - start > 4 * RATE


@pytest.mark.parametrize("frames", [0, 1, 100, 511, 512, 513, 16000])
def test_any_length(frames):
    x = noise(1.0)[:frames]
    assert len(speech_probability(x)) == -(-frames // FRAME)
    start, stop = longest_pause(x)
    assert 0 <= start <= stop <= frames
    assert not (speech_probability(np.zeros(frames, np.float32)) > 0.5).any()


def test_speech_is_speech_and_noise_is_not():
    assert all(share(spoken(1.5, seed)) > IS_SPEECH for seed in range(4))
    assert share(spoken(1.5, 1) + 0.2 * noise(1.5)) > IS_SPEECH
    assert not any(share(noise(1.0, environment, seed)) for environment in range(4) for seed in range(2))
    gusts = np.clip(np.sin(2 * np.pi * 3 * np.arange(RATE) / RATE), 0.05, None)
    assert not any(share((gusts * noise(1.0, environment)).astype(np.float32)) for environment in (2, 3))


@needs_corpus
def test_real_speech_and_real_noise_are_told_apart():
    def shares(name: str, column: str, wanted: tuple[str, ...] | None) -> list[float]:
        with (CORPUS / name).open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["split"] == "train" and (not wanted or r[column] in wanted)]
        picked = np.random.default_rng(0).choice(len(rows), 30, replace=False)
        return [share(sf.read(CORPUS / rows[i]["path"], dtype="float32", frames=2 * RATE)[0][-RATE:]) for i in picked]

    hard = ("dog", "hen", "cat", "frogs", "hand-saw", "clock-tick", "toilet-flush", "rain", "fan", "street")
    assert np.mean([s > IS_SPEECH for s in shares("speech.csv", "language", None)]) > 0.8
    assert np.mean([s > HOLDS_SPEECH for s in shares("noise.csv", "environment", hard)]) < 0.15
