"""Bringing the archives of a source: from a folder or from its publisher; checked, unpacked, pinned.

An archive gets its name only when size and checksum agree. Where nobody published a checksum, it must be whole as an
archive, and the digest of the first one is pinned in `downloads.json`: a later one must be the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from nrdata import files, locks, manifests
from nrdata.builders.corpora import layouts
from nrdata.builders.plan import Refused
from nrdata.errors import UserError
from nrdata.fetch import archive, transfer

NAME = "downloads.json"


@dataclass(frozen=True)
class Archive:
    """One file to bring. `bytes` and `checksum` ("sha256:...", "md5:...") are None where nobody could read them."""

    url: str
    name: str
    bytes: int | None = None
    checksum: str | None = None

    @property
    def stem(self) -> str:
        """`dev-clean` of `dev-clean.tar.gz`: the folder it is unpacked in."""
        return re.sub(r"(\.tar)?\.[a-z0-9]+$", "", self.name)


def archives(source: str, parts: Sequence[str] = ()) -> list[Archive]:
    """The archives of a source, all or those whose names or stems are `parts`. Raises `UserError` for unknown names."""
    if source not in manifests.sources():
        names = ", ".join(manifests.sources())
        raise UserError(f"there is no source '{source}' to download: choose one of {names}", kind="bad_option")
    every = [
        Archive(
            a["url"], a.get("name") or PurePosixPath(urlsplit(a["url"]).path).name, a.get("bytes"), a.get("checksum")
        )
        for a in manifests.load(source)["archives"]
    ]
    unknown = set(parts) - {a.stem for a in every} - {a.name for a in every}
    if unknown:
        known = ", ".join(a.stem for a in every)
        raise UserError(f"{source} has no part {', '.join(sorted(unknown))}: choose of {known}", kind="bad_option")
    return [a for a in every if not parts or a.stem in parts or a.name in parts]


def bring(
    source: str,
    parts: Sequence[str] = (),
    out: Path | None = None,
    source_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Bring a source to `out` (default `data/<source>`); returns the options of `nr build-shards` that read it."""
    wanted = archives(source, parts)
    facts = manifests.load(source)
    known = sum(a.bytes or 0 for a in wanted)
    size = f"{known / 1e9:.1f} GB" if known else "size not known"
    more = " and more" if known and any(a.bytes is None for a in wanted) else ""
    say(f"{facts['title']}: {len(wanted)} archives, {size}{more}; licence {facts['license']}; {facts['page']}")
    root = out or Path("data") / source
    if source_dir is not None and (there := _laid_out(source, wanted, source_dir)):
        say(f"{source_dir} holds {there} of {source} as published: nothing is fetched or copied")
        root = source_dir
    else:
        download(wanted, root, source_dir, unpack=facts["side"] != "both", say=say)
    if facts["side"] == "both":
        return f"--source {source} --root {root}"
    return f"--source folders --{facts['side']} {source}:{root}"


def _laid_out(source: str, wanted: Sequence[Archive], folder: Path) -> str:
    """What an already unpacked corpus in `folder` comes to; "" where its archives lie there, or nothing of it."""
    if not folder.is_dir() or any((folder / a.name).is_file() for a in wanted):
        return ""
    side = manifests.load(source)["side"]
    if side == "both":
        return f"{len(wanted)} folders" if all((folder / a.stem).is_dir() for a in wanted) else ""
    try:
        items = layouts.items(source, side, folder) or []
    except UserError:  # nothing there: the archives have to be fetched
        return ""
    return f"{sum(not isinstance(e, Refused) for e in items)} files"


