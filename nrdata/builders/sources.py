"""Where a builder's sound lies: files below a folder, or members of zip archives (read one by one, never unpacked).

A source is anything with `extent(name)` and `read(name, start, stop)`; `stretch` gives mono sound at the stored rate.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import numpy as np

from nrdata import audio, files
from nrdata.errors import UserError

MEMBER_BYTES = 1 << 30  # of one sound file in an archive
MEMBER_RATIO = 200  # unpacked over packed: silence in WAV reaches about this, a bomb a thousand
COPY_BYTES = 1 << 20
BLOCK_SECONDS = 10
DEEPEST = 16  # folders below a root; a link to a folder above ends here


class Source(Protocol):
    """`name` is relative to the source's root, with forward slashes."""

    def extent(self, name: str) -> tuple[int | None, int]:
        """Frames (None: unknown before it is decoded) and sample rate in Hz."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
        """float32 (frames, channels) of [start, stop) in samples of the file, and its sample rate in Hz."""


def stretch(source: Source, name: str, start: int, stop: int | None, sample_rate: int) -> np.ndarray:
    """[start, stop), in samples at `sample_rate`, of a file of any rate: mono float32. None: to its end.

    A file of another rate is read from a whole second at least one second before the stretch, so that the positions
    agree to the sample and the resampler's edges lie outside.
    """
    if start == 0 and stop is None:
        x, rate = source.read(name)
        return audio.resample(mono(x, name), rate, sample_rate)
    assert stop is not None
    frames, rate = source.extent(name)
    if rate == sample_rate:
        return mono(source.read(name, start, stop)[0], name)
    first = max(0, start // sample_rate - 1)
    last = None if frames is None else min(frames, math.ceil(stop * rate / sample_rate) + rate)
    x, _ = source.read(name, first * rate, last)
    y = audio.resample(mono(x, name), rate, sample_rate)[start - first * sample_rate : stop - first * sample_rate]
    if len(y) != stop - start:
        raise UserError(f"{name}: {stop - start} samples wanted from sample {start}, {len(y)} there", "too_short")
    return y


def blocks(path: Path, name: str, sample_rate: int) -> Iterator[np.ndarray]:
    """A whole file as mono float32 (frames,) at `sample_rate`, ten seconds at a time, none more than is surely there.

    For measuring: at another rate the resampler's edges are heard at the seams.
    """
    rate = audio.probe(path).sample_rate
    for x in audio.blocks(path, BLOCK_SECONDS * rate):
        yield audio.resample(mono(x, name), rate, sample_rate)[: len(x) * sample_rate // rate]


def sound_digest(path: Path) -> str:
    """SHA-256 of a file's decoded samples at 16 bits, whatever container they lie in; block by block."""
    digest = hashlib.sha256()
    for x in audio.blocks(path, audio.BLOCK):
        digest.update(np.rint(x.mean(axis=1) * 32768).astype("<i4").tobytes())
    return digest.hexdigest()


def mono(x: np.ndarray, name: str) -> np.ndarray:
    """`audio.to_mono`, whose warning names the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.ChannelsCancel)
        y = audio.to_mono(x)
    for warning in caught:
        warnings.warn(f"{name}: {warning.message}", audio.ChannelsCancel, stacklevel=2)
    return y


@dataclass(frozen=True)
class Folder:
    """Files below a folder. A header is read once: a noise file is asked for its mixture part, then for its reserve."""

    root: Path
    extents: dict[str, tuple[int | None, int]] = field(default_factory=dict, compare=False, repr=False)

    def extent(self, name: str) -> tuple[int | None, int]:
        if name not in self.extents:
            info = audio.probe(self.root / name)
            self.extents[name] = info.frames, info.sample_rate
        return self.extents[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
        return audio.read(self.root / name, start, stop)

    def place(self, name: str) -> Path:
        """The file itself."""
        return self.root / name

    def digest(self, name: str) -> tuple[int, str]:
        """Bytes and SHA-256 of a file as it lies there."""
        return _digest(self.root / name)

    def sound_digest(self, name: str) -> str:
        return sound_digest(self.root / name)


def _digest(path: Path) -> tuple[int, str]:
    return path.stat().st_size, files.sha256(path)


@dataclass(frozen=True)
class Place:
    """A file, or a member of the zip archive at `path`."""

    path: Path
    member: str = ""

    @property
    def suffix(self) -> str:
        return Path(self.member or self.path).suffix.lower()


def find(root: Path) -> Iterator[tuple[str, Place]]:
    """(name relative to root, place) of every file below `root` and of every member of the zips there, sorted.

    Members are named below their archive's folder, so `X.zip` holding `X/a.wav` gives what the folder X gives.
    Raises `UserError` for a folder that is not there, and for an archive that cannot be read or has hostile names.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: name the place of the corpus with --root", kind="missing")
    found: list[Path] = []
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = [] if len(Path(folder).relative_to(root).parts) > DEEPEST else sorted(below)
        found += (Path(folder) / name for name in names)
    for path in sorted(p for p in found if not _system_file(p.relative_to(root).as_posix())):
        if path.suffix.lower() == ".zip":
            at = path.parent.relative_to(root)
            yield from (((at / m).as_posix(), Place(path, m)) for m in _members(path))
        else:
            yield path.relative_to(root).as_posix(), Place(path)


