"""The cache by content: right bytes whatever happens to an entry, within a limit, between processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import names
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.errors import UserError
from nrdata.fetch import cache, transfer
from nrdata.fetch.cache import Cache


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source:
    """Something to fetch from; `wrong` answers come first."""

    def __init__(self, data: bytes, wrong: tuple[bytes, ...] = ()):
        self.data, self.answers, self.asked = data, list(wrong), 0

    def __call__(self, path: Path) -> None:
        self.asked += 1
        transfer.part(path).write_bytes(self.answers.pop(0) if self.answers else self.data)


def read(store: Cache, source: Source, again: bool = False) -> bytes:
    with store.opened(sha(source.data), len(source.data), source, again) as file:
        return file.read()


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1000)


def test_fetched_once_and_named_by_content(store):
    source = Source(b"a" * 100)
    assert [read(store, source), read(store, source)] == [source.data] * 2
    assert source.asked == 1 and names(store.folder) == [sha(source.data)]


@pytest.mark.parametrize("damage", ["truncated", "longer", "flipped", "emptied"])
def test_a_damaged_entry_is_fetched_once_more(store, damage):
    source = Source(os.urandom(100))
    read(store, source)
    entry = store.folder / sha(source.data)
    entry.write_bytes(
        {
            "truncated": source.data[:30],
            "longer": source.data + b"x",
            "flipped": bytes([source.data[0] ^ 1]) + source.data[1:],
            "emptied": b"",
        }[damage]
    )
    assert read(store, source) == source.data and source.asked == 2


def test_a_size_alone_gives_it_away(store):
    source = Source(b"m" * 100)
    read(store, source)
    entry = store.folder / sha(source.data)
    entry.write_bytes(source.data[:30])
    os.utime(entry, ns=(entry.stat().st_atime_ns, cache.mark(entry.name)))
    assert read(store, source) == source.data and source.asked == 2


def test_touched_but_whole_is_checked_and_kept(store):
    source = Source(b"b" * 100)
    read(store, source)
    entry = store.folder / sha(source.data)
    os.utime(entry)
    assert read(store, source) == source.data and source.asked == 1
    assert entry.stat().st_mtime_ns == cache.mark(entry.name)


def test_what_leaves_no_trace_is_found_when_asked(store):
    """A flipped bit under the old modification time: the reader's CRC finds it and asks `again`."""
    source = Source(b"c" * 100)
    read(store, source)
    entry = store.folder / sha(source.data)
    entry.write_bytes(b"C" + source.data[1:])
    os.utime(entry, ns=(entry.stat().st_atime_ns, cache.mark(entry.name)))
    assert read(store, source, again=True) == source.data and source.asked == 2


def test_wrong_bytes_are_fetched_once_more_then_refused(store):
    right = b"d" * 100
    source = Source(right, wrong=(b"e" * 100,))
    assert read(store, source) == right and source.asked == 2
    never = Source(b"f" * 100, wrong=(b"g" * 100, b"f" * 50))
    with pytest.raises(UserError, match="50 bytes of SHA-256") as e:
        read(store, never)
    assert e.value.kind == "wrong_sha256" and never.asked == 2
    assert sha(never.data) not in names(store.folder)
    assert read(store, never) == never.data  # the next time begins anew


def used_at(store: Cache, source: Source, seconds: int) -> None:
    entry = store.folder / sha(source.data)
    os.utime(entry, ns=(seconds * 10**9, entry.stat().st_mtime_ns))


def test_room_is_made_by_last_use(store):
    sources = [Source(bytes([i]) * 400) for i in range(4)]
    for i, source in enumerate(sources[:2]):
        read(store, source)
        used_at(store, source, 100 - i)  # the second was used before the first
    read(store, sources[2])
    assert names(store.folder) == sorted(sha(s.data) for s in (sources[0], sources[2]))
    used_at(store, sources[2], 50)
    read(store, sources[0])  # a use is noted: its turn is over
    read(store, sources[3])
    assert names(store.folder) == sorted(sha(s.data) for s in (sources[0], sources[3]))


def test_room_is_made_on_a_full_disk(store, monkeypatch):
    old, new = Source(b"n" * 100), Source(b"o" * 100)
    read(store, old)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=50))
    read(store, new)
    assert names(store.folder) == [sha(new.data)]


def test_an_entry_in_use_stays(store):
    old, new = Source(b"h" * 600), Source(b"i" * 600)
    with store.opened(sha(old.data), 600, old) as file:
        read(store, new)
        assert len(names(store.folder)) == 2  # over the limit rather than under a reader
        assert file.read() == old.data
    third = Source(b"j" * 600)
    read(store, third)
    assert names(store.folder) == [sha(third.data)]


def test_what_a_killed_process_left_makes_room_too(store):
    store.folder.mkdir()
    left = store.folder / f"{sha(b'k')}.part"
    left.write_bytes(b"k" * 900)
    (store.folder / f"{left.name}.json").write_text('{"etag": "1"}')
    source = Source(b"l" * 600)
    assert read(store, source) == source.data and names(store.folder) == [sha(source.data)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "cut", "flip", "gone"])), max_size=15))
def test_right_whatever_happens_between_reads(tmp_path_factory, steps):
    store = Cache(tmp_path_factory.mktemp("cache"), 500)
    for which, damage in steps:
        source = Source(bytes([which]) * (100 + 50 * which))
        entry = store.folder / sha(source.data)
        if damage and entry.exists():
            if damage == "gone":
                entry.unlink()
            else:
                entry.write_bytes(source.data[:9] if damage == "cut" else b"x" + source.data[1:])
        assert read(store, source) == source.data
        assert sum(path.stat().st_size for path in store.folder.iterdir()) <= 500


def reader(store: Cache, log: Path, seed: int) -> None:
    """A process that reads five entries in an order of its own, under a limit that holds two of them."""
    for i in range(30):
        data = bytes([(i * (seed + 2) + seed) % 5]) * 400

        def fetch(path: Path, data: bytes = data) -> None:
            transfer.part(path).write_bytes(data)
            with log.open("ab") as file:
                file.write(b".")
            time.sleep(0.01)  # the others come and wait

        with store.opened(sha(data), len(data), fetch) as file:
            assert file.read() == data


def test_processes_side_by_side(store, tmp_path):
    context = multiprocessing.get_context("fork")
    ample = Cache(tmp_path / "ample", 10_000)
    for shared, most in ((ample, 5), (store, 120)):  # with room for all, each is fetched once by one of them
        log = tmp_path / f"log{most}"
        processes = [context.Process(target=reader, args=(shared, log, seed)) for seed in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        assert 5 <= log.stat().st_size <= most
        assert all(len(name) == 64 for name in names(shared.folder))


@pytest.mark.parametrize("text", ["nan", "-1", "0", "many"])
def test_a_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv("NR_CACHE_GB", text)
    with pytest.raises(UserError, match="NR_CACHE_GB"):
        cache.default()


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("NR_CACHE", str(tmp_path))
    monkeypatch.setenv("NR_CACHE_GB", "0.5")
    assert cache.default() == Cache(tmp_path / "shards", 500_000_000)
    monkeypatch.delenv("NR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.default().folder == tmp_path / "home" / ".cache" / "nr" / "shards"
