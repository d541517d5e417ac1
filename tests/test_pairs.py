"""Source `pairs`: what somebody else has mixed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from corpora import build, digests, table, write
from helpers import RATE, noise, speech

import nrdata
from cli.main import run
from nrdata.checks.verify import verify


def pair(folder: Path, name: str, seed: int, rate: int = RATE, seconds: float = 1.2) -> None:
    """`clean/NAME` and `noisy/NAME` in the folder."""
    clean = 0.4 * speech(seconds, seed=seed, rate=rate)
    write(folder / "clean" / name, clean, rate)
    write(folder / "noisy" / name, clean + 0.2 * noise(seconds, seed % 3, seed=seed, rate=rate), rate)


def refused(out: Path) -> dict[str, str]:
    return {r["item"]: r["kind"] for r in map(json.loads, (out / "refused.jsonl").read_text().splitlines())}


def test_the_sgmse_layout_becomes_shards(tmp_path):
    for split, count in (("train", 3), ("valid", 2), ("test", 2)):
        for i in range(count):
            pair(tmp_path / "in" / split, f"deep/er/{i}.wav", seed=10 * len(split) + i)
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out", "--strict") == 0
    data = nrdata.open(tmp_path / "out")
    assert {s: len(data.index(s)) for s in data.splits} == {"train": 3, "valid": 2, "test": 2}
    assert not data.has_ref and not verify(tmp_path / "out").faults
    sample = data.sample("valid-0000001")
    assert sample.env_id == "local/unknown" and sample.stretch == (-1, -1) and sample.speaker == "local/unknown"


def test_noise_is_what_the_clean_sound_leaves(tmp_path):
    """To half a step of 16 bits, at the pair's own level."""
    clean, bed = 0.4 * speech(1.2), 0.05 * noise(1.2, 2)
    write(tmp_path / "in/test/clean/a.wav", clean, subtype="FLOAT")
    write(tmp_path / "in/test/noisy/a.wav", clean + bed, subtype="FLOAT")
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 0
    sample = nrdata.open(tmp_path / "out").sample("test-0000001")
    assert sample.meta["gain"] == 1.0
    for stored, original in ((sample.clean, clean), (sample.noise, bed)):
        assert np.max(np.abs(stored - original)) <= 0.51 / 32768
    assert sample.snr_db == pytest.approx(10 * np.log10(np.sum(clean**2) / np.sum(bed**2)), abs=0.02)


def mac_names(root: Path) -> Path:
    """CASES S8: any case of extension, what a Mac leaves, a name in two cases."""
    for i, (clean, noisy) in enumerate((("A.WAV", "a.wav"), ("b.wav", "b.WAV"), ("C.Flac", "C.flac"))):
        x = 0.4 * speech(1.2, seed=i)
        write(root / "clean" / clean, x)
        write(root / "noisy" / noisy, x + 0.1 * noise(1.2, i))
        for side in ("clean", "noisy"):
            (root / side / "._b.wav").write_bytes(bytes(4096))
            (root / side / ".DS_Store").write_bytes(bytes(100))
    return root


def test_names_pair_in_any_case_and_system_files_are_no_items(tmp_path):
    mac_names(tmp_path / "in")
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out", "--strict") == 0
    assert len(nrdata.open(tmp_path / "out").index("train")) == 3 and refused(tmp_path / "out") == {}


def test_a_zip_of_the_folders_gives_the_same_bytes(tmp_path):
    root = mac_names(tmp_path / "in")
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/clean/._A.WAV", bytes(4096))
    assert build("--source", "pairs", "--root", root, "--out", tmp_path / "a") == 0
    assert build("--source", "pairs", "--root", tmp_path / "zips", "--out", tmp_path / "b", "--strict") == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_what_cannot_be_paired_is_refused_by_name(tmp_path, capsys):
    root = tmp_path / "in" / "test"
    for name in ("good.wav", "rate.wav", "longer.wav", "silent.wav", "alone.wav", "twice.wav", "stereo.wav"):
        pair(root, name, seed=len(name))
    write(root / "noisy/rate.wav", noise(1.2, rate=44100), 44100)
    write(root / "noisy/longer.wav", noise(1.3))
    (root / "noisy/silent.wav").write_bytes((root / "clean/silent.wav").read_bytes())
    (root / "noisy/alone.wav").unlink()
    write(root / "noisy/TWICE.flac", noise(1.2))
    write(root / "noisy/stereo.wav", np.stack([noise(1.2)] * 2, axis=1))
    write(root / "noisy/noclean.wav", noise(1.2))
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert refused(tmp_path / "out") == {
        "test/noisy/rate.wav": "wrong_rate",
        "test/noisy/longer.wav": "length_mismatch",
        "test/noisy/silent.wav": "silent_noise",
        "test/clean/alone.wav": "missing_pair",
        "test/noisy/TWICE.flac": "ambiguous",
        "test/noisy/stereo.wav": "channels_mismatch",
        "test/noisy/noclean.wav": "missing_pair",
    }
    assert "16000 Hz expected, 44100 found" in (tmp_path / "out" / "refused.jsonl").read_text()
    assert len(nrdata.open(tmp_path / "out").index("test")) == 1
    assert "7 items refused" in capsys.readouterr().out


