"""nr inspect: the numbers are those of the data; foreign tars are told what they lack."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, sample_fields
from test_shard import MIXTURE

import nrdata
from cli.main import run
from nrdata.checks.inspect import contents, mean_spectra, write_card
from nrdata.store.gather import write_manifest
from nrdata.store.manifest import NAME
from nrdata.store.shard import ShardWriter


def test_numbers(tiny_dataset):
    found = contents(tiny_dataset)
    assert (found.name, found.sample_rate, found.has_ref, found.ref_seconds) == ("tiny", RATE, True, [1.0, 1.0])
    train = found.splits["train"]
    assert (train.samples, train.speakers, train.recordings) == (12, 2, 6)
    assert abs(train.hours * 3600 - 18) < 1e-9
    assert train.environments == {f"local/env{i}": (4, 0.1, 2) for i in range(3)}
    assert sum(train.snr_counts) == 12 and len(train.snr_edges_db) == len(train.snr_counts) + 1


def test_the_histogram_counts_every_sample(tiny_dataset):
    index = nrdata.open(tiny_dataset).index("test")
    part = contents(tiny_dataset).splits["test"]
    for low, high, count in zip(part.snr_edges_db, part.snr_edges_db[1:], part.snr_counts, strict=False):
        assert count == np.count_nonzero((index.snr_db >= low) & (index.snr_db < high))


def test_tables(tiny_dataset, capsys):
    assert run(["inspect", str(tiny_dataset)]) == 0
    out = capsys.readouterr().out
    assert "reserved clips of 1 s" in out and "local/env2" in out and "4  0.1  2" in out and "\x1b" not in out
    assert run(["inspect", "--json", str(tiny_dataset)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["splits"]["train"]["environments"]["local/env0"] == [4, 0.1, 2]


def test_pictures(tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argument in (["--plot", "x.png"], ["--plot"]):
        assert run(["inspect", str(tiny_dataset), *argument]) == 0
    for name in ("x.png", "inspect.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert run(["inspect", str(tiny_dataset), "--plot", "x.jpg"]) == 2
    assert not (tmp_path / "x.jpg").exists()


def test_the_spectrum_of_an_environment_has_its_peak(tiny_dataset):
    frequencies, spectra = mean_spectra(nrdata.open(tiny_dataset))
    for i in range(3):
        peak = frequencies[np.argmax(spectra[f"local/env{i}"])]
        assert abs(peak / (300 * 2.2**i) - 1) < 0.2


def one_sample(folder: Path, **change) -> Path:
    folder.mkdir()
    fields = sample_fields("train", 0, 0, 0, (0, 6400))
    fields["meta"] |= change.pop("meta", {})
    with ShardWriter(folder / "train-000000.tar", RATE, True) as writer:
        writer.write("train-0000001", MIXTURE, {**fields, **change})
    write_manifest(folder)
    return folder


def test_logged_and_measured(tmp_path, capsys):
    for logged, lines in ((MIXTURE.snr_db + 2.9, 0), (MIXTURE.snr_db - 3.1, 1)):
        folder = one_sample(tmp_path / f"d{lines}", meta={"logged_snr_db": logged})
        assert run(["inspect", "--logged", str(folder)]) == 0
        assert f"1 samples have one, {lines} are over 3 dB" in capsys.readouterr().out


def test_names_from_data_cannot_control_the_terminal(tmp_path, capsys):
    folder = one_sample(tmp_path / "d", env_id="local/[red]\x1b[2j\n\u202e")
    assert run(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "[red]" in out
    assert run(["verify-shards", "--leaks", str(folder)]) == 0


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_foreign_tars_are_told_what_they_lack(tmp_path, capsys):
    tar_of(tmp_path / "x.tar", {"a.wav": b"1", "a.json": b'{"env_id": "x", "split": "y"}', "b.wav": b"2"})
    for argument in (tmp_path, tmp_path / "x.tar"):
        assert run(["inspect", str(argument)]) == 2
        err = capsys.readouterr().err
        assert "wav (2), json (1)" in err and "clean.flac, noise.flac, noisy.flac" in err
        assert "speaker, recording, stretch, snr_db, sample_rate, frames in its JSON" in err
        assert len(err.splitlines()) == 1


def test_shards_without_a_manifest(tiny_dataset, tmp_path, capsys):
    copy = shutil.copytree(tiny_dataset, tmp_path / "d")
    assert run(["inspect", str(copy / "test-000000.tar")]) == 2
    assert "inspect its folder" in capsys.readouterr().err
    (copy / NAME).unlink()
    assert run(["inspect", str(copy)]) == 2
    assert "run nr index" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path / "no.tar")]) == 2


def test_hostile_members_are_never_decoded(tmp_path, capsys):
    import pickle

    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "marker",)

    content = {f"a.{suffix}": pickle.dumps(Hostile()) for suffix in ("pkl", "pyd", "pickle", "pth", "npy", "json")}
    folder = tmp_path / "d"
    folder.mkdir()
    tar_of(folder / "train-000000.tar", content)
    for command, code in (("inspect", 2), ("verify-shards", 1), ("index", 2)):
        assert run([command, str(folder)]) == code
        out, err = capsys.readouterr()
        assert "a.pkl" in out + err or "pkl (1)" in err
    assert not (tmp_path / "marker").exists()


def test_the_card_can_be_written_again(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "d")
    (copy / "README.md").unlink()
    assert write_card(copy)
    assert (copy / "README.md").read_bytes() == (tiny_dataset / "README.md").read_bytes()


@pytest.mark.parametrize("command", ["inspect", "verify-shards", "index"])
def test_help_has_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"Example: nr {command}" in capsys.readouterr().out
