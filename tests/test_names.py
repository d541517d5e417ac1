"""One name in two spellings is one name; columns are named; refusals keep their reasons; content decides."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from corpora import bare_folders, build, write
from helpers import RATE, noise, speech

from nrdata.builders.entries import check_columns, identifier, read_csv
from nrdata.builders.units import Levels, audible_start, cut
from nrdata.errors import UserError


def refused(out: Path) -> dict[str, str]:
    return {r["item"]: r["kind"] for r in map(json.loads, (out / "refused.jsonl").read_text().splitlines())}


def folders(root: Path, out: Path, *more: object) -> int:
    return build("--source", "folders", "--speech", root / "speech", "--noise", root / "noise", "--out", out, *more)


def test_two_unicode_forms_are_one_name(tmp_path):
    clean = 0.4 * speech(1.2)
    write(tmp_path / "in/clean" / unicodedata.normalize("NFC", "süß.wav"), clean)
    write(tmp_path / "in/noisy" / unicodedata.normalize("NFD", "süß.wav"), clean + 0.1 * noise(1.2))
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out", "--strict") == 0
    assert identifier(unicodedata.normalize("NFD", "Café")) == identifier("café")


def test_two_spellings_of_a_place_are_one_place_without_collisions(tmp_path):
    bare_folders(tmp_path)
    write(tmp_path / "noise/Place0/new.wav", noise(5.0, 0, seed=50))
    write(tmp_path / "noise/Place0/r1.wav", noise(5.0, 0, seed=51))
    assert folders(tmp_path, tmp_path / "out", "--hours", 0.01, "--per-cell", 1) == 0
    found = refused(tmp_path / "out")
    assert list(found.values()).count("ambiguous") == 1
    rows = [json.loads(line) for line in (tmp_path / "out/plan.jsonl").read_text().splitlines()]
    assert {row["env_id"] for row in rows} == {"local/place0", "local/place1", "local/place2"}


@pytest.mark.parametrize(
    "header", ["clean,noisy,reference", "clean,noisy,Ref", "clean,noisy,speakr", "clean,noisy,env"]
)
def test_a_misspelt_column_is_named(tmp_path, header):
    known = ("clean", "noisy", "split", "env_id", "speaker", "ref")
    with pytest.raises(UserError, match=f"column '{header.split(',')[2]}'"):
        check_columns(tmp_path, header.split(","), known)
    assert check_columns(tmp_path, ["clean", "noisy", "weather"], known) == ["weather"]


def test_blanks_around_columns_and_cells_are_no_part_of_them(tmp_path):
    (tmp_path / "a.csv").write_text("clean, noisy , ref\na.wav, b.wav,c.wav \n")
    rows, header = read_csv(tmp_path / "a.csv")
    assert header == ["clean", "noisy", "ref"] and rows == [{"clean": "a.wav", "noisy": "b.wav", "ref": "c.wav"}]


def test_an_empty_split_says_what_was_refused_and_what_helps(tmp_path, capsys):
    bare_folders(tmp_path)
    for path in sorted((tmp_path / "noise").rglob("*.wav")):
        write(path, np.tile(noise(1.0, seed=len(path.name)), 5))
    assert folders(tmp_path, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "refused as loop" in error and "heard again" in error and "--reserve-ref 0" in error


def test_mostly_silent_noise_is_refused_with_its_share_and_crops_have_sound():
    x = np.zeros(5 * RATE, np.float32)
    x[:RATE] = noise(1.0)
    units, out = cut(Levels.of([x], RATE), RATE, 0)
    assert not units and out[0].kind == "mostly_silent" and "20 %" in out[0].reason
    x[: 3 * RATE] = noise(3.0)
    levels = Levels.of([x], RATE)
    assert len(cut(levels, RATE, 0)[0]) == 1
    for seed in range(20):
        start = audible_start(levels, (0, 5 * RATE), RATE, np.random.default_rng(seed))
        assert levels.sounding(start, start + RATE) >= 0.5


def test_the_same_speech_under_two_speakers_is_one(tmp_path):
    bare_folders(tmp_path)
    write(tmp_path / "speech/zz/other.wav", speech(2.0, seed=0))
    assert folders(tmp_path, tmp_path / "out", "--hours", 0.01, "--per-cell", 1) == 0
    assert refused(tmp_path / "out")["zz/other.wav"] == "duplicate"


def test_the_same_noise_under_two_names_is_one(tmp_path):
    """Another environment or recording, another container: the later one is refused."""
    bare_folders(tmp_path)
    for name, of in (("zz/other.flac", "r2"), ("place1/twin.wav", "r3")):
        write(tmp_path / "noise" / name, sf.read(tmp_path / f"noise/place1/{of}.wav", dtype="int16")[0])
    assert folders(tmp_path, tmp_path / "out", "--hours", 0.01, "--per-cell", 1) == 0
    found = {item: kind for item, kind in refused(tmp_path / "out").items() if kind == "duplicate"}
    assert found == {"zz/other.flac": "duplicate", "place1/twin.wav": "duplicate"}
