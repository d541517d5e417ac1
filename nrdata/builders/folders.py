"""Source `folders`: any folder of clean speech mixed with any folder of noise.

Bare folders: `<speaker>/<...>/<file>` and `<environment>/<recording>`, splits drawn. Index files (CSV, paths
relative to the index): `path, split, speaker, license` and `path, split, environment, recording, license` fix
everything; further columns are kept in each sample's `meta`. A folder with the name of a known corpus
(`--noise wham:ROOT`) is read in that corpus's layout, with its own splits where it has any (`corpora.layouts`).
"""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from nrdata import audio
from nrdata.builders import splits
from nrdata.builders.corpora import layouts
from nrdata.builders.draws import NoiseFile, SpeechFile, mixtures, why
from nrdata.builders.entries import LOCAL, Entry, check_columns, identifier, read_csv
from nrdata.builders.plan import Options, Plan, Refused
from nrdata.builders.render import Sources
from nrdata.builders.sources import Folder, blocks, sound_digest, stretch
from nrdata.builders.units import Levels, usable
from nrdata.errors import UserError
from nrdata.progress import Progress

INDEX_SPLITS = ("train", "valid", "test")

F = TypeVar("F", SpeechFile, NoiseFile)


@dataclass(frozen=True)
class Side:
    """Speech or noise as the user gave it: folders by name, or an index that names all files."""

    name: str
    given: tuple[tuple[str, Path], ...]
    index: Path | None
    columns: tuple[str, ...]  # of the index, beside path and split
    describe: Callable[[str], Entry | Refused]  # a file of a bare folder

    @property
    def roots(self) -> dict[str, Path]:
        if self.index is not None:
            return {self.given[0][0] if self.given else LOCAL: self.index.parent}
        return dict(self.given)


def sides(options: Options) -> tuple[Side, Side]:
    return (
        Side("speech", options.speech, options.speech_index, ("speaker",), _by_speaker),
        Side("noise", options.noise, options.noise_index, ("environment", "recording"), _by_environment),
    )


def plan(options: Options) -> Plan:
    """Read what is there, draw what is mixed with what. Raises `UserError` where a side is missing or empty."""
    found = Plan([])  # what is refused and noted before anything is drawn
    of_speech, of_noise = sides(options)
    speech = _measured(of_speech, _speech_file, options, found)
    noise = _without_unseen(_measured(of_noise, _noise_file, options, found), options, found)
    if undivided := [f"{f.source}/{f.speaker}" for f in speech if not f.split]:
        drawn = splits.speakers(undivided, options.seed)
        speech = [f if f.split else replace(f, split=drawn[f"{f.source}/{f.speaker}"]) for f in speech]
        found.notes.append("speakers were divided into training, validation and test by the seed")
    if not all(f.split for f in noise):
        noise, unseen = _with_splits(noise, options)
        found.notes.append(f"environments unseen in training: {', '.join(unseen) or 'none'}")
    result = mixtures(speech, noise, options, found.refused)
    result.refused = found.refused + result.refused
    result.notes = found.notes + result.notes
    return result


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """Where the rows' files are: by the name of their source."""
    yield Sources(*({name: Folder(root) for name, root in side.roots.items()} for side in sides(options)))


def _speech_file(source: str, root: Path, entry: Entry, options: Options) -> SpeechFile:
    levels = _levels("speech", root, entry, options)
    file = SpeechFile(source, entry.path, entry.speaker, entry.split, levels, entry.license, entry.meta)
    return replace(file, content=sound_digest(root / entry.path))


def _noise_file(source: str, root: Path, entry: Entry, options: Options) -> NoiseFile:
    levels, rate, file = _levels("noise", root, entry, options), options.sample_rate, Folder(root)
    units, refused = usable(
        levels, lambda start, stop: stretch(file, entry.path, start, stop, rate), rate, options.reserve_seconds
    )
    place = entry.environment, entry.recording, entry.split
    noise = NoiseFile(source, entry.path, *place, levels, units, refused, entry.license, entry.meta)
    # Where the split is given, a copy in another one is kept as asked; nr verify-shards --leaks finds it.
    return noise if entry.split else replace(noise, content=sound_digest(root / entry.path))


