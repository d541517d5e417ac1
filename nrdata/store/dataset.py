"""A data set in use: its index as numpy columns, its samples one seek away.

Nothing is kept a sample but array elements, so that forked readers share the memory; a file is opened for a read and
closed behind it, so that handles neither leak nor travel between processes.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nrdata import audio, files
from nrdata.errors import UserError
from nrdata.fetch.remote import Remote, is_address, open_remote, warn_of_size
from nrdata.store.facts import MEMBERS, SampleFacts, parse_facts
from nrdata.store.index import SplitIndex, load_index
from nrdata.store.manifest import Manifest, Shard, partials, read_manifest, tars
from nrdata.store.shard import read_bytes
from nrdata.store.tar import ShardFault
from nrdata.store.triplet import Triplet

if TYPE_CHECKING:
    from nrdata.sampling.stream import Stream

log = logging.getLogger(__name__)

SOUNDS = ("clean", "noise", "noisy", "ref")
COLUMN = {name: MEMBERS.index(f"{name}.flac") for name in SOUNDS} | {"json": MEMBERS.index("json")}  # of the index


class DataSet:
    """One or several folders of shards, read as one data set.

    The folders of `remotes` hold indexes only: the shards are elsewhere. With `keep_decoded` a member is decoded once
    and stays in memory (32 kB a second at 16 kHz).
    """

    def __init__(
        self, parts: Sequence[tuple[Path, Manifest]], remotes: Sequence[Remote] = (), keep_decoded: bool = False
    ):
        self._parts = list(parts)
        self._remotes = {remote.folder: remote for remote in remotes}
        manifests = [manifest for _, manifest in parts]
        self.folders = tuple(folder for folder, _ in parts)
        self.name = "+".join(manifest.name for manifest in manifests)
        self.sample_rate = manifests[0].sample_rate
        self.has_ref = all(manifest.has_ref for manifest in manifests)
        self.splits: tuple[str, ...] = tuple(sorted({split for m in manifests for split in m.splits}))
        prints = [manifest.fingerprint for manifest in manifests]
        self.fingerprint = prints[0] if len(prints) == 1 else hashlib.sha256("+".join(prints).encode()).hexdigest()
        self._keep_decoded = keep_decoded
        self._decoded: dict[tuple[str, int, str], np.ndarray] = {}
        self._indexes: dict[str, SplitIndex] = {}
        self._entries: dict[str, list[Shard]] = {}  # of the indexes, in the order of their codes
        self._order: dict[str, np.ndarray] = {}

    def shards(self, split: str) -> list[tuple[Path, Shard]]:
        """(path, manifest entry) of every shard of a split."""
        if split not in self.splits:
            raise UserError(f"{self.name} has no split '{split}', only {', '.join(self.splits)}", kind="no_split")
        return [(f / s.file, s) for f, m in self._parts if split in m.splits for s in m.splits[split].shards]

    def index(self, split: str) -> SplitIndex:
        """The columns of a split, loaded once. Checks that local shards are there with the size the manifest gives."""
        if split not in self._indexes:
            shards = self.shards(split)
            for folder, remote in self._remotes.items():
                remote.bring_indexes([shard for path, shard in shards if path.parent == folder])
            for path, shard in shards:
                if path.parent in self._remotes:
                    continue
                if not path.exists():
                    raise UserError(f"{path} is missing, the manifest names it", kind="missing")
                if path.stat().st_size != shard.bytes:
                    raise ShardFault(
                        path.name, "", "bytes", f"{path.stat().st_size} bytes found, {shard.bytes} in the manifest"
                    )
            self._entries[split] = [shard for _, shard in shards]
            # Folders count their samples alike: with several, a key says which folder it is from.
            position = {folder: f"{i}_" for i, folder in enumerate(self.folders)} if len(self.folders) > 1 else {}
            self._indexes[split] = load_index(shards, split, [position.get(path.parent, "") for path, _ in shards])
        return self._indexes[split]

    def _bytes(self, split: str, row: int, column: int) -> tuple[bytes, str, str]:
        index = self.index(split)
        path = index.shard_files[index.shard[row]]
        key = index.key[row].decode()
        place = (int(index.offset[row, column]), int(index.size[row, column]), int(index.crc[row, column]))
        if place[1] == 0:
            raise UserError(f"{path.name}: {key} has no {MEMBERS[column]}", kind="no_ref")
        remote = self._remotes.get(path.parent)
        if remote is None:
            with path.open("rb", buffering=0) as file:
                return read_bytes(file, path.name, key, MEMBERS[column], place), path.name, key
        shard = self._entries[split][index.shard[row]]
        for again in (False, True):  # what is damaged in the cache is fetched again
            with remote.opened(shard, again) as file:
                try:
                    return read_bytes(file, path.name, key, MEMBERS[column], place), path.name, key
                except ShardFault:
                    if again:
                        raise
        raise AssertionError("unreachable")

    def read(self, split: str, row: int, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) of a member ("clean", "noise", "noisy", "ref") as float32 (stop - start,).

        The member is read whole and its CRC checked; only the crop is decoded. `ShardFault` names shard, key, field.
        """
        if self._keep_decoded:
            member = (split, row, field)
            if member not in self._decoded:
                self._decoded[member] = self._decode(split, row, field, 0, None)
            return self._decoded[member][start:stop].astype(np.float32) / np.float32(32768)
        return self._decode(split, row, field, start, stop, "float32")

    def _decode(
        self, split: str, row: int, field: str, start: int, stop: int | None, dtype: str = "int16"
    ) -> np.ndarray:
        data, shard, key = self._bytes(split, row, COLUMN[field])
        try:
            return audio.decode_flac(data, start, stop, dtype)
        except UserError as e:
            raise ShardFault(shard, key, e.kind, f"{key}.{field}.flac: {e}") from e

    def facts(self, split: str, row: int) -> SampleFacts:
        """The JSON member of a sample."""
        data, shard, key = self._bytes(split, row, COLUMN["json"])
        try:
            return parse_facts(data)
        except ValueError as e:
            raise ShardFault(shard, key, "json", f"{key}.json: {e}") from e

    def locate(self, key: str) -> tuple[str, int]:
        """(split, row) of a key; `UserError` where there is none."""
        name = key.encode()
        for split in self.splits:
            index = self.index(split)
            if split not in self._order:
                self._order[split] = np.argsort(index.key, kind="stable")
            order = self._order[split]
            at = int(np.searchsorted(index.key, name, sorter=order))
            if at < len(order) and index.key[order[at]] == name:
                return split, int(order[at])
        raise UserError(f"{self.name} has no sample '{key}'", kind="no_sample")

    def sample(self, key: str) -> Triplet:
        """A whole sample by its key."""
        split, row = self.locate(key)
        index = self.index(split)
        clean, noisy, noise = (self.read(split, row, field) for field in ("clean", "noisy", "noise"))
        ref = self.read(split, row, "ref") if index.ref_frames[row] else None
        facts = self.facts(split, row)
        return Triplet(
            key, clean, noisy, noise, ref, self.sample_rate, facts.env_id, facts.recording,
            facts.stretch, facts.speaker, facts.snr_db, split, facts.meta,
        )  # fmt: skip

    def stream(self, split: str, **config: Any) -> Stream:
        """Batches for training: see `nrdata.sampling.stream.StreamConfig` for the keywords."""
        from nrdata.sampling.config import StreamConfig
        from nrdata.sampling.stream import Stream

        return Stream(self, split, StreamConfig(**config))


