"""The ladder: what each rung's clip is, measured on the clip."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import RATE, make_dataset, noise, speech
from hypothesis import given, settings
from hypothesis import strategies as st

import nrdata
from nrdata.errors import UserError
from nrmodel.evaluation import rungs
from nrmodel.evaluation.rungs import Rung, parse_rung, reference, spectral_distance_db

ROW = 1


@pytest.fixture(scope="module")
def dataset(tiny_dataset):
    return nrdata.open(tiny_dataset)


def clip(dataset, mode: str, seconds: float = 0.5, seed: int = 0) -> rungs.Reference:
    found = reference(dataset, "test", ROW, mode, seconds, seed)
    assert found is not None
    return found


def test_parsing():
    assert parse_rung("disjoint") == Rung("disjoint")
    assert parse_rung("leak:-5") == Rung("leak", -5.0)
    assert parse_rung("env+mp3") == Rung("env", None, "mp3")
    assert parse_rung("leak:-5+eq") == Rung("leak", -5.0, "eq")


@pytest.mark.parametrize(
    "mode", ["", "best", "disjoint+", "disjoint+ogg", "none+eq", "zeros+mp3", "leak", "leak:x", "leak:nan", "+eq"]
)
def test_unknown_modes_are_refused_by_name(mode):
    with pytest.raises(UserError, match="choose from none, zeros"):
        parse_rung(mode)


def test_relations_and_sources(dataset):
    assert clip(dataset, "none").sound is None
    assert not clip(dataset, "zeros").sound.any()
    own = clip(dataset, "disjoint")
    assert (own.relation, own.source) == ("same-recording", "test-0000002.ref")
    start, stop = own.span
    assert np.array_equal(own.sound, dataset.read("test", ROW, "ref", start, stop))
    assert clip(dataset, "oracle").relation == "overlap"
    assert clip(dataset, "env").relation == "same-environment"
    assert clip(dataset, "mismatch").relation == "other-environment"
    for mode in ("white", "spectrum", "disjoint+eq", "disjoint+mp3", "leak:-5"):
        assert clip(dataset, mode).sound.shape == (RATE // 2,)
        assert clip(dataset, mode).sound.dtype == np.float32


def test_clips_belong_to_file_and_seed(dataset):
    for mode in ("white", "spectrum", "disjoint+eq", "leak:0", "mismatch"):
        again = clip(nrdata.open(*[dataset_path(dataset)]), mode)
        assert np.array_equal(clip(dataset, mode).sound, again.sound)
    assert not np.array_equal(clip(dataset, "white").sound, clip(dataset, "white", seed=1).sound)


def dataset_path(dataset):
    return dataset.shards("test")[0][0].parent


def test_matched_clips_are_nearer_than_mismatched_ones(dataset):
    same, other = clip(dataset, "disjoint"), clip(dataset, "mismatch")
    assert same.distance_db < 3 < other.distance_db


def test_spectrum_has_the_clips_spectrum_and_level_but_not_its_course():
    bed = noise(2.0, environment=2)
    bed[: RATE // 2] *= 0.01
    made = rungs.like_spectrum(bed, np.random.default_rng(0))
    assert spectral_distance_db(made, bed, RATE) < 1.5
    assert np.std(made) == pytest.approx(np.std(bed), rel=0.02)
    assert np.std(made[: RATE // 2]) > 0.5 * np.std(made)


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 5.0])
def test_leak_has_the_asked_ratio(dataset, ratio_db):
    bed, mixed = clip(dataset, "disjoint").sound, clip(dataset, f"leak:{ratio_db:g}").sound
    leaked = mixed - bed
    assert 10 * np.log10(np.sum(leaked**2) / np.sum(bed**2)) == pytest.approx(ratio_db, abs=0.1)


def test_leak_is_another_utterance_of_the_same_speaker(tmp_path):
    data = nrdata.open(make_dataset(tmp_path / "d", {"test": 2}))  # two samples, two speakers
    assert reference(data, "test", 0, "leak:-5", 0.5, 0) is None


def test_a_recording_heard_in_two_mixtures_is_no_other_utterance():
    class Two:
        def __init__(self, *files, speaker="local/s1"):
            whole = speech(1.5, seed=1)
            start = RATE // 2 if files else 0  # crops of one file that do not correlate, or its beginning again
            self.speech = (whole[:RATE], 0.5 * whole[start:][:RATE], speech(1.0, seed=2))
            self.files, self.speaker = files, speaker

        def index(self, split):
            return SimpleNamespace(speaker=np.zeros(3, int), speaker_names=[self.speaker])

        def read(self, split, row, field):
            return self.speech[row]

        def facts(self, split, row):
            return SimpleNamespace(meta={"speech": self.files[row]} if self.files else {})

    for two in (Two(), Two("a.wav", "a.wav", "b.wav")):
        for seed in range(4):
            found = rungs.other_utterance(two, "test", 0, RATE // 2, np.random.default_rng(seed))
            correlation = max(abs(np.correlate(two.speech[2], found, "valid")) / np.linalg.norm(found) ** 2)
            assert correlation == pytest.approx(1.0, abs=1e-3)
    unknown = Two(speaker="local/unknown")
    assert rungs.other_utterance(unknown, "test", 0, RATE // 2, np.random.default_rng(0)) is None


def test_equaliser_changes_the_spectrum_and_keeps_level_and_length():
    bed = noise(1.0, environment=1)
    made = rungs.equalised(bed, RATE, np.random.default_rng(1))
    assert made.shape == bed.shape
    assert np.std(made) == pytest.approx(np.std(bed), rel=1e-3)
    assert 2 < spectral_distance_db(made, bed, RATE) < 12


def test_mp3_keeps_length_time_and_sound():
    bed = (0.3 * speech(1.0, seed=4) + 0.1 * noise(1.0)).astype(np.float32)
    made = rungs.through_mp3(bed, RATE)
    assert made.shape == bed.shape
    error = 10 * np.log10(np.sum(bed**2) / np.sum((made - bed) ** 2))
    assert 3 < error < 60  # lossy, and not late


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 100))
def test_distance_ignores_level_and_is_symmetric(gain):
    a, b = noise(1.0, 0), noise(1.0, 2, seed=1)
    d = spectral_distance_db(a, b, RATE)
    assert spectral_distance_db(gain * a, b, RATE) == pytest.approx(d, abs=1e-4)
    assert spectral_distance_db(b, a, RATE) == pytest.approx(d, abs=1e-9)
    assert spectral_distance_db(gain * a, a, RATE) == pytest.approx(0, abs=1e-4)


def test_distance_of_a_tilt_is_known():
    # two spectra whose Mel bands differ by +6 dB in the lower half, -6 dB in the upper: 6 dB RMS
    rng = np.random.default_rng(0)
    white = rng.standard_normal(20 * RATE)
    filters = rungs.mel_filters(RATE, 1024)
    middle = np.fft.rfftfreq(1024, 1 / RATE)[filters[20].argmax()]
    spectrum, f = np.fft.rfft(white), np.fft.rfftfreq(len(white), 1 / RATE)
    tilted = np.fft.irfft(spectrum * np.where(f < middle, 2.0, 0.5), len(white))
    assert spectral_distance_db(tilted, white, RATE) == pytest.approx(6.0, abs=0.3)


def test_silence_has_no_distance():
    assert spectral_distance_db(np.zeros(RATE), noise(1.0), RATE) is None