def test_opposite_channels_are_taken_from_the_same_side_of_both(tmp_path):
    """Mean of one and first of the other would leave speech in the noise."""
    clean, bed = 0.3 * speech(1.2), 0.1 * noise(1.2, 1)
    write(tmp_path / "in/test/clean/a.wav", np.stack([clean, -clean], axis=1))
    write(tmp_path / "in/test/noisy/a.wav", np.stack([clean + bed, bed - clean], axis=1))
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 0
    sample = nrdata.open(tmp_path / "out").sample("test-0000001")
    assert np.corrcoef(sample.noise, bed)[0, 1] > 0.999 and np.corrcoef(sample.clean, clean)[0, 1] > 0.999


def csv_corpus(root: Path, refs: int) -> Path:
    """Four speakers, two places, a room tone for the first `refs` rows."""
    rows = []
    for i in range(8):
        pair(root, f"{i}.wav", seed=i)
        write(root / "tone" / f"{i}.flac", 0.05 * noise(1.5, i % 3, seed=100 + i, rate=44100), 44100)
        row = {"clean": f"clean/{i}.wav", "noisy": f"noisy/{i}.wav", "env_id": f"place{i % 2}", "speaker": f"s{i % 4}"}
        rows.append({**row, "ref": f"tone/{i}.flac" if i < refs else "", "device": "phone"})
    return table(root / "pairs.csv", rows)


def test_a_csv_names_places_speakers_and_room_tones(tmp_path):
    index = csv_corpus(tmp_path, refs=8)
    assert build("--source", "pairs", "--pairs", index, "--out", tmp_path / "out", "--strict") == 0
    data = nrdata.open(tmp_path / "out")
    assert data.has_ref and set(data.splits) == {"train", "valid", "test"} and not verify(tmp_path / "out").faults
    sets = [set(data.index(s).speaker_names) for s in data.splits]
    assert sum(map(len, sets)) == 4 == len(set.union(*sets))
    sample = data.sample("train-0000001")
    assert sample.env_id in ("local/place0", "local/place1") and sample.meta["device"] == "phone"
    assert len(sample.ref) == 24000
    t = {s: data.index(s).ref_frames for s in data.splits}
    assert all((frames == 24000).all() for frames in t.values())


def test_rows_without_a_room_tone_are_refused_where_others_have_one(tmp_path):
    index = csv_corpus(tmp_path, refs=6)
    assert build("--source", "pairs", "--pairs", index, "--out", tmp_path / "out") == 0
    assert refused(tmp_path / "out") == {"noisy/6.wav": "no_ref", "noisy/7.wav": "no_ref"}
    data = nrdata.open(tmp_path / "out")
    assert data.has_ref and sum(len(data.index(s)) for s in data.splits) == 6


def test_two_folders_anywhere(tmp_path, capsys):
    pair(tmp_path / "x", "a.wav", seed=1)
    argv = ("--source", "pairs", "--clean", tmp_path / "x/clean")
    assert build(*argv, "--noisy", tmp_path / "x/noisy", "--out", tmp_path / "out") == 0
    assert len(nrdata.open(tmp_path / "out").index("train")) == 1
    assert build(*argv, "--out", tmp_path / "other") == 2
    assert "go together" in capsys.readouterr().err


def test_an_empty_folder_is_a_sentence(tmp_path, capsys):
    (tmp_path / "clean").mkdir()
    assert build("--source", "pairs", "--root", tmp_path, "--out", tmp_path / "out") == 2
    assert "no folders 'clean' and 'noisy'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../clean/a.wav", "/clean/a.wav", "clean\\..\\a.wav", "c:/clean/a.wav"])
def test_hostile_archives_are_refused_whole(tmp_path, name, capsys):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.zip", "w") as archive:
        archive.writestr("clean/b.wav", b"x")
        archive.writestr(name, b"x")
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "not a plain archive" in capsys.readouterr().err


