"""Where the sound of a file ends by its own header, for the formats that libsndfile reads beside WAV, AIFF and OGG.

libsndfile takes what is there for the whole. IRCAM, PARIS and PVF headers name no length: there only a cut inside a
frame can be told.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nrdata.errors import UserError

HEAD = 4096  # bytes that hold every header below
AU_UNKNOWN = 0xFFFFFFFF
MAT4_BYTES = (8, 4, 4, 2, 2, 1)  # of a value, by the digit for its type
IRCAM_BYTES = {0x00001: 1, 0x00002: 2, 0x00004: 4, 0x00008: 8, 0x10001: 1, 0x20001: 1, 0x40004: 4}
MAT5_MATRIX = 14
PAF_BYTES = {0: 2, 1: 32, 2: 1}  # of a frame's channel; 24 bits go in blocks of 10 frames

End = Callable[[bytes, int, IO[bytes]], int]  # head, size of the file, the file -> where its sound ends


def check(file: IO[bytes], path: Path, size: int) -> None:
    """Raise `UserError` (truncated) where a header promises more than the file holds."""
    file.seek(0)
    head = file.read(HEAD)
    for pattern, end in ENDS:
        if re.match(pattern, head, re.DOTALL):
            try:
                whole = end(head, size, file)
            except (struct.error, IndexError, ValueError, AttributeError):  # cut inside the header, or no such file
                return
            if whole > size:
                raise UserError(f"{path} is cut short: {size} of {whole} bytes are there", kind="truncated")
            return


def _au(head: bytes, size: int, file: IO[bytes]) -> int:
    offset, length = struct.unpack_from(">II" if head[:1] == b"." else "<II", head, 4)
    return 0 if length == AU_UNKNOWN else int(offset + length)


def _caf(head: bytes, size: int, file: IO[bytes]) -> int:
    at = 8
    while at + 12 <= size:
        file.seek(at)
        name, length = struct.unpack(">4sq", file.read(12))
        if length < 0 or name == b"data":
            return 0 if length < 0 else int(at + 12 + length)  # -1: to the end
        at += 12 + length
    return at


def _nist(head: bytes, size: int, file: IO[bytes]) -> int:
    fields = dict(re.findall(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d+)", head, re.MULTILINE))
    count = int(fields[b"sample_count"]) if b"sample_count" in fields else 0
    return int(head[8:16]) + count * int(fields.get(b"channel_count", 1)) * int(fields.get(b"sample_n_bytes", 1))


def _voc(head: bytes, size: int, file: IO[bytes]) -> int:
    """Blocks (type, 24-bit length) up to one of type 0."""
    at = int(struct.unpack_from("<H", head, 20)[0])
    while at + 4 <= size:
        file.seek(at)
        block = file.read(4)
        if block[0] == 0:
            return at
        at += 4 + int.from_bytes(block[1:], "little")
    return at


def _svx(head: bytes, size: int, file: IO[bytes]) -> int:
    at = 12
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(">4sI", file.read(8))
        at += 8 + length
        if name == b"BODY":
            return int(at)
        at += length & 1
    return at


def _mat4(head: bytes, size: int, file: IO[bytes]) -> int:
    order = "<" if head[0] == 0 and head[4] else ">"
    at = 0
    while at + 20 <= size:
        file.seek(at)
        kind, rows, columns, imaginary, name = struct.unpack(order + "5I", file.read(20))
        at += 20 + name + rows * columns * MAT4_BYTES[kind % 100 // 10] * (1 + imaginary)
    return at


def _mat5(head: bytes, size: int, file: IO[bytes]) -> int:
    """Elements (type, length, padded to 8 bytes), those of a matrix inside it; small ones hold their data in 4 bytes.
    libsndfile makes its matrices 8 bytes too long."""
    order, at, end = "<" if head[126:128] == b"IM" else ">", 128, 0
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(order + "II", file.read(8))
        at += 8
        end = max(end, at + (length - 8 if kind == MAT5_MATRIX else 0 if kind >> 16 else length))
        if kind != MAT5_MATRIX and not kind >> 16:
            at += -(-length // 8) * 8
    return end


def _htk(head: bytes, size: int, file: IO[bytes]) -> int:
    return 12 + 2 * int(struct.unpack_from(">I", head)[0])


def _sds(head: bytes, size: int, file: IO[bytes]) -> int:
    """MIDI packets of 127 bytes with 120 of sound, 7 bits a byte."""
    words = head[10] | head[11] << 7 | head[12] << 14
    return 21 + 127 * -(-words // (120 // -(-max(head[6], 8) // 7)))


def _avr(head: bytes, size: int, file: IO[bytes]) -> int:
    stereo, bits = struct.unpack_from(">HH", head, 12)
    return int(128 + int(struct.unpack_from(">I", head, 26)[0]) * (2 if stereo else 1) * (bits // 8))


def _wve(head: bytes, size: int, file: IO[bytes]) -> int:
    return 32 + int(struct.unpack_from(">I", head, 18)[0])


def _mpc2k(head: bytes, size: int, file: IO[bytes]) -> int:
    return 42 + int(struct.unpack_from("<I", head, 30)[0]) * 2 * (head[21] + 1)


def _xi(head: bytes, size: int, file: IO[bytes]) -> int:
    """An instrument of one sample, whose header of 40 bytes begins with the length."""
    count = int(struct.unpack_from("<H", head, 296)[0])
    return 298 + 40 * count + sum(int(struct.unpack_from("<I", head, 298 + 40 * i)[0]) for i in range(count))


def _framed(start: int, frame: int, size: int) -> int:
    """The next end of a frame."""
    return start + -(-max(size - start, 0) // frame) * frame


def _ircam(head: bytes, size: int, file: IO[bytes]) -> int:
    """In the order of bytes of the machine that wrote it: no sound has 65536 channels."""
    channels, kind = struct.unpack_from("<II", head, 8)
    if channels >= 1 << 16:
        channels, kind = struct.unpack_from(">II", head, 8)
    return _framed(1024, channels * IRCAM_BYTES.get(kind, 1), size)


def _paf(head: bytes, size: int, file: IO[bytes]) -> int:
    kind, channels = struct.unpack_from(">II" if head[:1] == b" " else "<II", head, 16)
    return _framed(2048, channels * PAF_BYTES[kind], size)


def _pvf(head: bytes, size: int, file: IO[bytes]) -> int:
    told = re.match(rb"PVF1\n(\d+) \d+ (\d+)\n", head)
    assert told is not None
    return _framed(told.end(), int(told[1]) * int(told[2]) // 8, size)


ENDS: tuple[tuple[bytes, End], ...] = (
    (rb"\.snd|dns\.", _au),
    (rb"caff", _caf),
    (rb"NIST_1A\n", _nist),
    (rb"Creative Voice File\x1a", _voc),
    (rb"FORM....(8SVX|16SV)", _svx),
    (rb"MATLAB 5\.0", _mat5),
    (rb"\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0|\0\0\x03\xe8\0\0\0\x01\0\0\0\x01\0\0\0\0", _mat4),
    (rb"\xf0\x7e.\x01", _sds),
    (rb"2BIT", _avr),
    (rb"ALawSoundFile\*\*", _wve),
    (rb"\x01\x04", _mpc2k),
    (rb"Extended Instrument: ", _xi),
    (rb"\x64\xa3[\x01-\x04]\0|\0[\x01-\x04]\xa3\x64", _ircam),
    (rb" paf|fap ", _paf),
    (rb"PVF1\n", _pvf),
    (rb"........\0\x02\0\0", _htk),  # last: it has no mark of its own
)
