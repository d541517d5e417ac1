"""From a plan to shards: the same bytes always, what is whole stays, the rest is made."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpora import build, digests, indexed, write
from helpers import names, noise, speech

import nrdata
from nrdata.builders import build as engine
from nrdata.builders import plan as planning
from nrdata.builders.plan import Options
from nrdata.builders.render import render
from nrdata.checks.verify import verify


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options that name a small indexed corpus."""
    speech, noise = indexed(tmp_path_factory.mktemp("corpus"))
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", noise, "--per-cell", 1, "--hours", 0.02)
    return tuple(map(str, argv))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards from few samples, made by processes."""
    monkeypatch.setattr(planning, "SAMPLES_PER_SHARD", 6)
    monkeypatch.setattr(engine, "SMALL_BUILD", 0)


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build by one process. Who changes it copies it first."""
    out = tmp_path_factory.mktemp("built") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SAMPLES_PER_SHARD", 6)
        assert build(*corpus, "--out", out, "--workers", 1) == 0
    return out


def test_what_is_built_is_whole_and_says_what_it_holds(built, corpus):
    report = verify(built)
    assert not report.faults
    data = nrdata.open(built)
    assert set(data.splits) == {"train", "valid", "test"}
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["has_ref"] and manifest["plan_sha256"] and manifest["licenses"].keys() == {"CC0", "CC-BY-4.0"}
    recordings = {s: set(data.index(s).recording_names) for s in data.splits}
    speakers = {s: set(data.index(s).speaker_names) for s in data.splits}
    for sets in (recordings, speakers):
        assert (
            not sets["train"] & sets["test"] and not sets["train"] & sets["valid"] and not sets["valid"] & sets["test"]
        )
    assert "README.md" in names(built) and not [n for n in names(built) if n.endswith(".partial")]


def test_samples_are_what_the_plan_says(built):
    data = nrdata.open(built)
    for line in (built / "plan.jsonl").read_text().splitlines()[:5]:
        row = json.loads(line)
        sample = data.sample(row["key"])
        assert sample.snr_db == pytest.approx(row["snr_db"], abs=0.05)
        assert sample.stretch == (row["noise"]["start"], row["noise"]["stop"])
        assert len(sample.ref) == row["ref"]["stop"] - row["ref"]["start"] == 16000
        assert np.array_equal(
            np.rint(sample.noisy * 32768), np.rint(sample.clean * 32768) + np.rint(sample.noise * 32768)
        )


