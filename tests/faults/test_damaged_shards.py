"""Damaged, repacked and hostile shards: every one is reported by verify-shards and refused by nr index, none is read
as fewer samples. `nr` runs in this process, except where its memory is bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import make_dataset

import nrdata
from cli.main import run
from nrdata.checks.verify import verify
from nrdata.store.shard import ShardFault, build_index, index_path, read_index
from nrdata.store.tar import members

TAR = "train-000000.tar"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Four samples of 0.3 s: about 20 members, 100 kB."""
    return make_dataset(tmp_path_factory.mktemp("small") / "d", {"train": 4}, seconds=0.3, ref_seconds=0.25)


@pytest.fixture
def folder(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "d"))


def walk(tar: Path):
    with tar.open("rb") as file:
        return list(members(file, tar.name))


def assert_reported(folder: Path, content: bytes, where: str) -> None:
    """With index and manifest beside it, without the manifest, and with nothing beside it."""
    (folder / TAR).write_bytes(content)
    faults = [f for f in verify(folder).faults if f.shard == TAR]
    assert faults, where
    with pytest.raises(ShardFault):
        build_index(folder / TAR)


def test_a_flip_in_any_header(folder, small):
    content = (folder / TAR).read_bytes()
    places = walk(folder / TAR)
    rng = np.random.default_rng(0)
    for i in range(80):
        member = places[i % len(places)]
        damaged = bytearray(content)
        damaged[member.header + rng.integers(512)] ^= 1 << rng.integers(8)
        assert_reported(folder, bytes(damaged), f"header of {member.name}")
        key = member.name.partition(".")[0]
        assert key in {f.key for f in verify(folder).faults}


