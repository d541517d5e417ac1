"""`nr index`: what stands beside the tars, made again from the tars alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nrdata import files
from nrdata.errors import UserError
from nrdata.store.gather import write_manifest
from nrdata.store.manifest import NAME, tars
from nrdata.store.shard import build_index, index_path, index_text, write_index


def reindex(path: Path | str) -> Iterator[str]:
    """Index a folder's shards, or one shard; yields a line for each thing done. Raises `ShardFault`, `UserError`.

    A folder without a manifest gets one, and a data card (`README.md`).
    """
    path = files.local_path(path)
    if not path.exists():
        raise UserError(f"no shards match {path}", kind="no_shards")
    shards = tars(path) if path.is_dir() else [path]
    if not shards:
        raise UserError(f"no shards match {path}/*.tar", kind="no_shards")
    for tar in shards:
        if not tar.name.endswith(".tar"):
            raise UserError(f"{tar} is not a shard: its name does not end in .tar", kind="no_shards")
        rows = build_index(tar)
        index = index_path(tar)
        same = index.exists() and index.read_bytes() == index_text(rows).encode()
        if not same:
            write_index(tar, rows)
        yield f"{index}: {len(rows)} samples, {'as it was' if same else 'written'}"
    if path.is_dir() and not (path / NAME).exists():
        manifest = write_manifest(path)
        yield f"{path / NAME}: written, fingerprint {manifest.fingerprint[:8]}"
