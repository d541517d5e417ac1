"""verify-shards: a whole data set passes; a line for everything else, naming shard, key and kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, make_dataset, sample_fields
from test_shard import MIXTURE

from cli.main import run
from nrdata import audio
from nrdata.checks.verify import verify
from nrdata.store import shard
from nrdata.store.gather import write_manifest
from nrdata.store.manifest import NAME
from nrdata.store.shard import ShardWriter, build_index, index_path, write_index
from nrdata.store.triplet import Mixture


@pytest.fixture
def copy(tiny_dataset, tmp_path):
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def test_a_whole_data_set_has_no_faults(tiny_dataset, capsys):
    report = verify(tiny_dataset)
    assert (report.shards, report.samples, report.seconds, report.faults, report.notes) == (4, 24, 36.0, [], [])
    assert run(["verify-shards", str(tiny_dataset)]) == 0
    assert "4 shards, 24 samples, 0.01 h, no faults" in capsys.readouterr().out
    assert run(["verify-shards", str(tiny_dataset), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []


def test_one_flipped_byte_anywhere_is_found(copy):
    rng = np.random.default_rng(1)
    everything = [p for p in copy.iterdir() if p.suffix in (".tar", ".jsonl")]
    for _ in range(25):
        path = everything[rng.integers(len(everything))]
        good = path.read_bytes()
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        assert {fault.shard.split(".")[0] for fault in verify(copy).faults} == {path.name.split(".")[0]}
        path.write_bytes(good)


def test_a_damaged_member_is_named_on_one_line(copy, capsys):
    row = build_index(copy / "train-000001.tar")[2]
    content = bytearray((copy / "train-000001.tar").read_bytes())
    content[row.members["noisy.flac"][0] + 1000] ^= 1
    (copy / "train-000001.tar").write_bytes(content)
    assert run(["verify-shards", str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train-000001.tar: train-0000011: crc: train-0000011.noisy.flac")
    assert lines[1].endswith("1 fault") and len(lines) == 2


def test_damage_is_found_without_index_and_manifest(copy):
    """The sound itself tells: FLAC's frame checksums and the MD5 of its samples."""
    tar = copy / "valid-000000.tar"
    row = build_index(tar)[1]
    good = tar.read_bytes()
    for file in (index_path(tar), copy / NAME):
        file.unlink()
    for at in (30, 5000):  # the stored MD5; a frame
        content = bytearray(good)
        content[row.members["clean.flac"][0] + at] ^= 1
        tar.write_bytes(content)
        kinds = {(f.key, f.kind) for f in verify(copy).faults}
        assert kinds == {("valid-0000002", "decode"), ("", "no_index"), ("", "no_manifest")}


def rewritten(folder: Path, **change) -> Path:
    """A data set of one shard, its second sample broken by `change`; index and manifest are made to agree with it."""
    folder.mkdir()
    tar = folder / "train-000000.tar"
    values = dict(zip(("clean16", "noise16", "noisy16", "ref16"), (x.copy() for x in _parts()), strict=True))
    broken = Mixture(**{**values, "gain": 1.0, "snr_db": MIXTURE.snr_db, **change.get("mixture", {})})
    with ShardWriter(tar, RATE, True) as writer:
        fields = sample_fields("train", 0, 0, 0, (0, 6400))
        writer.write("train-0000001", MIXTURE, fields)
        writer.write("train-0000002", broken, {**fields, **change.get("fields", {})})
    write_manifest(folder)
    return folder


def _parts():
    return MIXTURE.clean16, MIXTURE.noise16, MIXTURE.noisy16, MIXTURE.ref16


def changed(part: str) -> np.ndarray:
    x = getattr(MIXTURE, part).copy()
    x[100] += 1
    return x


@pytest.mark.parametrize(
    ("mixture", "kind"),
    [
        ({"noisy16": changed("noisy16")}, "identity"),
        ({"clean16": changed("clean16")}, "identity"),
        ({"noisy16": MIXTURE.noisy16[:-1]}, "sound"),
        ({"clean16": np.zeros_like(MIXTURE.clean16), "noisy16": MIXTURE.noise16}, "sound"),
        ({"ref16": np.zeros_like(MIXTURE.ref16)}, "sound"),
        ({"snr_db": MIXTURE.snr_db + 0.06}, "snr_db"),
    ],
)
def test_content_that_breaks_the_invariants(tmp_path, monkeypatch, mixture, kind):
    monkeypatch.setattr(shard, "check_mixture", lambda m: "")  # the writer would refuse it
    faults = verify(rewritten(tmp_path / "d", mixture=mixture)).faults
    assert [(f.shard, f.key, f.kind) for f in faults] == [("train-000000.tar", "train-0000002", kind)]


def test_a_wrong_level_or_length_in_the_json(tmp_path):
    folder = rewritten(tmp_path / "d")
    tar = folder / "train-000000.tar"
    good = tar.read_bytes()
    for old, new, kind in (
        (b'"noise_dbfs": -', b'"noise_dbfs":- ', "json"),
        (b'"frames": 6400', b'"frames": 6401', "length"),
        (b'"sample_rate": 16000', b'"sample_rate": 16001', "wrong_rate"),
    ):
        at = good.rindex(old)
        tar.write_bytes(good[:at] + new + good[at + len(old) :])
        kinds = {f.kind for f in verify(folder).faults if f.key == "train-0000002"}
        assert kinds, kind
        if kind != "json":
            write_index(tar, build_index(tar))
            assert kind in {f.kind for f in verify(folder).faults if f.key == "train-0000002"}


