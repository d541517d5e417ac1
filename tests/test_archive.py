"""Unpacking: hostile archives leave nothing behind, damaged ones are refused, whole ones come out whole."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import flip, names

from nrdata.errors import UserError
from nrdata.fetch import archive


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def zipped(path: Path, *named: tuple[str, bytes, int]) -> Path:
    import warnings

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data, mode in named:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
            z.writestr(info, data)
    return path


HOSTILE = {
    "parent.tar.gz": lambda p: tarred(p, member("ok"), member("../evil")),
    "absolute.tar.gz": lambda p: tarred(p, member("ok"), member("/evil")),
    "symlink.tar.gz": lambda p: tarred(p, member("ok"), member("l", b"", type=tarfile.SYMTYPE, linkname="..")),
    "hardlink.tar.gz": lambda p: tarred(p, member("ok"), member("l", b"", type=tarfile.LNKTYPE, linkname="ok")),
    "fifo.tar": lambda p: tarred(p, member("ok"), member("f", b"", type=tarfile.FIFOTYPE), mode="w"),
    "device.tar.xz": lambda p: tarred(p, member("ok"), member("d", b"", type=tarfile.CHRTYPE), mode="w:xz"),
    "twice.tar.bz2": lambda p: tarred(p, member("ok"), member("OK"), mode="w:bz2"),
    "both.tar.gz": lambda p: tarred(p, member("a"), member("a/b")),
    "parent.zip": lambda p: zipped(p, ("ok", b"x", 0), ("a/../../evil", b"x", 0)),
    "backslash.zip": lambda p: zipped(p, ("ok", b"x", 0), ("..\\evil", b"x", 0)),
    "drive.zip": lambda p: zipped(p, ("ok", b"x", 0), ("C:evil", b"x", 0)),
    "symlink.zip": lambda p: zipped(p, ("ok", b"x", 0), ("l", b"..", 0o120777)),
    "twice.zip": lambda p: zipped(p, ("ok", b"x", 0), ("Ok", b"y", 0)),
    "bomb.zip": lambda p: zipped(p, ("ok", b"x", 0), ("zeros", bytes(40 << 20), 0)),
    "bomb.tar.gz": lambda p: tarred(p, member("ok"), member("zeros", bytes(40 << 20))),
    "nothing.tar.gz": lambda p: tarred(p, member("folder", b"", type=tarfile.DIRTYPE)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_whole(name, tmp_path):
    """S4, S5: nothing outside, nothing left inside."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").mkdir()
    path = HOSTILE[name](tmp_path / name)
    with pytest.raises(UserError) as failure:
        archive.unpack(path, tmp_path / "in" / "out" / "corpus")
    assert failure.value.kind == "archive"
    assert names(tmp_path) == sorted(["in", name]) and names(tmp_path / "in") == ["out"]
    assert names(tmp_path / "in" / "out") == []


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_are_unpacked_whole_and_damage_is_never_a_smaller_corpus(suffix, tmp_path):
    """Cut anywhere, or a header flipped: refused, also where tarfile would see the end of the archive."""
    contents = {f"a/{i}.bin": os.urandom(3000 + i) for i in range(8)}
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        zipped(path, *((n, d, 0) for n, d in contents.items()))
    else:
        mode = "w:" + suffix.removeprefix("tar").removeprefix(".")
        tarred(path, *(member(f"./{n}", d) for n, d in contents.items()), mode=mode)
    assert archive.is_archive(path) and archive.unpack(path, tmp_path / "out") == 8
    assert {n: (tmp_path / "out" / n).read_bytes() for n in contents} == contents
    assert names(tmp_path) == ["out", path.name]
    whole = path.read_bytes()
    first = tarfile.BLOCKSIZE + 3072  # the second header of the plain tar: 3000 bytes end in 3072
    for n, damaged in enumerate(
        (whole[: len(whole) // 2], whole[: len(whole) - 1100], whole[:first], flip(whole, first))
    ):
        bad = tmp_path / f"bad{n}.{suffix}"
        bad.write_bytes(damaged)
        if suffix == "tar" and n == 1:  # tar is padded to 10 KiB: only zeros were cut
            damaged = whole[: first + 3584]
            bad.write_bytes(damaged)
        for act in (archive.check, lambda p: archive.unpack(p, tmp_path / "no")):
            with pytest.raises(UserError) as failure:
                act(bad)
            assert failure.value.kind == "archive" and "damaged" in str(failure.value)
        assert not (tmp_path / "no").exists()