def test_a_bomb_in_an_archive_is_one_refused_file(tmp_path):
    """S5: 300 MB of zeros in 300 kB; the good pair beside it is made."""
    pair(tmp_path / "x", "good.wav", seed=1)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for side in ("clean", "noisy"):
            archive.write(tmp_path / "x" / side / "good.wav", f"{side}/good.wav")
            with archive.open(f"{side}/bomb.wav", "w") as member:
                for _ in range(300):
                    member.write(bytes(1_000_000))
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert refused(tmp_path / "out") == {"noisy/bomb.wav": "archive"}


def test_pairs_of_every_kind_are_found_and_what_needs_a_decoder_is_named(tmp_path):
    root = tmp_path / "in" / "train"
    for i, (ending, kind) in enumerate((("sph", "NIST"), ("voc", "VOC"), ("wav", "WAV"))):
        x = 0.4 * speech(1.2, seed=i)
        for side, y in (("clean", x), ("noisy", x + 0.1 * noise(1.2, i))):
            (root / side).mkdir(parents=True, exist_ok=True)
            sf.write(root / side / f"{i}.{ending}", y, RATE, "PCM_16", format=kind)
    for side in ("clean", "noisy"):
        (root / side / "memo.m4a").write_bytes(bytes(100))
    assert build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert len(nrdata.open(tmp_path / "out").index("train")) == 3
    named = {"train/clean/memo.m4a": "needs_decoder", "train/noisy/memo.m4a": "needs_decoder"}
    assert refused(tmp_path / "out") == named


def copied(root: Path, name: str, of: str, seed: int) -> None:
    """Another noise under a clean sound that lies elsewhere too, here as FLAC of 24 bits."""
    clean, rate = sf.read(root / of, dtype="float32")
    write(root / name.replace("SIDE", "clean"), clean, rate, subtype="PCM_24")
    write(root / name.replace("SIDE", "noisy"), clean + 0.2 * noise(len(clean) / rate, 1, seed=seed), rate)


def test_speech_in_two_given_splits_is_told_whatever_it_is_called(tmp_path, capsys):
    root = tmp_path / "in"
    for split in ("test", "train"):
        for i in range(2):
            pair(root / split, f"{i}.wav", seed=10 * len(split) + i)
    copied(root, "train/SIDE/other.flac", "test/clean/0.wav", 70)
    copied(root, "valid/SIDE/another.flac", "train/clean/1.wav", 71)
    copied(root, "test/SIDE/again.flac", "test/clean/1.wav", 72)  # twice in one split, in other noise: no leak
    assert build("--source", "pairs", "--root", root, "--out", tmp_path / "out") == 0
    assert refused(tmp_path / "out") == {}
    told = capsys.readouterr().out
    assert "train/clean/other.flac (train) is test/clean/0.wav (test)" in told
    assert "train/clean/1.wav (train) is valid/clean/another.flac (valid)" in told and "test/clean/again" not in told
    assert run(["verify-shards", "--leaks", str(tmp_path / "out")]) == 1
    assert "same_clean" in capsys.readouterr().out


def test_speech_under_two_speakers_of_a_csv_stays_in_one_split(tmp_path):
    index = csv_corpus(tmp_path, refs=8)
    lines = index.read_text().splitlines()
    for i in range(1, 4):  # rows of four speakers, who are divided by the seed, all say the same
        (tmp_path / f"clean/{i}.wav").unlink()
        (tmp_path / f"noisy/{i}.wav").unlink()
        copied(tmp_path, f"SIDE/{i}.wav", "clean/0.wav", 80 + i)
    assert build("--source", "pairs", "--pairs", index, "--out", tmp_path / "out") == 0
    found = refused(tmp_path / "out")
    assert set(found.values()) == {"duplicate"} and len(found) >= 2
    rows = [json.loads(line) for line in (tmp_path / "out" / "plan.jsonl").read_text().splitlines()]
    assert len(rows) + len(found) == len(lines) - 1
    assert len({row["split"] for row in rows if row["speech"]["path"] in {f"clean/{i}.wav" for i in range(4)}}) == 1


def test_copies_are_found_in_archives_too(tmp_path, capsys):
    root = tmp_path / "in"
    pair(root / "train", "a.wav", seed=1)
    pair(root / "train", "b.wav", seed=2)
    copied(root, "test/SIDE/c.wav", "train/clean/a.wav", 70)
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "all.zip", "w") as archive:
        for path in sorted(root.rglob("*.wav")):
            archive.write(path, path.relative_to(root))
    assert build("--source", "pairs", "--root", tmp_path / "zips", "--out", tmp_path / "out") == 0
    assert "train/clean/a.wav (train) is test/clean/c.wav (test)" in capsys.readouterr().out
