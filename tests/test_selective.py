"""Selective removal told from the parts: planted gains are found again, the ideal mask chooses, draws are keyed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import RATE, make_dataset, noise, speech
from stand_ins import tiny_checkpoint

import nrdata
from cli.main import run
from nrdata.errors import UserError
from nrdata.sampling.pool import Pool
from nrmodel.evaluation.metrics import si_sdr
from nrmodel.evaluation.parts import FIGURES, Mixture, figures, ideal
from nrmodel.evaluation.request import KINDS, EvaluationRequest
from nrmodel.evaluation.selective import mixture


@pytest.fixture(scope="module")
def parts() -> Mixture:
    sounds = speech(2.0) * 0.3, noise(2.0, 0), noise(2.0, 2, seed=3)
    return Mixture("k", "local/a", "local/b", "local/s", *sounds, noise(1.0, 0, seed=9), RATE)


@pytest.mark.parametrize("taken", [(0.0, 0.0, 0.0), (1.0, 12.0, 3.0), (6.0, 0.5, 20.0)])
def test_what_was_taken_from_each_part_is_found(parts, taken):
    gains = [10 ** (-db / 20) for db in taken]
    made = gains[0] * parts.speech + gains[1] * parts.clip_sound + gains[2] * parts.rest
    told = figures(made, parts)
    assert told["speech_db"] == pytest.approx(taken[0], abs=0.3)
    assert told["clip_db"] == pytest.approx(taken[1], abs=0.3) and told["rest_db"] == pytest.approx(taken[2], abs=0.3)
    assert told["apart_db"] == pytest.approx(taken[1] - taken[2], abs=0.5)


def test_foreign_sound_lowers_what_is_kept_and_is_no_part(parts):
    foreign = np.float32(0.05) * np.random.default_rng(0).standard_normal(len(parts.noisy)).astype(np.float32)
    told = figures(parts.kept + foreign, parts)
    assert told["clip_db"] > 20 and told["rest_db"] == pytest.approx(0, abs=0.5)
    expected = 10 * np.log10(np.sum(parts.kept**2) / np.sum(foreign**2))
    assert told["kept_db"] == pytest.approx(expected, abs=0.3) == si_sdr(parts.kept, parts.kept + foreign)
    assert told["kept_gain_db"] == pytest.approx(told["kept_db"] - si_sdr(parts.kept, parts.noisy), abs=1e-6)


def test_without_a_rest_the_speech_is_what_stays(parts):
    talker = Mixture("k", "speaker/x", "", "s", parts.speech, parts.clip_sound, 0 * parts.rest, parts.clip, RATE)
    told = figures(talker.speech + 0.1 * talker.clip_sound, talker)
    assert told["rest_db"] is None and told["apart_db"] == pytest.approx(20, abs=0.5)


def test_the_ideal_mask_takes_the_clips_sound_alone(parts):
    told = figures(ideal(parts), parts)
    assert told["clip_db"] > 8 and told["rest_db"] < 2 and told["kept_gain_db"] > 5


@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_are_keyed_balanced_and_apart(tmp_path, kind):
    dataset = nrdata.open(make_dataset(tmp_path / "data", {"test": 6}, seconds=3.0))
    index, pool = dataset.index("test"), Pool(dataset.index("test"), RATE)
    made = [mixture(dataset, "test", row, kind, pool) for row in range(len(index.key))]
    again = [mixture(dataset, "test", row, kind, pool) for row in range(len(index.key))]
    found = [m for m in made if m is not None]
    assert len(found) >= 2
    for m, n in zip(made, again, strict=True):
        assert m is n is None or np.array_equal(m.noisy, n.noisy)
    for m in found:
        if kind == "two-noises":
            assert m.env_id != m.rest_id
            assert np.sum(m.clip_sound**2) == pytest.approx(np.sum(m.rest**2), rel=1e-3)
            if m.speech.any():
                assert np.sum(m.speech**2) == pytest.approx(np.sum((m.clip_sound + m.rest) ** 2), rel=1e-3)
        else:
            assert m.env_id.startswith("speaker/") and m.speaker not in m.env_id and not m.rest.any()
            assert np.sum(m.speech**2) == pytest.approx(np.sum(m.clip_sound**2), rel=1e-3)


def test_the_command_writes_rows_and_a_table(tiny_dataset, tmp_path, capsys):
    out = tmp_path / "out"
    weights = tiny_checkpoint(tmp_path)
    asked = f"evaluate --shards {tiny_dataset} --checkpoint {weights} --limit 3 --selective two-noises"
    assert run([*asked.split(), "--peer", "mmse-lsa", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "| peer:mmse-lsa | 3 |" in shown and "| ideal mask | 3 |" in shown
    rows = [json.loads(line) for line in (out / "parts.jsonl").read_text().splitlines()]
    assert len(rows) == 9 and set(FIGURES) < set(rows[0])
    assert run([*asked.split(), "--out", str(out)]) == 2 and "not empty" in capsys.readouterr().err
    assert run([*asked.split(), "--snr", "3", "--out", str(tmp_path / "b")]) == 2
    assert run([*asked.split(), "--nfe", "3", "--out", str(tmp_path / "b")]) == 2
    assert "not nfe" in capsys.readouterr().err
    with pytest.raises(UserError, match="'three' is unknown: two-noises, talker"):
        EvaluationRequest(selective="three")
