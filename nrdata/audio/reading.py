"""Reading sound files: the header against what is there, whole or in blocks, every way of failing in a sentence.

Files are opened by Python, so any name works. Nothing is allocated by a size that a header declares: sound is decoded
in blocks to its end, then the end is compared with what the header promised.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from nrdata.audio import riff
from nrdata.audio.writing import reason
from nrdata.errors import UserError

BLOCK = 1 << 16  # frames decoded at once
UNKNOWN_FRAMES = 1 << 35  # a streaming FLAC encoder writes 0 or 2^36 - 1: "until the end"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `frames` is None where it says "until the end"."""

    frames: int | None
    sample_rate: int
    channels: int
    subtype: str
    format: str


@contextlib.contextmanager
def _opened(path: Path, tolerant: bool = False) -> Iterator[tuple[sf.SoundFile, AudioInfo]]:
    """The open file and its header, every way of failing in a sentence of its own.

    `tolerant`: what the file's sizes say against it is raised at the end, after what can be read.
    """
    try:
        file = path.open("rb", buffering=0)  # unbuffered: libsndfile reads from the descriptor
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", kind="missing") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a sound file", kind="folder") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: check its permissions", kind="permission") from None
    except OSError as e:
        raise UserError(f"{path} cannot be opened: {e.strerror or e}", kind="unreadable") from e
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UserError(f"{path} is empty (0 bytes)", kind="empty")
        patch, fault = None, None
        try:
            patch = riff.check(file, path)
        except UserError as e:
            if not tolerant:
                raise
            fault = e
        file.seek(0)
        try:
            # A descriptor where possible: libsndfile reads it without calling back into Python.
            sound = sf.SoundFile(riff.Patched(file, patch) if patch else file.fileno(), closefd=False)
        except (sf.LibsndfileError, ValueError, TypeError) as e:
            raise UserError(f"{path} is not a sound file that can be decoded ({reason(e)})", kind="unreadable") from e
        with sound:
            frames = None if sound.frames >= UNKNOWN_FRAMES else sound.frames
            if frames == 0:
                raise UserError(f"{path} holds no samples", kind="empty")
            yield sound, AudioInfo(frames, sound.samplerate, sound.channels, sound.subtype, sound.format)
        if fault is not None:
            raise fault


def probe(path: Path | str, tolerant: bool = False) -> AudioInfo:
    """The header of a sound file. Raises `UserError` (missing, folder, permission, empty, unreadable, truncated);
    `tolerant`: of a file that is cut short, too, as `blocks` reads it."""
    info = None
    try:
        with _opened(Path(path), tolerant) as (_, info):
            return info
    except UserError:
        if info is None:
            raise
        return info


def _decode(sound: sf.SoundFile, info: AudioInfo, path: Path, count: int | None, block: int) -> Iterator[np.ndarray]:
    """Decode `count` frames (None: to the end) in blocks; then `UserError` (truncated) if the header promised more."""
    done = 0
    while count is None or done < count:
        want = block if count is None else min(block, count - done)
        # NaN marks what libsndfile did not fill: after the last block of a FLAC of unknown length soundfile raises
        # (it cannot seek there) although the samples have arrived in `x`.
        x = np.full((want, info.channels), np.nan, np.float32)
        error: Exception | None = None
        try:
            got = len(sound.read(out=x))
        except (sf.LibsndfileError, AssertionError, RuntimeError) as e:
            error = e
            filled = ~np.isnan(x[:, 0]) if "FLAC" in info.format else np.zeros(want, bool)
            got = want if filled.all() else int(np.argmin(filled))
        done += got
        if got:
            yield x[:got]
        if error is not None and info.frames is None and done > 0:
            return
        if error is not None or (got < want and count is not None):
            rate = info.sample_rate
            raise UserError(
                f"{path} is damaged or cut short: {done / rate:.2f} s of {(count or done) / rate:.2f} s readable",
                kind="truncated",
            ) from error
        if got < want:
            return


def _nan_check(x: np.ndarray, path: Path, rate: int, first: int = 0) -> None:
    if not np.isfinite(x).all():
        bad = ~np.isfinite(x).all(axis=1)
        at = (first + int(np.argmax(bad))) / rate
        raise UserError(
            f"{path} has {int(bad.sum())} non-finite samples (NaN or infinite), first at {at:.2f} s", kind="not_finite"
        )


def read(path: Path | str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Samples [start, stop) as float32 (frames, channels), and the sample rate in Hz.

    Raises `UserError`: missing, folder, permission, unreadable, empty, truncated, not_finite, too_short (`stop` lies
    behind the end).
    """
    path = Path(path)
    with _opened(path) as (sound, info):
        rate = info.sample_rate
        if info.frames is None:  # cannot seek: decode from the beginning
            x = np.concatenate(list(_decode(sound, info, path, None, BLOCK)))
            if max(start, stop or 0) > len(x):
                raise UserError(_too_short(path, len(x), rate, max(start, stop or 0)), kind="too_short")
            x = x[start:stop]
        else:
            end = info.frames if stop is None else stop
            if max(start, end) > info.frames:
                raise UserError(_too_short(path, info.frames, rate, max(start, end)), kind="too_short")
            if start:
                try:
                    sound.seek(start)
                except (sf.LibsndfileError, RuntimeError) as e:
                    raise UserError(f"{path} is damaged or cut short before {start / rate:.2f} s", "truncated") from e
            pieces = [*_decode(sound, info, path, end - start, BLOCK)] or [np.zeros((0, info.channels))]
            x = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        x = x.astype(np.float32, copy=False)
        _nan_check(x, path, rate, start)
        return x, rate


def _too_short(path: Path, frames: int, rate: int, wanted: int) -> str:
    return f"{path} is {frames} samples long ({frames / rate:.2f} s), sample {wanted} was asked for"


def blocks(path: Path | str, block_frames: int) -> Iterator[np.ndarray]:
    """A long file in pieces of `block_frames` (the last may be shorter): float32 (n, channels), bounded memory.

    A file cut short gives everything that can be read, then raises `UserError` (truncated) saying how much that was.
    """
    path = Path(path)
    done = 0
    with _opened(path, tolerant=True) as (sound, info):
        for x in _decode(sound, info, path, info.frames, block_frames):
            _nan_check(x, path, info.sample_rate, done)
            done += len(x)
            yield x
