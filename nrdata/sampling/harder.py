"""What makes a remixed item harder, each a share of the items: a room, a second noise, a talker as noise, and a target
that keeps what the clip does not hold.

    y = s + g (a + r b)      s speech, a the noise that the clip belongs to, b the noise of another environment

    clean   target s: all noise goes
    keep    target s + g r b: only what the clip holds goes, speech and every other sound stay

A talker (a piece of another speaker) stands in the place of a, with a clip of his: who talks is noise only because a
clip says so. The clip may hold a and b at the levels of the mixture; then both go. A clip of neither (`mismatch`) takes
nothing away under `keep`. Every draw comes from a generator of its own, so that none of them moves another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nrdata.keyed import ROOM, SECOND, TALKER, generator
from nrdata.labels import is_unknown
from nrdata.sampling import transforms
from nrdata.sampling.clips import Clip
from nrdata.sampling.echo import BANK, LEAD_SECONDS, Echo, echo, heard_in
from nrdata.sampling.laws import Item
from nrdata.sampling.pool import Pool
from nrdata.store.index import SplitIndex

RELATIVE_DB = (-8.0, 8.0)  # a over b
BOTH_SHARE = 0.2  # of two-noise items: the clip holds both
TALKER_SNR_DB = (-5.0, 10.0)
NOISE_ECHO_SHARE = 0.5  # of items with a room: noise and clip are in it, too
KEEP_ALONE = 0.1  # of items with one noise: the target is the same either way, and the switch must not say otherwise
KEEP_NO_SPEECH = 0.2  # of two-noise items that keep the rest
TRIES = 8


class Second(NamedTuple):
    """The other noise: where it is cut, its equaliser, and what it is to be scaled by against the first."""

    item: Item
    eq_db: np.ndarray | None
    relative_db: float
    both: bool


class Talker(NamedTuple):
    """`frames` of clean speech of another speaker from `start`, and where a clip of his is: apart from them."""

    row: int
    start: int
    span: tuple[int, int]
    snr_db: float


def draw_echo(key: np.ndarray, share: float, seed: int, rate: int, at: tuple[int, int]) -> tuple[Echo | None, bool]:
    """A room of the bank, and whether noise and clip are in it."""
    rng = generator(key, ROOM, *at)
    if rng.random() >= share:
        return None, False
    number, with_noise = int(rng.integers(BANK)), bool(rng.random() < NOISE_ECHO_SHARE)
    return echo(seed, number, rate), with_noise


def draw_second(
    key: np.ndarray, share: float, at: tuple[int, int], pool: Pool, first: int, frames: int, eq_share: float
) -> Second | None:
    """A noise of another environment than row `first`'s, as long as the item; None where none is found."""
    rng = generator(key, SECOND, *at)
    if rng.random() >= share:
        return None
    rows = pool.rows[rng.integers(len(pool.rows), size=TRIES)]
    relative_db, both = float(rng.uniform(*RELATIVE_DB)), bool(rng.random() < BOTH_SHARE)
    eq_db = transforms.draw_eq(rng) if rng.random() < eq_share else None
    for row in map(int, rows):
        length = int(pool.index.frames[row])
        if length >= frames and pool.place(row) != pool.place(first):
            start = transforms.crop_start(length, frames, rng)
            return Second(Item(row, start, start + frames), eq_db, relative_db, both)
    return None


def draw_talker(
    key: np.ndarray, share: float, at: tuple[int, int], pool: Pool, index: SplitIndex, own: int, frames: int
) -> Talker | None:
    """Another speaker's row that is long enough for `frames` and a clip apart from them; None where none is found."""
    rng = generator(key, TALKER, *at)
    if rng.random() >= share:
        return None
    rows, snr_db = pool.rows[rng.integers(len(pool.rows), size=TRIES)], float(rng.uniform(*TALKER_SNR_DB))
    for row in map(int, rows):
        length, speaker = int(index.frames[row]), index.speaker[row]
        if speaker == index.speaker[own] or is_unknown(index.speaker_names[speaker]):
            continue
        room = length - frames - pool.min_frames  # for the clip, whichever side it is on
        if room < 0:
            continue
        start = int(rng.integers(length - frames + 1))
        before, after = (0, start), (start + frames, length)
        span = max(before, after, key=lambda s: s[1] - s[0])
        if span[1] - span[0] >= pool.min_frames:
            return Talker(row, start, span, snr_db)
    return None


def talker_clip(talker: Talker, ref_frames: int, rng: np.random.Generator) -> Clip:
    """A clip of the talker's other words, as long as asked where there is as much."""
    first, last = talker.span
    length = min(ref_frames, last - first)
    start = first + int(rng.integers(last - first - length + 1))
    return Clip(talker.row, "clean", start, start + length, "disjoint", "same-recording")


def speaker_place(index: SplitIndex, row: int) -> str:
    """What stands for the environment where a row's speaker is the noise."""
    return f"speaker/{index.speaker_names[index.speaker[row]]}"


def heard(
    read: Callable[[int, str, int, int | None], np.ndarray],
    row: int,
    field: str,
    start: int,
    stop: int,
    response: np.ndarray | None,
    rate: int,
) -> np.ndarray:
    """`[start, stop)` of a member, float32, in a room where a response is given: with what came just before it."""
    if response is None:
        return read(row, field, start, stop)
    lead = min(start, round(LEAD_SECONDS * rate))
    return heard_in(read(row, field, start - lead, stop), response, lead)