def _levels(side: str, root: Path, entry: Entry, options: Options) -> Levels:
    """Every sample is decoded once here."""
    levels = Levels.of(blocks(root / entry.path, entry.path, options.sample_rate), options.sample_rate)
    if levels.level_db() == float("-inf"):
        raise UserError(f"{entry.path} is silent", kind=f"silent_{side}")
    return levels


def _entries(side: Side, found: Plan) -> list[tuple[str, Entry | Refused]]:
    """(source, what the index, the corpus's layout or the folders say) of every file of one side."""
    if side.index is not None:
        if len(side.given) > 1:
            raise UserError(
                f"--{side.name}-index names all files: give at most one --{side.name}, for its name", "bad_option"
            )
        (source,) = side.roots
        return [(source, entry) for entry in _read_index(side.index, side.columns, found)]
    if not side.given:
        raise UserError(
            f"there is no {side.name}: give --{side.name} [NAME:]DIR or --{side.name}-index CSV", kind="no_source"
        )
    if len(side.roots) < len(side.given):
        twice = side.given[0][0]
        raise UserError(
            f"two folders of {side.name} are called {twice}: name them, --{side.name} NAME:DIR", "bad_option"
        )
    entries: list[tuple[str, Entry | Refused]] = []
    for name, root in side.given:
        items = layouts.items(name, side.name, root)
        if items is None:
            items = [side.describe(path.relative_to(root).as_posix()) for path in audio.list_audio(root)]
        foreign = [path.relative_to(root).as_posix() for path in audio.list_foreign(root)]
        items += [Refused(path, audio.why_foreign(path), "needs_decoder") for path in foreign]
        if not items:
            raise UserError(
                f"{root} holds no sound files: --{side.name} needs a folder of recordings", kind="empty_folder"
            )
        entries += [(name, entry) for entry in items]
    return list(_told_apart(entries))


def _told_apart(entries: list[tuple[str, Entry | Refused]]) -> Iterator[tuple[str, Entry | Refused]]:
    """Files of two recordings whose names become one (`Cafe 1/a.wav` and `cafe-1/a.wav`): the later is refused. Files
    of one sub-folder of a place are pieces of one recording."""
    taken: dict[tuple[str, str, str], tuple[str, str]] = {}
    for source, entry in entries:
        if isinstance(entry, Entry) and entry.environment and not entry.split:
            parts = PurePosixPath(entry.path).parts
            recording = "/".join(parts[:2]) if len(parts) > 2 else entry.path
            name = source, entry.environment, entry.recording
            first, path = taken.setdefault(name, (recording, entry.path))
            if first != recording:
                reason = f"its place and recording have the same names as {path}: rename one of them"
                yield source, Refused(entry.path, reason, "ambiguous")
                continue
        yield source, entry


def _by_speaker(path: str) -> Entry:
    """The first folder is the speaker; files without one are one person's."""
    parts = PurePosixPath(path).parts
    return Entry(path, speaker=identifier(parts[0]) if len(parts) > 1 else "unnamed")


def _by_environment(path: str) -> Entry | Refused:
    """`<environment>/<recording>`: files in one sub-folder of an environment are pieces of one recording."""
    parts = PurePosixPath(path).parts
    if len(parts) < 2:
        reason = "no environment: it lies outside the folders <environment>/<recording>"
        return Refused(path, reason, "no_environment")
    recording = parts[1] if len(parts) > 2 else PurePosixPath(path).stem
    return Entry(path, environment=identifier(parts[0]), recording=identifier(recording))


