"""Corpora known by name: a miniature of each published layout builds, is whole, leaks nothing and loses nothing."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import build, table, write
from helpers import noise, speech

import nrdata
from cli.main import run
from nrdata import manifests
from nrdata.audio import list_audio
from nrdata.builders import corpora as package
from nrdata.builders.corpora import layouts
from nrdata.builders.entries import Entry
from nrdata.builders.plan import Refused
from nrdata.checks.verify import verify


def librispeech(root: Path) -> Path:
    for part, speakers in {"train-clean-100": ("19", "26"), "dev-clean": ("84",), "test-clean": ("61", "121")}.items():
        for s in speakers:
            for n in range(2):
                name = f"{s}-198-{n:04d}.flac"
                write(root / "LibriSpeech" / part / s / "198" / name, speech(2.5, seed=100 * int(s) + n))
            (root / "LibriSpeech" / part / s / "198" / f"{s}-198.trans.txt").write_text("19-198-0000 WORDS\n")
    return root


def vctk(root: Path) -> Path:
    """p315 lacks mic2 and texts, p280 mic2."""
    for i, s in enumerate(("p225", "p226", "p232", "p280", "p315", "s5")):
        for n in (1, 2):
            x = speech(2.5, seed=10 * i + n, rate=48000)
            for mic in (1,) if s in ("p280", "p315") else (1, 2):
                folder = root / "VCTK-Corpus-0.92" / "wav48_silence_trimmed" / s
                write(folder / f"{s}_{n:03d}_mic{mic}.flac", x, 48000)
    return root


def demand(root: Path) -> Path:
    for i, folder in enumerate(("DKITCHEN", "TCAR", "OHALLWAY", "TBUS", "SCAFE")):
        for channel in (1, 2) if i == 0 else (1,):
            x = noise(11.0, i, seed=channel, rate=48000)
            write(root / f"{folder}_48k" / folder / f"ch{channel:02d}.wav", x, 48000)
    write(root / "TCAR_16k" / "TCAR" / "ch01.wav", noise(11.0, 1, seed=1))
    return root


def esc50(root: Path) -> Path:
    rows = []
    for c, category in enumerate(("dog", "sea_waves")):
        for fold in range(1, 6):
            for take in "AB":
                name = f"{fold}-{1000 * c + fold}-{take}-{c}.wav"
                x = noise(5.0, c, seed=10 * fold + ord(take), rate=44100)
                write(root / "ESC-50-master" / "audio" / name, x, 44100)
                rows.append(
                    {"filename": name, "fold": fold, "target": c, "category": category, "esc10": not c}
                    | {"src_file": 1000 * c + fold, "take": take}
                )
    (root / "ESC-50-master" / "meta").mkdir()
    table(root / "ESC-50-master" / "meta" / "esc50.csv", rows)
    return root


def musan(root: Path) -> Path:
    for number in (0, 11, 70, 79, 83, 99):
        write(root / "musan" / "noise" / "free-sound" / f"noise-free-sound-{number:04d}.wav", noise(5.0, seed=number))
    write(root / "musan" / "noise" / "sound-bible" / "noise-sound-bible-0012.wav", noise(6.0, 2))
    write(root / "musan" / "music" / "fma" / "music-fma-0000.wav", noise(5.0, 3))
    write(root / "musan" / "speech" / "librivox" / "speech-librivox-0000.wav", speech(5.0))
    (root / "musan" / "noise" / "free-sound" / "LICENSE").write_text("public domain\n")
    return root


def wham(root: Path) -> Path:
    """Names as published, those of WSJ0 mixtures; stereo; what they are stands in the metadata."""
    (root / "wham_noise" / "metadata").mkdir(parents=True)
    for i, part in enumerate(("tr", "cv", "tt")):
        rows = []
        for n in range(4):
            name = f"40na01{i}{n}_1.9857_01xo031a_-1.9857.wav"
            x = noise(5.0, n % 2, seed=10 * i + n)
            write(root / "wham_noise" / part / name, np.stack([x, 0.9 * x], axis=1))
            ids = {"File ID": 20 * i + n // 2, "Location ID": n % 2, "Location Day ID": i}
            rows.append({"utterance_id": name, "Noise Band": 1, "L to R Width (cm)": 17, **ids})
        table(root / "wham_noise" / "metadata" / f"noise_meta_{part}.csv", rows)
    return root


MINIATURES: dict[str, Callable[[Path], Path]] = {
    "librispeech": librispeech,
    "vctk": vctk,
    "demand": demand,
    "esc50": esc50,
    "musan": musan,
    "wham": wham,
}


def items(source: str, root: Path) -> dict[str, dict]:
    """path -> entry, each file once."""
    found = layouts.items(source, manifests.load(source)["side"], root)
    told = {e.path: vars(e) for e in found if isinstance(e, Entry)}
    told |= {e.item: {"refused": (e.reason, e.kind)} for e in found if isinstance(e, Refused)}
    assert len(told) == len(found)
    return told


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("corpora")

    def corpus(source: str) -> Path:
        root = folder / source
        return root if root.exists() else MINIATURES[source](root)

    return corpus


PAIRS = [("librispeech", places) for places in ("demand", "esc50", "musan", "wham")] + [("vctk", "demand")]


@pytest.mark.parametrize(("voices", "places"), PAIRS)
def test_every_source_builds_and_leaks_nothing(voices, places, corpora, tmp_path, capsys):
    """Issue 9, item 3; B7: each sound file is in the plan or refused, once."""
    roots = corpora(voices), corpora(places)
    out = tmp_path / "out"
    sides = ("--speech", f"{voices}:{roots[0]}", "--noise", f"{places}:{roots[1]}")
    argv = ("--source", "folders", *sides, "--out", out, "--per-cell", 1, "--snr-test", "0,5", "--hours", 0.01)
    assert build(*argv, "--workers", 1, "--strict") == 0, capsys.readouterr().err
    assert not verify(out).faults
    assert run(["verify-shards", str(out), "--leaks"]) == 0, capsys.readouterr().out
    data = nrdata.open(out)
    assert set(data.splits) == {"train", "valid", "test"} and data.has_ref
    for split in data.splits:
        index = data.index(split)
        assert all(name.startswith(f"{voices}/") for name in index.speaker_names)
        assert all(name.startswith(f"{places}/") for name in index.env_names)
    rows = [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]
    refused = [json.loads(line)["item"] for line in (out / "refused.jsonl").read_text().splitlines()]
    for root, side in zip(roots, ("speech", "noise"), strict=True):
        used = {row[side]["path"] for row in rows}
        for path in list_audio(root):
            name = path.relative_to(root).as_posix()
            assert (name in used) or any(r.split("#")[0] == name for r in refused), name
    assert len(set(refused)) == len(refused)
    licences = json.loads((out / "manifest.json").read_text())["licenses"]
    assert manifests.load(voices)["license"] in licences and manifests.load(places)["license"] in licences


def test_demand_is_one_moment_an_environment_under_voicebanks_names(corpora):
    found = items("demand", corpora("demand"))
    used = {p: e for p, e in found.items() if "refused" not in e}
    assert {(e["environment"], e["recording"], e["split"]) for e in used.values()} == {
        ("kitchen", "dkitchen", "train"),
        ("car", "tcar", "train"),
        ("hallway", "ohallway", "valid"),
        ("bus", "tbus", "test"),
        ("cafe", "scafe", "test"),
    }
    reason, kind = found["DKITCHEN_48k/DKITCHEN/ch02.wav"]["refused"]
    assert "one moment" in reason and kind == "not_drawn"
    assert "TCAR_48k/TCAR/ch01.wav" in used and "the same recording" in found["TCAR_16k/TCAR/ch01.wav"]["refused"][0]


def test_one_table_of_names_for_demand_and_voicebank():
    """`demand/cafeteria` is one environment, wherever it came from; DEMAND has 18, and each has a split."""
    demand_names, logs = (manifests.load(s)["environments"] for s in ("demand", "voicebank-demand"))
    assert logs.items() - demand_names.items() == {("babble", "babble"), ("ssn", "ssn")}
    splits = manifests.load("demand")["splits"]
    assert sorted(name for some in splits.values() for name in some) == sorted(demand_names) and len(demand_names) == 18
    assert len({a["url"] for a in manifests.load("demand")["archives"]}) == 18


def test_esc50_clips_of_one_source_file_are_one_recording_and_folds_are_splits(corpora):
    found = items("esc50", corpora("esc50"))
    assert len(found) == 20 and not any("refused" in e for e in found.values())
    a, b = (found[f"ESC-50-master/audio/5-1005-{take}-1.wav"] for take in "AB")
    assert a["recording"] == b["recording"] == "1005" and a["environment"] == "sea_waves" and a["split"] == "test"
    assert {p.split("/")[-1][0]: e["split"] for p, e in found.items()} == {
        "1": "train", "2": "train", "3": "train", "4": "valid", "5": "test",
    }  # fmt: skip
    assert {e["environment"]: e["license"] for e in found.values()} == {"dog": "CC-BY", "sea_waves": "CC-BY-NC-3.0"}
    assert len(set(manifests.load("esc50")["environments"])) == 50


def test_esc50_table_and_files_that_disagree_are_refused_by_name(tmp_path):
    root = esc50(tmp_path)
    audio, meta = (root / "ESC-50-master" / name for name in ("audio", "meta"))
    (audio / "1-1-A-0.wav").unlink()
    write(audio / "9-9-A-9.wav", noise(5.0))
    lines = (meta / "esc50.csv").read_text().splitlines()
    lines[2] = lines[2].replace("1-1-B-0.wav,1,", "1-1-B-0.wav,7,")
    (meta / "esc50.csv").write_text("\n".join([*lines, lines[3]]) + "\n")
    kinds = {p.split("/")[-1]: e["refused"][1] for p, e in items("esc50", root).items() if "refused" in e}
    assert kinds == {
        "1-1-A-0.wav": "no_file",
        "9-9-A-9.wav": "no_line",
        "1-1-B-0.wav": "bad_index",
        "esc50.csv line 22": "duplicate",
    }
    (meta / "esc50.csv").write_text("filename,fold\n1-1-B-0.wav,1\n")
    with pytest.raises(nrdata.errors.UserError, match="lacks category, esc10, src_file"):
        items("esc50", root)
    (meta / "esc50.csv").unlink()
    with pytest.raises(nrdata.errors.UserError, match="nowhere below"):
        items("esc50", root)


def test_musan_is_its_noise_each_recording_a_place(corpora):
    root = corpora("musan")
    found = items("musan", root)
    used = {Path(p).stem: e for p, e in found.items() if "refused" not in e}
    assert all(e["environment"] == e["recording"] == name for name, e in used.items()) and len(used) == 7
    by_split = {s: {name[-4:] for name, e in used.items() if e["split"] == s} for s in ("train", "valid", "test")}
    assert by_split == {"train": {"0000", "0011", "0012"}, "valid": {"0070", "0079"}, "test": {"0083", "0099"}}
    assert {e["refused"][1] for e in found.values() if "refused" in e} == {"not_drawn"}
    assert len(items("musan", root / "musan" / "noise")) == 7


def test_wham_places_and_recordings_come_from_the_metadata(corpora, tmp_path):
    root = corpora("wham")
    found = items("wham", root)
    assert len(found) == 12 and {e["split"] for e in found.values()} == {"train", "valid", "test"}
    clip = found["wham_noise/cv/40na0113_1.9857_01xo031a_-1.9857.wav"]
    assert (clip["environment"], clip["recording"], clip["split"]) == ("location-1", "file-21", "valid")
    assert len(items("wham", root / "wham_noise" / "tt")) == 4
    extra = wham(tmp_path)
    write(extra / "wham_noise" / "tr" / "40na0100_1.9857_01xo031a_-1.9857sp12.wav", noise(5.0))
    write(extra / "wham_noise" / "elsewhere.wav", noise(5.0))
    kinds = {Path(p).name: e["refused"][1] for p, e in items("wham", extra).items() if "refused" in e}
    assert kinds == {"40na0100_1.9857_01xo031a_-1.9857sp12.wav": "no_line", "elsewhere.wav": "layout"}


def test_wham_without_metadata_takes_venue_and_day_from_names_that_carry_them(tmp_path):
    for part in ("tr", "cv", "tt"):
        write(tmp_path / part / f"cafe12_2018-05-{len(part)}_003.wav", noise(5.0))
    write(tmp_path / "tr" / "40na010x_1.9857_01xo031a_-1.9857.wav", noise(5.0))
    found = items("wham", tmp_path)
    clip = found["tr/cafe12_2018-05-2_003.wav"]
    assert (clip["environment"], clip["recording"]) == ("cafe12", "cafe12_2018-05-2")
    assert "metadata" in found["tr/40na010x_1.9857_01xo031a_-1.9857.wav"]["refused"][0]


def test_librispeech_parts_are_splits_at_any_depth(corpora, tmp_path):
    root = corpora("librispeech")
    found = items("librispeech", root)
    assert len(found) == 10 and not any("refused" in e for e in found.values())
    assert {(e["speaker"], e["split"]) for e in found.values()} == {
        ("19", "train"), ("26", "train"), ("84", "valid"), ("61", "test"), ("121", "test"),
    }  # fmt: skip
    assert len(items("librispeech", root / "LibriSpeech" / "test-clean")) == 4
    write(tmp_path / "dev-other" / "7" / "8" / "7-8-0000.flac", speech(1.0))
    write(tmp_path / "dev-other" / "7" / "8" / "9-8-0000.flac", speech(1.0))
    write(tmp_path / "other" / "7" / "8" / "7-8-0000.flac", speech(1.0))
    kinds = {p: e.get("refused", ("", e.get("split")))[1] for p, e in items("librispeech", tmp_path).items()}
    assert list(kinds.values()) == ["valid", "layout", "layout"]


def test_vctk_is_its_first_microphone(corpora):
    found = items("vctk", corpora("vctk"))
    used = [e for e in found.values() if "refused" not in e]
    assert len(found) == 20 and len(used) == 12
    assert {(e["speaker"], e["split"]) for e in used} == {
        ("p225", "train"), ("p226", "valid"), ("p232", "test"), ("p280", "train"), ("p315", "train"), ("s5", "test"),
    }  # fmt: skip
    assert {e["refused"][1] for e in found.values() if "refused" in e} == {"not_drawn"}
    assert set(manifests.load("voicebank-demand")["valid_speakers"]) <= set(manifests.load("vctk")["splits"]["valid"])


def test_a_folder_of_another_layout_and_the_wrong_side_are_sentences(corpora, tmp_path, capsys):
    write(tmp_path / "noise" / "cafe" / "a.wav", noise(5.0))
    argv = ("--source", "folders", "--out", tmp_path / "out", "--speech", f"librispeech:{corpora('librispeech')}")
    assert build(*argv, "--noise", f"wham:{tmp_path / 'noise'}") == 2
    assert "holds nothing of wham as published" in capsys.readouterr().err
    assert build(*argv, "--noise", f"vctk:{corpora('vctk')}") == 2
    assert "vctk is speech, not noise: --speech vctk:" in capsys.readouterr().err


def test_names_are_mixed_with_bare_folders(corpora, tmp_path, capsys):
    """A known corpus keeps its splits; those of the bare folder beside it are drawn."""
    for e in range(2):
        for r in range(4):
            write(tmp_path / "mine" / f"place{e}" / f"r{r}.wav", noise(5.0, e, seed=77 + r))
    sides = ("--noise", f"demand:{corpora('demand')}", "--noise", f"mine:{tmp_path / 'mine'}", "--unseen", "car")
    argv = ("--source", "folders", "--speech", f"librispeech:{corpora('librispeech')}", *sides)
    assert build(*argv, "--out", tmp_path / "out", "--per-cell", 1, "--snr-test", "0", "--hours", 0.01) == 0
    data = nrdata.open(tmp_path / "out")
    places = {split: set(data.index(split).env_names) for split in data.splits}
    assert {"demand/kitchen", "mine/place0", "mine/place1"} == places["train"]
    assert {"demand/bus", "demand/cafe"} <= places["test"] and "demand/hallway" in places["valid"]


@pytest.mark.parametrize("source", manifests.sources())
def test_facts_are_complete_and_no_checksum_is_invented(source):
    facts = manifests.load(source)
    assert {"title", "page", "side", "license", "split_rule", "sample_rate", "archives"} <= facts.keys()
    assert facts["side"] in ("speech", "noise", "both") and facts["page"].startswith("http")
    assert ("recording" in facts) == ("recordings_per_environment" in facts) == (facts["side"] != "speech")
    for archive in facts["archives"]:
        assert archive["url"].startswith("https://")
        kind, _, digest = archive.get("checksum", "").partition(":")
        assert len(digest) == {"": 0, "md5": 32, "sha256": 64}[kind] and (not digest or int(digest, 16))


def test_sources_lists_them_all(capsys):
    assert run(["sources", "--json"]) == 0
    listed = {row["source"]: row for row in json.loads(capsys.readouterr().out)["sources"]}
    assert set(listed) == set(manifests.sources()) > MINIATURES.keys()
    assert listed["demand"]["environments"] == sorted(manifests.load("demand")["environments"])
    assert listed["librispeech"]["bytes"] == sum(a["bytes"] for a in manifests.load("librispeech")["archives"])
    assert listed["wham"]["bytes"] is None and listed["wham"]["archives"][0]["checksum"] is None
    assert run(["sources"]) == 0
    out = capsys.readouterr().out
    for word in ("librispeech", "CC-BY-NC-3.0", "61.4 GB", "18", "noise", "recordings"):
        assert word in out


TOY_FACTS = """
title = "Toy"
page = "https://example.org/toy"
side = "noise"
layout = "<environment>-<recording>.wav"
sample_rate = 16000
license = "CC0-1.0"
recording = "a file"
recordings_per_environment = "3"
split_rule = "by the number of the recording"
splits = ["train", "valid", "test"]

