"""Source `synthetic`: it must have what enhancement and references work on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from corpora import build, digests

import nrdata
from nrdata.builders import synthetic
from nrdata.builders.plan import Options
from nrdata.builders.synthesis import scenes, voices
from nrdata.checks.verify import verify

RATE = voices.RATE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("synthetic") / "set"
    assert build("--source", "synthetic", "--out", out, "--hours", 0.05, "--strict") == 0
    return out


def spectrum_db(x: np.ndarray) -> np.ndarray:
    """Long-term spectrum in 24 bands of equal ratio, level removed."""
    power = np.abs(np.fft.rfft(x)) ** 2
    edges = np.geomspace(60, 7900, 25) / RATE * len(x)
    bands = 10 * np.log10([np.mean(power[int(a) : int(b) + 1]) + 1e-12 for a, b in itertools.pairwise(edges)])
    return bands - bands.mean()


def test_a_data_set_with_unseen_environments_in_all_splits(built):
    assert not verify(built).faults
    data = nrdata.open(built)
    environments = {s: set(data.index(s).env_names) for s in data.splits}
    assert len(environments["train"]) == 8 and environments["valid"] == environments["train"]
    assert environments["test"] - environments["train"] == {"synthetic/siren", "synthetic/keyboard"}
    for name in ("speaker_names", "recording_names"):
        sets = [set(getattr(data.index(s), name)) for s in data.splits]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert data.has_ref and (data.index("test").ref_frames == 2 * RATE).all()


def test_the_same_seed_gives_the_same_bytes(built, tmp_path):
    synthetic.sound.cache_clear()
    assert build("--source", "synthetic", "--out", tmp_path / "a", "--hours", 0.05) == 0
    assert digests(tmp_path / "a") == digests(built)


def test_sound_is_a_function_of_its_name_which_holds_the_seed():
    x = synthetic.sound("noise", "0/rain/1")
    assert np.array_equal(synthetic.sound.__wrapped__("noise", "0/rain/1"), x)
    for other in ("1/rain/1", "0/rain/2", "0/sea/1"):
        assert not np.array_equal(x, synthetic.sound("noise", other))


def test_a_plan_of_one_seed_is_rendered_alike_under_another(built, tmp_path):
    argv = ("--source", "synthetic", "--plan", built / "plan.jsonl", "--seed", 9)
    assert build(*argv, "--out", tmp_path / "a") == 0
    assert digests(tmp_path / "a") == digests(built)


def test_unseen_is_the_users_choice(tmp_path, capsys):
    plan = synthetic.plan(Options("synthetic", unseen=("rain",), hours=0.01))
    assert "synthetic/rain" not in {r.env_id for r in plan.rows if r.split == "train"}
    assert "synthetic/siren" in {r.env_id for r in plan.rows if r.split == "train"}
    assert build("--source", "synthetic", "--unseen", "moon", "--out", tmp_path / "a") == 2
    assert "choose of fan" in capsys.readouterr().err


def test_another_rate_is_the_same_sound_resampled(tmp_path):
    """The plan draws the same places; what is heard lies at the same seconds."""
    low, high = (synthetic.plan(Options("synthetic", sample_rate=r, hours=0.01)) for r in (16000, 48000))
    for a, b in zip(low.rows[:5], high.rows[:5], strict=True):
        assert a.ref.start * 3 == b.ref.start and a.noise.path == b.noise.path
    with synthetic.sources(Options("synthetic")) as sources:
        x, rate = sources.speech["synthetic"].read("0/t00/00")
    assert rate == RATE and x.ndim == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_talker_has_pitch_pauses_and_formants(seed):
    rng = np.random.default_rng(seed)
    talker = voices.voice(rng)
    x = voices.utterance(talker, 4.0, rng)
    assert x.dtype == np.float32 and np.max(np.abs(x)) == pytest.approx(voices.PEAK, rel=0.02) and len(x) >= 4 * RATE
    frames = x[: len(x) // 400 * 400].reshape(-1, 400).astype(float)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    active = level > level.max() - 30
    assert active.sum() * 0.025 > 1.0 and 0.05 < (~active).mean() < 0.7
    sounding = np.flatnonzero(active)
    assert np.max(np.diff(sounding)) * 0.025 > 0.15  # a pause, longer than any plosive's
    loud = x[np.argmax(level) * 400 - 400 :][:1600].astype(float)
    period = np.correlate(loud, loud, "full")[len(loud) - 1 :]
    lags = slice(int(RATE / 300), int(RATE / 70))
    assert np.max(period[lags]) > 0.5 * period[0]
    pitch = RATE / (lags.start + np.argmax(period[lags]))
    ratio = pitch / talker.pitch_hz
    assert min(abs(ratio / k - 1) for k in (0.5, 1.0, 2.0)) < 0.35
    spectrum = spectrum_db(x)
    assert spectrum[4:10].mean() > spectrum[18:22].mean() + 8


def test_pesq_and_estoi_work_on_it():
    from pesq import pesq
    from pystoi import stoi

    rng = np.random.default_rng(3)
    x = voices.utterance(voices.voice(rng), 4.0, rng)
    bed = scenes.recording("fan", len(x) / RATE, rng)[: len(x)]
    scores = []
    for snr_db in (20, 0):
        noisy = x + bed * np.sqrt(np.mean(x**2) / np.mean(bed**2)) * 10 ** (-snr_db / 20)
        scores.append((pesq(RATE, x, noisy, "wb"), stoi(x, noisy, RATE, extended=True)))
    assert scores[0][0] > scores[1][0] + 0.3 and scores[0][1] > scores[1][1] + 0.1
    assert pesq(RATE, x, x, "wb") > 4.5


def test_each_place_sounds_like_itself_later_and_unlike_the_others():
    """What a reference can be used for: distances of long-term spectra, level removed."""
    halves, others = {}, {}
    for name in scenes.SCENES:
        x, y = (scenes.recording(name, 6.0, np.random.default_rng(seed)) for seed in (1, 2))
        assert np.isfinite(x).all() and np.max(np.abs(x)) <= 0.91 and np.std(x) > 0.005
        halves[name], others[name] = (spectrum_db(x[: 3 * RATE]), spectrum_db(x[3 * RATE :])), spectrum_db(y)
    later = {n: np.sqrt(np.mean((a - b) ** 2)) for n, (a, b) in halves.items()}
    recording = {n: np.sqrt(np.mean((halves[n][0] - others[n]) ** 2)) for n in halves}
    place = {
        n: np.median([np.sqrt(np.mean((halves[n][0] - others[m]) ** 2)) for m in halves if m != n]) for n in halves
    }
    assert all(later[n] < place[n] for n in halves)
    for a, b in itertools.combinations(halves, 2):
        assert np.sqrt(np.mean((halves[a][0] - halves[b][0]) ** 2)) > 3.0, (a, b)
    assert np.median(list(later.values())) < np.median(list(recording.values())) < np.median(list(place.values())) / 1.5
