"""`manifest.json`: the data set as a whole. It grows with shards, never with samples, and is written last.

The fingerprint hashes the shards' digests and splits, not names, roots or versions: a copied or renamed data set
streams the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from nrdata import files
from nrdata.errors import UserError
from nrdata.store.facts import load_json

SCHEMA = 1
NAME = "manifest.json"


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


Record = TypeVar("Record", Shard, Environment, Manifest)


def fingerprint(splits: dict[str, list[str]]) -> str:
    """Of {split: digests of its shards in order}; hexadecimal."""
    text = json.dumps(sorted(splits.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def tars(folder: Path) -> list[Path]:
    """The shards in a folder by name; `*.partial` is never one."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(".tar") and not path.name.startswith("._"))


def partials(folder: Path) -> list[str]:
    """Names of unfinished files that a killed build has left."""
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


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


def _checked(record: Record) -> Record:
    """A dataclass whose plain fields are of the type they are declared with, numbers not negative."""
    types: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    for f in fields(record):
        value = getattr(record, f.name)
        if f.type in types and (not isinstance(value, types[f.type]) or (f.type == "int" and value < 0)):
            raise ValueError(f"{f.name} is {value!r}")
    return record
