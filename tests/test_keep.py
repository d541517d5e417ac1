"""The switch that keeps the rest: nothing at first, learnt by training, refused where it makes no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from helpers import RATE, noise, speech
from stand_ins import tiny_checkpoint, tiny_model

from cli.main import run
from nrdata.errors import UserError
from nrmodel import checkpoint, load
from nrmodel.config import preset
from nrmodel.model import Model
from nrmodel.network.compact import CompactConfig

SMALL = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)


def switched(value: float = 0.0) -> Model:
    """`tiny_model` with a switch of that size."""
    given = tiny_model()
    model = Model(preset("nano", network=SMALL, z_dim=8, keep=True))
    model.load_state_dict({**model.state_dict(), **given.state_dict()})
    with torch.no_grad():
        model.reference.keep_embedding.fill_(value)
    return model.eval().requires_grad_(False)


def test_a_new_switch_changes_nothing_and_a_learnt_one_only_what_asks_for_it():
    noisy, clip = speech(1.0) + noise(1.0), noise(0.5, seed=4)
    before = tiny_model().enhance(noisy, RATE, clip)
    assert np.array_equal(switched().enhance(noisy, RATE, clip), before)
    assert np.array_equal(switched().enhance(noisy, RATE, clip, keep_rest=True), before)
    learnt = switched(0.5)
    assert np.array_equal(learnt.enhance(noisy, RATE, clip), before)
    assert not np.allclose(learnt.enhance(noisy, RATE, clip, keep_rest=True), before)


def test_in_a_batch_each_item_has_its_own_switch_and_a_missing_clip_none():
    model = switched(0.5)
    clips = torch.from_numpy(np.stack([noise(0.5), noise(0.5), noise(0.5)]))
    z = model.embed_batch(clips, torch.tensor([8000, 8000, 0]), torch.tensor([True, False, True]))
    apart = z[0] - z[1]
    assert torch.allclose(apart[:8], torch.full((8,), 0.5)) and not apart[8:].any()
    assert torch.equal(z[2], model.null(1)[0])


def test_training_asks_for_it_and_moves_it(tiny_dataset, tmp_path):
    start = tiny_checkpoint(tmp_path)
    asked = f"train --shards {tiny_dataset} --from {start} --ref-mode disjoint --remix --two-noises 1 --keep 1"
    asked += f" --max-steps 2 --batch-size 2 --crop-frames 32 --validate-every 9 --threads 1 --out {tmp_path / 'run'}"
    assert run(asked.split()) == 0
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.config.keep and model.reference.keep_embedding.abs().max() > 0
    assert "keep = 1.0" in (tmp_path / "run" / "config.toml").read_text()


def test_the_command_keeps_the_rest_and_refuses_without_a_clip(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = switched(0.5)
    checkpoint.save_model(tmp_path / "m.safetensors", model.state_dict(), model.config)
    soundfile.write("talk.wav", speech(1.0) * 0.5 + noise(1.0), RATE)
    soundfile.write("hum.wav", noise(0.5, seed=4), RATE)
    asked = ["enhance", "talk.wav", "--checkpoint", "m.safetensors", "--out"]
    assert run([*asked, "all", "--ref", "hum.wav"]) == 0
    assert run([*asked, "rest", "--ref", "hum.wav", "--keep-rest"]) == 0
    sounds = [soundfile.read(f"{out}/talk.wav")[0] for out in ("all", "rest")]
    assert not np.allclose(*sounds)
    log = json.loads((tmp_path / "rest" / "enhance.jsonl").read_text().splitlines()[0])
    assert log["settings"]["keep_rest"] is True
    assert run([*asked, "none", "--keep-rest"]) == 2 and "a clip of what is to go is needed" in capsys.readouterr().err
    assert not (tmp_path / "none" / "talk.wav").exists()


def test_with_keep_rest_a_talker_may_be_what_goes():
    model = switched(0.5)
    noisy = speech(1.0) * 0.5 + noise(1.0)
    with pytest.warns(UserWarning, match="is speech"):
        model.enhance(noisy, RATE, speech(1.0, seed=3))
    kept = model.enhance(noisy, RATE, speech(1.0, seed=3), keep_rest=True)
    assert kept.shape == noisy.shape


def test_a_model_without_a_switch_says_so():
    with pytest.raises(UserError, match="not trained to keep the rest"):
        tiny_model().enhance(speech(1.0), RATE, noise(0.5), keep_rest=True)
    with pytest.raises(UserError, match="a clip of what is to go is needed"):
        switched().enhance(speech(1.0), RATE, keep_rest=True)
