"""`nr verify-shards`: every byte of a data set against what index, manifest and the sound itself say.

Faults are collected, not raised: one line each, naming shard file, key and kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from nrdata import audio, files
from nrdata.audio.pairing import pairing
from nrdata.errors import UserError
from nrdata.fetch.remote import is_address, open_remote
from nrdata.progress import Progress
from nrdata.store.facts import MEMBERS, IndexRow, load_json
from nrdata.store.gather import ShardContent, summarise
from nrdata.store.manifest import NAME, Manifest, Shard, partials, read_manifest, tars
from nrdata.store.shard import index_path, index_text, read_bytes, read_index, scan
from nrdata.store.tar import MAX_MEMBER, ShardFault
from nrdata.store.triplet import Mixture, check_mixture, energy_snr_db

TOLERANCE_DB = 0.05
LOST_SHOWN = 10  # samples behind the damage of a shard that are told one by one


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: in which file, at which sample ("" where it is none's), of which kind."""

    shard: str
    key: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.shard}{f': {self.key}' if self.key else ''}: {self.kind}: {self.detail}"


@dataclass
class Report:
    """What was checked, and every fault."""

    folder: str
    shards: int = 0
    samples: int = 0
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # no faults, but worth a line


def verify(folder: Path | str, max_member: int = MAX_MEMBER) -> Report:
    """Check every shard of a data set, whole. `UserError` only where there is nothing to check.

    Bytes, SHA-256 and count against the manifest; the tar's structure; index rows against the tar; every member
    decoded whole, its CRC, length, rate and FLAC's own MD5; noisy == clean + noise; SNR and level as stored; a
    reserved clip in all samples or in none; keys unique, compared case-folded; a field of one type in all samples.
    """
    if is_address(folder):
        return _verify_remote(str(folder), max_member)
    folder = files.local_path(folder)
    if not folder.is_dir():
        raise UserError(_no_folder(folder), kind="missing")
    report = Report(str(folder))
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
    except UserError as e:
        if e.kind in ("missing", "no_shards", "scheme"):
            raise
        report.faults.append(Fault(NAME, "", e.kind, str(e)))
    if left := partials(folder):
        report.notes.append(f"unfinished files, not read: {', '.join(left)}")
    listed = {s.file: (name, s) for name, split in manifest.splits.items() for s in split.shards} if manifest else {}
    there = {path.name for path in tars(folder)}
    for file in sorted(set(listed) - there):
        report.faults.append(Fault(file, "", "missing", f"{NAME} names it, the file is not there"))
    if manifest:
        for file in sorted(there - set(listed)):
            report.faults.append(Fault(file, "", "unlisted", f"{NAME} does not name it"))
    tars_here = [contextlib.nullcontext(folder / name) for name in sorted(there)]
    size = sum((folder / name).stat().st_size for name in there)
    _check_parts(_parts(tars_here, size, listed, report, max_member), folder, manifest, report)
    if manifest:
        report.faults += _plan(folder, manifest)
    return report


def _no_folder(path: Path) -> str:
    """What is there instead of a folder of shards."""
    if not path.exists():
        return f"{path}: there is no such folder of shards"
    what = "one shard" if path.suffix == ".tar" else "a file"
    return f"{path} is {what}, not a folder of shards: check the folder, nr verify-shards {path.parent}"


def _verify_remote(address: str, max_member: int) -> Report:
    """The same for a data set elsewhere, one shard here at a time; one that does not come as promised is a fault."""
    remote, manifest = open_remote(address)
    report = Report(remote.address)
    listed = {s.file: (name, s) for name, split in manifest.splits.items() for s in split.shards}

    @contextlib.contextmanager
    def brought(shard: Shard) -> Iterator[Path | None]:
        with contextlib.ExitStack() as stack:
            tar: Path | None = None
            try:
                remote.bring_indexes([shard])
                tar = stack.enter_context(remote.beside(shard))
            except UserError as e:
                report.faults.append(Fault(shard.file, "", e.kind, str(e)))
            yield tar

    tars_there = [brought(shard) for _, (_, shard) in sorted(listed.items())]
    size = sum(shard.bytes for _, shard in listed.values())
    _check_parts(_parts(tars_there, size, listed, report, max_member), remote.folder, manifest, report)
    return report


def _check_parts(parts: Iterator[ShardContent], folder: Path, manifest: Manifest | None, report: Report) -> None:
    """Check all shards, and the manifest against what they hold."""
    try:
        found = summarise(parts, folder, "", {})
    except UserError as e:
        if e.kind != "no_shards":  # that no shard has a whole sample has been told
            report.faults.append(Fault(NAME, "", e.kind, str(e)))
    else:
        if manifest and not report.faults:
            report.faults += _compare(manifest, found)


