"""The index of a split as numpy columns: a row a sample, elements of arrays only, so that forked readers share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata.errors import UserError
from nrdata.store.facts import BAD_ROW, MEMBERS, REQUIRED, parse_fields
from nrdata.store.manifest import Shard
from nrdata.store.shard import index_path
from nrdata.store.tar import ShardFault


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
    environments, recordings, speakers = _Names(), _Names(), _Names()
    env, recording, speaker, shard_code = (np.zeros(n, np.int32) for _ in range(4))
    key, stretch = np.zeros(n, "S16"), np.zeros((n, 2), np.int64)
    snr_db, noise_dbfs = np.zeros(n, np.float32), np.zeros(n, np.float32)
    frames, ref_frames = np.zeros(n, np.int64), np.zeros(n, np.int64)
    offset, size, crc = (np.zeros((n, len(MEMBERS)), kind) for kind in (np.int64, np.int32, np.uint32))
    row = 0
    for number, ((path, shard), prefix) in enumerate(zip(shards, prefixes, strict=True)):
        index = index_path(path)
        stop = row + shard.samples
        with index.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if row == stop:
                    raise ShardFault(path.name, "", "count", f"the index has more than {shard.samples} rows")
                try:
                    data = parse_fields(line)
                    name = (prefix + data["key"]).encode("ascii")
                    if data["split"] != split:
                        raise ValueError(f"split {data['split']}")
                    stretch[row] = data["stretch"]
                    snr_db[row], noise_dbfs[row] = data["snr_db"], data["noise_dbfs"]
                    frames[row], ref_frames[row] = data["frames"], data["ref_frames"]
                    env[row] = environments.code(data["env_id"])
                    recording[row] = recordings.code(data["recording"])
                    speaker[row] = speakers.code(data["speaker"])
                    for i, member in enumerate(MEMBERS):
                        if i < len(REQUIRED) or member in data["members"]:
                            offset[row, i], size[row, i], crc[row, i] = data["members"][member]
                except BAD_ROW as e:
                    raise ShardFault(index.name, "", "index", f"line {line_number} cannot be read ({e})") from e
                if len(name) > key.dtype.itemsize:
                    key = key.astype(f"S{len(name) + 8}")
                key[row], shard_code[row] = name, number
                row += 1
        if row != stop:
            raise ShardFault(
                path.name, "", "count", f"{shard.samples} samples expected, {row - stop + shard.samples} in the index"
            )
    env, env_names = environments.sort(env)
    recording, recording_names = recordings.sort(recording)
    speaker, speaker_names = speakers.sort(speaker)
    return SplitIndex(
        key, env, env_names, recording, recording_names, speaker, speaker_names, stretch, snr_db, noise_dbfs,
        frames, ref_frames, shard_code, [path for path, _ in shards], offset, size, crc,
    )  # fmt: skip
