"""A strict reader of plain tar files: the 512-byte headers of POSIX.1-2001, and nothing that is not sound.

`tarfile` takes a damaged header for the end of the archive, follows sparse maps and guesses compression; here every
byte is accounted for: headers by their checksum, padding by being zero, the end by two zero blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from nrdata.errors import UserError

BLOCK = 512
MAX_MEMBER = 256 << 20  # bytes; nothing is allocated by a size that a file declares beyond this
MAX_NAME = 4096  # bytes of an extended header
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"PK\3\4": "zip"}
KINDS = {b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"4": "block device", b"5": "folder",
         b"6": "FIFO", b"7": "contiguous file", b"S": "sparse file", b"g": "global header"}  # fmt: skip


class ShardFault(UserError):
    """What is wrong with a shard: the file's name, the sample's key ("" where none is known), the kind of fault.

    `at` is the byte where the reader of the tar stopped, -1 for what is no matter of the tar.
    """

    def __init__(self, shard: str, key: str, kind: str, detail: str, at: int = -1):
        self.shard, self.key, self.detail, self.at = shard, key, detail, at
        super().__init__(f"{shard}{': ' + key if key else ''}: {detail} ({kind})", kind=kind)

    def __reduce__(
        self,
    ) -> tuple[type[ShardFault], tuple[str, str, str, str, int]]:
        """Exceptions travel between processes."""
        return ShardFault, (self.shard, self.key, self.kind, self.detail, self.at)


Faulty = Callable[[str, str], ShardFault]  # (kind, detail), where the walk stands


class Member(NamedTuple):
    """A regular file in the tar: its name, where its header starts, where its bytes are."""

    name: str
    header: int
    offset: int
    size: int


def members(file: IO[bytes], shard: str, max_member: int = MAX_MEMBER) -> Iterator[Member]:
    """All members in order. Raises `ShardFault` for anything but a whole, plain, uncompressed tar of regular files."""

    at, header_at, long_name, pending = 0, 0, "", False  # pending: an extended header whose member comes next

    def fault(kind: str, detail: str) -> ShardFault:
        return ShardFault(shard, "", kind, detail, at)

    end = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), 8, 0)
    if end == 0:
        raise fault("empty", "the file is empty")
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raise fault("compressed", f"compressed with {name}; shards are plain tar files")
    while True:
        block = os.pread(file.fileno(), BLOCK, at)
        if len(block) < BLOCK:
            raise fault("truncated", f"the file ends at byte {end} without two zero blocks")
        if not any(block):
            _check_end(file, at, end, fault, pending)
            return
        if not pending:
            header_at = at
        kind, name, size = _header(block, at, fault)
        if kind not in (b"0", b"\0", b"x", b"L"):
            raise fault("member", f"{KINDS.get(kind, 'entry of type ' + repr(kind))} {name} at byte {at}")
        special = kind in (b"x", b"L")
        if size > (MAX_NAME if special else max_member):
            raise fault("too_large", f"member {name} declares {size} bytes, {max_member} are allowed")
        if at + BLOCK + size + (-size % BLOCK) > end:
            raise fault("truncated", f"member {name} at byte {at} declares {size} bytes, the file ends at byte {end}")
        padding = os.pread(file.fileno(), -size % BLOCK, at + BLOCK + size)
        if any(padding):
            raise fault("padding", f"bytes behind member {name} are not zero")
        if special:
            body = os.pread(file.fileno(), size, at + BLOCK)
            long_name = _pax_path(body, fault) if kind == b"x" else _text(body.rstrip(b"\0"), fault)
        else:
            yield Member(long_name or name, header_at, at + BLOCK, size)
            long_name = ""
        pending = special
        at += BLOCK + size + (-size % BLOCK)


def _header(block: bytes, at: int, fault: Faulty) -> tuple[bytes, str, int]:
    stored = block[148:156]
    total = sum(block) - sum(stored) + 8 * 32
    if stored not in (b"%06o\0 " % total, b"%07o\0" % total, b"%06o \0" % total):
        what = "not a tar file" if at == 0 else f"the header at byte {at} fails its checksum"
        raise fault("header", what)
    if block[257:262] not in (b"ustar", bytes(5)):
        raise fault("header", f"the header at byte {at} is of an unknown kind")
    name = _text(block[:100].split(b"\0")[0], fault)
    prefix = block[345:500].split(b"\0")[0] if block[257:265] == b"ustar\x0000" else b""
    if prefix:
        name = f"{_text(prefix, fault)}/{name}"
    digits = block[124:136].rstrip(b"\0 ").lstrip(b" ")
    if block[124] & 0x80:
        raise fault("too_large", f"member {name} declares a size of over 8 GiB")
    try:
        if not digits.isdigit():
            raise ValueError
        size = int(digits, 8)
    except ValueError:
        raise fault("header", f"the size of member {name} is not a number") from None
    return block[156:157], name, size


def _text(raw: bytes, fault: Faulty) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise fault("member", f"member name {raw!r} is not UTF-8") from None


def _pax_path(body: bytes, fault: Faulty) -> str:
    """The `path` of an extended header, "" where it names none; other sizes and sparse maps are refused."""
    path = ""
    while body:
        length, _, _ = body.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(body) or body[int(length) - 1 : int(length)] != b"\n":
            raise fault("header", "an extended header cannot be read")
        name, equals, value = body[len(length) + 1 : int(length) - 1].partition(b"=")
        if not equals or name in (b"size", b"linkpath") or name.startswith(b"GNU.sparse"):
            kind = "sparse" if name.startswith(b"GNU.sparse") else "header"
            raise fault(kind, f"an extended header sets {name.decode('ascii', 'backslashreplace')}")
        if name == b"path":
            path = _text(value, fault)
        body = body[int(length) :]
    return path


def _check_end(file: IO[bytes], at: int, end: int, fault: Faulty, pending: bool) -> None:
    if pending or end - at < 2 * BLOCK or end % BLOCK:
        raise fault("truncated", f"the tar does not end in two zero blocks at byte {at}")
    while at < end:
        piece = os.pread(file.fileno(), 1 << 20, at)
        if any(piece):
            raise fault("zero_block", f"there is data behind a zero block, before byte {at + len(piece)}")
        at += len(piece)