def _parts(
    shards: Sequence[contextlib.AbstractContextManager[Path | None]],
    size: int,
    listed: dict[str, tuple[str, Shard]],
    report: Report,
    max_member: int,
) -> Iterator[ShardContent]:
    """Check the shards one by one (`size` bytes in all; None: could not be had) and pass on what was found for the
    manifest."""
    keys: dict[str, str] = {}  # case-folded -> shard
    types: dict[str, str] = {}  # field of the JSON -> type
    with Progress(size >> 20, "MiB verified") as progress:
        for shard in shards:
            with shard as tar:
                if tar is None:
                    continue
                name = tar.name
                split, entry = listed.get(name, ("", None))
                faults, rows, digest = check_shard(tar, entry, max_member)
                for row in rows:
                    if split and row.split != split:
                        faults.append(
                            Fault(name, row.key, "split", f"split {row.split}, {NAME} puts the shard in {split}")
                        )
                    other = keys.setdefault(row.key.casefold(), name)
                    if other != name:
                        faults.append(Fault(name, row.key, "duplicate", f"the key occurs in {other} too"))
                damaged = {fault.key for fault in faults}  # one line a fault: not again what its checksum has told
                faults += check_sound(tar, [row for row in rows if row.key not in damaged], types)
                report.faults += faults
                report.shards += 1
                report.samples += len(rows)
                report.seconds += sum(row.frames / row.sample_rate for row in rows)
                progress.advance(tar.stat().st_size >> 20)
                if rows:
                    yield ShardContent(name, digest, tar.stat().st_size, rows)


def check_shard(
    tar: Path, entry: Shard | None, max_member: int = MAX_MEMBER
) -> tuple[list[Fault], list[IndexRow], str]:
    """Bytes, structure and index of one shard: (faults, the rows that the tar holds, its SHA-256)."""
    faults: list[Fault] = []

    def add(kind: str, detail: str, key: str = "") -> None:
        faults.append(Fault(tar.name, key, kind, detail))

    digest, size = files.sha256(tar), tar.stat().st_size
    rows, structure = scan(tar, max_member)
    index: list[IndexRow] | None = None
    try:
        index = read_index(index_path(tar)) if index_path(tar).exists() else None
    except ShardFault as e:
        faults.append(Fault(e.shard, e.key, e.kind, e.detail))
    else:
        if index is None:
            add("no_index", f"{index_path(tar).name} is missing; run nr index")
    for fault in structure:
        add(fault.kind, fault.detail, _key_at(index or [], fault.at) or fault.key)
    if entry is not None:
        if size != entry.bytes:
            add("bytes", f"{size} bytes, {entry.bytes} in {NAME}")
        if len(rows) != entry.samples:
            add("count", f"{len(rows)} whole samples, {entry.samples} in {NAME}")
    if index is not None:
        faults += _compare_index(tar, rows, index)
    if entry is not None and digest != entry.sha256 and not faults:
        add("sha256", f"the digest differs from {NAME}'s, though every member is as the index says")
    return faults, rows, digest


def _key_at(index: list[IndexRow], at: int) -> str:
    """The sample to which byte `at` of a tar belongs, as its index has it: the first that ends behind it."""
    ends = ((max(offset + size for offset, size, _ in row.members.values()), row.key) for row in index)
    return next((key for end, key in ends if end > at), "") if at >= 0 else ""


def _compare_index(tar: Path, rows: list[IndexRow], index: list[IndexRow]) -> list[Fault]:
    """Where the tar's rows and those of the index file differ."""
    faults = []
    known = {row.key: row for row in index}
    with tar.open("rb") as file:
        for row in rows:
            told = known.get(row.key)
            if told is None:
                faults.append(Fault(tar.name, row.key, "index", "the sample is not in the index"))
                continue
            damaged = [m for m in row.members if m in told.members and row.members[m][2] != told.members[m][2]]
            for member in damaged:
                faults.append(
                    Fault(tar.name, row.key, "crc", f"{row.key}.{member} differs from the checksum in the index")
                )
            if told != row and not damaged:
                name = next(n for n in row._fields if getattr(told, n) != getattr(row, n))
                faults.append(Fault(tar.name, row.key, "index", f"{name} is not the same in tar and index"))
        read = {row.key for row in rows}
        lost = []  # of what the walk over the tar did not reach, one line a sample
        for told in (row for row in index if row.key not in read):
            try:
                for member, place in told.members.items():
                    read_bytes(file, tar.name, told.key, member, place)
            except ShardFault as e:
                lost.append(Fault(tar.name, told.key, e.kind, e.detail))
        faults += lost[:LOST_SHOWN]
        if len(lost) > LOST_SHOWN:
            faults.append(
                Fault(tar.name, lost[LOST_SHOWN].key, "lost", f"{len(lost) - LOST_SHOWN} samples from here on")
            )
    if not faults and index_path(tar).read_bytes() != index_text(rows).encode():
        faults.append(Fault(index_path(tar).name, "", "index", "its bytes are not what nr index writes for this tar"))
    return faults


