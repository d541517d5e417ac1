"""Metrics: a number or a named failure; a process that may die."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
from helpers import RATE, noise, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.evaluation import metrics
from nrmodel.evaluation.metrics import MetricFailure, Scores, delay_samples, looks_swapped, pesq_segments, score
from nrmodel.evaluation.scoring import ScoringPool

CLEAN = speech(3.0, seed=1)
NOISY = CLEAN + 0.3 * noise(3.0, environment=1, seed=1)


def test_numbers_of_an_ordinary_pair():
    scores = score(CLEAN, NOISY, RATE)
    assert not scores.failures and not scores.flags and scores.delay_ms == 0
    assert 1.0 < scores.values["pesq_wb"] < 4.0
    assert 0.1 < scores.values["estoi"] < 1.0
    better = score(CLEAN, CLEAN + 0.03 * noise(3.0, environment=1, seed=1), RATE)
    assert all(better.values[name] > scores.values[name] for name in metrics.METRICS)


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_si_sdr_is_the_ratio_of_orthogonal_parts_at_any_scale(log_ratio, scale, seed):
    rng = np.random.default_rng(seed)
    clean, other = rng.standard_normal((2, 400))
    other -= clean * (other @ clean) / (clean @ clean)
    other *= np.linalg.norm(clean) / np.linalg.norm(other) * 10 ** (-log_ratio)
    assert metrics.si_sdr(clean, scale * (clean + other)) == pytest.approx(20 * log_ratio, abs=1e-6)


def test_si_sdr_removes_no_mean():
    # with the mean removed this pair would be perfect; 10 log10(1 / (m^2 / (P + ...))) is finite here
    clean = np.tile([1.0, -1.0], 500)
    assert metrics.si_sdr(clean, clean + 1.0) == pytest.approx(0.0, abs=1e-9)


def with_value(value: float) -> np.ndarray:
    x = NOISY.copy()
    x[100] = value
    return x


LOUD = int(np.argmax(np.convolve(CLEAN**2, np.ones(3200), "valid")))
PEAK = int(np.abs(CLEAN[100:-100]).argmax()) + 100
SHORT_SPEECH = np.concatenate([1e-5 * np.ones(RATE), speech(0.3, seed=2), 1e-5 * np.ones(RATE)]).astype(np.float32)
ZEROS = np.zeros_like(CLEAN)


@pytest.mark.parametrize(
    ("clean", "estimate", "rate", "expected"),
    [
        (ZEROS, NOISY, RATE, dict.fromkeys(metrics.METRICS, "silent_reference")),
        (CLEAN * 1e-4, NOISY, RATE, dict.fromkeys(metrics.METRICS, "silent_reference")),
        (CLEAN, ZEROS, RATE, dict.fromkeys(metrics.METRICS, "silent_estimate")),
        (CLEAN, with_value(np.nan), RATE, dict.fromkeys(metrics.METRICS, "not_finite")),
        (with_value(np.inf), NOISY, RATE, dict.fromkeys(metrics.METRICS, "not_finite")),
        (CLEAN, NOISY[:-8000], RATE, dict.fromkeys(metrics.METRICS, "wrong_length")),
        (CLEAN, NOISY, 44100, dict.fromkeys(metrics.METRICS, "wrong_rate")),
        (CLEAN[:0], NOISY[:0], RATE, dict.fromkeys(metrics.METRICS, "too_short")),
        (CLEAN[LOUD:][:3200], NOISY[LOUD:][:3200], RATE, {"pesq_wb": "too_short", "estoi": "too_short"}),
        (CLEAN[PEAK - 25 :][:50], NOISY[PEAK - 25 :][:50], RATE, {"pesq_wb": "too_short", "estoi": "too_short"}),
        (SHORT_SPEECH, SHORT_SPEECH + 0.01, RATE, {"estoi": "no_speech", "si_sdr": "identical"}),
        (CLEAN, np.roll(NOISY, 160), RATE, dict.fromkeys(metrics.METRICS, "misaligned")),
        (CLEAN, CLEAN, RATE, {"si_sdr": "identical"}),
    ],
)  # fmt: skip
def test_degenerate_pairs_have_named_failures(clean, estimate, rate, expected):
    scores = score(clean, estimate, rate)
    assert scores.failures == expected
    assert set(scores.values) == metrics.METRICS.keys() - expected.keys()
    assert all(np.isfinite(value) for value in scores.values.values())


def test_within_a_frame_the_longer_is_cut():
    assert score(CLEAN, NOISY[:-300], RATE).values["si_sdr"] == pytest.approx(
        metrics.si_sdr(CLEAN[:-300], NOISY[:-300]), abs=1e-9
    )


@pytest.mark.parametrize("delay", [1, 16, 160, 1006, -300])
def test_a_delay_is_measured_and_never_a_bare_number(delay):
    estimate = np.roll(NOISY, delay)
    assert delay_samples(CLEAN, estimate) == delay
    scores = score(CLEAN, estimate, RATE)
    assert scores.delay_ms == pytest.approx(1000 * delay / RATE)
    assert ("delayed" in scores.flags) == (abs(delay) <= 32)
    assert ("misaligned" in scores.failures.values()) == (abs(delay) > 32)


def test_unrelated_or_filtered_estimates_are_not_called_late():
    rng = np.random.default_rng(0)
    assert delay_samples(CLEAN, rng.standard_normal(len(CLEAN)).astype(np.float32)) == 0
    spectrum = np.fft.rfft(CLEAN)
    spectrum[len(spectrum) // 8 :] = 0
    assert delay_samples(CLEAN, np.fft.irfft(spectrum, len(CLEAN)).astype(np.float32)) == 0


def test_a_strong_reflection_is_not_called_a_delay():
    assert delay_samples(CLEAN, 0.85 * CLEAN + np.roll(CLEAN, 160)) == 0


@pytest.mark.parametrize("value", [-7.0, -1.0, float("nan")])
def test_pesq_codes_of_failure_are_never_scores(monkeypatch, value):
    import pesq

    monkeypatch.setattr(pesq, "pesq", lambda *args: value)
    with pytest.raises(MetricFailure, match="not_finite"):
        metrics.pesq_wb(CLEAN, NOISY)


def test_swapped_folders_are_noticed():
    assert looks_swapped(NOISY, CLEAN)
    assert not looks_swapped(CLEAN, NOISY)


def test_estoi_leaves_the_global_generator_alone_and_repeats_itself():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = metrics.estoi(CLEAN, NOISY)
    assert np.array_equal(before, np.random.get_state()[1])
    np.random.seed(6)
    assert metrics.estoi(CLEAN, NOISY) == first


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200 * RATE), st.integers(0, 1000))
def test_segments_tile_the_signal(frames, seed):
    x = np.random.default_rng(seed).standard_normal(frames).astype(np.float32)
    segments = pesq_segments(x)
    assert segments[0][0] == 0 and segments[-1][1] == frames
    assert all(a[1] == b[0] for a, b in itertools.pairwise(segments))
    if frames <= 30 * RATE:
        assert len(segments) == 1
    else:
        assert all(5 * RATE <= stop - start <= 20.1 * RATE for start, stop in segments)


def test_cuts_fall_into_pauses():
    x = np.ones(40 * RATE, np.float32)
    x[13 * RATE : 14 * RATE] = 0
    assert 13 * RATE < pesq_segments(x)[0][1] < 14 * RATE


def bursts(seconds: float, per_second: float) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return (speech(seconds, seed=3) * (t * per_second % 1 < 0.4)).astype(np.float32)


def test_many_bursts_are_scored_in_segments():
    clean = bursts(120, 0.9)  # whole, it makes PESQ write past its table
    scores = score(clean, clean + 0.02 * noise(120, 1), RATE)
    assert 1.0 < scores.values["pesq_wb"] < 4.7
    assert scores.flags == ["segmented"]


def finished(pool: ScoringPool, pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, Scores]:
    found = {}
    for tag, clean, estimate in pairs:
        found.update(pool.submit(tag, clean, estimate, RATE))
    found.update(pool.drain())
    return found


def test_a_killed_worker_costs_its_file_only(monkeypatch):
    long = bursts(28, 1.0)
    with ScoringPool(1) as pool:
        assert finished(pool, [("warm", CLEAN, NOISY)])["warm"].values == score(CLEAN, NOISY, RATE).values
        (worker,) = multiprocessing.active_children()
        list(pool.submit("long", long, long + 0.01 * noise(28, 1), RATE))
        os.kill(worker.pid, signal.SIGKILL)
        found = finished(pool, [("after", CLEAN, NOISY)])
        assert found["long"].failures["pesq_wb"] == "crashed"
        assert found["after"].values == score(CLEAN, NOISY, RATE).values
        # killed while idle: the next pair gets a new one
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert "pesq_wb" in finished(pool, [("last", CLEAN, NOISY)])["last"].values
    assert not multiprocessing.active_children()


def test_a_worker_killed_while_it_is_handed_a_pair_costs_nothing():
    x = noise(60.0)  # more than a pipe holds
    with ScoringPool(1) as pool:
        pid = pool._workers[0].process.pid
        os.kill(pid, signal.SIGSTOP)  # it reads no more, so that `send` waits
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        list(pool.submit("a", x, x[: len(x) // 2], RATE))
        assert pool._workers[0].process.pid != pid
        assert pool._workers[0].tag == "a"


def test_what_was_told_before_the_crash_is_kept():
    steps = list(metrics.score_steps(CLEAN, NOISY, RATE))
    assert len(steps) == 3 and list(steps[-1].values)[-1] == "pesq_wb"  # the one that can crash comes last


def test_failures_survive_pickling():
    import pickle

    failure = pickle.loads(pickle.dumps(MetricFailure("no_speech", "why")))
    assert (failure.kind, failure.detail) == ("no_speech", "why")


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    clean = speech(2.0, seed)
    return clean, clean + np.float32(0.1) * noise(2.0, 1, seed)


@pytest.mark.parametrize(("of_clean", "of_estimate"), [(0.0, 0.1), (0.0, -0.02), (0.3, 0.0), (0.1, 0.1)])
def test_an_offset_costs_no_decibels_and_is_told(of_clean, of_estimate):
    clean, estimate = pair()
    plain = score(clean, estimate, RATE)
    shifted = score(clean + np.float32(of_clean), estimate + np.float32(of_estimate), RATE)
    assert "offset" in shifted.flags and "offset" not in plain.flags
    assert shifted.values["si_sdr"] == pytest.approx(plain.values["si_sdr"], abs=0.1)


def test_an_estimate_that_is_the_clean_signal_and_a_constant_is_told():
    clean, _ = pair()
    scores = score(clean, clean + np.float32(0.1), RATE)
    assert "offset" in scores.flags and scores.failures.get("si_sdr") == "identical"


@pytest.mark.parametrize("gain", [-1.0, -0.1, -2.0])
def test_an_inverted_estimate_is_told(gain):
    clean, estimate = pair(1)
    assert "inverted" in score(clean, np.float32(gain) * estimate, RATE).flags
    assert "inverted" not in score(clean, np.float32(-gain) * estimate, RATE).flags
    assert "inverted" not in score(clean, noise(2.0, 2, 5), RATE).flags


def test_an_offset_hides_no_inversion():
    clean, estimate = pair(2)
    assert {"offset", "inverted"} <= set(score(clean + np.float32(0.2), np.float32(0.2) - estimate, RATE).flags)