def open(*folders: str | Path, keep_decoded: bool = False) -> DataSet:
    """Open one data set: folders written by `nr build-shards`, or some of their shards (paths, `{000..003}`), here or
    at an address: `https://host/x`, `s3://bucket/x` (see `nrdata.fetch.remote`).

    Several folders are one data set; their sample rates must be equal. Local names are literal. Raises `UserError`.
    `keep_decoded` as in `DataSet`.
    """
    if not folders:
        raise UserError("no data set is named", kind="no_shards")
    parts: dict[Path | str, set[str]] = {}
    for name in folders:
        for place in _expand(str(name)):
            if isinstance(place, str):
                folder, _, last = place.rstrip("/").rpartition("/")
                one = last.endswith(".tar")
                parts.setdefault(folder if one else place, set()).update({last} if one else ())
            else:
                one = place.name.endswith(".tar") and not place.is_dir()
                parts.setdefault(place.parent if one else place, set()).update({place.name} if one else ())
    opened: list[tuple[Path, Manifest]] = []
    remotes: list[Remote] = []
    for place, only in parts.items():
        if isinstance(place, str):
            remote, manifest = open_remote(place)
            remotes.append(remote)
            opened.append((remote.folder, _choose(remote.address, manifest, only)))
        else:
            opened.append((place, _choose(place, read_manifest(place), only)))
        log.info("data set %s: %s", place, ", ".join(opened[-1][1].splits))
    rates = {manifest.sample_rate: place for place, (_, manifest) in zip(parts, opened, strict=True)}
    if len(rates) > 1:
        found = ", ".join(f"{folder}: {rate} Hz" for rate, folder in rates.items())
        raise UserError(f"the data sets have different sample rates ({found})", kind="wrong_rate")
    warn_of_size(
        remotes, [manifest for place, (_, manifest) in zip(parts, opened, strict=True) if isinstance(place, str)]
    )
    for place in parts:
        if isinstance(place, Path) and (left := partials(place)):
            warnings.warn(f"{place}: unfinished files are not read: {', '.join(left[:5])}", stacklevel=2)
    return DataSet(opened, remotes)


def _expand(name: str) -> list[Path] | list[str]:
    """A literal path or an address; else the files that a numeric brace pattern names."""
    remote = is_address(name)
    path = Path(name) if remote else files.local_path(name)
    braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", name, re.DOTALL)
    if braces is None or path.exists():
        return [name] if remote else [path]
    head, first, last, tail = braces.groups()
    named = [f"{head}{i:0{len(first)}d}{tail}" for i in range(int(first), int(last) + 1)]
    return named if remote else [Path(one) for one in named]


def _choose(folder: Path | str, manifest: Manifest, only: set[str]) -> Manifest:
    """The part of a manifest that `only` (shard files; empty: all) names."""
    if not only:
        return manifest
    from dataclasses import replace

    from nrdata.store.manifest import fingerprint

    splits = {
        name: replace(split, shards=[shard for shard in split.shards if shard.file in only])
        for name, split in manifest.splits.items()
    }
    splits = {name: split for name, split in splits.items() if split.shards}
    missing = only - {shard.file for split in splits.values() for shard in split.shards}
    if missing:
        raise UserError(f"no shards match {folder}/{min(missing)}", kind="no_shards")
    digests = {name: [shard.sha256 for shard in split.shards] for name, split in splits.items()}
    return replace(manifest, splits=splits, fingerprint=fingerprint(digests))


def default_folder(base: str | Path = "shards") -> Path:
    """The only data set under `base`; `UserError` naming the choices where there is none or more than one."""
    base = Path(base)
    found = sorted(p for p in base.iterdir() if p.is_dir() and tars(p)) if base.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"there is no data set under {base}/; name a folder, or make one with nr build-shards", "no_shards"
        )
    raise UserError(f"name one of the data sets {', '.join(str(p) for p in found)}", kind="ambiguous")
