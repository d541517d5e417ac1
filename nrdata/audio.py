"""The one place that reads, writes, resamples and measures sound.

Arrays are float32 in [-1, 1), shape (frames, channels) from files; 16-bit integers where sound is stored
(`float = int / 32768`). Files are opened by Python, so any name works. Nothing is allocated by a size that a header
declares: sound is decoded in blocks to its end, then the end is compared with what the header promised.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile as sf

from nrdata import files, riff
from nrdata.errors import UserError

EXTENSIONS = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
              ".w64", ".rf64")  # fmt: skip
FORMATS = {".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3",
           ".aif": "AIFF", ".aiff": "AIFF", ".au": "AU", ".caf": "CAF", ".w64": "W64", ".rf64": "RF64"}  # fmt: skip
BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
BLOCK = 1 << 16  # frames decoded at once
ENCODE_BLOCK = 1 << 15  # libsndfile's Vorbis encoder puts a block on the stack: minutes at once crash the process
UNKNOWN_FRAMES = 1 << 35  # a streaming FLAC encoder writes 0 or 2^36 - 1: "until the end"


class ChannelsCancel(UserWarning):
    """The mean of the channels is nearly silent though they are not: opposite phase, a broken cable."""


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
            raise UserError(f"{path} is not a sound file that can be decoded ({_reason(e)})", kind="unreadable") from e
        with sound:
            frames = None if sound.frames >= UNKNOWN_FRAMES else sound.frames
            if frames == 0:
                raise UserError(f"{path} holds no samples", kind="empty")
            yield sound, AudioInfo(frames, sound.samplerate, sound.channels, sound.subtype, sound.format)
        if fault is not None:
            raise fault


def _reason(error: Exception) -> str:
    text = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
    return " ".join(text.split()).rstrip(".").removeprefix("Error : ") or type(error).__name__


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
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
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
            x = np.concatenate([*_decode(sound, info, path, end - start, BLOCK)] or [np.zeros((0, info.channels))])
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


def to_mono(x: np.ndarray) -> np.ndarray:
    """The mean of the channels, (frames, channels) -> float32 (frames,).

    Where they cancel (the mean's RMS 30 dB under the channels'), the first channel, and a `ChannelsCancel` warning.
    """
    if x.ndim == 1:
        return x.astype(np.float32, copy=False)
    mono = x.mean(axis=1, dtype=np.float64).astype(np.float32)
    if x.shape[1] > 1 and x.size:
        level, mean_level = rms_dbfs(x.ravel()), rms_dbfs(mono)
        if level > -120 and mean_level < level - 30:
            warnings.warn("the channels cancel (opposite phase): the first one is taken", ChannelsCancel, stacklevel=2)
            return np.ascontiguousarray(x[:, 0], dtype=np.float32)
    return mono


def resample(x: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Convert the sample rate along axis 0 with soxr's "very high quality" recipe; float32."""
    if rate_in == rate_out or len(x) == 0:
        return x.astype(np.float32, copy=False)
    import soxr

    return soxr.resample(x.astype(np.float32, copy=False), rate_in, rate_out, quality="VHQ").astype(np.float32)


def rms_dbfs(x: np.ndarray) -> float:
    """RMS level in dB, full scale (1.0, or 32768 for int16) being 0; -inf for silence and for no samples."""
    y = x.astype(np.float64) / (32768.0 if x.dtype == np.int16 else 1.0)
    power = float(np.mean(y * y)) if y.size else 0.0
    return 10.0 * float(np.log10(power)) if power > 0 else float("-inf")


def to_int16(x: np.ndarray) -> np.ndarray:
    """Quantise float in [-1, 1] to int16 by rint; exactly 1.0 becomes 32767. Beyond full scale: `UserError`."""
    if x.dtype == np.int16:
        return x
    return _to_integer(x, 16).astype(np.int16)


def _to_integer(x: np.ndarray, bits: int) -> np.ndarray:
    peak = float(np.max(np.abs(x))) if x.size else 0.0
    if not peak <= 1.0:
        what = f"has a peak of {peak:.3f}, over full scale" if np.isfinite(peak) else "is not finite"
        raise UserError(f"the sound {what}; scale it before it is stored", kind="over_full_scale")
    full = float(1 << (bits - 1))
    return np.clip(np.rint(x.astype(np.float64) * full), -full, full - 1)


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
    if path.suffix.lower() in (".wav", ".wave", ".aif", ".aiff", ".au") and x.size * BITS.get(kind, 64) // 8 >= 2**32:
        raise UserError(f"{path} would be over 4 GiB; name it .w64, .rf64 or .flac", kind="container")
    if x.dtype != np.int16:
        _check_level(x, kind, path)
    with writer(path, sample_rate, 1 if x.ndim == 1 else x.shape[1], kind) as put:
        put(x)


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
            problem = _reason(e)
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


def encode_flac(x: np.ndarray, sample_rate: int) -> bytes:
    """int16 (n,) -> FLAC bytes at a fixed level (5): the same samples give the same bytes."""
    if x.dtype != np.int16 or x.ndim != 1 or x.size == 0:
        raise ValueError(f"int16 (n > 0,) expected, got {x.dtype} {x.shape}")
    memory = io.BytesIO()
    sf.write(memory, x, sample_rate, "PCM_16", format="FLAC", compression_level=0.625)
    return memory.getvalue()


class _ReadOnce(sf.SoundFile):
    """After a read, soundfile seeks to where it already is if it can; in FLAC that costs an eighth of a crop."""

    def seekable(self) -> bool:
        return False


def decode_flac(data: bytes, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Samples [start, stop) of 16-bit mono FLAC bytes: int16 (n,), only this crop is decoded.

    Raises `UserError` (unreadable, truncated, too_short).
    """
    try:
        with _ReadOnce(io.BytesIO(data)) as sound:
            if (sound.format, sound.subtype, sound.channels) != ("FLAC", "PCM_16", 1):
                raise UserError(
                    f"16-bit mono FLAC expected, {sound.format} {sound.subtype} with {sound.channels} channels found",
                    kind="unreadable",
                )
            # A FLAC frame holds at most 65535 samples in no fewer than 10 bytes: more is a lie, allocate nothing.
            if sound.frames > len(data) * 6554:
                raise UserError(f"{sound.frames} samples declared in {len(data)} bytes of FLAC", kind="unreadable")
            end = sound.frames if stop is None else stop
            if not 0 <= start <= end <= sound.frames:
                raise UserError(f"samples {start} to {end} asked for, {sound.frames} stored", kind="too_short")
            if start:
                sound.seek(start)
            x = sound.read(end - start, dtype="int16")
    except (sf.LibsndfileError, AssertionError, RuntimeError) as e:
        raise UserError(f"FLAC cannot be decoded ({_reason(e)})", kind="unreadable") from e
    if len(x) != end - start:
        raise UserError(f"{len(x)} of {end - start} samples decoded", kind="truncated")
    return x


def flac_frames(data: bytes) -> tuple[int, int]:
    """(samples, sample rate) that FLAC bytes declare."""
    with sf.SoundFile(io.BytesIO(data)) as sound:
        return sound.frames, sound.samplerate


def list_audio(folder: Path | str) -> list[Path]:
    """All sound files under `folder` (by extension, any case), sorted; what operating systems leave is ignored."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", kind="missing")
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name != "__MACOSX"]
        found += [Path(root) / n for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith("._")]
    return sorted(found)
