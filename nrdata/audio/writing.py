"""Writing sound files: whole or not at all, in blocks, integers through rint (the writing half of `nrdata.audio`)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import soundfile as sf

from nrdata import files
from nrdata.errors import UserError

FORMATS = {".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3",
           ".aif": "AIFF", ".aiff": "AIFF", ".au": "AU", ".caf": "CAF", ".w64": "W64", ".rf64": "RF64"}  # fmt: skip
BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
MAX_RIFF = (1 << 32) - (1 << 12)  # bytes of sound that fit into a 32-bit length, headers beside them
ENCODE_BLOCK = 1 << 15  # libsndfile's Vorbis encoder puts a block on the stack: minutes at once crash the process


@contextlib.contextmanager
def writer(
    path: Path | str, sample_rate: int, channels: int, subtype: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a sound file piece by piece: yields `put(x)` for x (n,) or (n, channels), float in [-1, 1] or int16.

    The file appears under its name when all is on the disk; on any exception an older file of that name is untouched.
    """
    path = Path(path)
    file_format, subtype = container(path, sample_rate, channels, subtype)
    with files.replacing(path) as file, _encoder(file, path, sample_rate, channels, subtype, file_format) as sound:
        written = 0

        def put(x: np.ndarray) -> None:
            nonlocal written
            _check_size(path, (written + len(x)) * channels, subtype)
            _put(sound, x, subtype, channels, file, path)
            written += len(x)

        yield put
        if written == 0:
            raise UserError(f"{path}: there is no sound to write", kind="empty")


def write(path: Path | str, x: np.ndarray, sample_rate: int, subtype: str | None = None) -> None:
    """Write float in [-1, 1] or int16, (n,) or (n, channels): temporary name, fsync, rename.

    Integer formats are written through rint. Raises `UserError` before writing for what the container cannot hold
    (kind `container`), for peaks over full scale in formats that clip (`over_full_scale`), NaN (`not_finite`),
    no samples (`empty`).
    """
    path = Path(path)
    if x.ndim not in (1, 2) or x.size == 0:
        raise UserError(f"{path}: there is no sound to write, its shape is {x.shape}", kind="empty")
    _, kind = container(path, sample_rate, 1 if x.ndim == 1 else x.shape[1], subtype)
    _check_size(path, x.size, kind)
    if x.dtype != np.int16:
        _check_level(x, kind, path)
    with writer(path, sample_rate, 1 if x.ndim == 1 else x.shape[1], kind) as put:
        put(x)


def _check_size(path: Path, samples: int, subtype: str) -> None:
    """A 32-bit length wraps in silence; compressed formats have none."""
    bits = BITS.get(subtype) or {"FLOAT": 32, "DOUBLE": 64}.get(subtype, 8)
    if path.suffix.lower() in (".wav", ".wave", ".aif", ".aiff", ".au") and samples * bits // 8 > MAX_RIFF:
        raise UserError(f"{path} would be over 4 GiB; name it .w64, .rf64 or .flac", kind="container")


def _check_level(x: np.ndarray, subtype: str, path: Path) -> None:
    if not np.isfinite(x).all():
        raise UserError(f"{path} would hold NaN or infinite samples; not written", kind="not_finite")
    peak = float(np.max(np.abs(x))) if x.size else 0.0
    if subtype not in ("FLOAT", "DOUBLE") and peak > 1.0:
        raise UserError(f"{path} would clip: its peak is {peak:.3f}; scale it first", kind="over_full_scale")


def container(path: Path, sample_rate: int, channels: int, subtype: str | None) -> tuple[str, str]:
    """(format, subtype) of a file to be written, tried in memory first; `UserError` where they do not go together."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: cannot write '{path.suffix}' files; use .wav or .flac", kind="container")
    if subtype is None:
        subtype = "OPUS" if path.suffix.lower() == ".opus" else sf.default_subtype(file_format)
    problem = "blocks of this codec are padded" if "ADPCM" in subtype or subtype == "GSM610" else ""
    if not problem:
        try:
            with sf.SoundFile(io.BytesIO(), "w", sample_rate, channels, subtype, format=file_format):
                pass
        except (sf.LibsndfileError, ValueError, TypeError) as e:
            problem = reason(e)
    if problem:
        raise UserError(
            f"{path}: {file_format} with {subtype} cannot hold {channels} channels at {sample_rate} Hz ({problem})",
            kind="container",
        )
    return file_format, subtype


@contextlib.contextmanager
def _encoder(
    file: IO[bytes], path: Path, sample_rate: int, channels: int, subtype: str, file_format: str
) -> Iterator[sf.SoundFile]:
    try:
        sound = sf.SoundFile(file.fileno(), "w", sample_rate, channels, subtype, format=file_format, closefd=False)
    except sf.LibsndfileError as e:
        raise _write_error(file, path) from e
    try:
        yield sound
    except BaseException:
        with contextlib.suppress(sf.LibsndfileError):  # the first error is the one to tell
            sound.close()
        raise
    try:
        sound.close()
    except sf.LibsndfileError as e:
        raise _write_error(file, path) from e


def _put(sound: sf.SoundFile, x: np.ndarray, subtype: str, channels: int, file: IO[bytes], path: Path) -> None:
    if (1 if x.ndim == 1 else x.shape[1]) != channels:
        raise ValueError(f"{channels} channels expected, shape {x.shape} given")
    for start in range(0, len(x), ENCODE_BLOCK):
        piece = x[start : start + ENCODE_BLOCK]
        if piece.dtype == np.int16:
            piece = piece.astype(np.float32) / np.float32(32768)
        _check_level(piece, subtype, path)
        if subtype in BITS:  # libsndfile takes integers aligned to the top of 32 bits, and drops the rest
            bits = BITS[subtype]
            piece = (_to_integer(piece, bits).astype(np.int64) << (32 - bits)).astype(np.int32)
        try:
            sound.write(piece)
        except (sf.LibsndfileError, AssertionError) as e:
            raise _write_error(file, path) from e


def _write_error(file: IO[bytes], path: Path) -> Exception:
    """libsndfile says only "System error": write a few bytes ourselves to learn the cause (a full disk)."""
    try:
        os.write(file.fileno(), bytes(1 << 16))
        os.fsync(file.fileno())
    except OSError as e:
        return OSError(e.errno, f"{e.strerror}, sound not written", str(path))
    return UserError(f"{path} could not be written", kind="not_written")


def _to_integer(x: np.ndarray, bits: int) -> np.ndarray:
    """[-1, 1] to whole numbers of so many bits, float64; exactly 1.0 becomes the largest."""
    full = float(1 << (bits - 1))
    return np.clip(np.rint(x.astype(np.float64) * full), -full, full - 1)


def reason(error: Exception) -> str:
    """What libsndfile says, in one piece."""
    text = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
    return " ".join(text.split()).rstrip(".").removeprefix("Error : ") or type(error).__name__
