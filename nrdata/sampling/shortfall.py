"""What a pool cannot serve, known from the index alone before anything is trained or evaluated.

The counts mirror `laws.py` law by law; a property test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nrdata.errors import UserError
from nrdata.sampling.laws import Law
from nrdata.sampling.pool import Groups, Pool


@dataclass(frozen=True)
class Shortfall:
    """One environment under one mode: `missing` of its `rows` items (expected over crops) get no reference, and
    `unknown` of them one whose sound may overlap the item's, since stretches are unknown."""

    mode: str
    env_id: str
    rows: int
    missing: float
    unknown: int

    def __str__(self) -> str:
        told = []
        if self.missing:
            told.append(f"{self.missing:.3g} of {self.rows} items without reference")
        if self.unknown:
            told.append(f"{self.unknown} of {self.rows} items with unknown overlap")
        return f"{self.mode}: {self.env_id}: {', '.join(told)}"


def check_law(pool: Pool, law: Law, crop_frames: int | None = None) -> list[Shortfall]:
    """Environments that cannot serve `law` for all their items, in order of mode and name; an empty list is well.

    `crop_frames` is the training crop; None: whole samples are heard, as in evaluation.
    """
    found = []
    env = pool.index.env[pool.rows]
    for mode in law.modes:
        if mode == "none":
            continue
        missing, unknown = SHORTFALLS[mode](pool, crop_frames)
        for code in np.unique(env[(missing > 0) | unknown]):
            own = env == code
            found.append(
                Shortfall(mode, pool.index.env_names[code], int(own.sum()), float(missing[own].sum()),
                          int(unknown[own].sum()))
            )  # fmt: skip
    return found


def refuse_shortfall(found: list[Shortfall]) -> None:
    """Raise `UserError` where items would be without the reference that the law promises them."""
    lacking = [s for s in found if s.missing]
    if lacking:
        listed = "; ".join(map(str, lacking[:5])) + (f"; and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise UserError(
            f"the reference law cannot be served ({listed}); use --on-missing-ref none to give these items no "
            "reference, or another --ref-mode",
            kind="missing_reference",
        )


def _oracle(pool: Pool, crop_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    missing = (pool.index.frames[pool.rows] < pool.min_frames).astype(float)
    return missing, np.zeros(len(missing), bool)


def _disjoint(pool: Pool, crop_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Without a reserve: the share of crop positions with under 0.25 s of noise beyond the gap on either side."""
    frames = pool.index.frames[pool.rows]
    crop = frames if crop_frames is None else np.minimum(frames, crop_frames)
    beyond = pool.gap_frames + pool.min_frames
    positions = frames - crop + 1
    first_bad = np.maximum(frames - crop - beyond + 1, 0)  # nothing after the crop from here on
    last_bad = np.minimum(beyond - 1, frames - crop)  # nothing before the crop up to here
    missing = np.maximum(last_bad - first_bad + 1, 0) / positions
    missing[pool.index.ref_frames[pool.rows] >= pool.min_frames] = 0
    return missing, np.zeros(len(missing), bool)


def _env(pool: Pool, crop_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    env = pool.index.env[pool.rows]
    in_env = np.where(pool.unknown_env[env], 0, pool.environments.sizes(env))
    in_recording = pool.recordings.sizes(pool.recording_label(pool.rows))
    missing, unknown = (in_env == 0).astype(float), np.zeros(len(env), bool)
    alone = np.flatnonzero((in_env == in_recording) & (in_env > 0))  # no other recording of their environment
    lone = Groups(alone, env[alone])
    for code, first, last in zip(lone.labels, lone.start, lone.stop, strict=True):
        at = lone.rows[first:last]
        block = pool.environments.rows[slice(*pool.environments.span(code))]
        apart, perhaps = _served_inside(pool, pool.rows[at], block)
        missing[at] = ~(apart | perhaps)
        unknown[at] = perhaps & ~apart
    return missing, unknown


def _served_inside(pool: Pool, items: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each item: does a row of its only recording surely (`apart`) or perhaps (stretch unknown) hold other sound?

    `pool.apart` and `pool.perhaps_apart` over all pairs in linear time: some stretch ends before the item's begins, or
    begins after it ends; some row is of another length or level.
    """
    start, stop = pool.index.stretch[items].T
    known = pool.index.stretch[block][pool.index.stretch[block, 0] >= 0]
    apart = np.zeros(len(items), bool)
    if len(known):
        apart = (start >= 0) & ((known[:, 1].min() <= start) | (known[:, 0].max() >= stop))
    unknown = block[pool.index.stretch[block, 0] < 0]
    perhaps = np.where(start < 0, _differs(pool, items, block), _differs(pool, items, unknown))
    return apart, perhaps


def _differs(pool: Pool, items: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each item: is there one among `others` of another length or level? True for all where `others` differ."""
    if len(others) == 0:
        return np.zeros(len(items), bool)

    def unlike_first(rows: np.ndarray) -> np.ndarray:
        frames, level = pool.index.frames, pool.index.noise_dbfs
        return (frames[rows] != frames[others[0]]) | (level[rows] != level[others[0]])

    return unlike_first(items) | unlike_first(others).any()


def _mismatch(pool: Pool, crop_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    place = pool.place_of_env[pool.index.env[pool.rows]]
    labels = pool.places.labels
    others = len(labels) - np.isin(place, labels)
    return (others == 0).astype(float), np.zeros(len(place), bool)


SHORTFALLS = {"oracle": _oracle, "disjoint": _disjoint, "env": _env, "mismatch": _mismatch}
