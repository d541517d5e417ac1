"""Evaluation under conditions: what is scored, and what the systems hear, went through the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stand_ins import tiny_checkpoint

import nrdata
from cli.main import run
from nrdata.errors import UserError
from nrdata.sampling import channel
from nrmodel.evaluation.conditions import Changed, Conditions
from nrmodel.evaluation.evaluate import ShardFiles


@pytest.fixture(scope="module")
def files(tiny_dataset):
    return ShardFiles(nrdata.open(tiny_dataset), "test", 3)


def snr_db(sounds) -> float:
    return 10 * float(np.log10(np.sum(sounds.clean**2) / np.sum(sounds.noise**2)))


@pytest.mark.parametrize("name", ["telephone", "48k", "gsm", "clipping"])
def test_mixture_target_and_clip_go_through_one_channel(files, name):
    row = files.rows[0]
    changed, raw = Changed(files, Conditions(channel=name)), files.sounds(row)
    heard = changed.sounds(row)
    clip = changed.reference(row, heard, "disjoint", 1.0, 0)
    asked = files.reference(row, raw, "disjoint", 1.0, 0)
    noisy, (clean,), (sound,) = channel.apply(channel.named(name), raw.noisy, [raw.clean], [asked.sound], 16000)
    assert np.array_equal(heard.noisy, noisy) and np.array_equal(heard.clean, clean)
    assert np.array_equal(clip.sound, sound) and clip.relation == asked.relation
    assert np.allclose(heard.noise, noisy - clean) and len(heard.noisy) == len(raw.noisy)
    assert changed.reference(row, heard, "none", 1.0, 0).sound is None


def test_an_snr_is_what_was_asked_and_is_told(files):
    changed = Changed(files, Conditions(snr_db=-10.0))
    for row in files.rows:
        heard = changed.sounds(row)
        assert snr_db(heard) == pytest.approx(-10, abs=0.01) and changed.facts(row, heard)["snr_db"] == -10
        assert np.allclose(heard.noisy, heard.clean + heard.noise)


def test_a_room_is_around_the_speech_at_the_same_level_and_the_noise_is_dry(files):
    changed = Changed(files, Conditions(room=0.3))
    raw, heard = files.sounds(files.rows[0]), changed.sounds(files.rows[0])
    assert np.array_equal(raw.noise, heard.noise) and not np.allclose(raw.clean, heard.clean, atol=0.01)
    assert np.sum(heard.clean**2) == pytest.approx(np.sum(raw.clean**2), rel=1e-3)
    assert np.array_equal(changed.sounds(files.rows[0]).clean, heard.clean)


def test_the_command_takes_them_and_says_so(tiny_dataset, tmp_path, capsys):
    weights = tiny_checkpoint(tmp_path)
    asked = f"evaluate --shards {tiny_dataset} --checkpoint {weights} --modes none --limit 2 --workers 1"
    assert run([*asked.split(), "--channel", "telephone", "--snr", "-10", "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "config.json").read_text())["conditions"]
    assert told == {"channel": "telephone", "snr_db": -10.0}
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert {row["snr_db"] for row in rows} == {-10.0}
    assert run([*asked.split(), "--channel", "string", "--out", str(tmp_path / "no")]) == 2
    assert "'string' is unknown" in capsys.readouterr().err
    assert run(f"evaluate --clean {tmp_path} --noisy {tmp_path} --channel mp3".split()) == 2


def test_an_unknown_channel_is_refused(files):
    with pytest.raises(UserError, match="unknown"):
        Changed(files, Conditions(channel="?"))
