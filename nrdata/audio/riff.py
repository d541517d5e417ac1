"""Sizes that WAV, AIFF and OGG headers declare, against what is there: libsndfile takes the smaller one in silence."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nrdata.audio import declared
from nrdata.errors import UserError

STREAMED = 0x7FFFF000  # from here on a size means "unknown when the header was written" (0xFFFFFFFF, sox: 0x7FFFF000)


class Patched(io.RawIOBase):
    """A file some bytes of which read differently: `patch` is (offset, bytes)."""

    def __init__(self, file: IO[bytes], patch: tuple[int, bytes]):
        self.file, (self.at, self.bytes) = file, patch

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        start = self.file.tell()
        data = bytearray(self.file.read(size))
        for i, byte in enumerate(self.bytes):
            if 0 <= self.at + i - start < len(data):
                data[self.at + i - start] = byte
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def check(file: IO[bytes], path: Path) -> tuple[int, bytes] | None:
    """Raise `UserError` (truncated, header) where the header promises more or less than the file holds.

    Returns a patch for `Patched` where a streaming writer left the size of the data open (0, with data behind it).
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return _wave(file, path, size, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        _aiff(file, path, size)
    elif head[:4] == b"OggS":
        _ogg(file, path, size)
    elif head == b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb":  # Wave64
        file.seek(16)
        whole = int.from_bytes(file.read(8), "little")
        if whole > size:
            raise UserError(f"{path} is cut short: {size} of {whole} bytes are there", kind="truncated")
    else:
        declared.check(file, path, size)
    return None


def _chunks(file: IO[bytes], at: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of the data, declared size) of the chunks in [at, end)."""
    while at + 8 <= end:
        file.seek(at)
        name, length = struct.unpack(order + "4sI", file.read(8))
        yield name, at + 8, length
        at += 8 + length + (length & 1)


def _wave(file: IO[bytes], path: Path, size: int, order: str) -> tuple[int, bytes] | None:
    long_size = None
    for name, at, length in _chunks(file, 12, size, order):
        if name == b"ds64":  # RF64: 64-bit sizes of the file and of the data
            file.seek(at + 8)
            long_size = struct.unpack("<Q", file.read(8))[0]
        if name != b"data":
            continue
        if length == 0xFFFFFFFF and long_size is not None:
            length = long_size
        there = size - at
        if length > there and (length < STREAMED or length == long_size):
            raise UserError(f"{path} is cut short: {there} of {length} bytes of sound are there", kind="truncated")
        if length > there or (length == 0 and there > 1 and not _is_chunks(file, at, size, order)):
            warnings.warn(f"{path}: the header leaves the length open, read to the end of the file", stacklevel=4)
            return (at - 4, struct.pack(order + "I", min(there, 0xFFFFFFFE))) if length == 0 else None
        if there >= 1 << 32 and (there - length) % (1 << 32) < 4096 and long_size is None:
            raise UserError(f"{path} is over 4 GiB, its 32-bit length has wrapped; use RF64 or FLAC", kind="header")
        if not _is_chunks(file, at + length, size, order):
            raise UserError(f"{path}: the header declares {length} bytes of sound, {there} are there", kind="header")
        return None
    return None


def _is_chunks(file: IO[bytes], at: int, size: int, order: str) -> bool:
    """Is what follows the sound (up to the end of the file) a chain of chunks, not more sound?"""
    if size - at <= 128:  # padding, or a tag of 128 bytes that players append
        return True
    for start in (at + (at & 1), at):  # some writers forget the padding byte
        position = start
        for name, data, length in _chunks(file, start, size, order):
            if not all(32 <= c < 127 for c in name) or data + length > size + 1:
                break
            position = data + length
        if size - position <= 128 + 8:
            return True
        if position > start:  # at least one whole chunk: foreign bytes after it are no business of ours
            return True
    return False


def _aiff(file: IO[bytes], path: Path, size: int) -> None:
    for name, at, length in _chunks(file, 12, size, ">"):
        if name == b"SSND" and length > size - at:
            raise UserError(f"{path} is cut short: {size - at} of {length} bytes of sound are there", kind="truncated")


def _ogg(file: IO[bytes], path: Path, size: int) -> None:
    """Pages follow each other to the end, each with its checksum; the last one carries the flag "end of stream"."""
    file.seek(0)
    at, flags = 0, 0
    while at < size:
        head = file.read(27)
        table = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(table))
        if head[:4] != b"OggS" and flags & 4:  # a foreign tag behind the stream
            return
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            raise UserError(f"{path} is cut short: its last page is missing", kind="truncated")
        page = head[:22] + bytes(4) + head[26:27] + table + body
        if head[:4] != b"OggS" or _ogg_crc(page) != int.from_bytes(head[22:26], "little"):
            raise UserError(f"{path} is damaged: the Ogg page at byte {at} fails its checksum", kind="truncated")
        flags, at = head[5], at + len(page)
    if not flags & 4:
        raise UserError(f"{path} is cut short: its last page is missing", kind="truncated")


REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32 (most significant bit first, from 0) by way of zlib's, whose bits run the other way."""
    crc = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
