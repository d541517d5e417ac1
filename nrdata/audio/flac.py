"""16-bit mono FLAC in memory, as shards hold it: the same samples give the same bytes, a crop decodes only itself."""

from __future__ import annotations

import io

import numpy as np
import soundfile as sf

from nrdata.audio.writing import reason
from nrdata.errors import UserError


def encode_flac(x: np.ndarray, sample_rate: int) -> bytes:
    """int16 (n,) -> FLAC bytes at a fixed level (5): the same samples give the same bytes."""
    if x.dtype != np.int16 or x.ndim != 1 or x.size == 0:
        raise ValueError(f"int16 (n > 0,) expected, got {x.dtype} {x.shape}")
    memory = io.BytesIO()
    sf.write(memory, x, sample_rate, "PCM_16", format="FLAC", compression_level=0.625)
    return memory.getvalue()


class _ReadOnce(sf.SoundFile):  # type: ignore[misc,unused-ignore]  # soundfile has no types
    """After a read, soundfile seeks to where it already is if it can; in FLAC that costs an eighth of a crop."""

    def seekable(self) -> bool:
        return False


def decode_flac(data: bytes, start: int = 0, stop: int | None = None, dtype: str = "int16") -> np.ndarray:
    """Samples [start, stop) of 16-bit mono FLAC bytes: int16 (n,), or "float32" (int / 32768). Only this is decoded.

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
            x: np.ndarray = sound.read(end - start, dtype=dtype)
    except (sf.LibsndfileError, AssertionError, RuntimeError) as e:
        raise UserError(f"FLAC cannot be decoded ({reason(e)})", kind="unreadable") from e
    if len(x) != end - start:
        raise UserError(f"{len(x)} of {end - start} samples decoded", kind="truncated")
    return x


def flac_frames(data: bytes) -> tuple[int, int]:
    """(samples, sample rate) that FLAC bytes declare."""
    with sf.SoundFile(io.BytesIO(data)) as sound:
        return sound.frames, sound.samplerate
