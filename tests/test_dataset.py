"""A data set in use: columns, crops, keys, several folders, names that are only names."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, make_dataset, names, sample_fields
from test_shard import MIXTURE

import nrdata
from nrdata.checks.verify import verify
from nrdata.errors import UserError
from nrdata.store.dataset import default_folder
from nrdata.store.gather import write_manifest
from nrdata.store.index import load_index
from nrdata.store.manifest import NAME, Shard
from nrdata.store.shard import ShardFault, ShardWriter, index_path, read_index


@pytest.fixture(scope="module")
def data(tiny_dataset):
    return nrdata.open(tiny_dataset)


@pytest.fixture
def copy(tiny_dataset, tmp_path):
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def test_what_it_is(data):
    assert (data.name, data.sample_rate, data.has_ref) == ("tiny", RATE, True)
    assert data.splits == ("test", "train", "valid")


def test_columns_are_the_rows_of_the_index(data, tiny_dataset):
    index = data.index("train")
    rows = [row for shard in range(2) for row in read_index(tiny_dataset / f"train-00000{shard}.index.jsonl")]
    assert len(index) == len(rows) == 12
    for i, row in enumerate(rows):
        assert index.key[i].decode() == row.key
        assert index.env_names[index.env[i]] == row.env_id
        assert index.recording_names[index.recording[i]] == row.recording
        assert index.speaker_names[index.speaker[i]] == row.speaker
        assert tuple(index.stretch[i]) == row.stretch
        assert (index.frames[i], index.ref_frames[i]) == (row.frames, row.ref_frames)
        assert abs(index.snr_db[i] - row.snr_db) < 1e-4 and abs(index.noise_dbfs[i] - row.noise_dbfs) < 1e-4
        assert [tuple(p) for p in zip(index.offset[i], index.size[i], index.crc[i], strict=True)] == list(
            row.members.values()
        )
    assert index.env_names == sorted(index.env_names) and index.recording_names == sorted(index.recording_names)
    for column in dataclasses.fields(index):
        value = getattr(index, column.name)
        assert isinstance(value, list) or value.dtype != object


def test_a_sample(data):
    t = data.sample("valid-0000003")
    assert (t.split, t.env_id, t.recording, t.speaker) == ("valid", "local/env2", "local/env2/valid0", "local/s10")
    assert np.array_equal(t.noisy * 32768, t.clean * 32768 + t.noise * 32768)
    assert t.clean.dtype == np.float32 and len(t.ref) == RATE and t.meta["gain"] <= 1
    with pytest.raises(UserError, match="no sample 'nothing'"):
        data.sample("nothing")


@pytest.mark.parametrize("field", ["clean", "noise", "noisy", "ref"])
def test_a_crop_is_a_part_of_the_whole(data, field):
    whole = data.read("train", 5, field)
    assert np.array_equal(data.read("train", 5, field, 777, 9000), whole[777:9000])
    assert np.array_equal(data.read("train", 5, field, 777), whole[777:])
    with pytest.raises(ShardFault, match=r"train-000000\.tar: train-0000006"):
        data.read("train", 5, field, 0, 10**6)


def test_damage_is_told_when_it_is_read(copy):
    data = nrdata.open(copy)
    index = data.index("train")
    tar = copy / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[index.offset[9, 3] + 50] ^= 4
    tar.write_bytes(content)
    assert len(data.read("train", 9, "clean"))
    with pytest.raises(ShardFault) as e:
        data.read("train", 9, "noisy", 0, 100)
    assert (e.value.shard, e.value.key, e.value.kind) == ("train-000001.tar", "train-0000010", "crc")
    tar.write_bytes(content[:-512])
    with pytest.raises(ShardFault, match="bytes found"):
        nrdata.open(copy).index("train")
    tar.unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar is missing"):
        nrdata.open(copy).index("train")


@pytest.mark.parametrize("change", ["fewer", "more", "split", "garbage", "absent"])
def test_an_index_that_disagrees_with_the_manifest(copy, change):
    index = copy / "train-000001.index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    if change == "fewer":
        lines = lines[:-1]
    elif change == "more":
        lines += lines[-1:]
    elif change == "split":
        lines[0] = lines[0].replace('"split": "train"', '"split": "test"')
    elif change == "garbage":
        lines[1] = "}{\n"
    index.write_text("".join(lines))
    if change == "absent":
        index.unlink()
    with pytest.raises(UserError, match="train-000001"):
        nrdata.open(copy).index("train")


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, name))


@pytest.mark.parametrize("junk", [None, -1, 10**15, "x", [], {}, 0.5, True])
def test_side_files_of_any_content_are_a_sentence_or_harmless(tmp_path, junk):
    """Manifest and index with one value replaced: `UserError`, or the data set as it is; never another exception."""
    folder = make_dataset(tmp_path / "d", {"train": 2}, seconds=0.1, ref_seconds=0.1)
    for file in (NAME, "train-000000.index.jsonl"):
        text = (folder / file).read_text()
        head, rest = (text, "") if file == NAME else text.split("\n", 1)
        for path in list(places(json.loads(head)))[1:]:
            data = json.loads(head)
            target = data
            for name in path[:-1]:
                target = target[name]
            target[path[-1]] = junk
            (folder / file).write_text(json.dumps(data) + "\n" + rest)
            verify(folder)
            try:
                opened = nrdata.open(folder)
                assert len(opened.index("train")) == 2
                opened.sample("train-0000001")
            except UserError:
                pass
        (folder / file).write_text(text)


def test_several_folders_are_one_data_set(tmp_path, tiny_dataset):
    other = make_dataset(tmp_path / "other", {"train": 3}, seed=7)
    data = nrdata.open(tiny_dataset, other)
    index = data.index("train")
    assert len(index) == 15 and len(set(index.key.tolist())) == 15
    assert data.sample("1_train-0000002").env_id == "local/env1"
    assert np.array_equal(data.sample("1_train-0000002").clean, nrdata.open(other).sample("train-0000002").clean)
    assert data.fingerprint not in (nrdata.open(tiny_dataset).fingerprint, nrdata.open(other).fingerprint)
    assert data.fingerprint != nrdata.open(other, tiny_dataset).fingerprint
    manifest = json.loads((other / NAME).read_text())
    manifest["sample_rate"] = 8000
    (other / NAME).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"16000 Hz.*8000 Hz"):
        nrdata.open(tiny_dataset, other)


def test_long_keys_stay_whole(tmp_path):
    keys = [f"{'k' * n}-{i}" for i, n in enumerate((3, 20, 60, 120))]
    with ShardWriter(tmp_path / "train-000000.tar", RATE, True) as writer:
        for i, key in enumerate(keys):
            writer.write(key, MIXTURE, sample_fields("train", i, 0, 0, (0, 6400)))
    write_manifest(tmp_path)
    data = nrdata.open(tmp_path)
    assert [k.decode() for k in data.index("train").key] == keys
    assert [data.sample(key).env_id for key in keys] == [f"local/env{i}" for i in range(4)]


def test_names_are_literal(tiny_dataset, tmp_path):
    for name in ("a#1 {x}?", "b%20c::d", "e {0..3}", "${HOME}"):
        folder = tmp_path / name
        shutil.copytree(tiny_dataset, folder)
        data = nrdata.open(folder)
        assert len(data.read("test", 0, "clean")) and data.folders == (folder,)
        assert len(nrdata.open(str(folder / "train-{000000..000001}.tar")).index("train")) == 12
    shard = nrdata.open(tmp_path / "b%20c::d" / "train-000001.tar")
    assert shard.splits == ("train",) and len(shard.index("train")) == 4
    assert shard.fingerprint != data.fingerprint
    with pytest.raises(UserError, match="no shards match"):
        nrdata.open(str(tmp_path / "${HOME}" / "train-{000000..000002}.tar"))


@pytest.mark.parametrize("name", ["pipe:touch marker; cat x.tar", "gs://a", "ftp://x.org/y", "file:c"])
def test_schemes_are_refused_before_anything_is_opened(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", "ftp=touch marker")
    with pytest.raises(UserError, match=f"scheme '{name.split(':')[0]}' is not allowed"):
        nrdata.open(name)
    assert not names(tmp_path)


def test_partial_files_are_listed_and_not_read(copy):
    (copy / "train-000009.tar.partial").write_bytes(b"torso")
    with pytest.warns(UserWarning, match=r"not read: train-000009\.tar\.partial"):
        assert len(nrdata.open(copy).index("train")) == 12


def test_a_split_that_is_not_there(data):
    with pytest.raises(UserError, match="no split 'dev', only test, train, valid"):
        data.index("dev")


def test_reading_needs_neither_torch_nor_webdataset(tiny_dataset):
    code = (
        "import sys, nrdata; d = nrdata.open(sys.argv[1]); d.sample('test-0000001'); "
        "assert not {'torch', 'webdataset', 'tarfile', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_dataset)], check=True, cwd=Path(__file__).parents[1])


def test_no_handle_stays_open_and_it_travels(data):
    before = len(names("/proc/self/fd"))
    for row in range(12):
        data.read("train", row, "noise", 0, 10)
    assert len(names("/proc/self/fd")) == before
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.read("train", 3, "ref"), data.read("train", 3, "ref"))


def test_many_rows_in_bounded_memory(tiny_dataset, tmp_path):
    """The columns are all that is kept; nothing grows with rows on the way but them."""
    line = (tiny_dataset / "train-000000.index.jsonl").read_text().splitlines()[0]
    n = 5000
    shutil.copy(tiny_dataset / "train-000000.tar", tmp_path)
    tar = tmp_path / "train-000000.tar"
    with index_path(tar).open("w") as file:
        file.writelines(line.replace("train-0000001", f"train-{i:07d}") + "\n" for i in range(n))
    tracemalloc.start()
    index = load_index([(tar, Shard(tar.name, "", tar.stat().st_size, n, 1.0))], "train", [""])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = sum(v.nbytes for f in dataclasses.fields(index) if isinstance(v := getattr(index, f.name), np.ndarray))
    assert kept / n < 200
    assert peak < 1.5 * kept + 2e6


def test_default_folder(tmp_path, tiny_dataset):
    with pytest.raises(UserError, match="no data set under"):
        default_folder(tmp_path / "shards")
    shutil.copytree(tiny_dataset, tmp_path / "shards" / "one")
    (tmp_path / "shards" / "README.md").write_text("x")
    assert default_folder(tmp_path / "shards") == tmp_path / "shards" / "one"
    shutil.copytree(tiny_dataset, tmp_path / "shards" / "two")
    with pytest.raises(UserError, match=r"shards/one, .*shards/two"):
        default_folder(tmp_path / "shards")


def test_decoded_members_kept_in_memory_are_the_same_sound(tiny_dataset):
    plain, keeping = nrdata.open(tiny_dataset), nrdata.open(tiny_dataset, keep_decoded=True)
    for field in ("clean", "noise", "noisy", "ref"):
        for crop in ((0, None), (100, 5000), (7, 9)):
            assert np.array_equal(plain.read("train", 1, field, *crop), keeping.read("train", 1, field, *crop))
