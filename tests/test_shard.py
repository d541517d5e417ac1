"""Shards: whole or not there, the same bytes from the same input, an index from the tar alone."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, names, noise, sample_fields, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata import audio
from nrdata.errors import UserError
from nrdata.store.facts import MEMBERS
from nrdata.store.shard import (
    ShardWriter,
    build_index,
    index_path,
    read_bytes,
    read_index,
)
from nrdata.store.tar import ShardFault
from nrdata.store.triplet import Mixture, mix


def read_member(file, row, member):
    return read_bytes(file, Path(file.name).name, row.key, member, row.members[member])


MIXTURE = mix(speech(0.4), noise(0.4), 3.0, ref=noise(0.3, seed=5))
FIELDS = sample_fields("train", 0, 0, 0, (0, 6400))


def write(path, keys=("train-0000001", "train-0000002"), has_ref=True, fields=FIELDS):
    mixture = MIXTURE if has_ref else Mixture(**{**MIXTURE.__dict__, "ref16": None})
    with ShardWriter(path, RATE, has_ref) as writer:
        for key in keys:
            writer.write(key, mixture, fields)
    return path


@pytest.mark.parametrize("has_ref", [True, False])
def test_round_trip(tmp_path, has_ref):
    tar = write(tmp_path / "train-000000.tar", has_ref=has_ref)
    rows = read_index(index_path(tar))
    assert rows == build_index(tar)
    assert [row.key for row in rows] == ["train-0000001", "train-0000002"]
    row = rows[1]
    assert (row.env_id, row.recording, row.speaker, row.stretch) == (
        "local/env0",
        "local/env0/train0",
        "local/s0",
        (0, 6400),
    )
    assert (row.frames, row.ref_frames, row.sample_rate) == (6400, 4800 * has_ref, RATE)
    assert abs(row.snr_db - MIXTURE.snr_db) < 1e-3
    assert abs(row.noise_dbfs - audio.rms_dbfs(MIXTURE.noise16)) < 1e-3
    assert tuple(row.members) == MEMBERS[: 4 + has_ref]
    with tar.open("rb") as file:
        for name in ("clean", "noise", "noisy"):
            stored = audio.decode_flac(read_member(file, row, f"{name}.flac"))
            assert np.array_equal(stored, getattr(MIXTURE, f"{name}16"))
        if has_ref:
            assert np.array_equal(audio.decode_flac(read_member(file, row, "ref.flac")), MIXTURE.ref16)
        meta = json.loads(read_member(file, row, "json"))["meta"]
    assert meta == {"asked_snr_db": 5.0, "gain": MIXTURE.gain, "unit": 0}


@pytest.mark.filterwarnings("ignore:Exception ignored")  # stock readers leave files to the collector
def test_the_tar_is_what_stock_readers_expect(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    tar = write(tmp_path / "train-000000.tar", keys=("train-0000001", "k" * 128, "a-_0"))
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["train-0000001", "k" * 128, "a-_0"]
    for sample in samples:
        assert {k for k in sample if not k.startswith("__")} == set(MEMBERS)
        assert np.array_equal(audio.decode_flac(sample["noisy.flac"]), MIXTURE.noisy16)
    with tarfile.open(tar) as file:
        for member in file:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "nr", "nr")
    assert [r.key for r in build_index(tar)] == ["train-0000001", "k" * 128, "a-_0"]


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    digests = set()
    for i, zone in enumerate(("UTC", "Asia/Tokyo")):
        monkeypatch.setenv("TZ", zone)
        tar = write(tmp_path / f"train-00000{i}.tar")
        digests.add(hashlib.sha256(tar.read_bytes()).hexdigest())
    assert len(digests) == 1
    a, b = (index_path(tmp_path / f"train-00000{i}.tar").read_bytes() for i in (0, 1))
    assert a == b


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "train-000000.tar", RATE, True) as writer:
        writer.write("train-0000001", MIXTURE, FIELDS)
        assert [name.endswith(".partial") for name in names(tmp_path)] == [True]
        raise KeyError
    assert not names(tmp_path)


def test_an_empty_shard_is_not_made(tmp_path):
    with ShardWriter(tmp_path / "train-000000.tar", RATE, True):
        pass
    assert not names(tmp_path)


def test_a_shard_that_is_there_is_not_opened_again(tmp_path):
    tar = write(tmp_path / "train-000000.tar")
    before = tar.read_bytes()
    with pytest.raises(UserError) as e:
        write(tar)
    assert e.value.kind == "exists" and tar.read_bytes() == before


@pytest.mark.parametrize("limit", [4096, 20480, 60000])
def test_a_full_disk_leaves_nothing_and_no_open_file(tmp_path, limit):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    handles = len(names("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError) as e:
            write(tmp_path / "train-000000.tar", keys=("train-0000001", "train-0000002", "train-0000003"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert e.value.filename == str(tmp_path / "train-000000.tar")
    assert not names(tmp_path)
    assert len(names("/proc/self/fd")) == handles


@pytest.mark.parametrize("key", ["", "A", "a.b", "../evil", "a/b", "-a", "ä", "a\n", "a" * 129, "train-0000001"])
def test_keys_that_are_refused(tmp_path, key):
    with pytest.raises(ValueError), ShardWriter(tmp_path / "train-000000.tar", RATE, True) as writer:
        writer.write("train-0000001", MIXTURE, FIELDS)
        writer.write(key, MIXTURE, FIELDS)
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"env_id": None},
        {"env_id": "Local/Cafe"},
        {"env_id": "cafe"},
        {"speaker": 5},
        {"stretch": []},
        {"stretch": [5, 5]},
        {"stretch": [0]},
        {"meta": {"a": None}},
        {"meta": {"a": []}},
        {"meta": {"a": [{"b": None}]}},
        {"meta": {"a": float("nan")}},
        {"meta": {"a": float("inf")}},
    ],
)
def test_fields_that_readers_could_not_type_are_not_written(tmp_path, change):
    with pytest.raises(ValueError):
        write(tmp_path / "train-000000.tar", fields={**FIELDS, **change})
    assert not names(tmp_path)


def test_invariants_are_checked_when_written(tmp_path):
    noisy = MIXTURE.noisy16.copy()
    noisy[0] += 1
    for broken in (
        Mixture(MIXTURE.clean16, MIXTURE.noise16, noisy, MIXTURE.ref16, 1.0, 0.0),
        Mixture(MIXTURE.clean16, MIXTURE.noise16, MIXTURE.noisy16, None, 1.0, 0.0),
    ):
        with pytest.raises(ValueError), ShardWriter(tmp_path / "train-000000.tar", RATE, True) as writer:
            writer.write("train-0000001", broken, FIELDS)


def test_unknown_stretch_has_the_type_of_a_known_one(tmp_path):
    tar = write(tmp_path / "train-000000.tar", fields={**FIELDS, "stretch": [-1, -1]})
    assert build_index(tar)[0].stretch == (-1, -1)


@settings(max_examples=25, deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_source_names_of_any_kind_live_in_the_json(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    fields = {**FIELDS, "speaker": f"local/{name}", "meta": {"path": name}}
    tar = write(folder / "train-000000.tar", keys=["train-0000001"], fields=fields)
    row = read_index(index_path(tar))[0]
    assert row.speaker == f"local/{name}" and row.key == "train-0000001"
    with tar.open("rb") as file:
        data = read_member(file, row, "json")
    assert json.loads(data)["meta"]["path"] == name and data.isascii()


def test_a_changed_member_fails_its_checksum(tmp_path):
    tar = write(tmp_path / "train-000000.tar")
    row = read_index(index_path(tar))[0]
    data = bytearray(tar.read_bytes())
    data[row.members["noise.flac"][0] + 100] ^= 1
    tar.write_bytes(data)
    with tar.open("rb") as file:
        read_member(file, row, "clean.flac")
        with pytest.raises(ShardFault) as e:
            read_member(file, row, "noise.flac")
    assert (e.value.shard, e.value.key, e.value.kind) == ("train-000000.tar", "train-0000001", "crc")
    tar.write_bytes(data[:2000])
    with tar.open("rb") as file, pytest.raises(ShardFault, match="truncated"):
        read_member(file, row, "ref.flac")


def test_faults_travel_between_processes():
    fault = pickle.loads(pickle.dumps(ShardFault("a.tar", "k", "crc", "differs")))
    assert (fault.shard, fault.key, fault.kind, fault.detail) == ("a.tar", "k", "crc", "differs")
    assert str(fault) == "a.tar: k: differs (crc)"


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"members": {"a.pkl": [0, 1, 2]}}', "null"])
def test_an_index_that_cannot_be_read_names_file_and_line(tmp_path, line):
    tar = write(tmp_path / "train-000000.tar")
    with index_path(tar).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ShardFault, match=r"train-000000\.index\.jsonl: line 3"):
        read_index(index_path(tar))
