"""`nr evaluate` on plain folders: any rate, degenerate and late files, hostile names; DNSMOS without clean files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, noise, speech
from test_evaluate import StandIn, rows_of

import nrdata
from cli.main import run
from nrdata import audio
from nrdata.errors import UserError
from nrmodel.evaluation import dnsmos, peers
from nrmodel.evaluation.evaluate import ShardFiles, evaluate
from nrmodel.evaluation.folders import Inputs
from nrmodel.evaluation.request import EvaluationRequest

SHARED = Path(__file__).parents[1].parent / "shared"


def pairs(folder: Path, count: int = 3, rate: int = RATE) -> Path:
    """`clean/`, `noisy/`, `ref/` with `count` pairs of 2 s at 5 dB."""
    for i in range(count):
        clean, bed = speech(2.0, seed=i), noise(3.5, environment=i % 3, seed=i)
        sounds = {"clean": clean, "noisy": clean + 0.4 * bed[: 2 * RATE], "ref": 0.4 * bed[2 * RATE + RATE // 2 :]}
        for name, x in sounds.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            audio.write(folder / name / f"p{i}.wav", audio.resample(x.astype(np.float32), RATE, rate), rate, "FLOAT")
    return folder


def nr(folder: Path, *more: str, out: str = "out") -> tuple[int, list[dict]]:
    argv = ["evaluate", "--clean", f"{folder}/clean", "--noisy", f"{folder}/noisy", "--out", f"{folder}/{out}"]
    code = run([*argv, "--workers", "1", *more])
    return code, rows_of(folder / out) if (folder / out / "rows.jsonl").exists() else []


def test_folders_at_48_khz_score_as_at_16(tmp_path, capsys):
    _, low = nr(pairs(tmp_path / "low"), "--enhanced", str(tmp_path / "low" / "noisy"))
    pairs(tmp_path / "high", rate=48000)
    code, high = nr(tmp_path / "high", "--enhanced", str(tmp_path / "low" / "noisy"))  # 48 kHz against 16 kHz
    assert code == 0 and "resampled to 16000 Hz" in capsys.readouterr().err
    for a, b in zip(low, high, strict=True):
        assert a["key"] == b["key"] and a["system"] == b["system"]
        assert b["pesq_wb"] == pytest.approx(a["pesq_wb"], abs=0.02)
        assert b["estoi"] == pytest.approx(a["estoi"], abs=0.002)
        assert b["si_sdr"] == pytest.approx(a["si_sdr"], abs=0.1)


def test_degenerate_files_are_named_and_the_others_scored(tmp_path, capsys):
    pairs(tmp_path, 5)
    clean = audio.read(tmp_path / "clean" / "p0.wav")[0][:, 0]
    audio.write(tmp_path / "clean" / "p0.wav", clean * 1e-4 / clean.max(), RATE, "FLOAT")
    loud = int(np.argmax(np.convolve(speech(2.0, seed=1) ** 2, np.ones(3200), "valid")))
    for name in ("clean", "noisy"):
        x = audio.read(tmp_path / name / "p1.wav")[0][:, 0]
        audio.write(tmp_path / name / "p1.wav", x[loud : loud + 3200], RATE, "FLOAT")
    mostly = 1e-6 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    mostly[RATE : RATE + 4800] += speech(2.0, seed=9)[8000:12800]
    audio.write(tmp_path / "clean" / "p2.wav", mostly, RATE, "FLOAT")
    audio.write(tmp_path / "noisy" / "p2.wav", mostly + 0.05 * noise(3.0), RATE, "FLOAT")
    code, rows = nr(tmp_path, "--enhanced", str(tmp_path / "noisy"))
    assert code == 0
    failures = {row["key"]: row["failures"].get("estoi") for row in rows if row["system"] == "noisy"}
    assert failures == {"p0": "silent_reference", "p1": "too_short", "p2": "no_speech", "p3": None, "p4": None}
    assert "(n 2)" in capsys.readouterr().out


@pytest.mark.parametrize("delay", [1, 160, 1006])
def test_late_estimates_are_named_with_their_delay(tmp_path, capsys, delay):
    pairs(tmp_path)
    (tmp_path / "late").mkdir()
    for path in (tmp_path / "clean").iterdir():
        audio.write(tmp_path / "late" / path.name, np.roll(audio.read(path)[0][:, 0], delay), RATE, "FLOAT")
    code, rows = nr(tmp_path, "--enhanced", str(tmp_path / "late"))
    late = [row for row in rows if row["system"] == "enhanced"]
    assert all(row["delay_ms"] == pytest.approx(1000 * delay / RATE, abs=1e-3) for row in late)
    if delay == 1:
        assert code == 0 and all("delayed" in row["flags"] for row in late)
        assert "delayed: 3 rows" in capsys.readouterr().out
    else:
        assert code == 1 and all(row["si_sdr"] is None and row["failures"]["si_sdr"] == "misaligned" for row in late)
        assert "misaligned" in capsys.readouterr().err


def retouched(path: Path, gain: float = 0.5) -> None:
    x, rate = audio.read(path)
    times = path.stat()
    audio.write(path, gain * x[:, 0], rate, "FLOAT")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither its size nor its time tells


@pytest.mark.parametrize("side", ["clean", "noisy", "ref", "enhanced"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_was_replaced_is_refused_by_name(tmp_path, side, finished):
    """Of one size and time: content decides. A part of the rows would come from the file before."""
    folders = {name: pairs(tmp_path) / name for name in ("clean", "noisy", "ref")}
    shutil.copytree(tmp_path / "noisy", tmp_path / "enhanced")
    folders["enhanced"] = tmp_path / "enhanced"
    request, out = EvaluationRequest(workers=1, **folders), tmp_path / "out"
    if finished:
        evaluate(StandIn(), None, request, out)
    else:
        with pytest.raises(KeyboardInterrupt):
            evaluate(StandIn(stop_after=7), None, request, out)
    retouched(folders[side] / "p0.wav")
    with pytest.raises(UserError, match=rf"another .*{side}/p0\.wav than lies there now \(1 changed in all\).*--force"):
        evaluate(StandIn(), None, request, out)
    evaluate(StandIn(), None, EvaluationRequest(workers=1, force=True, **folders), out)
    evaluate(StandIn(), None, EvaluationRequest(workers=1, **folders), tmp_path / "new")
    assert (out / "rows.jsonl").read_bytes() == (tmp_path / "new" / "rows.jsonl").read_bytes()


def test_rows_say_what_they_were_made_from_and_moved_folders_are_the_same(tmp_path):
    code, rows = nr(pairs(tmp_path / "a"), "--enhanced", str(tmp_path / "a" / "noisy"))
    row = next(row for row in rows if row["system"] == "enhanced" and row["key"] == "p0")
    data = (tmp_path / "a" / "noisy" / "p0.wav").read_bytes()
    content = f"{len(data)}-{hashlib.sha256(data).hexdigest()}"
    assert row["made_from"]["enhanced"] == row["made_from"]["noisy"] == content
    assert "enhanced" not in next(row for row in rows if row["system"] == "noisy")["made_from"]
    before = (tmp_path / "a" / "out" / "rows.jsonl").stat()
    (tmp_path / "a").rename(tmp_path / "b")
    code, _ = nr(tmp_path / "b", "--enhanced", str(tmp_path / "b" / "noisy"))
    assert code == 0 and (tmp_path / "b" / "out" / "rows.jsonl").stat().st_ino == before.st_ino


def test_other_names_of_as_many_files_are_another_evaluation(tmp_path, capsys):
    nr(pairs(tmp_path), "--enhanced", str(tmp_path / "noisy"))
    for side in ("clean", "noisy"):
        (tmp_path / side / "p0.wav").rename(tmp_path / side / "p9.wav")
    assert nr(tmp_path, "--enhanced", str(tmp_path / "noisy"))[0] == 2
    assert "another inputs" in capsys.readouterr().err


def test_a_file_replaced_while_it_is_read_is_told(tmp_path, monkeypatch):
    inputs = Inputs({"p0": pairs(tmp_path, 1) / "noisy" / "p0.wav"})
    inputs.content("p0")
    retouched(inputs.paths["p0"])
    with pytest.raises(UserError, match=r"p0\.wav was replaced during the evaluation"):
        inputs.read("p0")


def test_estimates_beside_shards_are_known_by_content(tiny_dataset, tmp_path, capsys):
    data = nrdata.open(tiny_dataset)
    for row in ShardFiles(data, "test", 2).rows:
        sample = data.sample(bytes(data.index("test").key[row]).decode())
        (tmp_path / "e").mkdir(exist_ok=True)
        audio.write(tmp_path / "e" / f"{sample.key}.wav", sample.noisy, RATE, "FLOAT")
    argv = ["evaluate", "--shards", str(tiny_dataset), "--enhanced", f"{tmp_path}/e", "--limit", "2", "--workers", "1"]
    argv += ["--out", f"{tmp_path}/out"]
    assert run(argv) == 0
    retouched(next((tmp_path / "e").iterdir()))
    assert run(argv) == 2
    assert "was made from another" in capsys.readouterr().err
    assert run([*argv, "--force"]) == 0


def test_another_version_of_a_peer_is_another_evaluation(tmp_path, monkeypatch):
    peer = peers.Peer(lambda noisy, ref: noisy, RATE, package="numpy")
    monkeypatch.setitem(peers.PEERS, "toy", lambda: peer)
    peers.load.cache_clear()
    folders = {name: pairs(tmp_path, 1) / name for name in ("clean", "noisy")}
    request = EvaluationRequest(workers=1, peers=("toy",), **folders)
    evaluate(None, None, request, tmp_path / "out")
    monkeypatch.setattr(peers.metadata, "version", lambda package: "0.0.1")
    with pytest.raises(UserError, match="another versions"):
        evaluate(None, None, request, tmp_path / "out")


def test_ratings_without_clean_files_are_always_of_the_files_of_now(tmp_path, monkeypatch):
    monkeypatch.setattr(dnsmos, "dnsmos", lambda x: dict.fromkeys(dnsmos.RATINGS, float(np.abs(x).max())))
    pairs(tmp_path, 1)
    before = dnsmos.rate_folders(tmp_path / "noisy", tmp_path / "out")
    retouched(tmp_path / "noisy" / "p0.wav")
    after = dnsmos.rate_folders(tmp_path / "noisy", tmp_path / "out")
    assert after[0]["sig"] == pytest.approx(before[0]["sig"] / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("spoil", "told", "snr_db"),
    [
        (lambda clean, noisy: noisy, "", True),
        (lambda clean, noisy: 0.5 * noisy, "a scale of 0.49", True),
        (lambda clean, noisy: np.concatenate([np.zeros(160), noisy[:-160]]), "160 samples (10.00 ms) late", True),
        (lambda clean, noisy: speech(2.0, seed=77) + noisy - clean, "clean is not in noisy", False),
    ],
)
def test_the_snr_of_a_pair_is_checked_before_it_is_believed(tmp_path, capsys, spoil, told, snr_db):
    pairs(tmp_path, 1)
    clean, noisy = (audio.read(tmp_path / side / "p0.wav")[0][:, 0] for side in ("clean", "noisy"))
    true = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
    audio.write(tmp_path / "noisy" / "p0.wav", spoil(clean, noisy).astype(np.float32), RATE, "FLOAT")
    _, rows = nr(tmp_path, "--enhanced", str(tmp_path / "clean"))
    warned = capsys.readouterr().err
    assert (told in warned) and ("noisy minus clean is no noise in 1 of 1 files; p0" in warned) == bool(told)
    assert all(("odd_pair" in row["flags"]) == bool(told) for row in rows)
    assert rows[0]["snr_db"] == (pytest.approx(true, abs=0.3) if snr_db else None)


def test_swapped_folders_have_no_scores(tmp_path):
    pairs(tmp_path / "a")
    argv = ["evaluate", "--clean", f"{tmp_path}/a/noisy", "--noisy", f"{tmp_path}/a/clean", "--out", f"{tmp_path}/out"]
    assert run([*argv, "--enhanced", f"{tmp_path}/a/clean", "--workers", "1"]) == 1
    assert all(set(row["failures"].values()) == {"swapped"} for row in rows_of(tmp_path / "out"))
    folders = {"clean": tmp_path / "a" / "noisy", "noisy": tmp_path / "a" / "clean"}
    request = EvaluationRequest(workers=1, **folders)
    evaluate(StandIn(), None, request, tmp_path / "model")  # the noise control has a fault of its own
    assert all(row["failures"]["estoi"] == "swapped" and "fault" not in row for row in rows_of(tmp_path / "model"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "clean" / "p1.wav").unlink(), "has no partner for p1.wav"),
        (lambda f: shutil.copy(f / "clean" / "p1.wav", f / "clean" / "p1.WAV"), "have one name"),
        (lambda f: shutil.rmtree(f / "clean"), "is no folder"),
        (lambda f: [p.unlink() for p in (f / "noisy").iterdir()], "holds no sound file"),
        (lambda f: audio.write(f / "noisy" / "p1.wav", np.zeros(800, np.float32), 8000), "8000 Hz"),
    ],
)
def test_what_the_user_can_mend_is_a_sentence(tmp_path, capsys, spoil, sentence):
    spoil(pairs(tmp_path))
    assert nr(tmp_path, "--enhanced", str(tmp_path / "ref"))[0] == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_hostile_names_go_through(tmp_path, capsys):
    pairs(tmp_path, 1)
    name = b"=1+1<script>\x1b[2J\n\xff.wav"
    for folder in ("clean", "noisy"):
        (tmp_path / folder / "p0.wav").rename(tmp_path / folder / os.fsdecode(name))
    code, rows = nr(tmp_path, "--enhanced", str(tmp_path / "noisy"))
    assert code == 0 and len(rows) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    for file in (tmp_path / "out").iterdir():
        assert b"\x1b" not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("speechmos") is None, reason="needs the extra dnsmos")
def test_without_clean_files_there_is_dnsmos(tmp_path, capsys):
    pairs(tmp_path, 2)
    audio.write(tmp_path / "noisy" / "p1.wav", np.ones(1600, np.float32) / 9, RATE, "FLOAT")
    argv = ["evaluate", "--noisy", f"{tmp_path}/noisy", "--enhanced", f"{tmp_path}/clean", "--out", f"{tmp_path}/out"]
    assert run([*argv, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [(line["key"], line["system"], line["failure"]) for line in lines] == [
        ("p0", "noisy", ""), ("p0", "enhanced", ""), ("p1", "noisy", "too_short"), ("p1", "enhanced", ""),
    ]  # fmt: skip
    assert lines[1]["bak"] > lines[0]["bak"] + 0.3
    assert "| noisy" in (tmp_path / "out" / "dnsmos.md").read_text()


def test_without_the_extra_dnsmos_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pairs(tmp_path, 1)
    assert run(["evaluate", "--noisy", f"{tmp_path}/noisy", "--enhanced", f"{tmp_path}/clean"]) == 2
    assert "pip install 'nr[dnsmos]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "voicebank-sample").is_dir(), reason="needs ../shared/data")
def test_genuine_pairs_have_the_published_figures(tmp_path):
    sample = SHARED / "data" / "voicebank-sample"
    argv = ["evaluate", "--clean", f"{sample}/clean", "--noisy", f"{sample}/noisy", "--enhanced", f"{sample}/noisy"]
    assert run([*argv, "--out", f"{tmp_path}/out"]) == 0
    rows = [row for row in rows_of(tmp_path / "out") if row["system"] == "enhanced"]
    assert len(rows) == 40 and not any(row["failures"] or row["flags"] for row in rows)
    # VoiceBank-DEMAND's noisy test set: PESQ 1.97, ESTOI .79, SI-SDR 8.4 dB; a sample of it lies near
    assert np.mean([row["pesq_wb"] for row in rows]) == pytest.approx(1.97, abs=0.35)
    assert np.mean([row["estoi"] for row in rows]) == pytest.approx(0.79, abs=0.06)
    assert np.mean([row["si_sdr"] for row in rows]) == pytest.approx(8.4, abs=2.5)


def test_files_that_are_not_used_are_named(tmp_path, capsys):
    """Of every folder: those without a noisy file of their name, and those of kinds that cannot be read."""
    pairs(tmp_path, 1)
    shutil.copytree(tmp_path / "noisy", tmp_path / "enhanced")
    for name in ("clean", "ref", "enhanced"):
        shutil.copy(tmp_path / name / "p0.wav", tmp_path / name / f"alone-{name}.wav")
    for name in ("clean", "noisy", "ref", "enhanced"):
        (tmp_path / name / f"film-{name}.M4A").write_bytes(bytes(100))
    more = ("--ref", str(tmp_path / "ref"), "--enhanced", str(tmp_path / "enhanced"))
    code, rows = nr(tmp_path, *more)
    told = capsys.readouterr().err
    assert code == 0 and {row["key"] for row in rows} == {"p0"}
    for name in ("clean", "ref", "enhanced"):
        assert f"alone-{name}.wav (no noisy file" in told
    for name in ("clean", "noisy", "ref", "enhanced"):
        assert f"film-{name}.M4A (they need another decoder)" in told
    nr(tmp_path, *more, "--limit", "1", out="limited")
    assert "alone-enhanced" not in capsys.readouterr().err  # it may be of a file that was not drawn


def test_nothing_is_said_where_all_is_used(tmp_path, capsys):
    nr(pairs(tmp_path, 1))
    assert "not used" not in capsys.readouterr().err
