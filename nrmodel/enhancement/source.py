"""The readable part of a sound file: whole, its beginning, or a stretch; a file may be cut short anywhere."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import media


@dataclass(frozen=True)
class Header:
    """What a file says it holds. `seconds` is 0 where it does not say; `decoded`: it takes `media` to read it."""

    sample_rate: int
    channels: int
    subtype: str
    seconds: float
    decoded: bool = False
    picture: bool = False
    tracks: int = 1


def header(path: Path) -> Header:
    """Raises `UserError`: those of `audio.probe`, and (no_decoder)."""
    try:
        info = audio.probe(path, tolerant=True)
    except UserError as e:
        if e.kind != "unreadable":
            raise
        try:
            found = media.probe(path)
        except UserError as other:
            raise (other if path.suffix.lower() in media.EXTENSIONS else e) from None
        return Header(found.sample_rate, found.channels, "", found.seconds, True, found.picture, found.tracks)
    return Header(info.sample_rate, info.channels, info.subtype, (info.frames or 0) / info.sample_rate)


@contextlib.contextmanager
def readable(
    path: Path, folder: Path | None = None, most_seconds: float = math.inf
) -> Iterator[tuple[Path, str]]:
    """A file of the same sound that `audio` reads: itself, or one of the same name in a temporary folder (below
    `folder`), into which little more than `most_seconds` are decoded; and what is to be said where it is cut short."""
    if not header(path).decoded:
        yield path, ""
        return
    with tempfile.TemporaryDirectory(dir=folder) as here:
        wave = Path(here) / "sound.w64"
        cut = media.decode(path, wave, most_seconds)
        yield wave.rename(wave.with_name(path.name)), cut


@dataclass
class Source:
    """The readable part of a file, as often as needed, in equal blocks of `block` frames. `on_cut` is told once where
    the file is cut short; a file of which nothing can be read raises `UserError`."""

    path: Path
    block: int
    rate: int
    on_cut: Callable[[str], None]
    cut: bool = False

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks `(frames, channels)`."""
        done = 0
        try:
            for x in audio.blocks(self.path, self.block):
                done += len(x)
                yield x
        except UserError as e:
            if e.kind != "truncated" or not done:
                raise
            if not self.cut:
                self.cut = True
                self.on_cut(f"{e} (the first {done / self.rate:.2f} s)")


def beginning(path: Path, seconds: float) -> tuple[np.ndarray, int, str]:
    """The first `seconds` of a file `(frames, channels)`, its rate, and where it is cut short before that."""
    with readable(path) as (sound, cut):
        rate = audio.probe(sound, tolerant=True).sample_rate
        limit = int(seconds * rate)
        blocks = audio.blocks(sound, limit)
        clip = next(blocks)
        try:
            if len(clip) < limit:
                next(blocks, None)
        except UserError as e:
            if e.kind != "truncated":
                raise
            cut = str(e)
    return clip, rate, cut


def stretch(path: Path, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of a file `(frames, channels)`, even of one that is cut short later."""
    parts, done = [], 0
    for x in audio.blocks(path, audio.BLOCK):
        parts.append(x[max(start - done, 0) : max(stop - done, 0)])
        done += len(x)
        if done >= stop:
            break
    return np.concatenate(parts)
