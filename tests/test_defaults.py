"""Which model is taken where none is named."""

from __future__ import annotations

import pytest

from nrdata.errors import UserError
from nrmodel import defaults
from nrmodel.defaults import default_checkpoint


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr(defaults.resources, "files", {"nrmodel.pretrained": folder}.__getitem__)
    return folder


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def make_run(runs, name, weights="model.safetensors"):
    (runs / name).mkdir()
    (runs / name / weights).touch()


def test_the_shipped_model_comes_first(shipped, runs):
    (shipped / "nano.safetensors").touch()
    make_run(runs, "a")
    path, said = default_checkpoint(runs)
    assert path == shipped / "nano.safetensors"
    assert "nano" in said


def test_what_keeps_the_rest_has_a_file_of_its_own(shipped, runs):
    for name in ("small", "small-keep"):
        (shipped / f"{name}.safetensors").touch()
    assert default_checkpoint(runs)[0].stem == "small"
    assert default_checkpoint(runs, keep_rest=True)[0].stem == "small-keep"


def test_the_only_run_is_taken_and_said(shipped, runs):
    (runs / "unfinished").mkdir()
    make_run(runs, "a")
    (runs / "a" / "best.safetensors").touch()
    assert default_checkpoint(runs) == (runs / "a", f"the only run, {runs / 'a'}")


def test_a_choice_is_the_users(shipped, runs):
    make_run(runs, "a")
    make_run(runs, "b", "best.safetensors")
    with pytest.raises(UserError, match="2 runs") as error:
        default_checkpoint(runs)
    assert str(runs / "a") in str(error.value) and str(runs / "b") in str(error.value)


def test_nothing_is_a_sentence_with_the_remedy(shipped, runs):
    with pytest.raises(UserError, match="nr train"):
        default_checkpoint(runs)
    with pytest.raises(UserError, match="nr train"):
        default_checkpoint(runs / "none")