def test_cuts_at_and_inside_every_member(folder):
    content = (folder / TAR).read_bytes()
    for member in walk(folder / TAR):
        for at in (member.header, member.header + 200, member.offset, member.offset + member.size // 2):
            assert_reported(folder, content[:at], f"cut at {at}")


def test_cuts_of_the_end(folder):
    content = (folder / TAR).read_bytes()
    last = walk(folder / TAR)[-1]
    end = last.offset + last.size + (-last.size % 512)
    for at in (end, end + 511, end + 512, end + 1023):
        assert_reported(folder, content[:at], f"cut at {at}")
    # two zero blocks are an end; but the manifest knows more bytes
    (folder / TAR).write_bytes(content[: end + 1024])
    assert len(build_index(folder / TAR)) == 4
    assert {f.kind for f in verify(folder).faults} >= {"bytes"}


def test_bytes_that_nobody_reads(folder):
    """Padding behind a member, and what follows the end: no place for a message."""
    content = (folder / TAR).read_bytes()
    for member in walk(folder / TAR):
        for at in {member.offset + member.size, member.offset + member.size + (-member.size % 512) - 1}:
            if member.size % 512:
                assert_reported(folder, content[:at] + b"x" + content[at + 1 :], f"padding of {member.name}")
    for tail in (b"x", bytes(511) + b"x", bytes(10240) + b"x" * 512):
        assert_reported(folder, content + tail, "tail")


def test_a_zeroed_block_anywhere(folder):
    content = (folder / TAR).read_bytes()
    for at in range(0, len(content), 512 * 3):
        if not any(content[at : at + 512]):
            continue
        damaged = content[:at] + bytes(512) + content[at + 512 :]
        (folder / TAR).write_bytes(damaged)
        assert [f for f in verify(folder).faults if f.shard == TAR], f"block at {at}"


def test_flips_in_payloads_are_found_by_checksum_and_by_decoding(folder):
    content = (folder / TAR).read_bytes()
    rng = np.random.default_rng(3)
    sound = [m for m in walk(folder / TAR) if m.name.endswith(".flac")]
    for member in sound:
        damaged = bytearray(content)
        at = int(rng.integers(100, member.size))
        damaged[member.offset + at] ^= 1 << rng.integers(8)
        (folder / TAR).write_bytes(damaged)
        assert [(f.key, f.kind) for f in verify(folder).faults] == [(member.name.partition(".")[0], "crc")]
    (folder / "manifest.json").unlink()
    index_path(folder / TAR).unlink()
    assert (sound[-1].name.partition(".")[0], "decode") in [(f.key, f.kind) for f in verify(folder).faults]


def test_a_flac_cut_short_inside_a_valid_tar(folder):
    """D3: the crop before the cut could be decoded; verification decodes the whole."""

    def change(name: str, data: bytes) -> bytes:
        return data[: len(data) // 2] if name == "train-0000002.noise.flac" else data

    repack(folder / TAR, change)
    index_path(folder / TAR).unlink()
    (folder / "manifest.json").unlink()
    assert run(["index", str(folder)]) == 0  # the structure is whole
    assert ("train-0000002", "decode") in {(f.key, f.kind) for f in verify(folder).faults}
    data = nrdata.open(folder)
    assert len(data.read("train", 0, "noise", 0, 100)) == 100
    with pytest.raises(ShardFault, match=r"train-000000\.tar: train-0000002"):
        data.read("train", 1, "noise")


def repack(tar: Path, change=lambda name, data: data, order=lambda names: names, extra=()) -> None:
    """Write the members of a shard again with Python's tarfile, changed and in another order."""
    with tarfile.open(tar) as file:
        content = {m.name: file.extractfile(m).read() for m in file}
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name in order(list(content)):
            data = change(name, content[name])
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for info, data in extra:
            file.addfile(info, io.BytesIO(data) if data is not None else None)


def reordered(names: list[str], how: str) -> list[str]:
    first = [n for n in names if n.startswith("train-0000001.")]
    rest = names[len(first) :]
    return {
        "clean first": sorted(names, key=lambda n: (not n.endswith(".clean.flac"), n)),
        "by kind": sorted(names, key=lambda n: n.partition(".")[2]),
        "interleaved": [n for pair in zip(first, rest[:5], strict=True) for n in pair] + rest[5:],
        "other order": [first[1], first[0], *first[2:], *rest],
        "missing": names[1:],
        "missing json": [n for n in names if n != "train-0000002.json"],
        "missing ref": [n for n in names if n != "train-0000003.ref.flac"],
        "twice": [first[0], *names],
        "sample twice": names + first,
    }[how]


@pytest.mark.parametrize(
    ("how", "key"),
    [
        ("clean first", "train-0000001"),
        ("by kind", "train-0000001"),
        ("interleaved", "train-0000001"),
        ("other order", "train-0000001"),
        ("missing", "train-0000001"),
        ("missing json", "train-0000002"),
        ("missing ref", "train-0000003"),
        ("twice", "train-0000001"),
        ("sample twice", "train-0000001"),
    ],
)
@pytest.mark.parametrize("index", ["old index", "no index"])
def test_members_that_are_not_whole_samples(folder, capsys, how, key, index):
    repack(folder / TAR, order=lambda names: reordered(names, how))
    if index == "no index":
        index_path(folder / TAR).unlink()
        (folder / "manifest.json").unlink()
        assert run(["index", str(folder)]) == 2
        err = capsys.readouterr().err
        assert f"{TAR}: {key}" in err
        assert ("occurs twice" in err) == (how in ("twice", "sample twice"))
    assert run(["verify-shards", str(folder)]) == 1
    assert f"{TAR}: {key}: " in capsys.readouterr().out


def gnu_tar(*arguments: str, cwd: Path) -> None:
    if not shutil.which("tar") or b"GNU" not in subprocess.run(["tar", "--version"], capture_output=True).stdout:
        pytest.skip("needs GNU tar")
    subprocess.run(["tar", *arguments], cwd=cwd, check=True)


@pytest.mark.parametrize("form", ["gnu", "ustar", "posix", "v7"])
def test_repacked_by_gnu_tar(folder, tmp_path, capsys, form):
    """CASES S1: in the old order it is the same data set; all clean members first, it is none."""
    names = [m.name for m in walk(folder / TAR)]
    before = [(row.key, row.members["json"][1:]) for row in build_index(folder / TAR)]
    (tmp_path / "x").mkdir()
    gnu_tar("-xf", str(folder / TAR), cwd=tmp_path / "x")
    gnu_tar(f"--format={form}", "-cf", str(folder / TAR), *names, cwd=tmp_path / "x")
    assert [(row.key, row.members["json"][1:]) for row in build_index(folder / TAR)] == before
    gnu_tar(f"--format={form}", "-cf", str(folder / TAR), *reordered(names, "clean first"), cwd=tmp_path / "x")
    assert run(["index", str(folder)]) == 2
    assert "train-0000001" in capsys.readouterr().err
    faults = verify(folder).faults
    assert {"train-0000001", "train-0000004"} <= {f.key for f in faults if f.shard == TAR}


class Hostile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("suffix", ["pkl", "pyd", "pickle", "pth", "npy", "ten", "Clean.flac", "clean.flac.gz", "x"])
def test_hostile_and_foreign_members(folder, tmp_path, capsys, suffix):
    info = tarfile.TarInfo(f"train-0000004.{suffix}")
    data = pickle.dumps(Hostile(tmp_path / "marker"))
    info.size = len(data)
    repack(folder / TAR, extra=[(info, data)])
    assert run(["verify-shards", str(folder)]) == 1
    assert f"unexpected member train-0000004.{suffix}" in capsys.readouterr().out
    assert run(["index", str(folder)]) == 2
    assert run(["inspect", str(folder)]) in (0, 2)  # from manifest and index: nothing of the tar is decoded
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["../evil", "/abs/evil", "a/b", "", "A", "a b", "a\x1b[2J", "__x__", "é", "a" * 129])
def test_keys_that_are_no_keys(folder, capsys, name):
    def rename(names):
        return names

    with tarfile.open(folder / TAR) as file:
        content = {m.name: file.extractfile(m).read() for m in file}
    with tarfile.open(folder / TAR, "w", format=tarfile.PAX_FORMAT) as file:
        for old, data in content.items():
            info = tarfile.TarInfo(old.replace("train-0000002", name))
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    assert run(["verify-shards", str(folder)]) == 1
    out = capsys.readouterr().out
    assert f"{TAR}: " in out and "\x1b" not in out


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_links_and_devices(folder, capsys, kind):
    info = tarfile.TarInfo("train-0000005.clean.flac")
    info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "train-0000001.clean.flac"
    repack(folder / TAR, extra=[(info, None)])
    assert run(["verify-shards", str(folder)]) == 1
    assert ": member: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (bytes(10240), "empty"),
        (bytes(512), "truncated"),
        (b"<html><body>404</body></html>" * 50, "header"),
        (b"x", "truncated"),
        (gzip.compress(b"x" * 9000, mtime=0), "compressed"),
        (bz2.compress(b"x" * 9000), "compressed"),
        (lzma.compress(b"x" * 9000), "compressed"),
    ],
)
def test_what_is_no_tar_at_all(folder, content, kind):
    (folder / TAR).write_bytes(content)
    assert kind in {f.kind for f in verify(folder).faults if f.shard == TAR}
    with pytest.raises(ShardFault) as e:
        build_index(folder / TAR)
    assert e.value.kind == kind


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(("size", "kind"), [(1 << 27, "truncated"), (1 << 30, "too_large"), (1 << 40, "too_large")])
def test_sizes_that_a_header_only_claims(folder, size, kind):
    (folder / TAR).write_bytes(header("train-0000001.clean.flac", size) + bytes(10240))
    assert kind in {f.kind for f in verify(folder).faults if f.shard == TAR}


