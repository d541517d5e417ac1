"""From shards to what stands beside them: the manifest, written last, and the data card."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nrdata import files
from nrdata.errors import UserError
from nrdata.store.card import write_card
from nrdata.store.facts import IndexRow
from nrdata.store.manifest import NAME, Environment, Manifest, Shard, Split, fingerprint, tars
from nrdata.store.shard import index_path, iter_index

PACKAGES = ("numpy", "soundfile", "soxr", "webdataset", "audiomentations", "pyroomacoustics")


@dataclass(frozen=True)
class ShardContent:
    """A shard as it was found."""

    file: str
    sha256: str
    bytes: int
    rows: Iterable[IndexRow]


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


def gather(
    folder: Path, name: str | None = None, licenses: dict[str, str] | None = None, plan_sha256: str = ""
) -> Manifest:
    """The manifest of a folder from its shards and their indexes. Raises `UserError` as `summarise`, and `no_index`."""

    def parts() -> Iterator[ShardContent]:
        for tar in tars(folder):
            if not index_path(tar).exists():
                raise UserError(f"{tar} has no index; run nr index {folder}", kind="no_index")
            yield ShardContent(tar.name, files.sha256(tar), tar.stat().st_size, iter_index(index_path(tar)))

    return summarise(parts(), folder, name or folder.resolve().name, licenses or {}, plan_sha256)


def summarise(
    parts: Iterable[ShardContent], folder: Path, name: str, licenses: dict[str, str], plan_sha256: str = ""
) -> Manifest:
    """The manifest that the contents of all shards make.

    Raises `UserError` where there is none (no_shards), a shard holds two splits (split), rates differ or some samples
    have a reserved clip and others none (mixed).
    """
    shards: dict[str, list[Shard]] = defaultdict(list)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    frames: dict[tuple[str, str], int] = defaultdict(int)
    recordings: dict[tuple[str, str], set[str]] = defaultdict(set)
    speakers: dict[str, set[str]] = defaultdict(set)
    kinds: dict[tuple[int, bool], str] = {}  # (rate, has a clip) -> the first shard of this kind
    for part in parts:
        samples, shard_frames, split, rate = 0, 0, "", 1
        for row in part.rows:
            kinds.setdefault((row.sample_rate, row.ref_frames > 0), part.file)
            if split and row.split != split:
                raise UserError(
                    f"{part.file} holds the splits {split} and {row.split}; a shard belongs to one", "split"
                )
            split, rate = row.split, row.sample_rate
            samples, shard_frames = samples + 1, shard_frames + row.frames
            counts[split, row.env_id] += 1
            frames[split, row.env_id] += row.frames
            recordings[split, row.env_id].add(row.recording)
            speakers[split].add(row.speaker)
        shards[split].append(Shard(part.file, part.sha256, part.bytes, samples, round(shard_frames / rate, 3)))
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
    digests = {split: [shard.sha256 for shard in made.shards] for split, made in splits.items()}
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