def test_processes_and_time_zones_do_not_change_a_byte(built, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    assert build(*corpus, "--out", tmp_path / "again", "--workers", 3) == 0
    assert digests(tmp_path / "again") == digests(built)
    assert (tmp_path / "again" / "plan.jsonl").read_text() == (built / "plan.jsonl").read_text()


def test_the_same_command_again_finishes_what_is_unfinished(built, corpus, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    (out / "manifest.json").unlink()
    (out / "train-000001.tar").unlink()
    (out / "train-000000.index.jsonl").unlink()
    (out / "valid-000000.tar.partial").write_bytes(b"half a shard")
    kept = (out / "test-000000.tar").stat().st_ino
    assert build(*corpus, "--out", out, "--workers", 1) == 0
    assert "1 shards built" in capsys.readouterr().out
    assert digests(out) == digests(built) and not verify(out).faults
    assert (out / "test-000000.tar").stat().st_ino == kept
    assert not [n for n in names(out) if n.endswith(".partial")]
    before = {n: (out / n).stat().st_mtime_ns for n in names(out) if n != ".lock"}
    assert build(*corpus, "--out", out, "--workers", 1) == 0
    assert "already complete" in capsys.readouterr().out
    assert {n: (out / n).stat().st_mtime_ns for n in names(out) if n != ".lock"} == before


def test_a_damaged_shard_is_made_again(built, corpus, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    tar = out / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    assert build(*corpus, "--out", out, "--workers", 1) == 0
    assert "1 shards built" in capsys.readouterr().out
    assert digests(out) == digests(built) and not verify(out).faults


def test_another_plan_is_refused_and_force_replaces_it(built, corpus, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    assert build(*corpus, "--out", out, "--seed", 1) == 2
    assert "another plan" in capsys.readouterr().err
    assert digests(out) == digests(built)
    assert build(*corpus, "--out", out, "--seed", 1, "--workers", 1, "--force") == 0
    assert digests(out) != digests(built) and not verify(out).faults


def test_a_folder_of_other_files_is_left_alone_even_by_force(corpus, tmp_path, capsys):
    (tmp_path / "thesis.tar").write_bytes(b"years of work")
    assert build(*corpus, "--out", tmp_path, "--force") == 2
    assert "no data set" in capsys.readouterr().err
    assert (tmp_path / "thesis.tar").read_bytes() == b"years of work"


def test_a_plan_file_gives_the_same_bytes_and_draws_nothing(built, corpus, tmp_path):
    out = tmp_path / "set"
    assert build(*corpus, "--out", out, "--plan-only") == 0
    assert [n for n in names(out) if n != ".lock"] == ["plan.jsonl"]
    options = (*corpus, "--out", tmp_path / "other", "--plan", out / "plan.jsonl", "--seed", 7, "--snr", "0:1")
    assert build(*options, "--workers", 1) == 0
    assert digests(tmp_path / "other") == digests(built)


def test_parts_by_several_jobs_are_one_data_set_in_the_end(built, corpus, tmp_path, capsys):
    out = tmp_path / "set"
    count = len([n for n in digests(built) if n.endswith(".tar")])
    argv = (*corpus, "--out", out, "--workers", 1)
    assert build(*argv, "--shards", "0:2") == 0
    assert "2 shards of this part built" in capsys.readouterr().out and "manifest.json" not in names(out)
    (out / "train-000001.tar.partial").write_bytes(b"another job's, of a part of its own")
    with engine._alone(out, shared=True):
        assert build(*argv, "--shards", f"2:{count}") == 0
    assert "train-000001.tar.partial" in names(out)
    assert build(*argv) == 0
    assert f"already complete, {count} shards" in capsys.readouterr().out
    assert digests(out) == digests(built) and not verify(out).faults
    assert names(out) == names(built)
    assert build(*argv, "--shards", f"{count}:99") == 2
    assert f"the plan has {count} shards" in capsys.readouterr().err


def test_a_sample_made_alone_is_the_sample_of_the_whole(built, corpus):
    """B6: and no global generator is touched."""
    options = Options("folders", speech_index=Path(corpus[3]), noise_index=Path(corpus[5]))
    row = planning.read_plan(built / "plan.jsonl").rows[7]
    state = np.random.get_state()[1].copy()
    with engine.builder("folders").sources(options) as sources:
        mixture, _ = render(row, sources)
    sample = nrdata.open(built).sample(row.key)
    assert np.array_equal(mixture.noisy16, np.rint(sample.noisy * 32768)) and np.array_equal(
        mixture.ref16, np.rint(sample.ref * 32768)
    )
    assert np.array_equal(state, np.random.get_state()[1])


def test_refused_rows_leave_a_hole_and_a_reason_that_a_second_run_finds_again(tmp_path, capsys):
    """A file that is damaged behind its header: its row is refused, and made when the file is mended."""
    for split in ("train", "test"):
        for i in range(5):
            clean = speech(1.2, seed=i + 10 * len(split))
            write(tmp_path / "in" / split / "clean" / f"{i}.flac", clean)
            write(tmp_path / "in" / split / "noisy" / f"{i}.flac", clean + 0.1 * noise(1.2, i, seed=i))
    argv = ("--source", "pairs", "--root", tmp_path / "in", "--workers", 1)
    victim = tmp_path / "in" / "train" / "noisy" / "2.flac"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 3])
    out = tmp_path / "set"
    assert build(*argv, "--out", out) == 0
    (refused,) = (json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines())
    assert (
        refused["item"] == "train/noisy/2.flac" and refused["kind"] == "truncated" and "cut short" in refused["reason"]
    )
    keys = [k.decode() for k in nrdata.open(out).index("train").key]
    assert keys == [f"train-{n:07d}" for n in (1, 2, 4, 5)]
    assert "1 truncated" in capsys.readouterr().out
    assert build(*argv, "--out", out, "--strict") == 1
    assert [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()] == [refused]
    victim.write_bytes(whole)
    assert build(*argv, "--out", out, "--strict") == 0
    assert len(nrdata.open(out).index("train")) == 5
    assert (out / "refused.jsonl").read_text() == "" and not verify(out).faults


def test_two_builders_do_not_meet(built, corpus, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    with engine._alone(out):
        assert build(*corpus, "--out", out) == 2
    assert "at work" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_shards(built):
    import webdataset

    urls = [str(p) for p in sorted(built.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(nrdata.open(built).index("train"))
    assert all(s.keys() >= {"clean.flac", "json", "noise.flac", "noisy.flac", "ref.flac"} for s in samples)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--source", "nothing"], "no source 'nothing'"),
        (["--source", "folders"], "no speech"),
        (["--source", "folders", "--snr", "5"], "not LOW:HIGH"),
        (["--source", "folders", "--snr", "nan:5"], "finite number"),
        (["--source", "folders", "--snr", "9:5"], "lower number"),
        (["--source", "folders", "--snr-test", "a,b"], "no list of numbers"),
        (["--source", "folders", "--hours", "nan"], "hours"),
        (["--source", "folders", "--hours", "-1"], "hours"),
        (["--source", "folders", "--shards", "3:3"], "A:B"),
        (["--source", "folders", "--plan", "no/such.jsonl"], "does not exist"),
        (["--source", "voicebank-demand", "--root", "no/such"], "not a folder"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(argv, sentence, tmp_path, capsys):
    assert build(*argv, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err
    assert not (tmp_path / "out").exists() or not names(tmp_path / "out")


def test_json_says_what_came_of_it(built, corpus, capsys):
    assert build(*corpus, "--out", built, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["complete"] and record["shards_built"] == 0 and Counter(record["samples"]).total() > 20


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_open_files_do_not_grow(corpus, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert build(*corpus, "--out", tmp_path / "set", "--workers", 1) == 0
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
