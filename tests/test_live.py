"""`nr live` with files in place of the devices, through its entry point."""

from __future__ import annotations

import sys
import threading

import click
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import noise, speech
from stand_ins import Local, tiny_checkpoint

from cli.live import command
from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import live
from nrmodel.enhancement.streaming import Stream


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.wav"
    room = 0.3 * noise(1.0, rate=44100)
    audio.write(path, np.concatenate([room, speech(2.0, rate=44100) + 0.3 * noise(2.0, rate=44100)]), 44100)
    return path


def nr_live(*arguments: object):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_a_file_goes_in_and_a_file_of_its_rate_and_length_comes_out(tmp_path, talk):
    out = tmp_path / "clean.wav"
    result = nr_live("--input", talk, "--output", out, "--checkpoint", tiny_checkpoint(tmp_path))
    assert result.exit_code == 0, result.output
    assert "3.00 s enhanced" in result.output
    assert "latency 0.7" in result.output
    y, rate = audio.read(out)
    assert (rate, y.shape) == (44100, (3 * 44100, 1))
    assert y.any()


def test_the_room_is_heard_first_and_is_not_put_out(tmp_path, talk):
    out = tmp_path / "clean.wav"
    result = nr_live("--input", talk, "--output", out, "--ref-seconds", 1, "--checkpoint", tiny_checkpoint(tmp_path))
    assert result.exit_code == 0, result.output
    assert "say nothing" in result.output
    assert len(audio.read(out)[0]) == 2 * 44100


def test_the_clip_is_what_was_heard_of_the_room(talk):
    source = live.file_source(talk)
    x, _ = audio.read(talk)
    assert np.array_equal(live.take(source, 1.01), x[:44541])  # not a whole number of blocks
    assert np.array_equal(np.concatenate(list(source.blocks)), x[44541:])
    with pytest.raises(UserError, match=r"the sound ends after 3\.00 s"):
        live.take(live.file_source(talk), 5.0)


def test_stopped_it_gives_all_that_was_heard(talk):
    """As Ctrl-C does: after half a second."""
    source, stop, out, lines = live.file_source(talk), threading.Event(), [], []
    blocks = source.blocks

    def half() -> object:
        for i, block in enumerate(blocks):
            if i == 25:
                stop.set()
            yield block

    source.blocks = half()
    seconds = live.run(source, Stream(Local(), 44100), out.append, lines.append, stop)
    assert seconds == pytest.approx(0.5)
    assert np.abs(np.concatenate(out) - audio.read(talk)[0][: round(0.5 * 44100)]).max() < 1e-5


def test_the_meter_shows_both_levels(talk):
    lines = []
    live.run(live.file_source(talk), Stream(Local(), 44100), lambda x: None, lines.append, threading.Event())
    assert len(lines) == 5
    assert all(line.startswith("in [") and "out [" in line and len(line) == len(lines[0]) for line in lines)
    assert live.bar(np.ones(10)).count("#") == 20
    assert live.bar(np.zeros(10)).count("#") == 0


@pytest.mark.parametrize("arguments", [["--list"], []])
def test_without_sounddevice_the_extra_is_named(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # imports as where it is not installed
    result = nr_live(*arguments)
    assert isinstance(result.exception, UserError)
    assert "pip install 'nr[live]'" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ref", "a.wav", "--ref-seconds", 1], "exclude one another"),
        (["--input", "a.wav", "--microphone", "0"], "in place of a device"),
        (["--input", "a.wav", "--output", "a.wav"], "the input itself"),
    ],
)
def test_what_contradicts_itself_is_a_usage_error(arguments, said):
    result = nr_live(*arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert said in result.output