def test_types_must_not_change_between_samples(tmp_path):
    folder = rewritten(tmp_path / "d", fields={"meta": {"asked_snr_db": "five", "unit": 0}})
    (fault,) = verify(folder).faults
    assert (fault.key, fault.kind) == ("train-0000002", "type") and "meta.asked_snr_db" in fault.detail


def test_keys_are_unique_in_the_data_set(tmp_path):
    folder = rewritten(tmp_path / "d")
    shutil.copy(folder / "train-000000.tar", folder / "train-000001.tar")
    write_index(folder / "train-000001.tar", build_index(folder / "train-000001.tar"))
    write_manifest(folder)
    faults = verify(folder).faults
    assert {(f.shard, f.key, f.kind) for f in faults} == {
        ("train-000001.tar", f"train-000000{i}", "duplicate") for i in (1, 2)
    }


def test_a_clip_in_all_samples_or_in_none(tmp_path):
    """CASES S3."""
    folder = rewritten(tmp_path / "d")
    with ShardWriter(folder / "train-000001.tar", RATE, False) as writer:
        without = Mixture(**{**MIXTURE.__dict__, "ref16": None})
        writer.write("train-0000003", without, sample_fields("train", 0, 0, 0, (0, 6400)))
    assert "mixed" in {f.kind for f in verify(folder).faults}


@pytest.mark.parametrize("field", ["sample_rate", "has_ref", "fingerprint", "sha256", "samples", "seconds", "speakers"])
def test_a_manifest_that_says_something_else(copy, field):
    data = json.loads((copy / NAME).read_text())
    target = data
    if field == "speakers":
        target = data["splits"]["train"]
    elif field not in data:
        target = data["splits"]["train"]["shards"][0]
    target[field] = {"sha256": "0" * 64, "fingerprint": "0", "has_ref": False}.get(field, 3)
    (copy / NAME).write_text(json.dumps(data))
    assert verify(copy).faults


def test_shards_that_are_missing_or_not_listed(copy):
    (copy / "test-000000.tar").rename(copy / "test-000001.tar")
    (copy / "test-000000.index.jsonl").rename(copy / "test-000001.index.jsonl")
    assert [(f.shard, f.kind) for f in verify(copy).faults] == [
        ("test-000000.tar", "missing"),
        ("test-000001.tar", "unlisted"),
    ]


def test_an_index_of_other_bytes(copy):
    index = copy / "test-000000.index.jsonl"
    index.write_text(index.read_text().replace('"split": "test"', '"split":  "test"', 1))
    assert [(f.shard, f.kind) for f in verify(copy).faults] == [(index.name, "index")]


def test_a_plan_that_is_not_the_one_built_from(copy):
    (copy / "plan.jsonl").write_text("{}\n")
    write_manifest(copy, plan_sha256="0" * 64)
    assert [f.kind for f in verify(copy).faults] == ["plan"]


def test_unfinished_files_are_a_note(copy, capsys):
    (copy / "train-000005.tar.partial").write_bytes(b"torso")
    assert run(["verify-shards", str(copy)]) == 0
    assert "not read: train-000005.tar.partial" in capsys.readouterr().out


def test_nothing_to_check_is_the_users_to_mend(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argument in ([], [str(tmp_path)], [str(tmp_path / "no")], ["pipe:touch marker"]):
        assert run(["verify-shards", *argument]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_default_is_the_only_data_set(tmp_path, monkeypatch, capsys):
    make_dataset(tmp_path / "shards" / "only", {"train": 2}, seconds=0.3)
    monkeypatch.chdir(tmp_path)
    for command in ("verify-shards", "inspect", "index"):
        assert run([command]) == 0
        assert "only" in capsys.readouterr().out


def test_index_makes_them_again_from_the_tars(copy, capsys):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    for path in [*copy.glob("*.jsonl"), copy / "README.md", copy / NAME]:
        path.unlink()
    assert run(["index", str(copy)]) == 0
    assert capsys.readouterr().out.count("written") == 5
    after = {p.name: p.read_bytes() for p in copy.iterdir()}
    after[NAME] = after[NAME].replace(b'"copy"', b'"tiny"')
    after["README.md"] = after["README.md"].replace(b"# copy", b"# tiny")
    assert after == before
    assert run(["index", str(copy / "train-000000.tar")]) == 0
    assert "8 samples, as it was" in capsys.readouterr().out
    assert run(["index", str(copy / "nothing.tar")]) == 2
    assert run(["index", str(copy / NAME)]) == 2


def test_flac_keeps_the_md5_of_its_samples():
    import hashlib

    from nrdata.checks.verify import flac_md5

    x = np.arange(5000, dtype=np.int16)
    assert flac_md5(audio.encode_flac(x, RATE)) == hashlib.md5(x.tobytes()).digest()


def test_a_shard_or_a_file_instead_of_the_folder_is_told_as_one(tmp_path, capsys):
    tar = sorted(make_dataset(tmp_path / "set", {"train": 2}).glob("*.tar"))[0]
    (tmp_path / "notes.txt").write_text("x")
    for path, what in ((tar, "is one shard, not a folder"), (tmp_path / "notes.txt", "is a file, not a folder")):
        assert run(["verify-shards", str(path)]) == 2
        told = capsys.readouterr().err
        assert what in told and f"nr verify-shards {path.parent}" in told
    assert run(["verify-shards", str(tmp_path / "no")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
