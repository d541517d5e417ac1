"""Augmentation: the filters that the plan names, on noise and clip alike, and nothing else moved."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import soundfile as sf
from corpora import bare_folders, build
from helpers import RATE, noise
from hypothesis import given, settings
from hypothesis import strategies as st

import nrdata
from nrdata.builders.rows import decoded
from nrdata.builders.synthesis import augment
from nrdata.keyed import plan_rng


def level_db(x: np.ndarray, low: float, high: float, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(x)) ** 2
    f = np.fft.rfftfreq(len(x), 1 / rate)
    return 10 * np.log10(spectrum[(f >= low) & (f < high)].mean())


def white(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize(
    ("step", "band", "expected"),
    [
        ({"filter": "LowShelfFilter", "center_freq": 800.0, "gain_db": 9.0, "q": 0.8}, (50, 200), 9.0),
        ({"filter": "HighShelfFilter", "center_freq": 3000.0, "gain_db": -9.0, "q": 0.8}, (6500, 7500), -9.0),
        ({"filter": "PeakingFilter", "center_freq": 1500.0, "gain_db": 6.0, "q": 1.0}, (1480, 1520), 6.0),
        ({"filter": "LowPassFilter", "cutoff_freq": 2500.0, "rolloff": 12}, (2450, 2550), -3.0),
        ({"filter": "HighPassFilter", "cutoff_freq": 400.0, "rolloff": 6}, (385, 415), -3.0),
    ],
)
def test_a_filter_does_what_its_row_says(step, band, expected):
    x = white()
    y = augment.augmented(x, augment.Augment(0, (augment.Filter(**step),)), RATE)
    assert y.dtype == np.float32 and y.shape == x.shape
    assert level_db(y, *band) - level_db(x, *band) == pytest.approx(expected, abs=0.7)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([4000, 8000, 16000, 48000]))
def test_every_chain_is_finite_seeded_and_linear_in_level(seed, rate):
    """No row that is drawn fails, at any rate; the chain has no state of its own and no gain rider."""
    chain = augment.draw(plan_rng("t", seed), rate)
    assert (
        chain
        == augment.draw(plan_rng("t", seed), rate)
        == decoded(augment.Augment, json.loads(json.dumps(chain.to_json())), "augment")
    )
    names = [step.filter for step in chain.chain]
    assert 1 <= len(names) == len(set(names)) <= 3
    assert all((step.center_freq or step.cutoff_freq) < 0.46 * rate for step in chain.chain)
    x = white(0.25, seed)
    y = augment.augmented(x, chain, rate)
    assert np.isfinite(y).all() and y.any() and np.max(np.abs(y)) < 20
    assert np.array_equal(y, augment.augmented(x, chain, rate))
    assert np.allclose(augment.augmented(0.5 * x, chain, rate), 0.5 * y, atol=1e-6)


def test_global_generators_stay_where_they_are():
    chain = augment.draw(plan_rng("t", 1), RATE)
    augment.augmented(white(), chain, RATE)
    random.seed(1)
    np.random.seed(2)
    before = random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    augment.augmented(white(), chain, RATE)
    assert (random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]) == before


def test_noise_and_clip_of_a_variant_have_one_timbre_and_speech_is_untouched(tmp_path):
    """The response between recording and stored sound is one for mixture noise and clip, and another in ~1 and ~2."""
    speech, sounds = bare_folders(tmp_path, environments=2)
    out = tmp_path / "out"
    argv = ("--source", "folders", "--speech", speech, "--noise", sounds, "--per-cell", 2, "--hours", 0.01)
    assert build(*argv, "--unseen", "", "--augment", 2, "--out", out, "--workers", 1, "--strict") == 0
    data = nrdata.open(out)
    rows = [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]
    assert {row["env_id"] for row in rows} == {f"local/place{e}~{k}" for e in range(2) for k in (1, 2)}
    chains = {(row["env_id"], json.dumps(row["augment"])) for row in rows}
    assert len(chains) == len({chain for _, chain in chains}) == 4 and all(row["room"] is None for row in rows)
    bands = [(100, 400), (400, 1000), (1000, 2500), (2500, 6000)]
    for row in rows[:6]:
        sample = data.sample(row["key"])
        bed, _ = sf.read(sounds / row["noise"]["path"])
        talk, _ = sf.read(speech / row["speech"]["path"])
        shapes = []
        for stored, part in ((sample.noise, row["noise"]), (sample.ref, row["ref"])):
            source = bed[part["start"] : part["stop"]]
            shapes.append([level_db(stored, *band) - level_db(source, *band) for band in bands])
        assert np.allclose(*shapes, atol=0.6)
        dry = talk[row["speech"]["start"] : row["speech"]["stop"]]
        assert np.max(np.abs(sample.clean - sample.meta["gain"] * dry)) < 1.5 / 32768
        assert sample.meta["augment"] == "+".join(step["filter"] for step in row["augment"]["chain"])


def test_without_rooms_and_augmentation_the_plan_is_as_before(tmp_path):
    speech, sounds = bare_folders(tmp_path, environments=2)
    argv = ("--source", "folders", "--speech", speech, "--noise", sounds, "--per-cell", 1, "--hours", 0.01)
    plans = []
    for more in ((), ("--augment", 2)):
        out = tmp_path / f"out{len(more)}"
        assert build(*argv, "--out", out, "--plan-only", *more) == 0
        plans.append([json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()])
    for plain, varied in zip(*plans, strict=True):
        assert "~" not in plain["env_id"] and plain["room"] is plain["augment"] is None
        assert varied["env_id"].split("~")[0] == plain["env_id"]
        assert {n: v for n, v in varied.items() if n not in ("env_id", "augment", "meta")} == {
            n: v for n, v in plain.items() if n not in ("env_id", "augment", "meta")
        }


def test_quiet_noise_keeps_its_shape():
    """What is 80 dB down goes through as what is loud: float all along."""
    chain = augment.draw(plan_rng("t", 3), RATE)
    x = noise(1.0)
    y, quiet = augment.augmented(x, chain, RATE), augment.augmented(1e-4 * x, chain, RATE)
    assert np.allclose(1e4 * quiet, y, atol=1e-5)