def download(
    wanted: Sequence[Archive],
    out: Path,
    source_dir: Path | None = None,
    unpack: bool = True,
    say: Callable[[str], None] = print,
    patience: transfer.Patience = transfer.Patience(),
) -> None:
    """Bring archives to `out`, each unpacked as `out/<stem>`; those that lie in `out` or `source_dir` are not fetched.

    Raises `UserError` for what is wrong with one; what has arrived stays, and the same call goes on from there.
    """
    if source_dir is not None and not source_dir.is_dir():
        raise UserError(f"{source_dir} is not a folder: --source-dir names where archives lie already", kind="missing")
    out.mkdir(parents=True, exist_ok=True)
    with locks.held(out / ".download.lock", f"another nr download is at work in {out}"):
        files.remove_leftovers(out, alone=True)
        records = _records(out)
        for wish in wanted:
            record = records.get(wish.name, {})
            folder = out / wish.stem
            if unpack and record.get("unpacked") and folder.is_dir():
                say(f"{wish.name}: already unpacked in {folder}")
                continue
            path = _lying(wish, out, source_dir)
            if path is None:
                say(f"{wish.name}: {wish.url}")
                path = transfer.fetch(wish.url, out / wish.name, wish.bytes, wish.checksum is not None, patience)
            try:
                sha256 = check(path, wish, record.get("sha256"))
            except UserError:
                if path == transfer.part(out / wish.name):
                    transfer.forget(path)
                raise
            path = _placed(path, wish, out, unpack)
            say(f"{wish.name}: {_verdict(wish, sha256, record)}")
            records[wish.name] = {"url": wish.url, "bytes": path.stat().st_size, "sha256": sha256}
            _write(out, records)
            if unpack:
                _check_free(folder)
                records[wish.name]["unpacked"] = True  # said first: killed in between, the folder is ours or not there
                _write(out, records)
                count = archive.unpack(path, folder)
                say(f"{wish.name}: {count} files unpacked in {folder}")


def check(path: Path, wish: Archive, pinned: str | None = None) -> str:
    """SHA-256 of an archive that is what was wished for. Raises `UserError` with the kinds `wrong_size`, `not_archive`,
    `checksum`, `archive`."""
    size = path.stat().st_size
    if wish.bytes is not None and size != wish.bytes:
        raise UserError(f"{path} has {size} bytes, {wish.bytes} were published", kind="wrong_size")
    if not archive.is_archive(path):
        raise UserError(f"{path} is no archive: a web page that asks for a login, perhaps ({wish.url})", "not_archive")
    sha256 = files.sha256(path)
    if wish.checksum is not None:
        kind, _, expected = wish.checksum.partition(":")
        found = sha256 if kind == "sha256" else _digest(path, kind)
        if found != expected:
            raise UserError(f"{path} has the {kind} {found}, {expected} was published: other bytes", kind="checksum")
    elif pinned is not None and sha256 != pinned:
        raise UserError(
            f"{path} has the sha256 {sha256}, but {pinned} was pinned in {NAME} at the first download: "
            "if the publisher has a new version, remove that entry",
            kind="checksum",
        )
    elif pinned is None:
        archive.check(path)
    return sha256


def _verdict(wish: Archive, sha256: str, record: dict[str, Any]) -> str:
    if wish.checksum is not None:
        return f"the published checksum agrees ({wish.checksum})"
    if record.get("sha256"):
        return f"as pinned (sha256:{sha256})"
    return f"no checksum was published (null); pinned now in {NAME}: sha256:{sha256}"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _lying(wish: Archive, out: Path, source_dir: Path | None) -> Path | None:
    places = [out / wish.name] + ([source_dir / wish.name] if source_dir is not None else [])
    return next((p for p in places if p.is_file()), None)


def _placed(path: Path, wish: Archive, out: Path, unpack: bool) -> Path:
    """The checked archive under its name in `out`; one of another folder stays there where it is only unpacked."""
    final = out / wish.name
    if path == transfer.part(final):
        files.rename(path, final)
        transfer.forget(path)
    elif path != final and not unpack:
        with path.open("rb") as source, files.replacing(final) as copy:
            shutil.copyfileobj(source, copy, archive.COPY_BYTES)
    elif path != final:
        return path
    return final


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder} is there, but not by a finished download: move it away", kind="other_files")


def _records(out: Path) -> dict[str, dict[str, Any]]:
    path = out / NAME
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): dict(record) for name, record in records.items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{path} is not what nr download wrote: remove it", kind="bad_record") from None


def _write(out: Path, records: dict[str, dict[str, Any]]) -> None:
    files.write_json(out / NAME, records, sort_keys=True)


def sources() -> list[dict[str, Any]]:
    """What is known of every source, a row each: `bytes` is None where the size of an archive is not known."""
    rows = []
    for source in manifests.sources():
        facts = manifests.load(source)
        every = archives(source)
        sizes = [a.bytes for a in every]
        row: dict[str, Any] = {"source": source, "environments": sorted(facts.get("environments", ()))}
        for name in ("title", "page", "side", "license", "sample_rate", "split_rule"):
            row[name] = facts[name]
        for name in ("environments_are", "recording", "recordings_per_environment"):
            row[name] = facts.get(name)
        row["bytes"] = None if None in sizes else sum(size or 0 for size in sizes)
        row["bytes_known"] = sum(size or 0 for size in sizes)
        row["archives"] = [asdict(a) for a in every]
        rows.append(row)
    return rows