def check_sound(tar: Path, rows: list[IndexRow], types: dict[str, str]) -> list[Fault]:
    """Decode every member of a shard whole and check the triplets; `types` collects the JSON's types over shards."""
    faults: list[Fault] = []
    with tar.open("rb") as file:
        for row in rows:
            try:
                faults += [Fault(tar.name, row.key, *fault) for fault in _check_sample(file, row, types)]
            except UserError as e:
                faults.append(Fault(tar.name, row.key, "decode", str(e)))
    return faults


def _check_sample(file: IO[bytes], row: IndexRow, types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(kind, detail) of everything wrong with one sample's content."""
    content: dict[str, bytes] = {}
    for member, (offset, size, _) in row.members.items():
        content[member] = os.pread(file.fileno(), size, offset)
    sound: dict[str, np.ndarray] = {}
    for member in (m for m in MEMBERS if m.endswith(".flac") and m in content):
        try:
            x = audio.decode_flac(content[member])
            rate = audio.flac_frames(content[member])[1]
        except UserError as e:
            yield "decode", f"{row.key}.{member}: {e}"
            continue
        sound[member] = x
        if rate != row.sample_rate:
            yield "wrong_rate", f"{row.key}.{member} is at {rate} Hz, {row.sample_rate} Hz expected"
        if hashlib.md5(x.astype("<i2").tobytes(), usedforsecurity=False).digest() != flac_md5(content[member]):
            yield "decode", f"{row.key}.{member} differs from the MD5 that FLAC keeps of its samples"
    for name, kind in json_types(load_json(content["json"])):
        first = types.setdefault(name, kind)
        if kind != first:
            yield "type", f"{name} is of type {kind}, in the samples before it was {first}"
    if len(sound) < len(content) - 1:
        return
    clean, noise, noisy = (sound[f"{name}.flac"] for name in ("clean", "noise", "noisy"))
    ref = sound.get("ref.flac")
    broken = check_mixture(Mixture(clean, noise, noisy, ref, 1.0, 0.0))
    if broken:
        yield "identity" if "noisy is not" in broken else "sound", broken
        return
    if (found := pairing(clean, noisy, row.sample_rate)).fault:
        yield "pairing", str(found)
    ref_frames = 0 if ref is None else len(ref)
    if len(clean) != row.frames or ref_frames != row.ref_frames:
        told = f"{row.frames} and {row.ref_frames}"
        yield "length", f"{len(clean)} frames and {ref_frames} of reserved clip are stored, {told} in the JSON"
    for name, value, told_db in (
        ("snr_db", energy_snr_db(clean, noise), row.snr_db),
        ("noise_dbfs", audio.rms_dbfs(noise), row.noise_dbfs),
    ):
        if not abs(value - told_db) <= TOLERANCE_DB:
            yield name, f"{told_db:.2f} dB in the JSON, {value:.2f} dB measured"


def flac_md5(data: bytes) -> bytes:
    """The MD5 of the samples in STREAMINFO, the first metadata block (it starts at byte 4, the MD5 at its byte 22)."""
    return data[26:42]


def json_types(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(field, type) of everything in a JSON value: `meta.gain`, `float`."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from json_types(value, f"{where}.{name}" if where else name)
    elif isinstance(data, list):
        for value in data:
            yield from json_types(value, f"{where}[]")
    else:
        yield where, type(data).__name__


def _compare(manifest: Manifest, found: Manifest) -> list[Fault]:
    """What the manifest says against what the shards hold (only worth asking where they are whole)."""
    told, measured = asdict(manifest), asdict(found)
    faults = []
    for name in ("sample_rate", "has_ref", "fingerprint"):
        if told[name] != measured[name]:
            faults.append(Fault(NAME, "", "manifest", f"{name} is {told[name]}, the shards make it {measured[name]}"))
    for split in sorted(set(told["splits"]) | set(measured["splits"])):
        a, b = told["splits"].get(split, {}), measured["splits"].get(split, {})
        faults += [
            Fault(NAME, "", "manifest", f"{name} of split {split} are not what the shards hold")
            for name in ("shards", "environments", "speakers")
            if a.get(name) != b.get(name)
        ]
    return faults


def _plan(folder: Path, manifest: Manifest) -> list[Fault]:
    """A plan that lies beside the shards is the one the manifest names."""
    plan = folder / "plan.jsonl"
    if manifest.plan_sha256 and plan.exists() and files.sha256(plan) != manifest.plan_sha256:
        return [Fault(plan.name, "", "plan", f"its digest is not the plan_sha256 of {NAME}")]
    return []
