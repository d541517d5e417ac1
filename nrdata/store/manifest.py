"""`manifest.json`: the data set as a whole. It grows with shards, never with samples, and is written last.

The fingerprint hashes the shards' digests and splits, not names, roots or versions: a copied or renamed data set
streams the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nrdata import files
from nrdata.errors import UserError
from nrdata.store.card import write_card
from nrdata.store.shard import IndexRow, index_path, iter_index, load_json

SCHEMA = 1
NAME = "manifest.json"
Part = tuple[str, str, int, Iterable[IndexRow]]  # a shard: file name, SHA-256, bytes, rows
PACKAGES = ("numpy", "soundfile", "soxr", "webdataset", "audiomentations", "pyroomacoustics")


@dataclass(frozen=True)
class Shard:
    """A shard's file name (in the data set's folder) and what it must hold."""

    file: str
    sha256: str
    bytes: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Environment:
    samples: int
    seconds: float
    recordings: int


@dataclass(frozen=True)
class Split:
    shards: list[Shard]
    environments: dict[str, Environment]
    speakers: int

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def seconds(self) -> float:
        return sum(shard.seconds for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    name: str
    sample_rate: int
    has_ref: bool
    splits: dict[str, Split]
    licenses: dict[str, str] = field(default_factory=dict)
    plan_sha256: str = ""
    fingerprint: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def fingerprint(splits: dict[str, list[str]]) -> str:
    """Of {split: digests of its shards in order}; hexadecimal."""
    text = json.dumps(sorted(splits.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of the packages whose numbers a shard's bytes depend on."""
    import soundfile

    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return {**found, "libsndfile": soundfile.__libsndfile_version__}


