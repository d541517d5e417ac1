"""The manifest and the data card: gathered from shards, growing with shards, naming nothing outside the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import RATE, make_dataset, sample_fields
from test_shard import MIXTURE

from nrdata.errors import UserError
from nrdata.files import sha256
from nrdata.store import card
from nrdata.store.gather import write_manifest
from nrdata.store.manifest import NAME, fingerprint, read_manifest
from nrdata.store.shard import ShardWriter
from nrdata.store.triplet import mix


def test_what_it_says(tiny_dataset):
    manifest = read_manifest(tiny_dataset)
    assert (manifest.name, manifest.sample_rate, manifest.has_ref) == ("tiny", RATE, True)
    train = manifest.splits["train"]
    assert [(s.file, s.samples, s.seconds) for s in train.shards] == [
        ("train-000000.tar", 8, 12),
        ("train-000001.tar", 4, 6),
    ]
    for shard in train.shards:
        assert shard.sha256 == sha256(tiny_dataset / shard.file)
        assert shard.bytes == (tiny_dataset / shard.file).stat().st_size
    assert train.environments["local/env1"].samples == 4 and train.environments["local/env1"].recordings == 2
    assert train.environments["local/env1"].seconds == 6 and train.speakers == 2
    assert {"libsndfile", "numpy", "webdataset", "pyroomacoustics"} <= set(manifest.versions)
    assert not list(tiny_dataset.glob("*.partial"))


def test_the_fingerprint_is_of_digests_and_splits_only(tiny_dataset, tmp_path):
    copy = tmp_path / "another name"
    shutil.copytree(tiny_dataset, copy)
    first = read_manifest(copy).fingerprint
    again = write_manifest(copy, name="renamed", licenses={"a": "b"}, plan_sha256="c")
    assert again.fingerprint == first and again.licenses == {"a": "b"} and again.plan_sha256 == "c"
    assert fingerprint({"a": ["1", "2"], "b": ["3"]}) == fingerprint({"b": ["3"], "a": ["1", "2"]})
    assert len({fingerprint(x) for x in ({"a": ["1", "2"]}, {"a": ["2", "1"]}, {"b": ["1", "2"]}, {"a": ["1"]})}) == 4
    other = make_dataset(tmp_path / "other", {"train": 2}, seed=1)
    assert read_manifest(other).fingerprint != first


def test_it_grows_with_shards_not_with_samples(tmp_path):
    a = make_dataset(tmp_path / "a", {"train": 3}, seconds=0.1, per_shard=12)
    b = make_dataset(tmp_path / "a2", {"train": 12}, seconds=0.1, per_shard=12)
    assert abs((a / NAME).stat().st_size - (b / NAME).stat().st_size) < 20


@pytest.mark.parametrize(
    ("rate", "has_ref", "split", "kind"),
    [(8000, True, "train", "mixed"), (RATE, False, "train", "mixed"), (RATE, True, "both", "split")],
)
def test_what_is_no_one_data_set_is_refused(tmp_path, rate, has_ref, split, kind):
    with ShardWriter(tmp_path / "train-000000.tar", RATE, True) as writer:
        writer.write("train-0000001", MIXTURE, sample_fields("train", 0, 0, 0, (0, 9)))
        if split == "both":
            writer.write("train-0000002", MIXTURE, sample_fields("test", 0, 0, 0, (0, 9)))
    with ShardWriter(tmp_path / "train-000001.tar", rate, has_ref) as writer:
        mixture = mix(
            MIXTURE.clean16 / 32768, MIXTURE.noise16 / 32768, None, MIXTURE.ref16 / 32768 if has_ref else None
        )
        writer.write("train-0000003", mixture, sample_fields("train", 0, 0, 0, (0, 9)))
    with pytest.raises(UserError) as e:
        write_manifest(tmp_path)
    assert e.value.kind == kind and "train-00000" in str(e.value)
    assert not (tmp_path / NAME).exists()


def test_folders_without_one(tmp_path, tiny_dataset):
    with pytest.raises(UserError, match="no shards match"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_manifest(tmp_path / "nothing")
    (tmp_path / "train-000003.tar.partial").write_bytes(b"x")
    with pytest.raises(UserError, match=r"unfinished files train-000003\.tar\.partial"):
        read_manifest(tmp_path)
    shutil.copy(tiny_dataset / "train-000000.tar", tmp_path)
    with pytest.raises(UserError, match="has no index; run nr index"):
        write_manifest(tmp_path)


@pytest.mark.parametrize("file", ["../x.tar", "/etc/x.tar", "a/x.tar", "x.tar.gz", "x", "pipe:touch marker; cat x.tar"])
def test_it_names_shards_of_its_folder_only(tmp_path, tiny_dataset, monkeypatch, file):
    shutil.copytree(tiny_dataset, tmp_path / "d")
    data = json.loads((tmp_path / "d" / NAME).read_text())
    data["splits"]["train"]["shards"][0]["file"] = file
    (tmp_path / "d" / NAME).write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        read_manifest(tmp_path / "d")
    assert e.value.kind == ("scheme" if file.startswith("pipe") else "manifest")
    assert not Path("marker").exists() and not (tmp_path / "d" / "marker").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "x": NaN}', "\xff"])
def test_damaged_ones_are_a_sentence(tmp_path, text):
    (tmp_path / NAME).write_text(text, encoding="latin1")
    with pytest.raises(UserError, match="cannot be read") as e:
        read_manifest(tmp_path)
    assert e.value.kind == "manifest"


def test_the_card_names_the_tars_of_each_split(tiny_dataset):
    text = (tiny_dataset / "README.md").read_text()
    head = text.split("---\n")[1]
    assert head.splitlines() == [
        "license: other", "configs:", "- config_name: default", "  data_files:",
        "  - split: train", "    path: train-*.tar", "  - split: test", "    path: test-*.tar",
        "  - split: valid", "    path: valid-*.tar",
    ]  # fmt: skip
    assert "| train | 12 |" in text and "| local/env2 |" in text


def test_a_readme_of_the_users_own_is_left_alone(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "d")
    (tmp_path / "d" / "README.md").write_text("mine")
    write_manifest(tmp_path / "d")
    assert (tmp_path / "d" / "README.md").read_text() == "mine"


def test_the_card_names_what_the_stock_loader_needs(tiny_dataset):
    text = (tiny_dataset / card.NAME).read_text()
    assert "datasets.load_dataset" in text and "`torchcodec` is installed" in text


def test_text_from_data_cannot_break_the_card():
    assert card.cell("a|b<script>\n\x1b`") == "a\\|b&lt;script>  '"
