"""Downloads from a server that cuts off, lies and forgets: the right bytes, or a named failure and the part kept."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import flip, names

from cli.main import run
from nrdata import files, locks
from nrdata.errors import UserError
from nrdata.fetch import transfer
from nrdata.fetch.download import Archive, archives, bring, download

BODY = io.BytesIO()
with zipfile.ZipFile(BODY, "w") as _zip:
    _zip.writestr("ENV/ch01.wav", os.urandom(300_000))
GOOD = BODY.getvalue()
HALF = len(GOOD) // 2
ETAG = '"v1"'
ANY = -1  # bytes of a part that depend on how the network cut them
QUICK = transfer.Patience(connect=10.0, read=30.0, tries=2, backoff=0.01)
HURRIED = replace(QUICK, read=0.4)  # for servers that say nothing


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how the server misbehaves."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, data: bytes, headers: dict[str, object], length: int | str | None = "") -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(data) if length == "" else length))
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def do_GET(self) -> None:
        way = self.path.split("/")[1]
        self.server.asked[way] += 1  # type: ignore[attr-defined]
        getattr(self, way.replace("-", "_"))(self.start())

    def start(self) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", ETAG) == ETAG
        return int(asked[1]) if asked and fresh else 0

    def ranged(self, start: int, stop: int = len(GOOD), etag: str = ETAG) -> None:
        """As it should be; `stop` before the end is a connection cut there."""
        if start >= len(GOOD):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(GOOD)}"})
        span = {"Content-Range": f"bytes {start}-{len(GOOD) - 1}/{len(GOOD)}"} if start else {}
        tag = {"ETag": etag} if etag else {}
        self.answer(206 if start else 200, GOOD[start:stop], tag | span, len(GOOD) - start)

    def good(self, start: int) -> None:
        self.ranged(start)

    def cut(self, start: int) -> None:  # each time half of what is left, then the rest
        self.ranged(start, len(GOOD) if len(GOOD) - start < 50_000 else start + (len(GOOD) - start) // 2)

    def cut_without_etag(self, start: int) -> None:
        first = self.server.asked["cut-without-etag"] == 1  # type: ignore[attr-defined]
        self.ranged(start, HALF if first else len(GOOD), etag="")

    def always_cut(self, start: int) -> None:
        self.ranged(0, HALF)

    def longer(self, start: int) -> None:
        self.answer(200, GOOD, {"ETag": ETAG}, len(GOOD) + 100)

    def longer_ranges(self, start: int) -> None:
        self.ranged(start) if start else self.longer(start)

    def shorter(self, start: int) -> None:
        self.answer(200, GOOD[:HALF], {"ETag": ETAG})

    def no_length(self, start: int) -> None:
        self.answer(200, GOOD, {"Connection": "close"}, None)

    def no_length_cut(self, start: int) -> None:
        self.answer(200, GOOD[:HALF], {"Connection": "close"}, None)

    def no_length_more(self, start: int) -> None:
        self.answer(200, GOOD + b"more", {"Connection": "close"}, None)

    def ignores_range(self, start: int) -> None:
        self.answer(200, GOOD, {"ETag": ETAG})

    def wrong_206(self, start: int) -> None:
        span = {"Content-Range": f"bytes 0-{len(GOOD) - 1}/{len(GOOD)}"}
        self.answer(206 if start else 200, GOOD, {"ETag": ETAG} | (span if start else {}))

    def other_206(self, start: int) -> None:  # the range of a newer file
        self.ranged(start, etag='"v2"')

    def unasked_206(self, start: int) -> None:
        self.answer(206, GOOD[9:], {"ETag": ETAG, "Content-Range": f"bytes 9-{len(GOOD) - 1}/{len(GOOD)}"})

    def page(self, start: int) -> None:
        self.answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})

    def page_as_zip(self, start: int) -> None:
        self.answer(200, b"<html>log in</html>", {"Content-Type": "application/zip"})

    def gzip(self, start: int) -> None:
        self.answer(200, GOOD, {"Content-Encoding": "gzip"})

    def empty(self, start: int) -> None:
        self.answer(200, b"", {})

    def nothing(self, start: int) -> None:
        self.close_connection = True

    def hangs(self, start: int) -> None:
        self.server.released.wait(20)  # type: ignore[attr-defined]
        self.close_connection = True

    def stalls(self, start: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(GOOD[:HALF])
        self.wfile.flush()
        self.hangs(start)

    def busy_once(self, start: int) -> None:
        first = self.server.asked["busy-once"] == 1  # type: ignore[attr-defined]
        self.answer(503, b"", {}) if first else self.ranged(start)

    def slow(self, start: int) -> None:
        self.server.released.wait(0.8)  # type: ignore[attr-defined]
        self.ranged(start)

    def weak_tag(self, start: int) -> None:
        first = self.server.asked["weak-tag"] == 1  # type: ignore[attr-defined]
        self.answer(200, GOOD[:HALF] if first else GOOD, {"ETag": 'W/"v1"'}, len(GOOD))
        self.server.ranges += "Range" in self.headers  # type: ignore[attr-defined]

    def missing(self, start: int) -> None:
        self.answer(404, b"", {})

    def flipped(self, start: int) -> None:
        self.answer(200, GOOD[:HALF] + bytes([GOOD[HALF] ^ 1]) + GOOD[HALF + 1 :], {"ETag": ETAG})

    def to_good(self, start: int) -> None:
        self.answer(302, b"", {"Location": "/good/x.zip"})

    def to_file(self, start: int) -> None:
        self.answer(302, b"", {"Location": "file:///etc/hostname"})

    def to_http(self, start: int) -> None:
        self.answer(302, b"", {"Location": "http://192.0.2.1/x.zip"})


@pytest.fixture(scope="module")
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads = True
    s.asked, s.released, s.ranges = Counter(), threading.Event(), 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield s
    s.released.set()  # type: ignore[attr-defined]
    s.shutdown()
    thread.join()
    s.server_close()


@pytest.fixture(autouse=True)
def no_proxy(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    server.asked.clear()


def wish(server, way: str, published: bool = False) -> Archive:
    url = f"http://127.0.0.1:{server.server_port}/{way}/x.zip"
    return Archive(url, "x.zip", len(GOOD), f"sha256:{sha256(GOOD)}") if published else Archive(url, "x.zip")


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def get(wanted: Archive, out: Path, **more) -> None:
    patience = HURRIED if "hangs" in wanted.url or "stalls" in wanted.url else QUICK
    download([wanted], out, unpack=False, say=lambda text: None, patience=patience, **more)


def partial(out: Path, data: bytes, etag: str = ETAG) -> None:
    """What an interrupted download has left."""
    out.mkdir()
    (out / "x.zip.part").write_bytes(data)
    (out / "x.zip.part.json").write_text(json.dumps({"etag": etag}))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        "good",
        "cut",
        "cut-without-etag",
        "no-length",
        "longer-ranges",
        "busy-once",
        "to-good",
        "wrong-206",
        "ignores-range",
    ],
)
def test_the_right_bytes_in_spite_of_the_server(way, published, server, tmp_path):
    if way == "longer-ranges" and published:
        with pytest.raises(UserError, match="bytes are offered"):
            get(wish(server, way, published), tmp_path)
        return
    get(wish(server, way, published), tmp_path)
    assert (tmp_path / "x.zip").read_bytes() == GOOD
    assert names(tmp_path) == ["downloads.json", "x.zip"]
    if way == "cut":
        assert server.asked[way] >= 3


@pytest.mark.parametrize(
    ("way", "published", "kind", "kept"),
    [
        ("always-cut", False, "no_answer", HALF),
        ("always-cut", True, "no_answer", HALF),
        ("longer", False, "no_answer", len(GOOD)),
        ("longer", True, "wrong_size", None),
        ("shorter", False, "archive", HALF),
        ("shorter", True, "wrong_size", None),
        ("no-length-cut", False, "archive", HALF),
        ("no-length-cut", True, "no_answer", HALF),
        ("no-length-more", True, "wrong_size", ANY),
        ("unasked-206", False, "no_answer", None),
        ("page", True, "web_page", None),
        ("page-as-zip", False, "not_archive", 19),
        ("gzip", True, "encoded", None),
        ("empty", False, "not_archive", 0),
        ("nothing", True, "no_answer", None),
        ("hangs", True, "no_answer", None),
        ("stalls", True, "no_answer", ANY),
        ("missing", True, "http", None),
        ("flipped", True, "checksum", len(GOOD)),
        ("flipped", False, "archive", len(GOOD)),
        ("to-file", False, "http", None),
        ("to-http", False, "scheme", None),
    ],
)
def test_a_named_failure_and_never_wrong_bytes_under_the_final_name(way, published, kind, kept, server, tmp_path):
    with pytest.raises(UserError) as failure:
        get(wish(server, way, published), tmp_path)
    assert failure.value.kind == kind
    assert "x.zip" not in names(tmp_path) and "downloads.json" not in names(tmp_path)
    part = tmp_path / "x.zip.part"
    assert part.stat().st_size > 0 if kept == ANY else (part.stat().st_size if part.exists() else None) == kept
    get(wish(server, "good", published), tmp_path)  # and whatever was left, the next run ends well
    assert (tmp_path / "x.zip").read_bytes() == GOOD


@pytest.mark.parametrize("way", ["good", "ignores-range", "wrong-206", "other-206"])
def test_a_part_is_resumed_only_where_it_belongs(way, server, tmp_path):
    """200 to a Range, a 206 of another place, a 206 of a newer file: begun anew."""
    out = tmp_path / "out"
    partial(out, GOOD[:HALF])
    get(wish(server, way), out)
    assert (out / "x.zip").read_bytes() == GOOD
    assert server.asked[way] == (2 if way in ("wrong-206", "other-206") else 1)


def test_only_the_rest_is_asked_for(server, tmp_path):
    """What the part holds is not fetched again: here a byte of it was changed, and the checksum says so."""
    partial(tmp_path / "out", flip(GOOD[:HALF], 100))
    with pytest.raises(UserError) as failure:
        get(wish(server, "good", published=True), tmp_path / "out")
    assert failure.value.kind == "checksum"
    assert (tmp_path / "out" / "x.zip.part").read_bytes() == flip(GOOD, 100)
    get(wish(server, "good", published=True), tmp_path / "out")
    assert (tmp_path / "out" / "x.zip").read_bytes() == GOOD and server.asked["good"] == 2


@pytest.mark.parametrize("etag", ['"v0"', 'W/"v1"', ""])
def test_a_part_of_an_older_file_or_of_none_known_is_not_resumed(etag, server, tmp_path):
    partial(tmp_path / "out", b"old" * 1000, etag)
    get(wish(server, "good"), tmp_path / "out")
    assert (tmp_path / "out" / "x.zip").read_bytes() == GOOD


def test_a_weak_etag_does_not_stand_for_the_bytes(server, tmp_path):
    get(wish(server, "weak-tag"), tmp_path)
    assert (tmp_path / "x.zip").read_bytes() == GOOD and server.asked["weak-tag"] == 2 and server.ranges == 0


def test_an_answer_may_take_longer_than_the_connection(server, tmp_path):
    download([wish(server, "slow")], tmp_path, unpack=False, say=len, patience=replace(QUICK, connect=0.3, tries=1))
    assert (tmp_path / "x.zip").read_bytes() == GOOD


def test_416_means_compare_lengths(server, tmp_path):
    partial(tmp_path / "whole", GOOD)
    get(wish(server, "good"), tmp_path / "whole")
    assert (tmp_path / "whole" / "x.zip").read_bytes() == GOOD and server.asked["good"] == 1
    partial(tmp_path / "long", GOOD + b"too much")
    get(wish(server, "good"), tmp_path / "long")
    assert (tmp_path / "long" / "x.zip").read_bytes() == GOOD and server.asked["good"] == 3


def test_a_slow_server_meets_a_bound_on_the_whole(server, tmp_path):
    hurried = replace(QUICK, total=0.0)
    with pytest.raises(UserError, match="too slow") as failure:
        download([wish(server, "good", True)], tmp_path, unpack=False, say=lambda text: None, patience=hurried)
    assert failure.value.kind == "too_slow" and (tmp_path / "x.zip.part").exists()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x.zip", "file:///etc/hostname", "pipe:touch marker", "http://192.0.2.1/x.zip"]
)
def test_schemes_other_than_https_are_refused_before_anything_is_opened(url, tmp_path):
    with pytest.raises(UserError) as failure:
        get(Archive(url, "x.zip"), tmp_path)
    assert failure.value.kind == "scheme"


def test_a_checksum_that_nobody_published_is_printed_pinned_and_held(server, tmp_path):
    said: list[str] = []
    wanted = wish(server, "good")
    download([wanted], tmp_path, unpack=False, say=said.append, patience=QUICK)
    assert any("null" in s and f"pinned now in downloads.json: sha256:{sha256(GOOD)}" in s for s in said)
    assert json.loads((tmp_path / "downloads.json").read_text())["x.zip"]["sha256"] == sha256(GOOD)
    said.clear()
    download([wanted], tmp_path, unpack=False, say=said.append, patience=QUICK)
    assert said == [f"x.zip: as pinned (sha256:{sha256(GOOD)})"] and server.asked["good"] == 1
    other = tmp_path / "other"
    other.mkdir()
    with zipfile.ZipFile(other / "x.zip", "w") as changed:
        changed.writestr("ENV/ch01.wav", b"other bytes")
    (tmp_path / "x.zip").unlink()
    with pytest.raises(UserError, match=r"but .* was pinned") as failure:
        get(wanted, tmp_path, source_dir=other)
    assert failure.value.kind == "checksum" and (other / "x.zip").exists()


def test_what_lies_in_the_source_dir_is_checked_unpacked_and_not_fetched(server, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "x.zip").write_bytes(GOOD)
    download([wish(server, "missing", True)], tmp_path / "out", mirror, say=lambda text: None, patience=QUICK)
    assert len((tmp_path / "out" / "x" / "ENV" / "ch01.wav").read_bytes()) == 300_000
    assert names(tmp_path / "out") == ["downloads.json", "x"] and names(mirror) == ["x.zip"]
    said: list[str] = []
    download([wish(server, "missing", True)], tmp_path / "out", say=said.append, patience=QUICK)
    assert "already unpacked" in said[0]
    with pytest.raises(UserError, match="300122 bytes, 9 were published"):
        get(replace(wish(server, "missing"), bytes=9), tmp_path / "nine", source_dir=mirror)
    (mirror / "x.zip").write_bytes(GOOD[:-1] + b"?")
    with pytest.raises(UserError, match="was published") as failure:
        get(wish(server, "missing", True), tmp_path / "two", source_dir=mirror)
    assert failure.value.kind == "checksum" and names(mirror) == ["x.zip"]


def test_two_downloads_into_one_folder_do_not_meet(server, tmp_path):
    lock = locks.held(tmp_path / ".download.lock", "")
    with lock, pytest.raises(UserError, match="another nr download") as failure:
        get(wish(server, "good"), tmp_path)
    assert failure.value.kind == "locked"


def test_the_command_brings_a_corpus_that_builds(tmp_path, capsys):
    """From an archive in --source-dir to shards; then from the unpacked corpus itself."""
    from test_sources import esc50

    corpus = esc50(tmp_path / "corpus")
    mirror, out = tmp_path / "mirror", tmp_path / "data"
    mirror.mkdir()
    shutil.make_archive(str(mirror / "ESC-50-master"), "zip", corpus)
    assert run(["download", "esc50", "--source-dir", str(mirror), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "CC-BY-NC-3.0" in text and "21 files unpacked" in text
    assert f"next: nr build-shards --source folders --noise esc50:{out}" in text
    from nrdata.builders.corpora import layouts
    from nrdata.builders.entries import Entry

    assert sum(isinstance(e, Entry) for e in layouts.items("esc50", "noise", out) or []) == 20
    assert run(["download", "esc50", "--source-dir", str(corpus), "--out", str(tmp_path / "none")]) == 0
    text = capsys.readouterr().out
    assert "holds 20 files of esc50 as published" in text and f"--noise esc50:{corpus}" in text
    assert run(["download", "moon"]) == 2 and "no source 'moon'" in capsys.readouterr().err
    assert run(["download", "demand", "TCAR_48k", "XX"]) == 2 and "no part XX" in capsys.readouterr().err
    assert [a.stem for a in archives("demand", ["TCAR_48k"])] == ["TCAR_48k"]


def test_voicebank_stays_zipped(tmp_path):
    import corpora

    root = corpora.voicebank(tmp_path / "corpus")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for folder in root.iterdir():
        base = {"root_dir": folder} if folder.name == "logfiles" else {"root_dir": root, "base_dir": folder.name}
        shutil.make_archive(str(mirror / folder.name), "zip", **base)
    options = bring("voicebank-demand", out=tmp_path / "out", source_dir=mirror, say=lambda text: None)
    assert options == f"--source voicebank-demand --root {tmp_path / 'out'}"
    assert corpora.build(*options.split(), "--out", tmp_path / "shards", "--strict", "--plan-only") == 0
    rows = (tmp_path / "shards" / "plan.jsonl").read_text().splitlines()
    assert len(rows) == len((corpora.TRAIN_LOG + corpora.TEST_LOG).splitlines())


def test_nothing_is_copied_over_what_a_user_put_there(server, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="move it away"):
        download([wish(server, "good")], tmp_path, say=lambda text: None, patience=QUICK)
    assert names(tmp_path / "x") == ["mine.txt"] and files.sha256(tmp_path / "x.zip") == sha256(GOOD)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_as_the_unpacked_folder_gets_its_name_the_same_command_goes_on(server, tmp_path, monkeypatch, moment):
    rename = files.rename

    def killed(partial: Path, path: Path) -> None:
        if path.suffix:
            return rename(partial, path)
        if moment == "after":
            rename(partial, path)
        raise Killed

    monkeypatch.setattr(files, "rename", killed)
    with pytest.raises(Killed):
        download([wish(server, "good")], tmp_path, say=len, patience=QUICK)
    monkeypatch.setattr(files, "rename", rename)
    download([wish(server, "good")], tmp_path, say=len, patience=QUICK)
    assert (tmp_path / "x" / "ENV" / "ch01.wav").stat().st_size == 300_000
