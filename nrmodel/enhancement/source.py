"""The readable part of a sound file: whole, its beginning, or a stretch; a file may be cut short anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata import audio
from nrdata.errors import UserError


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
    rate = audio.probe(path, tolerant=True).sample_rate
    limit, cut = int(seconds * rate), ""
    blocks = audio.blocks(path, limit)
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
