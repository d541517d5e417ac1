"""The order of an epoch: a pure function of (key, epoch), with memory bounded by a window.

An epoch permutes the shards, takes them in windows of at least `window` samples and shuffles inside each window, from
row numbers alone. A split no larger than the window is one window: a plain permutation. Any position is reached
without making what comes before it: a window's place follows from the shard sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nrdata.keyed import ORDER, generator

WINDOW = 1_000_000


class Window(NamedTuple):
    """Positions `[first, first + len(rows))` of an epoch, and the rows that stand there."""

    first: int
    rows: np.ndarray


class Layout(NamedTuple):
    """An epoch's shards in order; window w begins at shard `cuts[w]` of them and at position `starts[w]`."""

    shards: np.ndarray
    cuts: np.ndarray
    starts: np.ndarray


class Order:
    """`shard_sizes`: samples in each shard of the split, in row order; `key`: from `keyed.key_of`."""

    def __init__(self, key: np.ndarray, shard_sizes: np.ndarray, window: int | None = None):
        self.key = key
        self.window = window or WINDOW
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.shard_start = np.concatenate([[0], np.cumsum(self.sizes)])
        self.samples = int(self.shard_start[-1])
        self._layout: tuple[int, Layout] | None = None
        self._windows: dict[tuple[int, int], Window] = {}

    @property
    def single(self) -> bool:
        """The whole split is one window."""
        return self.samples <= self.window

    def layout(self, epoch: int) -> Layout:
        """The shards of an epoch in their order, cut into windows."""
        if self._layout is None or self._layout[0] != epoch:
            shards, cuts = np.arange(len(self.sizes)), [0]
            if not self.single:
                shards = generator(self.key, ORDER, epoch).permutation(len(self.sizes))
                filled = 0
                for i, size in enumerate(self.sizes[shards].tolist()):
                    if filled >= self.window:
                        cuts.append(i)
                        filled = 0
                    filled += size
            starts = np.concatenate([[0], np.cumsum(self.sizes[shards])])
            self._layout = (epoch, Layout(shards, np.array(cuts), starts[cuts]))
        return self._layout[1]

    def window_at(self, epoch: int, position: int) -> tuple[int, Window]:
        """The number of the window that holds `position` of the epoch, and the window."""
        layout = self.layout(epoch)
        number = int(np.searchsorted(layout.starts, position, side="right")) - 1
        if (epoch, number) not in self._windows:
            taken = layout.shards[slice(*np.append(layout.cuts, len(layout.shards))[number : number + 2])]
            rows = np.concatenate([np.arange(*self.shard_start[shard : shard + 2]) for shard in taken])
            # Position 0 of ORDER's counter is the shards' permutation; the windows follow.
            shuffled = generator(self.key, ORDER, epoch, number + 1).permutation(rows.astype(np.int32))
            while len(self._windows) >= 2:  # a batch may lie across two windows
                self._windows.pop(next(iter(self._windows)))
            self._windows[epoch, number] = Window(int(layout.starts[number]), shuffled)
        return number, self._windows[epoch, number]
