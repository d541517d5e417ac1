"""Data sets over HTTP and S3: the same samples as from the folder, or a sentence; nothing else is opened."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import make_dataset

import nrdata
from cli.main import run
from nrdata.checks.leaks import find_leaks
from nrdata.checks.verify import verify
from nrdata.errors import UserError
from nrdata.fetch import cache, transfer
from nrdata.sampling.loader import batches
from nrdata.store.dataset import DataSet
from nrdata.store.shard import ShardFault


class Handler(http.server.BaseHTTPRequestHandler):
    """Files below `server.root`, with ETags and ranges; `server.cut[name]` answers break off half-way."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")  # type: ignore[attr-defined]
        self.server.asked[self.path.lstrip("/")] += 1  # type: ignore[attr-defined]
        if not path.is_file():
            return self.answer(404, b"", {})
        data = path.read_bytes()
        etag = f'"{hash(data)}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.headers.get("If-Range") == etag else 0
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self.server.ranges += bool(start)  # type: ignore[attr-defined]
        cut = self.server.cut[path.name] > 0  # type: ignore[attr-defined]
        self.server.cut[path.name] -= cut  # type: ignore[attr-defined]
        sent = data[start : len(data) // 2 if cut else len(data)]
        self.answer(206 if start else 200, sent, {"ETag": etag} | span, len(data) - start)

    def answer(self, status: int, data: bytes, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[http.server.ThreadingHTTPServer]:
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads = True
    thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield s
    s.shutdown()
    thread.join()
    s.server_close()


@pytest.fixture
def server(running, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch):
    """Serves a copy of the small data set as /tiny; the cache is new."""
    running.root, running.asked, running.cut, running.ranges = tmp_path / "www", Counter(), Counter(), 0
    shutil.copytree(tiny_dataset, running.root / "tiny")
    monkeypatch.setenv("NR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    running.url = f"http://127.0.0.1:{running.server_port}"
    return running


def entries() -> list[Path]:
    return sorted(cache.default().folder.iterdir())


def same(a: DataSet, b: DataSet) -> bool:
    """Every sample of both, bit for bit, and the same stream."""
    assert (a.fingerprint, a.splits, a.sample_rate) == (b.fingerprint, b.splits, b.sample_rate)
    for split in a.splits:
        assert a.index(split).key.tolist() == b.index(split).key.tolist()
        for key in a.index(split).key.tolist():
            x, y = a.sample(key.decode()), b.sample(key.decode())
            assert x.env_id == y.env_id and x.meta == y.meta
            assert all(np.array_equal(getattr(x, f), getattr(y, f)) for f in ("clean", "noise", "noisy", "ref"))
    return True


def test_the_same_as_the_folder_with_each_file_asked_once(server, tiny_dataset):
    data = nrdata.open(f"{server.url}/tiny/")
    assert set(server.asked) == {"tiny/manifest.json"}
    data.index("valid")
    assert set(server.asked) == {"tiny/manifest.json", "tiny/valid-000000.index.jsonl"}
    data.read("valid", 0, "clean")
    assert set(server.asked) - {"tiny/manifest.json"} <= {f"tiny/{path.name}" for path in tiny_dataset.iterdir()}
    assert server.asked["tiny/valid-000000.tar"] == 1 and server.asked["tiny/test-000000.tar"] == 0
    assert same(data, nrdata.open(tiny_dataset))
    assert same(nrdata.open(f"{server.url}/tiny"), data)  # another opening asks for the manifest alone
    assert {name: n for name, n in server.asked.items() if n > 1} == {"tiny/manifest.json": 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_worker_processes(server, tiny_dataset, workers):
    config = {"batch_size": 4, "crop_samples": 8000, "law": "env", "seed": 3}
    here = nrdata.open(tiny_dataset).stream("train", **config)
    stream = nrdata.open(f"{server.url}/tiny").stream("train", **config)
    loader = batches(stream, workers=workers)
    for _ in range(2 * stream.batches_per_epoch):
        at, batch = next(loader)
        expected = here.batch(*at)
        assert batch.key == expected.key
        assert np.array_equal(batch.noisy, expected.noisy) and np.array_equal(batch.ref, expected.ref)
    loader.close()
    assert server.asked["tiny/train-000000.tar"] == server.asked["tiny/train-000001.tar"] == 1


def test_two_addresses_with_one_name(server, tmp_path):
    make_dataset(server.root / "other" / "tiny", seed=1)
    one, two = nrdata.open(f"{server.url}/tiny"), nrdata.open(f"{server.url}/other/tiny")
    a, b = one.sample("test-0000001"), two.sample("test-0000001")
    assert not np.array_equal(a.clean, b.clean)
    both = nrdata.open(f"{server.url}/tiny", f"{server.url}/other/tiny", f"{server.url}/tiny")
    assert np.array_equal(both.sample("0_test-0000001").clean, a.clean)
    assert np.array_equal(both.sample("1_test-0000001").clean, b.clean)
    assert len(both.index("test")) == len(one.index("test")) + len(two.index("test"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no trace", "removed"])
def test_a_cache_entry_damaged_between_epochs(server, tiny_dataset, damage):
    data, local = nrdata.open(f"{server.url}/tiny"), nrdata.open(tiny_dataset)
    assert same(data, local)
    for entry in entries():
        whole = entry.read_bytes()
        entry.unlink()
        if damage == "truncated":
            entry.write_bytes(whole[:3000])
        elif damage != "removed":
            flipped = bytearray(whole)
            flipped[5000::5000] = bytes(byte ^ 1 for byte in flipped[5000::5000])
            entry.write_bytes(flipped)
        if damage == "no trace":
            os.utime(entry, ns=(0, cache.mark(entry.name)))
    assert same(data, local)
    tars = [name for name in server.asked if name.endswith(".tar")]
    assert all(server.asked[name] == 2 for name in tars) and len(tars) == len(entries()) == 4


def test_an_index_that_was_written_to_comes_again(server, tiny_dataset, tmp_path):
    nrdata.open(f"{server.url}/tiny").index("test")
    (index,) = (tmp_path / "cache" / "sets").rglob("test-000000.index.jsonl")
    index.write_text("{}\n")
    assert same(nrdata.open(f"{server.url}/tiny"), nrdata.open(tiny_dataset))


def test_a_cache_smaller_than_the_data_set(server, tiny_dataset, monkeypatch):
    sizes = [path.stat().st_size for path in tiny_dataset.glob("*.tar")]
    monkeypatch.setenv("NR_CACHE_GB", str(max(sizes) * 1.5 / 1e9))
    with pytest.warns(UserWarning, match="do not fit the cache"):
        data = nrdata.open(f"{server.url}/tiny")
    assert same(data, nrdata.open(tiny_dataset))
    assert sum(path.stat().st_size for path in entries()) <= max(sizes) * 1.5


def test_broken_off_and_gone_on(server, tiny_dataset, monkeypatch):
    monkeypatch.setattr(transfer, "fetch", no_waiting(transfer.fetch))
    server.cut.update({"train-000000.tar": 1, "manifest.json": 1, "test-000000.index.jsonl": 1})
    assert same(nrdata.open(f"{server.url}/tiny"), nrdata.open(tiny_dataset))
    assert server.ranges == 3


def no_waiting(fetch):
    patience = transfer.Patience(tries=2, backoff=0.01)
    return lambda url, path, size, checked: fetch(url, path, size, checked, patience)


def test_a_shard_that_is_not_what_the_manifest_says(server, monkeypatch, capsys):
    tar = server.root / "tiny" / "test-000000.tar"
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"test-000000\.tar: .* came twice") as e:
        nrdata.open(f"{server.url}/tiny").sample("test-0000001")
    assert e.value.kind == "wrong_sha256" and server.asked["tiny/test-000000.tar"] == 2
    assert run(["verify-shards", f"{server.url}/tiny"]) == 1
    assert "test-000000.tar: wrong_sha256" in capsys.readouterr().out


def test_what_is_missing_is_named(server):
    with pytest.raises(UserError, match=r"nowhere/manifest\.json: HTTP 404"):
        nrdata.open(f"{server.url}/nowhere")
    (server.root / "tiny" / "train-000001.tar").unlink()
    data = nrdata.open(f"{server.url}/tiny")
    with pytest.raises(UserError, match=r"train-000001\.tar: HTTP 404"):
        data.sample("train-0000009")
    (server.root / "tiny" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"http://.*/tiny/manifest\.json cannot be read"):
        nrdata.open(f"{server.url}/tiny")


def test_an_index_that_does_not_fit_its_shard(server):
    index = server.root / "tiny" / "test-000000.index.jsonl"
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    rows[0]["members"]["clean.flac"][2] ^= 1
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = nrdata.open(f"{server.url}/tiny")
    with pytest.raises(ShardFault, match="checksum in the index"):
        data.read("test", 0, "clean")
    assert server.asked["tiny/test-000000.tar"] == 1  # the shard is whole: it is not asked for again


def test_some_shards_of_an_address(server):
    one = nrdata.open(f"{server.url}/tiny/train-000001.tar")
    assert one.splits == ("train",) and one.index("train").key.tolist()[0] == b"train-0000009"
    assert len(nrdata.open(f"{server.url}/tiny/train-{{000000..000001}}.tar").index("train")) == 12
    with pytest.raises(UserError, match=r"no shards match http://.*/tiny/train-000007\.tar"):
        nrdata.open(f"{server.url}/tiny/train-000007.tar")


def test_names_are_quoted(server, tiny_dataset):
    shutil.copytree(tiny_dataset, server.root / "a b")
    with pytest.raises(UserError, match="written with %"):
        nrdata.open(f"{server.url}/a b")
    with pytest.raises(UserError, match="neither password nor"):
        nrdata.open(f"{server.url}/tiny?token=secret")
    with pytest.raises(UserError, match="neither password") as e:
        nrdata.open(f"http://me:secret@127.0.0.1:{server.server_port}/tiny")
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    ["pipe:touch marker", "gs://bucket/x", "file:///etc", "ftp://host/x", "http://192.0.2.1/x", "HTTP://example.org/x"],
)
def test_other_schemes_are_refused_before_anything_is_opened(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", "http://=pipe:touch marker #")
    scheme = name.split(":", 1)[0].lower()
    for command in (["verify-shards", name], ["inspect", name], ["train", "--shards", name, "--out", "run"]):
        assert run(command) == 2
        told = capsys.readouterr().err
        assert f"scheme '{scheme}' is not allowed" in told and ("ssh -L" in told) == (scheme == "http")
    assert not Path("marker").exists()


def test_webdatasets_variables_have_no_effect(server, tiny_dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", f"{server.url}=pipe:touch marker #")
    monkeypatch.setenv("USE_AIS_FOR", "http:https:s3")
    assert same(nrdata.open(f"{server.url}/tiny"), nrdata.open(tiny_dataset)) and not Path("marker").exists()


def test_commands_take_addresses(server, capsys, tiny_dataset):
    url = f"{server.url}/tiny"
    assert run(["verify-shards", url]) == 0
    assert f"{url}: 4 shards, 24 samples" in capsys.readouterr().out
    assert verify(url).faults == [] and verify(url).samples == verify(tiny_dataset).samples
    assert find_leaks(url) == find_leaks(tiny_dataset)
    assert run(["inspect", url, "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert run(["inspect", str(tiny_dataset), "--json"]) == 0
    assert there | {"folder": ""} == json.loads(capsys.readouterr().out) | {"folder": ""}


def test_evaluate_takes_addresses(server, tmp_path, monkeypatch, capsys):
    from stand_ins import tiny_checkpoint

    monkeypatch.chdir(tmp_path)
    model = str(tiny_checkpoint(tmp_path))
    command = ["evaluate", "--checkpoint", model, "--modes", "none", "--limit", "1", "--workers", "1", "--out", "out"]
    assert run([*command, "--shards", f"{server.url}/tiny"]) == 0
    assert server.asked["tiny/test-000000.tar"] == 1 and (tmp_path / "out" / "table.md").exists()


def test_a_name_from_elsewhere_is_no_path(server):
    path = server.root / "tiny" / "manifest.json"
    path.write_text(path.read_text().replace('"name": "tiny"', '"name": "x/../../tiny"'))
    with pytest.raises(UserError, match="is no name"):
        nrdata.open(f"{server.url}/tiny")


def test_without_the_extra_s3_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["inspect", "s3://bucket/tiny"]) == 2
    assert "pip install 'nr[s3]'" in capsys.readouterr().err


MOTO = importlib.util.find_spec("moto") and importlib.util.find_spec("s3fs")


@pytest.mark.skipif(not MOTO, reason="needs moto[server] and s3fs: an S3-compatible server on loopback")
def test_s3(tiny_dataset, tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1",
                    "ENDPOINT_URL": f"http://{host}:{port}", "EC2_METADATA_DISABLED": "true"}  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("NR_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        import s3fs

        there = s3fs.S3FileSystem()
        there.mkdir("bucket")
        there.put(str(tiny_dataset), "bucket/sets/tiny", recursive=True)
        local, data = nrdata.open(tiny_dataset), nrdata.open("s3://bucket/sets/tiny")
        config = {"batch_size": 4, "crop_samples": 8000, "law": "env"}
        loader = batches(data.stream("train", **config), workers=2)  # fetched in forked workers
        for _ in range(4):
            at, batch = next(loader)
            assert np.array_equal(batch.noisy, local.stream("train", **config).batch(*at).noisy)
        loader.close()
        for entry in entries():
            entry.write_bytes(entry.read_bytes()[:3000])
        assert same(data, local) and verify("s3://bucket/sets/tiny").faults == []
        with pytest.raises(UserError, match=r"s3://bucket/none/manifest\.json is not there"):
            nrdata.open("s3://bucket/none")
        with pytest.raises(UserError, match=r"s3://nobucket/none/manifest\.json is not there"):
            nrdata.open("s3://nobucket/none")
    finally:
        server.stop()


def test_an_address_is_no_warning_where_all_fits(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nrdata.open(f"{server.url}/tiny").index("test")
