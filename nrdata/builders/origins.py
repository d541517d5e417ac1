"""What the files were that a data set was made from: `sources.jsonl`, a line a file with its size and SHA-256.

A plan names files, and a file may be replaced under its name. So the same command again looks at what lies there: only
its content decides, size and time of change say no more than that a file need not be the same any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nrdata import files
from nrdata.builders.render import Sources
from nrdata.builders.rows import PlanRow
from nrdata.builders.sources import Source
from nrdata.errors import UserError
from nrdata.progress import Progress

NAME = "sources.jsonl"
SHOWN = 3

Origin = tuple[str, str, str]  # side, source, path
Content = tuple[int, str]  # bytes, SHA-256; (-1, "") where it could not be read
Stamp = tuple[int, ...]

UNREADABLE: Content = (-1, "")


def of_row(row: PlanRow) -> Iterator[Origin]:
    """The files whose sound is in a sample."""
    speech, noise = row.speaker.split("/", 1)[0], row.env_id.split("/", 1)[0]
    yield "speech", speech, row.speech.path
    if row.noise:
        yield "noise", noise, row.noise.path
    for part in (row.noisy, row.ref if row.noisy else None):
        if part:
            yield "speech", speech, part.path


def of_rows(rows: Iterable[PlanRow]) -> list[Origin]:
    """Each once, in order."""
    return sorted({origin for row in rows for origin in of_row(row)})


def contents(origins: Iterable[Origin], sources: Sources) -> tuple[dict[Origin, Content], dict[Origin, Stamp]]:
    """What lies there now, and the stamps by which it can be told cheaply that nothing was touched since. Sound that is
    made from its name has no content of its own and is left out."""
    found: dict[Origin, Content] = {}
    stamps: dict[Origin, Stamp] = {}
    origins = list(origins)
    with Progress(len(origins), "source files hashed") as progress:
        for origin in origins:
            source = _source(origin, sources)
            if source is not None and (digest := getattr(source, "digest", None)):
                stamps[origin] = stamp(origin, sources)
                try:
                    found[origin] = digest(origin[2])
                except (UserError, OSError):
                    found[origin] = UNREADABLE  # the row is refused when it is rendered, and says why
            progress.advance()
    return found, stamps


def stamp(origin: Origin, sources: Sources) -> Stamp:
    """Size, times and inode of a file; () where there is none."""
    source = _source(origin, sources)
    path: Path | None = source.place(origin[2]) if source is not None and hasattr(source, "place") else None
    try:
        about = path.stat() if path else None
    except OSError:
        about = None
    return (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino) if about else ()


def _source(origin: Origin, sources: Sources) -> Source | None:
    side, name, _ = origin
    return (sources.speech if side == "speech" else sources.noise).get(name)


def read(folder: Path) -> dict[Origin, Content] | None:
    """What `folder` was made from; None where it does not say. Raises `UserError` for a file that is not ours."""
    path = folder / NAME
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {(r["side"], r["source"], r["path"]): (r["bytes"], r["sha256"]) for r in rows}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is damaged ({e}): build anew with --force", kind="bad_plan") from None


def write(folder: Path, known: Mapping[Origin, Content]) -> None:
    """A line a file, in order."""
    rows = (
        {"side": side, "source": source, "path": path, "bytes": size, "sha256": digest}
        for (side, source, path), (size, digest) in sorted(known.items())
    )
    files.write_text(folder / NAME, "".join(json.dumps(row) + "\n" for row in rows))


def changed(before: Mapping[Origin, Content], now: Mapping[Origin, Content]) -> set[Origin]:
    """Files that are not what they were; one that could not be read then says nothing."""
    return {o for o, content in now.items() if before.get(o, content) != content and before[o] != UNREADABLE}


def named(origins: Iterable[Origin]) -> str:
    """Some files in a sentence."""
    paths = sorted({path for _, _, path in origins})
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