BOUNDED = """
import resource, sys
from cli.main import run
run(["--help"])
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
codes = [run([command, sys.argv[1]]) for command in ("verify-shards", "index", "inspect")]
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(0 if codes == [1, 2, 2] else 9)
"""


def in_two_gib(folder: Path) -> str:
    """verify-shards, index, inspect in a process of 2 GiB of address space: exit codes 1, 2, 2 and under 500 MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(folder)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split("peak ")[1]) < 500_000
    return done.stdout + done.stderr


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_member_of_8_gib(folder, tmp_path, form):
    with (tmp_path / "train-0000001.clean.flac").open("wb") as file:
        file.truncate(8 << 30)
        file.seek(0)
        file.write(b"fLaC")
    gnu_tar(f"--format={form}", "-S", "-cf", str(folder / TAR), "train-0000001.clean.flac", cwd=tmp_path)
    assert "sparse" in in_two_gib(folder)


def test_a_gzip_bomb_named_tar(folder):
    with gzip.open(folder / TAR, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert "compressed with gzip" in in_two_gib(folder)


def test_an_index_that_points_elsewhere_reads_nothing(folder):
    """Rows with offsets and sizes that are not those of the members: refused at the checksum, never decoded."""
    index = index_path(folder / TAR)
    row = read_index(index)[0]
    offset, size, _ = row.members["clean.flac"]
    index.write_text(index.read_text().replace(f"[{offset}, {size}", f"[{offset + 512}, {size}", 1))
    with pytest.raises(ShardFault, match="crc"):
        nrdata.open(folder).read("train", 0, "clean")
    assert {(f.key, f.kind) for f in verify(folder).faults} == {("train-0000001", "index")}
    for huge in (1 << 29, 1 << 62, -1):
        index.write_text(index.read_text().replace(f", {size},", f", {huge},", 1))
        with pytest.raises(ShardFault, match="cannot be read"):
            nrdata.open(folder).read("train", 0, "clean")
        index.write_text(index.read_text().replace(f", {huge},", f", {size},", 1))
