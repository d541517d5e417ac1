"""The page to try it: what a press computes, hostile sound, sessions, the command. The page itself, in a browser, is in
test_app_browser.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from helpers import noise, spoken
from stand_ins import Local

import nrmodel.app
from cli.app import command, wait
from nrdata import audio
from nrdata.errors import UserError
from nrmodel.app import desk, example, press, shown

RATE = 16000


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Pictures cost more than all else: they are drawn where they are looked at."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr(press, "spectrograms", lambda sounds, rate, path, width: path.write_bytes(b""))


@pytest.fixture
def talk(tmp_path):
    """A second of the room, then a voice in it."""
    path = tmp_path / "my talk.wav"
    x = 0.3 * noise(2.5)
    x[RATE:] += spoken(1.5)
    audio.write(path, x, RATE)
    return path


@pytest.fixture
def room(tmp_path):
    audio.write(tmp_path / "kitchen.wav", 0.3 * noise(1.0, seed=1), RATE)
    return tmp_path / "kitchen.wav"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


def test_a_press_gives_both_sounds_pictures_and_what_the_clip_was_judged_to_be(talk, room, folder):
    result = press.enhanced(Local(taps=(0.5,)), talk, room, 1.0, folder)
    x, rate = audio.read(talk)
    before, after = (audio.read(path) for path in (result.before, result.after))
    assert before[1] == after[1] == rate
    assert np.abs(before[0] - x).max() < 1e-4 and np.abs(after[0] - 0.5 * x).max() < 1e-3
    assert result.after.name == "my talk-enhanced.wav" and result.seconds == 2.5
    assert result.reference == "kitchen.wav, 1.00 s"
    assert any("kitchen.wav: 1.00 s, sound in 100%" in text and "speech in 0%" in text for text in result.told)
    assert [path.stat().st_size > 10000 for path in result.pictures] == [True, True]
    assert str(folder) not in " ".join(result.told)


def test_strength_is_the_share_that_is_removed(talk, folder):
    x, _ = audio.read(talk)
    result = press.enhanced(Local(taps=(0.5,)), talk, None, 0.5, folder)
    assert np.abs(audio.read(result.after)[0] - 0.75 * x).max() < 1e-3
    assert result.reference == "none"


@pytest.mark.parametrize("asked", [(0.1, 0.9), (-1.0, 0.9), "auto"])
def test_the_room_is_heard_in_the_talk_itself(talk, folder, asked):
    result = press.enhanced(Local(), talk, asked, 1.0, folder)
    assert "s of the file itself" in result.reference
    assert any(text.startswith("my talk.wav at ") and "speech in 0%" in text for text in result.told)


def test_a_clip_that_does_not_serve_is_told_in_the_page_s_words(talk, folder, tmp_path):
    audio.write(tmp_path / "voice.wav", spoken(2.0), RATE)
    result = press.enhanced(Local(), talk, tmp_path / "voice.wav", 1.0, folder)
    (told,) = [text for text in result.told if "is speech" in text]
    assert told.startswith("voice.wav is speech") and told.endswith("works without reference")
    assert result.reference == "none"


def test_of_a_long_clip_the_beginning_is_used(talk, folder, tmp_path):
    audio.write(tmp_path / "long.flac", np.tile(0.3 * noise(1.0), 40), RATE)
    result = press.enhanced(Local(), talk, tmp_path / "long.flac", 1.0, folder)
    assert result.reference == "long.flac, 30.00 s"


def hostile(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    x = 0.1 * noise(0.5)
    if kind == "text":
        path.write_text("no sound at all\n" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no samples":
        sf.write(path, np.zeros(0), RATE)
    elif kind == "three hours":
        path = path.with_suffix(".flac")
        sf.write(path, np.zeros(3 * 3600 * 1000, np.int16), 1000)
    elif kind == "three hours, not said":
        path = hostile(folder, "three hours").rename(folder / "three hours, not said.flac")
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the number of samples in the header
        data[22:26] = bytes(4)
        path.write_bytes(data)
    elif kind == "six channels":
        sf.write(path, np.repeat(x[:, None], 6, axis=1), RATE)
    elif kind == "not a number":
        sf.write(path, np.where(np.arange(len(x)) == 9, np.nan, x), RATE, subtype="FLOAT")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(int(press.MAX_MEGABYTES * 1e6) + 1)
    else:
        raise AssertionError(kind)
    return path


HOSTILE = {
    "text": "not a sound file", "empty": "is empty", "no samples": "holds no samples", "three hours": "longer than 5",
    "three hours, not said": "longer than 5", "six channels": "6 channels", "not a number": "non-finite",
    "large": "larger than 60 MB",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_talks_are_refused_in_a_sentence(kind, folder, tmp_path):
    path = hostile(tmp_path, kind)
    with pytest.raises(UserError, match=HOSTILE[kind]) as refused:
        press.enhanced(Local(), path, None, 1.0, folder)
    assert str(refused.value).startswith(path.name) and str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("kind", ["text", "empty", "six channels", "not a number"])
def test_hostile_rooms_are_refused_in_a_sentence(kind, talk, folder, tmp_path):
    path = hostile(tmp_path, kind)
    with pytest.raises(UserError, match=HOSTILE[kind]) as refused:
        press.enhanced(Local(), talk, path, 1.0, folder)
    assert str(refused.value).startswith(path.name)


def test_a_film_that_does_not_say_how_long_it_is_is_decoded_no_further_than_it_may_be(folder, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path = tmp_path / "film.webm"
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as out:
        stream = out.add_stream("libopus", rate=48000, layout="mono")
        for _ in range(100):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="flt", layout="mono")
            frame.sample_rate = 48000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    longest = []
    probe = audio.probe
    monkeypatch.setattr(press.audio, "probe", lambda p, **k: longest.append(probe(p, **k)) or longest[-1])
    with pytest.raises(UserError, match="longer than"):
        press.take(path, folder / "talk.wav", most_seconds=2.0)
    assert longest[-1].frames < 3.5 * 48000
    taken = press.take(path, folder / "room.wav", most_seconds=2.0, whole=False)
    assert taken.seconds == 2.0 and len(audio.read(taken.wave)[0]) == 96000


@pytest.mark.parametrize(
    ("subtype", "rate", "kept"), [("PCM_U8", 8000, "PCM_16"), ("PCM_24", 48000, "PCM_24"), ("FLOAT", 44100, "FLOAT")]
)
def test_stereo_and_any_depth_and_rate_come_back_as_they_came(subtype, rate, kept, folder, tmp_path):
    x = np.stack([noise(1.0, rate=rate), 0.5 * noise(1.0, seed=2, rate=rate)], axis=1)
    sf.write(tmp_path / "x.wav", x, rate, subtype=subtype)
    result = press.enhanced(Local(), tmp_path / "x.wav", None, 1.0, folder)
    for path in (result.before, result.after):
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (rate, 2, rate, kept)


def test_a_talk_that_is_cut_short_is_worked_on_and_told(talk, folder):
    talk.write_bytes(talk.read_bytes()[:-RATE])
    result = press.enhanced(Local(), talk, None, 1.0, folder)
    assert result.seconds == 2.0
    assert any(text.startswith("my talk.wav") and "cut short" in text for text in result.told)


def test_the_example_is_the_same_every_time_and_holds_a_pause(tmp_path):
    paths = example.write(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in example.write(again)]
    x, rate = audio.read(paths[0])
    assert len(x) == example.TALK_SECONDS * rate and np.abs(x).max() < 1
    result = press.enhanced(Local(), paths[0], paths[1], 1.0, again)
    assert any("speech in 0%" in text for text in result.told)


def test_names_are_no_html(folder, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.wav"
    audio.write(path, 0.1 * noise(1.0), RATE)
    text = shown.player(press.enhanced(Local(), path, path, 1.0, folder), desk.address)
    assert "<img src=x" not in text and "&lt;img src=x" in text
    assert "<b>" not in shown.fault("<b> is empty")


def test_the_waveform_follows_the_sound(talk):
    peaks = press.peaks(talk, 50)
    x = np.abs(audio.read(talk)[0][:, 0]).reshape(50, -1).max(axis=1)
    assert np.abs(np.array(peaks) - x).max() < 1e-3
    drawn = shown.stretch(peaks, 2.5)
    assert (drawn["from"], drawn["to"], drawn["seconds"]) == (0.0, 1.0, 2.5)
    assert len(drawn["path"].split()) == 100


@pytest.fixture(scope="module")
def at_desk(tmp_path_factory):
    served = tmp_path_factory.mktemp("served")
    found = desk.Desk(Local(), served)
    found.sessions.spare()
    return found


@pytest.mark.parametrize(
    ("talk_there", "how", "said"),
    [(False, desk.NONE, "bring or record a talk"), (True, desk.BROUGHT, "the room first")],
)
def test_what_is_missing_is_asked_for(at_desk, talk, talk_there, how, said):
    text = at_desk.press(str(talk) if talk_there else None, how, None, at_desk.stretch, 1.0, "a")
    assert 'role="alert"' in text and said in text


def test_every_way_to_name_the_room_gives_a_player(at_desk, talk, room):
    marked = {**at_desk.stretch, "from": 0.0, "to": 0.9}
    for how, used in {desk.BROUGHT: "kitchen.wav", desk.MARKED: "0.00-0.90 s", desk.FOUND: "of the file itself",
                      desk.NONE: "none"}.items():  # fmt: skip
        text = at_desk.press(str(talk), how, str(room), marked, 1.0, "b")
        assert used in text.split("Reference:")[1].split("Work:")[0] and text.count("<audio") == 2
    assert "empty" in at_desk.press(str(talk), desk.MARKED, None, {**marked, "to": 0.0}, 1.0, "b")


def test_a_talk_that_cannot_be_read_is_said_when_it_is_brought(at_desk, tmp_path):
    drawn, text = at_desk.brought(str(hostile(tmp_path, "text")), "c")
    assert drawn["path"] == "" and "text.wav is not a sound file" in text


def test_files_go_with_their_session_and_no_others(at_desk, talk, room):
    served = at_desk.sessions.folder
    before = set(served.rglob("*"))
    for session in ("one", "two"):
        at_desk.brought(str(talk), session)
        at_desk.press(str(talk), desk.BROUGHT, str(room) if session == "one" else None, {}, 1.0, session)
    at_desk.press(str(at_desk.example[0]), desk.NONE, None, at_desk.stretch, 1.0, "one")
    at_desk.press(str(served), desk.NONE, None, at_desk.stretch, 1.0, "one")  # a folder is nobody's upload
    at_desk.sessions.close("one")
    assert talk.exists() and not room.exists()  # the other page has the talk, too
    assert at_desk.example[0].exists() and at_desk.example[1].exists()
    at_desk.sessions.close("two")
    assert not talk.exists() and set(served.rglob("*")) == before
    at_desk.sessions.close("never there")


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "nrmodel.app.page", raising=False)
    monkeypatch.delattr(nrmodel.app, "page", raising=False)
    result = CliRunner().invoke(command, [])
    assert isinstance(result.exception, UserError)
    assert "pip install 'nr[app]'" in str(result.exception)


def test_ctrl_c_is_the_end_of_the_page_and_no_error():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    wait()


def test_the_space_needs_what_the_package_needs():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = (root / "space" / "requirements.txt").read_text().splitlines()
    assert lines == [*project["dependencies"], *project["optional-dependencies"]["app"]]
    head = (root / "space" / "README.md").read_text().split("---")[1]
    facts = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert facts["sdk"] == "gradio" and (root / "space" / facts["app_file"]).exists()
    assert facts["license"].upper() == project["license"]


def test_the_space_is_whole(tmp_path):
    root = Path(__file__).parents[1]
    subprocess.run(["make", "--silent", "space", f"OUT={tmp_path}"], cwd=root, check=True)
    wanted = [
        path for name in ("nrdata", "nrmodel") for path in (root / name).rglob("*") if "__pycache__" not in str(path)
    ]
    wanted += [root / "space" / name for name in ("README.md", "app.py", "requirements.txt")]
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {path.relative_to(root).as_posix().removeprefix("space/") for path in wanted} <= there
