"""Archives unpacked whole or not at all: zip and tar (plain, gz, bz2, xz), told by their first bytes.

Members go one by one into a new temporary folder, which is renamed at the end. Only regular files and folders are
taken; a hostile or damaged archive is refused as a whole. Nothing is allocated by a size that the archive declares.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nrdata import files
from nrdata.errors import UserError

COPY_BYTES = 1 << 20
MEMBER_BYTES = 1 << 30
TOTAL_BYTES = 1 << 40
TOTAL_RATIO = 100  # unpacked over packed, of the whole: sound reaches about 10, a bomb a thousand
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Member:
    name: str
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(path: Path, target: Path) -> int:
    """Unpack `path` as the folder `target`, which must not exist; returns the number of files.

    Raises `UserError` for an archive that is damaged or hostile, or too large: then there is no `target`.
    """
    folder = files.unfinished(target)
    folder.mkdir()
    try:
        count = sum(1 for _ in _files(path, folder))
        if not count:
            raise UserError(f"{path} holds no files", kind="archive")
        files.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing, once it has its name
    return count


def check(path: Path) -> None:
    """Read an archive to its end. Raises `UserError` where it is cut, damaged or hostile."""
    for _ in _files(path, None):
        pass


def is_archive(path: Path) -> bool:
    """Whether the first bytes are those of a zip or of a tar of any kind."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or head.startswith(tuple(COMPRESSED)) or head[257:262] == b"ustar"


def _files(path: Path, folder: Path | None) -> Iterator[str]:
    """Names of the files of an archive, after each was read whole and, with a `folder`, written there."""
    limit = min(TOTAL_BYTES, 16 * COPY_BYTES + TOTAL_RATIO * path.stat().st_size)
    seen: set[str] = set()
    total = 0
    try:
        with contextlib.closing(_members(path)) as members:
            for member in members:
                name = member.name.removeprefix("./").rstrip("/")
                if name in ("", ".") and member.folder:
                    continue
                _check_name(path, name)
                if member.folder:
                    if folder is not None:
                        (folder / name).mkdir(parents=True, exist_ok=True)
                    continue
                if name.casefold() in seen:
                    raise UserError(f"{path} has two members named {name!r}", kind="archive")
                seen.add(name.casefold())
                size = 0
                with member.open() as source, _target(folder, name) as copy:
                    while data := source.read(COPY_BYTES):
                        size += len(data)
                        if size > MEMBER_BYTES or total + size > limit:
                            raise UserError(f"{path} unpacks to too much at {name!r}: no corpus", kind="archive")
                        if copy is not None:
                            copy.write(data)
                total += size
                yield name
    except DAMAGE as e:
        raise UserError(f"{path} is damaged ({e}): remove it and download it again", kind="archive") from e
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{path} has a member that is file and folder at once", kind="archive") from None


@contextlib.contextmanager
def _target(folder: Path | None, name: str) -> Iterator[IO[bytes] | None]:
    if folder is None:
        yield None
        return
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("xb") as file:
        yield file


def _check_name(path: Path, name: str) -> None:
    parts = name.split("/")
    absolute = name.startswith("/") or re.match(r"[A-Za-z]:", name)
    if absolute or "\\" in name or ".." in parts or not all(parts) or not name.isprintable():
        raise UserError(f"{path} has a member named {name!r}: not a plain archive", kind="archive")


def _members(path: Path) -> Generator[Member, None, None]:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PK"):
        return _zip_members(path)
    opener = next((o for magic, o in COMPRESSED.items() if head.startswith(magic)), open)
    return _tar_members(path, opener)


def _zip_members(path: Path) -> Generator[Member, None, None]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{path} has a member that is no plain file: {entry.filename!r}", kind="archive")
            if entry.flag_bits & 1:
                raise UserError(f"{path} is encrypted ({entry.filename!r})", kind="archive")
            # orig_filename: zipfile itself cuts names at a NUL
            yield Member(entry.orig_filename, entry.is_dir(), lambda e=entry: archive.open(e))  # type: ignore[misc]


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged or missing header behind the first for the end of the archive: here it is an error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as e:
            raise tarfile.ReadError(str(e)) from None


def _tar_members(path: Path, opener: Callable[..., Any]) -> Generator[Member, None, None]:
    with opener(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:
        for entry in archive:
            if not (entry.isreg() or entry.isdir()) or entry.issparse():
                raise UserError(f"{path} has a member that is no plain file: {entry.name!r}", kind="archive")
            yield Member(entry.name, entry.isdir(), lambda e=entry: _whole(archive, e))  # type: ignore[misc]
            archive.members = []  # type: ignore[attr-defined]  # a list of 300 000 members is kept otherwise
        while rest := stream.read(COPY_BYTES):  # to the end of the compressed stream, whose checksum is there
            if any(rest):
                raise tarfile.ReadError("something follows its end mark")


def _whole(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry)
    assert file is not None
    return file