[[archives]]
url = "https://example.org/toy.zip"
bytes = 1000000
"""
TOY_LAYOUT = """
from nrdata.builders.corpora.layouts import files
from nrdata.builders.entries import Entry

def items(root, facts):
    for path, parts in files(root):
        environment, recording = path.removesuffix(".wav").split("-")
        split = facts["splits"][int(recording)]
        yield Entry(path, "", environment, recording, split, facts["license"])
"""


def test_a_corpus_is_its_facts_and_its_layout(monkeypatch, tmp_path, capsys):
    """Known by both alone, a toy corpus is listed, found where it lies already, and read as it was published."""
    monkeypatch.setitem(manifests.table(), "toy", tomllib.loads(TOY_FACTS))
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "toy.py").write_text(TOY_LAYOUT)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "layouts")])
    monkeypatch.delitem(sys.modules, "nrdata.builders.corpora.toy", raising=False)
    root = tmp_path / "toy"
    for i, (environment, recording) in enumerate((e, r) for e in ("hall", "yard") for r in range(3)):
        write(root / f"{environment}-{recording}.wav", noise(5.0, i // 3, seed=i))
    assert run(["sources", "--json"]) == 0
    assert "toy" in {row["source"] for row in json.loads(capsys.readouterr().out)["sources"]}
    assert run(["download", "toy", "--source-dir", str(root)]) == 0
    assert f"next: nr build-shards --source folders --noise toy:{root}" in capsys.readouterr().out
    speech_folder = librispeech(tmp_path / "speech")
    argv = ("--source", "folders", "--speech", f"librispeech:{speech_folder}", "--noise", f"toy:{root}")
    some = ("--per-cell", 1, "--snr-test", "0", "--hours", 0.01, "--out", tmp_path / "out")
    assert build(*argv, *some) == 0, capsys.readouterr().err
    data = nrdata.open(tmp_path / "out")
    assert {r for s in data.splits for r in data.index(s).recording_names} == {
        f"toy/{e}/{r}" for e in ("hall", "yard") for r in range(3)
    }
    assert data.index("test").recording_names == ["toy/hall/2", "toy/yard/2"]
    assert "CC0-1.0" in json.loads((tmp_path / "out" / "manifest.json").read_text())["licenses"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("esc-50", "esc-50 is no corpus, esc50 is: --noise esc50:"),
        ("voicebank-demand", "mixed already: --source voicebank-demand --root "),
        ("vctk", "vctk is speech, not noise"),
    ],
)
def test_what_looks_like_a_corpus_is_not_read_as_plain_folders(name, sentence, tmp_path, capsys):
    for place in ("hall", "yard"):
        write(tmp_path / place / "a.wav", noise(5.0))
    argv = ("--source", "folders", "--speech", tmp_path, "--noise", f"{name}:{tmp_path}", "--out", tmp_path / "out")
    assert build(*argv) == 2
    assert sentence in capsys.readouterr().err
