"""The index of a split as numpy columns: a row a sample, elements of arrays only, so that forked readers share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata.errors import UserError
from nrdata.store.facts import BAD_ROW, MEMBERS, IndexRow, parse_row
from nrdata.store.manifest import Shard
from nrdata.store.shard import index_path
from nrdata.store.tar import ShardFault

CHUNK = 64  # rows put into the columns at once
NO_PLACE = (0, 0, 0)


@dataclass(frozen=True)
class SplitIndex:
    """One row a sample, numpy columns only."""

    key: np.ndarray  # (n,) bytes of fixed width
    env: np.ndarray  # (n,) int32 codes into env_names, which are sorted; recording and speaker likewise
    env_names: list[str]
    recording: np.ndarray
    recording_names: list[str]
    speaker: np.ndarray
    speaker_names: list[str]
    stretch: np.ndarray  # (n, 2) int64; [-1, -1] unknown
    snr_db: np.ndarray  # (n,) float32
    noise_dbfs: np.ndarray  # (n,) float32
    frames: np.ndarray  # (n,) int64
    ref_frames: np.ndarray  # (n,) int64, 0 where there is no clip
    shard: np.ndarray  # (n,) int32 codes into shard_files
    shard_files: list[Path]  # in the order of the rows
    offset: np.ndarray  # (n, 5) int64: where the members' bytes are, in the order of facts.MEMBERS
    size: np.ndarray  # (n, 5) int32; 0 where there is no such member
    crc: np.ndarray  # (n, 5) uint32

    def __len__(self) -> int:
        return len(self.key)


class _Names:
    """Strings to codes in order of arrival, then to codes of the sorted names."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        return self.codes.setdefault(name, len(self.codes))

    def sort(self, column: np.ndarray) -> tuple[np.ndarray, list[str]]:
        names = sorted(self.codes)
        rank = np.empty(len(names), np.int32)
        for position, name in enumerate(names):
            rank[self.codes[name]] = position
        return rank[column], names


def load_index(shards: Sequence[tuple[Path, Shard]], split: str, prefixes: Sequence[str]) -> SplitIndex:
    """Stream the index files of `shards` into columns; `ShardFault` where rows and manifest disagree.

    `prefixes` (one a shard) go before the keys: several folders as one data set.
    """
    for path, shard in shards:
        if not index_path(path).exists():
            raise UserError(f"{path} has no index; run nr index {path.parent}", kind="no_index")
        if index_path(path).stat().st_size < shard.samples:  # before memory is taken for as many
            raise ShardFault(path.name, "", "count", f"the index cannot hold {shard.samples} rows")
    n = sum(shard.samples for _, shard in shards)
    names = {name: _Names() for name in ("env_id", "recording", "speaker")}
    codes = {name: np.zeros(n, np.int32) for name in (*names, "shard")}
    key, stretch = np.zeros(n, "S16"), np.zeros((n, 2), np.int64)
    snr_db, noise_dbfs = np.zeros(n, np.float32), np.zeros(n, np.float32)
    frames, ref_frames = np.zeros(n, np.int64), np.zeros(n, np.int64)
    offset, size, crc = (np.zeros((n, len(MEMBERS)), kind) for kind in (np.int64, np.int32, np.uint32))
    start = 0
    for number, ((path, shard), prefix) in enumerate(zip(shards, prefixes, strict=True)):
        first, stop = start, start + shard.samples
        for rows in _chunks(index_path(path), split):
            here = slice(start, start + len(rows))
            if here.stop > stop:
                raise ShardFault(path.name, "", "count", f"the index has more than {shard.samples} rows")
            keys = np.array([(prefix + row.key).encode() for row in rows])
            if keys.dtype.itemsize > key.dtype.itemsize:
                key = key.astype(f"S{keys.dtype.itemsize + 8}")
            key[here], codes["shard"][here] = keys, number
            for column, known in names.items():
                codes[column][here] = [known.code(getattr(row, column)) for row in rows]
            stretch[here] = [row.stretch for row in rows]
            snr_db[here], noise_dbfs[here] = [row.snr_db for row in rows], [row.noise_dbfs for row in rows]
            frames[here], ref_frames[here] = [row.frames for row in rows], [row.ref_frames for row in rows]
            flat = [n for row in rows for member in MEMBERS for n in row.members.get(member, NO_PLACE)]
            places = np.array(flat, np.int64).reshape(len(rows), len(MEMBERS), 3)
            offset[here], size[here], crc[here] = np.moveaxis(places, 2, 0)
            start = here.stop
        if start != stop:
            raise ShardFault(path.name, "", "count", f"{shard.samples} samples expected, {start - first} in the index")
    (env, env_names), (recording, recording_names), (speaker, speaker_names) = (
        names[column].sort(codes[column]) for column in names
    )
    return SplitIndex(
        key, env, env_names, recording, recording_names, speaker, speaker_names, stretch, snr_db, noise_dbfs,
        frames, ref_frames, codes["shard"], [path for path, _ in shards], offset, size, crc,
    )  # fmt: skip


def _chunks(index: Path, split: str) -> Iterator[list[IndexRow]]:
    """The rows of an index file, some at a time: numpy takes columns quicker than numbers."""
    rows: list[IndexRow] = []
    with index.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = parse_row(line)
                if row.split != split:
                    raise ValueError(f"split {row.split}")
            except BAD_ROW as e:
                raise ShardFault(index.name, "", "index", f"line {number} cannot be read ({e})") from e
            rows.append(row)
            if len(rows) == CHUNK:
                yield rows
                rows = []
    if rows:
        yield rows