def _system_file(name: str) -> bool:
    parts = name.split("/")
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def _members(path: Path) -> list[str]:
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        entries = [i for i in archive.infolist() if not i.is_dir() and not _system_file(i.filename)]
    for entry in entries:
        name = entry.filename
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise UserError(f"{path} has a member named {name!r}: not a plain archive of sound", kind="archive")
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise UserError(f"{path} has a link as member {name!r}: not a plain archive of sound", kind="archive")
    names = [i.filename for i in entries]
    if len({n.casefold() for n in names}) < len(names):
        raise UserError(f"{path} has two members of one name", kind="archive")
    return sorted(names)


@contextlib.contextmanager
def _zip_errors(path: Path, member: str = "") -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as e:
        what = f"{member} in {path}" if member else str(path)
        raise UserError(f"{what} cannot be unpacked ({e}): download the archive again", kind="unreadable") from e


class Places:
    """Files and zip members under names of the caller's choice; a context manager that closes its archives."""

    def __init__(self, places: Mapping[str, Place]):
        self.places = places
        self.archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for archive in self.archives.values():
            archive.close()

    def extent(self, name: str) -> tuple[int | None, int]:
        with self._file(name) as path:
            info = audio.probe(path)
            return info.frames, info.sample_rate

    def read(self, name: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
        with self._file(name) as path:
            return audio.read(path, start, stop)

    def place(self, name: str) -> Path:
        """The file, or the archive that it is a member of."""
        return self.places[name].path if name in self.places else Path(name)

    def digest(self, name: str) -> tuple[int, str]:
        """Bytes and SHA-256 of a file, or of a member once it is unpacked."""
        with self._file(name) as path:
            return _digest(path)

    def sound_digest(self, name: str) -> str:
        with self._file(name) as path:
            return sound_digest(path)

    def text(self, name: str) -> str:
        with self._file(name) as path:
            return path.read_text(encoding="utf-8", errors="surrogateescape")

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """A path to read from: the file itself, or a temporary copy of the member, removed afterwards."""
        if name not in self.places:
            raise UserError(f"{name} does not exist", kind="missing")
        place = self.places[name]
        if not place.member:
            yield place.path
            return
        with tempfile.NamedTemporaryFile(suffix=place.suffix) as copy:
            self._copy(place, copy)
            try:
                yield Path(copy.name)
            except UserError as e:
                raise UserError(str(e).replace(copy.name, f"{place.path.name}:{place.member}"), e.kind) from e

    def _copy(self, place: Place, copy: IO[bytes]) -> None:
        with _zip_errors(place.path, place.member):
            if place.path not in self.archives:
                self.archives[place.path] = zipfile.ZipFile(place.path)
            archive = self.archives[place.path]
            limit = min(MEMBER_BYTES, COPY_BYTES + MEMBER_RATIO * archive.getinfo(place.member).compress_size)
            done = 0
            with archive.open(place.member) as member:
                while data := member.read(COPY_BYTES):
                    done += len(data)
                    if done > limit:
                        raise UserError(
                            f"{place.member} in {place.path} unpacks to over {limit >> 20} MiB: not a plain recording",
                            kind="archive",
                        )
                    copy.write(data)
            copy.flush()
