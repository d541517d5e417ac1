"""What a press of the button computes: files in, files out, no browser.

A sound is decoded once, within bounds that do not trust what its header says, into a WAV that a browser plays; then
`nrmodel.enhancement.files` does with it what `nr enhance` does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import clip
from nrmodel.enhancement.files import KEPT_SUBTYPES, enhance_files, share_left
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Job, Span
from nrmodel.enhancement.source import Source, header, readable
from nrmodel.pictures import spectrograms

MAX_SECONDS = 300.0
MAX_MEGABYTES = 60
MAX_CHANNELS = 2
MAX_RATE = 192000
BLOCK = 1 << 16  # frames
COMMAND_LINE = re.compile(r" \((?:ref-as-given|--ref-span)[^)]*\)")  # remedies that a page does not have
WIDTHS = (10.0, 4.6)  # inches of the picture for a screen, and of the one for a phone


@dataclass(frozen=True)
class Taken:
    """A sound as the page goes on with it: a WAV of its rate, channels and depth. `name`: what the user calls it;
    `cut`: what is to be said where it ends early."""

    wave: Path
    name: str
    seconds: float
    cut: str = ""


@dataclass(frozen=True)
class Result:
    """`before` and `after` are WAVs of the same length; `pictures` show both, for a screen and for a phone.
    `reference`: what was used; `told`: what it was judged to be, and what is doubtful, in sentences."""

    before: Path
    after: Path
    pictures: Sequence[Path]
    seconds: float
    took: float
    reference: str
    told: Sequence[str]


def take(path: Path, wave: Path, most_seconds: float = MAX_SECONDS, whole: bool = True) -> Taken:
    """Decode a sound into `wave`; of one that is not asked for as a `whole` the first `most_seconds`.

    Raises `UserError` in the name's words: those of `audio.probe`, (no_decoder), (bounds).
    """
    name, cuts, done = path.name, [""], 0
    try:
        if path.is_file() and path.stat().st_size > MAX_MEGABYTES * 1e6:
            raise UserError(f"{name} is larger than {MAX_MEGABYTES} MB: bring a part of it", "bounds")
        head = header(path)
        if head.channels > MAX_CHANNELS or head.sample_rate > MAX_RATE:
            has = f"{head.channels} channels at {head.sample_rate} Hz"
            raise UserError(f"{name} has {has}: up to {MAX_CHANNELS} at {MAX_RATE} Hz are taken here", "bounds")
        if whole and head.seconds > most_seconds:
            raise _too_long(name, most_seconds)
        with readable(path, wave.parent, most_seconds + 1) as (sound, cut):
            rate, channels = (info := audio.probe(sound, tolerant=True)).sample_rate, info.channels
            subtype, limit = KEPT_SUBTYPES.get(head.subtype, "PCM_16"), round(most_seconds * rate)
            with audio.writer(wave, rate, channels, subtype) as put:
                for x in Source(sound, BLOCK, rate, cuts.append).blocks():
                    done += len(x)
                    if whole and done > limit:
                        raise _too_long(name, most_seconds)
                    x = x[: len(x) - max(done - limit, 0)]
                    put(x if subtype == "FLOAT" else np.clip(x, -1, 1))
                    if done >= limit and not whole:
                        break
    except UserError as e:
        raise UserError(str(e).replace(str(path), name), e.kind) from e
    said = (cuts[-1] or cut).replace(str(sound), name).replace(str(path), name)
    return Taken(wave, name, min(done, limit) / rate, said)


def _too_long(name: str, most_seconds: float) -> UserError:
    return UserError(f"{name} is longer than {most_seconds / 60:g} minutes: bring a part of it", "bounds")


def enhanced(model: Model, talk: Path, room: Path | Span | str | None, strength: float, folder: Path) -> Result:
    """`talk` with the noise removed; everything made lies in `folder`. `room`: a clip of the noise alone, the seconds
    of the talk in which it is heard alone, "auto" for its longest pause, or None. Raises `UserError`."""
    taken = take(talk, folder / "before.wav")
    called, cuts = [(taken.wave, taken.name)], [taken.cut]
    ref: Path | None = None
    span: Span | str | None = None
    if isinstance(room, Path):
        brought = take(room, folder / "room.wav", clip.MAX_REF_SECONDS, whole=False)
        ref, cuts = brought.wave, [*cuts, brought.cut]
        called.append((ref, brought.name))
    elif isinstance(room, tuple):
        span = (max(room[0], 0.0), min(room[1], taken.seconds))
        if span[0] >= span[1]:
            raise UserError("the stretch of the talk is empty: mark where the room is heard alone", "span")
    else:
        span = room
    job = Job(taken.wave, folder / f"{talk.stem}-enhanced.wav", ref, span, called=tuple(called))
    (outcome,) = enhance_files(model, [job], left=share_left(strength))
    if outcome.status == "failed":
        raise UserError(outcome.notes[-1])
    used = outcome.reference if ref is None else outcome.reference.replace(ref.name, called[-1][1])
    pictures = [folder / f"spectrograms-{width:g}.png" for width in WIDTHS]
    sounds = {"before": _mono(taken.wave), "after": _mono(job.out)}
    for picture, width in zip(pictures, WIDTHS, strict=True):
        spectrograms(sounds, header(job.out).sample_rate, picture, width=width)
    told = [COMMAND_LINE.sub("", note) for note in itertools.chain(filter(None, cuts), outcome.warnings())]
    return Result(taken.wave, job.out, pictures, outcome.seconds, outcome.took, used, told)


def _mono(path: Path) -> np.ndarray:
    return audio.downmix(audio.read(path)[0])[0]


def peaks(wave: Path, count: int = 300) -> list[float]:
    """The largest magnitude in each of `count` equal parts of a sound, in [0, 1]."""
    x = np.abs(audio.read(wave)[0]).max(axis=1)
    edges = np.linspace(0, len(x), count + 1).astype(int)
    return [round(float(min(x[a : max(b, a + 1)].max(initial=0.0), 1.0)), 3) for a, b in itertools.pairwise(edges)]