def tars(folder: Path) -> list[Path]:
    """The shards in a folder by name; `*.partial` is never one."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(".tar") and not path.name.startswith("._"))


def partials(folder: Path) -> list[str]:
    """Names of unfinished files that a killed build has left."""
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


def gather(
    folder: Path, name: str | None = None, licenses: dict[str, str] | None = None, plan_sha256: str = ""
) -> Manifest:
    """The manifest of a folder from its shards and their indexes. Raises `UserError` as `summarise`, and `no_index`."""

    def parts() -> Iterator[Part]:
        for tar in tars(folder):
            if not index_path(tar).exists():
                raise UserError(f"{tar} has no index; run nr index {folder}", kind="no_index")
            yield tar.name, files.sha256(tar), tar.stat().st_size, iter_index(index_path(tar))

    return summarise(parts(), folder, name or folder.resolve().name, licenses or {}, plan_sha256)


def summarise(
    parts: Iterable[Part], folder: Path, name: str, licenses: dict[str, str], plan_sha256: str = ""
) -> Manifest:
    """The manifest that (file, SHA-256, bytes, rows) of every shard make.

    Raises `UserError` where there is none (no_shards), a shard holds two splits (split), rates differ or some samples
    have a reserved clip and others none (mixed).
    """
    shards: dict[str, list[Shard]] = defaultdict(list)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    frames: dict[tuple[str, str], int] = defaultdict(int)
    recordings: dict[tuple[str, str], set[str]] = defaultdict(set)
    speakers: dict[str, set[str]] = defaultdict(set)
    kinds: dict[tuple[int, bool], str] = {}  # (rate, has a clip) -> the first shard of this kind
    for file, digest, size, rows in parts:
        samples, shard_frames, split, rate = 0, 0, "", 1
        for row in rows:
            kinds.setdefault((row.sample_rate, row.ref_frames > 0), file)
            if split and row.split != split:
                raise UserError(f"{file} holds the splits {split} and {row.split}; a shard belongs to one", "split")
            split, rate = row.split, row.sample_rate
            samples, shard_frames = samples + 1, shard_frames + row.frames
            counts[split, row.env_id] += 1
            frames[split, row.env_id] += row.frames
            recordings[split, row.env_id].add(row.recording)
            speakers[split].add(row.speaker)
        shards[split].append(Shard(file, digest, size, samples, round(shard_frames / rate, 3)))
    if not shards:
        raise UserError(f"no shards match {folder}/*.tar", kind="no_shards")
    if len(kinds) > 1:
        found = "; ".join(f"{file} {rate} Hz {'with' if ref else 'without'} ref" for (rate, ref), file in kinds.items())
        raise UserError(f"{folder} is not one data set: {found}", kind="mixed")
    (rate, has_ref), *_ = kinds or {(0, False): ""}
    splits = {}
    for split in sorted(shards):
        cells = sorted(cell for cell in counts if cell[0] == split)
        environments = {
            cell[1]: Environment(counts[cell], round(frames[cell] / rate, 3), len(recordings[cell])) for cell in cells
        }
        splits[split] = Split(shards[split], environments, len(speakers[split]))
    digests = {split: [shard.sha256 for shard in part.shards] for split, part in splits.items()}
    return Manifest(name, rate, has_ref, splits, licenses, plan_sha256, fingerprint(digests), versions())


def write_manifest(
    folder: Path | str, name: str | None = None, licenses: dict[str, str] | None = None, plan_sha256: str = ""
) -> Manifest:
    """Gather the manifest of a folder of shards, write the data card, and the manifest last of all; returns it.

    Errors as `gather`.
    """
    folder = Path(folder)
    manifest = gather(folder, name, licenses, plan_sha256)
    write_card(folder, manifest)
    files.write_json(folder / NAME, asdict(manifest))
    return manifest


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a data set's folder; `UserError` (missing, no_manifest, manifest, scheme)."""
    folder = files.local_path(folder)
    path = folder / NAME
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of shards", kind="missing")
    if not path.exists():
        left = partials(folder)
        if left or tars(folder):
            what = f"unfinished files {', '.join(left[:5])}" if left else "shards"
            raise UserError(
                f"{folder} has {what} but no {NAME}: run the same nr build-shards command again, or nr index {folder}",
                kind="no_manifest",
            )
        raise UserError(f"no shards match {folder}/*.tar", kind="no_shards")
    return parse_manifest(path.read_bytes(), path)


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """The manifest that `data` holds; `path` is what errors name. `UserError` (manifest, scheme)."""
    try:
        manifest = _parse(load_json(data))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{path} cannot be read ({e}); remove it and run nr index there", kind="manifest") from e
    for split in manifest.splits.values():
        for shard in split.shards:
            _check_name(shard.file, path)
    return manifest


def _check_name(name: str, path: Path | str) -> None:
    scheme = files.SCHEME.match(name)
    if scheme:
        raise UserError(f"{path}: scheme '{scheme[1]}' is not allowed in a shard's name", kind="scheme")
    if not re.fullmatch(r"[^/\\\0]+\.tar", name):
        raise UserError(f"{path}: {name!r} is not the name of a shard in this folder", kind="manifest")


def _parse(data: Any) -> Manifest:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']} found, {SCHEMA} expected")
    splits = {
        name: Split(
            [_checked(Shard(**shard)) for shard in split["shards"]],
            {env: _checked(Environment(**facts)) for env, facts in split["environments"].items()},
            split["speakers"],
        )
        for name, split in data["splits"].items()
    }
    manifest = _checked(Manifest(**{**data, "splits": splits}))
    if not splits or not all(split.shards for split in splits.values()) or manifest.sample_rate <= 0:
        raise ValueError("it names no shards, or no sample rate")
    if "/" in manifest.name:  # results are named after it
        raise ValueError(f"{manifest.name!r} is no name")
    return manifest


def _checked(record: Any) -> Any:
    """A dataclass whose plain fields are of the type they are declared with, numbers not negative."""
    types: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    for f in fields(record):
        value = getattr(record, f.name)
        if f.type in types and (not isinstance(value, types[f.type]) or (f.type == "int" and value < 0)):
            raise ValueError(f"{f.name} is {value!r}")
    return record
