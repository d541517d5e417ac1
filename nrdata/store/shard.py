"""One shard: a plain WebDataset tar of triplets, written with an index beside it and strictly read.

A sample is `<key>.clean.flac`, `<key>.json`, `<key>.noise.flac`, `<key>.noisy.flac` and perhaps `<key>.ref.flac`,
adjacent and in this order. `<stem>.index.jsonl` has a row a sample: the JSON's fields and where each member's bytes
are, with their CRC-32. The index is made from the tar alone, also by the writer.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from nrdata import audio, files
from nrdata.errors import UserError
from nrdata.store.facts import (
    BAD_ROW,
    MEMBERS,
    REQUIRED,
    IndexRow,
    Place,
    SampleFacts,
    index_row,
    parse_facts,
    parse_row,
)
from nrdata.store.tar import MAX_MEMBER, Member, ShardFault, members
from nrdata.store.triplet import KEY, Mixture, check_mixture


class ShardWriter:
    """Write `X.tar`: under an unfinished name, fsynced, renamed, then `X.index.jsonl`; all or nothing.

    On any exception the partial is removed; an existing shard is refused. A shard to which nothing was written is not
    made. The same input gives the same bytes.
    """

    def __init__(self, path: Path, sample_rate: int, has_ref: bool):
        self.path, self.sample_rate, self.has_ref = Path(path), sample_rate, has_ref
        self.partial = files.unfinished(self.path)
        self.keys: set[str] = set()

    def __enter__(self) -> ShardWriter:
        from webdataset.writer import TarWriter  # imports torch: seconds

        if self.path.exists():
            raise UserError(f"{self.path} exists already; remove it or build into another folder", kind="exists")
        self._file = self.partial.open("x+b")
        self._tar = TarWriter(self._file, user="nr", group="nr", mtime=0, compress=False, encoder=False)
        return self

    def write(self, key: str, mixture: Mixture, fields: dict[str, Any]) -> None:
        """Append a sample. `fields`: env_id, split, speaker, recording, stretch, meta (its `gain` is added here).

        Raises `ValueError` where the contract is broken (key, invariants, types, nulls), `OSError` from the disk.
        """
        if not KEY.fullmatch(key) or key in self.keys:
            raise ValueError(f"key {key!r} is {'written twice' if key in self.keys else 'not [a-z0-9][a-z0-9_-]*'}")
        broken = check_mixture(mixture)
        if broken or (mixture.ref16 is not None) != self.has_ref:
            raise ValueError(f"{key}: {broken or 'a data set has a reserved clip in all samples or in none'}")
        ref_frames = 0 if mixture.ref16 is None else len(mixture.ref16)
        facts = SampleFacts(
            **{name: fields[name] for name in ("env_id", "split", "speaker", "recording")},
            stretch=tuple(int(t) for t in fields["stretch"]),  # type: ignore[arg-type]  # two: parse_facts sees to it
            snr_db=round(mixture.snr_db, 4) + 0.0,  # no "-0.0"
            sample_rate=self.sample_rate,
            frames=len(mixture.clean16),
            ref_frames=ref_frames,
            noise_dbfs=round(audio.rms_dbfs(mixture.noise16), 4),
            meta={**dict(sorted(fields["meta"].items())), "gain": round(mixture.gain, 9)},
        )
        parse_facts(facts.json())  # what the reader would refuse is not written
        sample = {
            "clean.flac": audio.encode_flac(mixture.clean16, self.sample_rate),
            "json": facts.json(),
            "noise.flac": audio.encode_flac(mixture.noise16, self.sample_rate),
            "noisy.flac": audio.encode_flac(mixture.noisy16, self.sample_rate),
        }
        if mixture.ref16 is not None:
            sample["ref.flac"] = audio.encode_flac(mixture.ref16, self.sample_rate)
        with self._named():
            self._tar.write({"__key__": key, **sample})
        self.keys.add(key)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:  # a full disk: say where
            raise OSError(e.errno, e.strerror or str(e), str(self.path)) from e

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._named():
                try:
                    self._tar.close()  # writes the end of the archive
                except OSError:
                    if error is None:
                        raise
                if error is None and self.keys:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    rows = build_index(self.partial)
                    files.rename(self.partial, self.path)
                    write_index(self.path, rows)
        finally:
            with contextlib.suppress(OSError):  # it flushes once more: the error above is the one to tell
                self._file.close()
            self.partial.unlink(missing_ok=True)


def index_path(tar: Path) -> Path:
    """`X.index.jsonl` beside `X.tar`."""
    return tar.with_name(f"{tar.name.removesuffix('.tar')}.index.jsonl")


def write_index(tar: Path, rows: list[IndexRow]) -> None:
    files.write_text(index_path(tar), index_text(rows))


def index_text(rows: list[IndexRow]) -> str:
    return "".join(f"{row.line()}\n" for row in rows)


def build_index(tar: Path) -> list[IndexRow]:
    """The index of a shard from its tar alone; raises the first `ShardFault`."""
    rows, faults = scan(tar)
    if faults:
        raise faults[0]
    return rows


def scan(tar: Path, max_member: int = MAX_MEMBER) -> tuple[list[IndexRow], list[ShardFault]]:
    """Read a whole shard: the rows of its sound samples, and everything wrong with its structure.

    A damaged header ends the walk (what follows cannot be trusted); a sample with missing, foreign or doubled members
    is a fault and no row. Sound is not decoded here.
    """
    rows: list[IndexRow] = []
    faults: list[ShardFault] = []
    seen: set[str] = set()
    try:
        with tar.open("rb") as file:
            for key, group in _samples(members(file, tar.name, max_member), tar.name):
                try:
                    rows.append(_sample_row(file, tar.name, key, group, seen))
                except ShardFault as e:
                    faults.append(e)
                seen.add(key)
    except ShardFault as e:
        faults.append(e)
    if not rows and not faults:
        faults.append(ShardFault(tar.name, "", "empty", "there is no sample in it"))
    return rows, faults


def _samples(walk: Iterator[Member], shard: str) -> Iterator[tuple[str, list[Member]]]:
    """Adjacent members with one key."""
    key = ""
    group: list[Member] = []
    try:
        for member in walk:
            name = member.name.partition(".")[0]
            if group and name != key:
                yield key, group
                group = []
            key = name
            group.append(member)
    except ShardFault as e:  # the sample that was being read is named, and is none
        raise ShardFault(e.shard, key, e.kind, e.detail, e.at) from None
    if group:
        yield key, group


def _sample_row(file: IO[bytes], shard: str, key: str, group: list[Member], seen: set[str]) -> IndexRow:
    def fault(kind: str, detail: str) -> ShardFault:
        return ShardFault(shard, key, kind, detail)

    names = [member.name.partition(".")[2] for member in group]
    foreign = [m.name for m, name in zip(group, names, strict=True) if name not in MEMBERS]
    if not KEY.fullmatch(key):
        raise fault("key", f"key {key!r} of {group[0].name} is not [a-z0-9][a-z0-9_-]*, at most 128 long")
    if foreign:
        raise fault("member", f"unexpected member {foreign[0]}")
    if key in seen:
        raise fault("not_adjacent", "its members are not adjacent, or the key occurs twice")
    doubled = [name for i, name in enumerate(names) if name in names[:i]]
    if doubled:
        raise fault("duplicate", f"member {key}.{doubled[0]} occurs twice")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise fault("missing", f"members missing: {', '.join(f'{key}.{name}' for name in missing)}")
    if names != [name for name in MEMBERS if name in names]:
        raise fault("order", f"members in the order {', '.join(names)}")
    places, data = {}, b""
    for name, member in zip(names, group, strict=True):
        content = os.pread(file.fileno(), member.size, member.offset)
        places[name] = (member.offset, member.size, zlib.crc32(content))
        data = content if name == "json" else data
    try:
        row = index_row(key, parse_facts(data), places)
    except ValueError as e:
        raise fault("json", f"{key}.json: {e}") from None
    if (row.ref_frames > 0) != ("ref.flac" in places):
        raise fault("json", f"{key}.json says {row.ref_frames} frames of reserved clip, the member is another story")
    return row


def iter_index(path: Path) -> Iterator[IndexRow]:
    """The rows of an index file, one at a time; `ShardFault` naming file and line where it cannot be read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse_row(line)
            except BAD_ROW as e:
                raise ShardFault(path.name, "", "index", f"line {number} cannot be read ({e}); run nr index") from e


def read_index(path: Path) -> list[IndexRow]:
    """The rows of an index file; `ShardFault` as `iter_index`."""
    return list(iter_index(path))


def read_bytes(file: IO[bytes], shard: str, key: str, member: str, place: Place) -> bytes:
    """A member's bytes from an open shard, their CRC-32 checked; raises `ShardFault`."""
    offset, size, crc = place
    data = os.pread(file.fileno(), size, offset)  # no shared file position: forked readers do not disturb each other
    if len(data) != size:
        raise ShardFault(shard, key, "truncated", f"{key}.{member} ends after {len(data)} of {size} bytes")
    if zlib.crc32(data) != crc:
        raise ShardFault(shard, key, "crc", f"{key}.{member} differs from the checksum in the index")
    return data
