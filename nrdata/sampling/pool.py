"""Who can serve whom as a reference: the rows of a window, grouped by environment and recording.

Everything is a handful of integer arrays made once a window; a draw is then O(1), whatever the window's size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nrdata.labels import is_unknown, place_of
from nrdata.sampling.columns import Columns

MIN_REF_SECONDS = 0.25  # a shorter clip counts as missing
GAP_SECONDS = 1.0  # between what is heard and a `disjoint` clip of the same noise


class Groups:
    """Rows sorted by an integer label: `rows[start[g]:stop[g]]` carry `labels[g]`."""

    def __init__(self, rows: np.ndarray, label: np.ndarray):
        order = np.argsort(label, kind="stable")
        self.rows = rows[order].astype(np.int32)
        self.labels, self.start = np.unique(label[order], return_index=True)
        self.stop = np.append(self.start, len(rows))[1:]

    def sizes(self, label: np.ndarray) -> np.ndarray:
        """How many rows carry each of these labels."""
        if len(self.labels) == 0:
            return np.zeros(len(label), np.int64)
        g = np.minimum(np.searchsorted(self.labels, label), len(self.labels) - 1)
        return np.where(self.labels[g] == label, (self.stop - self.start)[g], 0)

    def span(self, label: int) -> tuple[int, int]:
        """`[start, stop)` of a label's rows; empty where no row carries it."""
        g = int(np.searchsorted(self.labels, label))
        if g == len(self.labels) or self.labels[g] != label:
            return 0, 0
        return int(self.start[g]), int(self.stop[g])


class Pool:
    """The rows a reference may come from.

    `rows` (default: all) of `index` are the window's. Rows whose noise is shorter than 0.25 s serve nobody, but may
    be items. Row numbers are those of `index` everywhere.
    """

    def __init__(self, index: Columns, sample_rate: int, rows: np.ndarray | None = None):
        self.index = index
        self.sample_rate = sample_rate
        self.min_frames = round(MIN_REF_SECONDS * sample_rate)
        self.gap_frames = round(GAP_SECONDS * sample_rate)
        self.rows = np.arange(len(index.key)) if rows is None else np.sort(rows)
        places = [place_of(name) for name in index.env_names]
        code = {name: i for i, name in enumerate(sorted(set(places)))}
        self.place_of_env = np.array([code[name] for name in places], dtype=np.int64)
        self.unknown_env = np.array([is_unknown(name) for name in index.env_names], dtype=bool)
        serving = self.rows[index.frames[self.rows] >= self.min_frames]
        # Sorted by (environment, recording), so that a recording's rows are one block inside its environment's.
        self.recordings = Groups(serving, self.recording_label(serving))
        self.environments = Groups(self.recordings.rows, index.env[self.recordings.rows])
        self.places = Groups(serving, self.place_of_env[index.env[serving]])

    def recording_label(self, rows: Any) -> Any:
        """(environment, recording) as one integer: a room variant `~k` of a recording is another label."""
        return self.index.env[rows].astype(np.int64) * len(self.index.recording_names) + self.index.recording[rows]

    def place(self, row: int) -> int:
        """Code of the row's environment without its room or augmentation (what stands before `~`)."""
        return int(self.place_of_env[self.index.env[row]])

    def apart(self, row: int, others: np.ndarray) -> np.ndarray:
        """Which of `others` surely hold other sound than `row`: both stretches known, and no overlap."""
        start, stop = self.index.stretch[row]
        stretch = self.index.stretch[others]
        known = (start >= 0) & (stretch[:, 0] >= 0) & (others != row)
        apart: np.ndarray = known & ((stretch[:, 1] <= start) | (stretch[:, 0] >= stop))
        return apart

    def perhaps_apart(self, row: int, others: np.ndarray) -> np.ndarray:
        """Which of `others` may hold other sound: a stretch is unknown, but it is not the same noise over again.

        The same noise has the same length and level, so that a differing one proves two digests.
        """
        index = self.index
        unknown = (index.stretch[row, 0] < 0) | (index.stretch[others, 0] < 0)
        differs = (index.frames[others] != index.frames[row]) | (index.noise_dbfs[others] != index.noise_dbfs[row])
        perhaps: np.ndarray = unknown & differs & (others != row)
        return perhaps
