"""What a data set was made from is part of its name: replaced files are told by their content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from corpora import build, write
from helpers import RATE, noise, speech

from cli.main import run


def corpus(root: Path, level: float = 0.2, count: int = 2) -> Path:
    for i in range(count):
        clean = 0.4 * speech(1.2, seed=i)
        write(root / "clean" / f"{i}.wav", clean)
        write(root / "noisy" / f"{i}.wav", clean + level * noise(1.2, i, seed=i))
    return root


def pairs(tmp_path: Path, *more: object) -> int:
    return build("--source", "pairs", "--root", tmp_path / "in", "--out", tmp_path / "out", *more)


def test_the_same_files_are_complete_whatever_their_times(tmp_path, capsys):
    corpus(tmp_path / "in")
    assert pairs(tmp_path) == 0
    os.utime(tmp_path / "in/noisy/0.wav", (1, 1))
    assert pairs(tmp_path) == 0 and "already complete" in capsys.readouterr().out
    assert len((tmp_path / "out/sources.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("same_times", [False, True])
def test_replaced_files_are_refused_by_name_and_force_builds_anew(tmp_path, capsys, same_times):
    corpus(tmp_path / "in")
    assert pairs(tmp_path) == 0
    before = (tmp_path / "out/train-000000.tar").read_bytes()
    old = (tmp_path / "in/noisy/1.wav").stat()
    corpus(tmp_path / "in", level=0.05)
    if same_times:
        os.utime(tmp_path / "in/noisy/1.wav", ns=(old.st_atime_ns, old.st_mtime_ns))
        assert (tmp_path / "in/noisy/1.wav").stat().st_size == old.st_size
    assert pairs(tmp_path) == 2 and "noisy/1.wav" in capsys.readouterr().err
    assert (tmp_path / "out/train-000000.tar").read_bytes() == before
    assert pairs(tmp_path, "--force") == 0
    assert (tmp_path / "out/train-000000.tar").read_bytes() != before


def test_a_plan_of_files_that_are_gone_is_refused(tmp_path, capsys):
    corpus(tmp_path / "in")
    assert pairs(tmp_path) == 0
    plan = (tmp_path / "in.jsonl").write_bytes((tmp_path / "out/plan.jsonl").read_bytes())
    assert plan and pairs(tmp_path, "--plan", tmp_path / "in.jsonl") == 0
    (tmp_path / "in/clean/1.wav").unlink()
    assert pairs(tmp_path, "--plan", tmp_path / "in.jsonl") == 2 and "clean/1.wav" in capsys.readouterr().err


def test_a_file_replaced_while_shards_are_made_is_noticed(tmp_path, capsys, monkeypatch):
    from nrdata.builders import build as builds

    corpus(tmp_path / "in")
    make = builds.make_shard

    def and_replaced(*arguments):
        result = make(*arguments)
        corpus(tmp_path / "in", level=0.05)
        return result

    monkeypatch.setattr(builds, "make_shard", and_replaced)
    assert pairs(tmp_path) == 2 and "changed while" in capsys.readouterr().err
    assert not (tmp_path / "out/train-000000.tar").exists()


def test_align_undoes_a_scale_and_says_so(tmp_path, capsys):
    corpus(tmp_path / "in")
    x, _ = sf.read(tmp_path / "in/noisy/0.wav")
    write(tmp_path / "in/noisy/0.wav", 0.5 * x)
    assert pairs(tmp_path) == 0 and "1 items refused (1 scaled)" in capsys.readouterr().out
    assert run(["verify-shards", str(tmp_path / "out")]) == 0
    assert pairs(tmp_path, "--align", "--force") == 0
    out = capsys.readouterr().out
    assert "refused" not in out and "undone" in out and "train 2" in out


def test_verify_sees_speech_in_the_noise_of_any_shard(tmp_path, capsys):
    from nrdata.store.gather import write_manifest
    from nrdata.store.shard import ShardWriter
    from nrdata.store.triplet import mix

    clean, bed = 0.4 * speech(2.0), noise(2.0)
    fields = {"env_id": "local/a", "split": "train", "speaker": "local/s", "recording": "local/a/r"}
    with ShardWriter(tmp_path / "train-000000.tar", RATE, False) as writer:
        for i, x in enumerate((bed, (0.5 * (clean + bed) - clean).astype(np.float32))):
            stored = {**fields, "stretch": [-1, -1], "meta": {}}
            writer.write(f"train-000000{i + 1}", mix(clean, x, None), stored)
    write_manifest(tmp_path)
    assert run(["verify-shards", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert run(["inspect", str(tmp_path)]) == 0
    assert "1 of 2 samples heard have speech in their noise" in capsys.readouterr().out
    assert (
        "train-0000002: pairing: noisy - clean is no noise" in out
        and "at a scale of 0.49" in out
        and "train-0000001" not in out
    )