def _read_index(index: Path, columns: tuple[str, ...], found: Plan) -> Iterator[Entry]:
    """Rows of an index file. Raises `UserError` naming the line."""
    rows, header = read_csv(index)
    known = ("path", "split", "license", *columns)
    more = check_columns(index, header, known)
    if more:
        found.notes.append(f"columns of {index.name} kept in meta, not used otherwise: {', '.join(more)}")
    lacking = [c for c in ("path", "split", *columns) if c not in header]
    if lacking:
        raise UserError(f"{index} has no column {', '.join(lacking)}", kind="bad_index")
    if not rows:
        raise UserError(f"{index} has no rows", kind="bad_index")
    seen: set[str] = set()
    spellings: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
    for line, row in enumerate(rows, 2):
        if row["split"] not in INDEX_SPLITS:
            raise UserError(f"{index} line {line}: split '{row['split']}' is none of train, valid, test", "bad_index")
        if not all(row[c] for c in ("path", *columns)):
            raise UserError(f"{index} line {line}: {', '.join(('path', *columns))} may not be empty", "bad_index")
        if row["path"] in seen:
            raise UserError(f"{index} line {line}: {row['path']} appears twice", kind="bad_index")
        seen.add(row["path"])
        meta = {name: row[name] for name in more}
        names = {c: identifier(row[c]) for c in columns}
        spelt = tuple(unicodedata.normalize("NFC", row[c]) for c in columns)
        first, at = spellings.setdefault(tuple(names.values()), (spelt, line))
        if spelt != first and "recording" in names:
            raise UserError(
                f"{index} line {line}: {' / '.join(spelt)} and line {at}: {' / '.join(first)} become one recording: "
                "spell them alike, or rename one",
                kind="bad_index",
            )
        yield Entry(row["path"], **names, split=row["split"], license=row.get("license") or "unknown", meta=meta)


def _measured(side: Side, measure: Callable[[str, Path, Entry, Options], F], options: Options, found: Plan) -> list[F]:
    """The files that can be used, with what their sound says; the others go to the refused."""
    entries, good = _entries(side, found), []
    with Progress(len(entries), f"reading {side.name}") as progress:
        for source, entry in entries:
            progress.advance()
            if isinstance(entry, Refused):
                found.refused.append(entry)
                continue
            root = side.roots[source]
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    good.append(measure(source, root, entry, options))
            except UserError as e:
                found.refused.append(Refused(entry.path, str(e).replace(f"{root}/", ""), e.kind or "unreadable"))
                continue
            found.notes += [str(w.message).replace(f"{root}/", "") for w in caught]
    if not good:
        raise UserError(f"none of the {len(entries)} files of {side.name} can be used{why(found.refused)}", "no_source")
    return good


def _without_unseen(noise: list[NoiseFile], options: Options, found: Plan) -> list[NoiseFile]:
    """Take the environments of --unseen out of training and validation where an index fixes the splits."""
    names = {f.environment for f in noise}
    for name in options.unseen or ():
        if identifier(name) not in names:
            raise UserError(f"--unseen {name}: there is no such environment ({', '.join(sorted(names))})", "bad_option")
    unseen = {identifier(name) for name in options.unseen or ()}
    out = [f.environment in unseen and f.split in ("train", "valid") for f in noise]
    reason = "its environment is kept for test (--unseen)"
    found.refused += [Refused(f.path, reason, "unseen") for f, is_out in zip(noise, out, strict=True) if is_out]
    return [f for f, is_out in zip(noise, out, strict=True) if not is_out]


def _with_splits(noise: list[NoiseFile], options: Options) -> tuple[list[NoiseFile], tuple[str, ...]]:
    """Draw the splits of bare folders; the files, and the environments unseen in training."""
    recordings: dict[str, list[str]] = defaultdict(list)
    for f in noise:
        if not f.split:
            recordings[f.environment].append(f"{f.source}/{f.recording}")
    if options.unseen is None:
        unseen = splits.unseen_environments(list(recordings), options.seed)
    else:
        unseen = tuple(identifier(name) for name in options.unseen)
    drawn = {e: splits.recordings(names, e, e in unseen, options.seed) for e, names in recordings.items()}
    divided = [f if f.split else replace(f, split=drawn[f.environment][f"{f.source}/{f.recording}"]) for f in noise]
    return divided, unseen
