"""Cutting a noise recording into units of [mixture | gap | reserve], or the mirror image.

A recording is cut once: whole under 10 s, else into equal pieces of 5 to 10 s. The reserve is the clip a user of a
noise reference has: recorded in the same place at another time. It lies at the end of the unit that has more sound.
All positions are samples at the stored rate; lengths are floors, so that a recording of exactly 5 s gives 3 + 1 + 1
s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from nrdata.audio.match import best_match

LONGEST_SECONDS = 10.0
GAP_SECONDS = 1.0
RESERVE_SECONDS = 1.0
LONG_RESERVE_SECONDS = 2.0  # in units of LONG_UNIT_SECONDS and more
LONG_UNIT_SECONDS = 6.0
SHORTEST_SECONDS = 1.0  # of what is left for the mixture
QUIET_DB = 10.0  # a reserve or a stretch this far under the recording's level counts as without sound
STEP_SECONDS = 0.05  # resolution at which levels are known
DIGITAL_SILENCE = 1e-9  # mean square: no step of 16 bits in 50 ms
SOUNDING = 0.5  # of a unit's mixture part, of its reserve and of a drawn stretch that must not be digital silence


@dataclass(frozen=True)
class Unit:
    """One piece of a recording: [start, stop) of the mixture part, and of the reserve (None: no reserve asked for)."""

    number: int
    mixture: tuple[int, int]
    reserve: tuple[int, int] | None

    @property
    def frames(self) -> int:
        return self.mixture[1] - self.mixture[0]


@dataclass(frozen=True)
class RefusedUnit:
    """A piece that cannot be a unit: `kind` too_short, quiet (no sound for a reserve) or loop."""

    number: int
    reason: str
    kind: str


@dataclass(frozen=True)
class Levels:
    """Energy of a recording, summed up to each step of 50 ms: the level of any stretch without its samples."""

    energy: np.ndarray  # float64 (steps + 1,), cumulative
    step: int  # samples
    frames: int

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray], sample_rate: int) -> Levels:
        """Of a recording in blocks, float (frames,) each; a long one is never held as a whole."""
        step = max(1, round(STEP_SECONDS * sample_rate))
        sums, rest, frames = [np.zeros(1)], np.zeros(0), 0
        for block in blocks:
            frames += len(block)
            x = np.concatenate([rest, block.astype(np.float64) ** 2])
            whole = len(x) // step * step
            sums.append(x[:whole].reshape(-1, step).sum(axis=1))
            rest = x[whole:]
        if len(rest):
            sums.append(rest.sum(keepdims=True))
        return cls(np.cumsum(np.concatenate(sums)), step, frames)

    def level_db(self, start: int = 0, stop: int | None = None) -> float:
        """Mean power in dB of [start, stop), to the nearest 50 ms; -inf for silence."""
        stop = self.frames if stop is None else stop
        a = min(round(start / self.step), len(self.energy) - 2)
        b = max(min(round(stop / self.step), len(self.energy) - 1), a + 1)
        power = (self.energy[b] - self.energy[a]) / ((b - a) * self.step)
        return 10 * float(np.log10(power)) if power > 0 else float("-inf")

    def sounding(self, start: int = 0, stop: int | None = None) -> float:
        """Share of [start, stop), to the nearest 50 ms, that is no digital silence."""
        stop = self.frames if stop is None else stop
        a = min(round(start / self.step), len(self.energy) - 2)
        b = max(min(round(stop / self.step), len(self.energy) - 1), a + 1)
        return float(np.mean(np.diff(self.energy[a : b + 1]) > DIGITAL_SILENCE * self.step))


def pieces(frames: int, sample_rate: int) -> list[tuple[int, int]]:
    """Whole under 10 s, else the fewest equal pieces of at most 10 s (so of more than 5): [start, stop) each."""
    count = max(1, -(-frames // int(LONGEST_SECONDS * sample_rate)))
    size = frames // count
    return [(i * size, (i + 1) * size) for i in range(count)]


def reserve_frames(frames: int, sample_rate: int, reserve_seconds: float | None) -> int:
    """Length of the reserve of a unit; `reserve_seconds` None is the rule (1 s, 2 s from 6 s on), 0 is none at all."""
    if reserve_seconds is None:
        long = frames >= int(LONG_UNIT_SECONDS * sample_rate)
        reserve_seconds = LONG_RESERVE_SECONDS if long else RESERVE_SECONDS
    return int(reserve_seconds * sample_rate)


def cut(levels: Levels, sample_rate: int, reserve_seconds: float | None = None) -> tuple[list[Unit], list[RefusedUnit]]:
    """The units of one recording, and the pieces that cannot be one."""
    whole_db = levels.level_db()
    units: list[Unit] = []
    refused: list[RefusedUnit] = []
    for number, (start, stop) in enumerate(pieces(levels.frames, sample_rate)):
        reserve = reserve_frames(stop - start, sample_rate, reserve_seconds)
        gap = int(GAP_SECONDS * sample_rate) if reserve else 0
        mixture = stop - start - gap - reserve
        seconds = (stop - start) / sample_rate
        if mixture < int(SHORTEST_SECONDS * sample_rate):
            need = SHORTEST_SECONDS + (gap + reserve) / sample_rate
            reason = f"{seconds:.2f} s long, {need:g} s needed for mixture, gap and reserve"
            refused.append(RefusedUnit(number, reason, "too_short"))
            continue
        if (share := levels.sounding(start, stop)) < SOUNDING:
            reason = f"{100 * share:.0f} % of it is sound, the rest digital silence; {100 * SOUNDING:.0f} % needed"
            refused.append(RefusedUnit(number, reason, "mostly_silent"))
            continue
        if not reserve:
            units.append(Unit(number, (start, stop), None))
            continue
        at_end = levels.level_db(stop - reserve, stop) >= levels.level_db(start, start + reserve)
        clip = (stop - reserve, stop) if at_end else (start, start + reserve)
        under = whole_db - levels.level_db(*clip)
        if (share := levels.sounding(*clip)) < SOUNDING:
            reason = f"{100 * share:.0f} % of its reserve is sound, the rest digital silence"
            refused.append(RefusedUnit(number, reason, "mostly_silent"))
            continue
        if under > QUIET_DB:
            reason = f"no sound at either end ({under:.0f} dB under the recording)"
            refused.append(RefusedUnit(number, reason, "quiet"))
            continue
        units.append(Unit(number, (start, start + mixture) if at_end else (stop - mixture, stop), clip))
    return units, refused


def usable(
    levels: Levels, read: Callable[[int, int], np.ndarray], sample_rate: int, reserve_seconds: float | None = None
) -> tuple[list[Unit], list[RefusedUnit]]:
    """As `cut`, less the units whose reserve is heard again in their mixture part (a loop, a clockwork): there the
    reference would hold the very noise it is to help against. `read(start, stop)` gives the recording's samples."""
    units, refused = cut(levels, sample_rate, reserve_seconds)
    good = []
    for unit in units:
        match = unit.reserve and best_match(read(*unit.mixture), read(*unit.reserve), sample_rate)
        if match:
            reason = f"its reserve is heard again in its mixture part ({match})"
            refused.append(RefusedUnit(unit.number, reason, "loop"))
        else:
            good.append(unit)
    return good, refused


def audible_start(levels: Levels, span: tuple[int, int], frames: int, rng: np.random.Generator, tries: int = 50) -> int:
    """Where a stretch of `frames` within `span` begins: drawn anew while it is 10 dB under the recording, then the
    loudest of those drawn (a dog barks twice in five seconds, and the rest of its recording is another noise)."""
    first, last = span[0], span[1] - frames
    if last <= first:
        return first
    floor = levels.level_db() - QUIET_DB
    need = min(SOUNDING, levels.sounding(*span))
    best, best_db = first, float("-inf")
    for start in rng.integers(first, last + 1, size=tries):
        level = levels.level_db(int(start), int(start) + frames)
        enough = levels.sounding(int(start), int(start) + frames) >= need
        if level >= floor and enough:
            return int(start)
        if enough and level > best_db:
            best, best_db = int(start), level
    return best
