"""Source `folders`: any folder of clean speech mixed with any folder of noise.

Bare folders: `<speaker>/<...>/<file>` and `<environment>/<recording>`, splits drawn. Index files (CSV, paths
relative to the index): `path, split, speaker, license` and `path, split, environment, recording, license` fix
everything; further columns are kept in each sample's `meta`. A folder with the name of a known corpus
(`--noise wham:ROOT`) is read in that corpus's layout, with its own splits where it has any (`corpora.layouts`).
"""

from __future__ import annotations

import contextlib
import csv
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nrdata import audio
from nrdata.builders import splits
from nrdata.builders.corpora import layouts
from nrdata.builders.draws import NoiseFile, SpeechFile, mixtures
from nrdata.builders.plan import Options, Plan, Refused
from nrdata.builders.render import Sources
from nrdata.builders.sources import Folder, blocks, stretch
from nrdata.builders.units import Levels, usable
from nrdata.errors import UserError
from nrdata.progress import Progress

LOCAL = "local"
INDEX_SPLITS = ("train", "valid", "test")

# What the layout of a side says of a file: speaker or environment, recording, split ("" not fixed), licence, meta.
Entry = dict[str, Any]


def plan(options: Options) -> Plan:
    """Read what is there, draw what is mixed with what. Raises `UserError` where a side is missing or empty."""
    refused: list[Refused] = []
    notes: list[str] = []
    speech = _speech(options, refused, notes)
    noise = _noise(options, refused, notes)
    _leave_out_unseen(noise, options, refused)
    if undivided := [e for e in speech if not e["split"]]:
        by_speaker = splits.speakers([f"{e['source']}/{e['speaker']}" for e in undivided], options.seed)
        for e in undivided:
            e["split"] = by_speaker[f"{e['source']}/{e['speaker']}"]
        notes.append("speakers were divided into training, validation and test by the seed")
    if undivided := [e for e in noise if not e["split"]]:
        unseen = _draw_noise_splits(undivided, options)
        notes.append(f"environments unseen in training: {', '.join(unseen) or 'none'}")
    result = mixtures([_speech_file(e) for e in speech], [_noise_file(e) for e in noise], options)
    result.refused = refused + result.refused
    result.notes = notes + result.notes
    return result


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """Where the rows' files are: by the name of their source."""
    yield Sources(
        {name: Folder(root) for name, root in _roots(options.speech, options.speech_index)},
        {name: Folder(root) for name, root in _roots(options.noise, options.noise_index)},
    )


def _roots(given: tuple[tuple[str, Path], ...], index: Path | None) -> list[tuple[str, Path]]:
    if index is not None:
        return [(given[0][0] if given else LOCAL, index.parent)]
    return list(given)


def _speech_file(e: Entry) -> SpeechFile:
    return SpeechFile(e["source"], e["path"], e["speaker"], e["split"], e["levels"], e["license"], e["meta"])


def _noise_file(e: Entry) -> NoiseFile:
    return NoiseFile(
        e["source"],
        e["path"],
        e["environment"],
        e["recording"],
        e["split"],
        e["levels"],
        e["units"],
        e["units_refused"],
        e["license"],
        e["meta"],
    )


def _speech(options: Options, refused: list[Refused], notes: list[str]) -> list[Entry]:
    entries = _entries(options.speech, options.speech_index, "speech", ("speaker",), _by_speaker)
    return _measured(entries, options.speech, options.speech_index, "speech", options, refused, notes)


def _noise(options: Options, refused: list[Refused], notes: list[str]) -> list[Entry]:
    entries = _entries(options.noise, options.noise_index, "noise", ("environment", "recording"), _by_environment)
    return _measured(entries, options.noise, options.noise_index, "noise", options, refused, notes)


def _measure(root: Path, name: str, side: str, options: Options) -> Entry:
    """What the sound itself says: levels, and the units of a noise recording. Every sample is decoded once here."""
    rate = options.sample_rate
    levels = Levels.of(blocks(root / name, name, rate), rate)
    if levels.level_db() == float("-inf"):
        raise UserError(f"{name} is silent", kind=f"silent_{side}")
    if side == "speech":
        return {"levels": levels}
    file = Folder(root)
    units, refused = usable(
        levels, lambda start, stop: stretch(file, name, start, stop, rate), rate, options.reserve_seconds
    )
    return {"levels": levels, "units": units, "units_refused": refused}


def _entries(
    given: tuple[tuple[str, Path], ...],
    index: Path | None,
    side: str,
    columns: tuple[str, ...],
    describe: Callable[[PurePosixPath], Entry],
) -> list[Entry]:
    """Every file of one side with what the index or the folders say about it."""
    if index is not None:
        if len(given) > 1:
            raise UserError(f"--{side}-index names all files: give at most one --{side}, for its name", "bad_option")
        return [{"source": _roots(given, index)[0][0], **e} for e in _read_index(index, columns)]
    if not given:
        raise UserError(f"there is no {side}: give --{side} [NAME:]DIR or --{side}-index CSV", kind="no_source")
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        raise UserError(f"two folders of {side} are called {names[0]}: name them, --{side} NAME:DIR", "bad_option")
    entries: list[Entry] = []
    for name, root in given:
        if (known := layouts.items(name, side, root)) is not None:
            entries += [{"source": name, "split": "", "license": "unknown", "meta": {}, **entry} for entry in known]
            continue
        found = audio.list_audio(root)
        if not found:
            raise UserError(f"{root} holds no sound files: --{side} needs a folder of recordings", kind="empty_folder")
        for path in found:
            relative = path.relative_to(root).as_posix()
            entry = {"source": name, "path": relative, "split": "", "license": "unknown", "meta": {}}
            entries.append(entry | describe(PurePosixPath(relative)))
    return entries


def _by_speaker(path: PurePosixPath) -> Entry:
    """The first folder is the speaker; files without one are one person's."""
    return {"speaker": identifier(path.parts[0]) if len(path.parts) > 1 else "unnamed"}


def _by_environment(path: PurePosixPath) -> Entry:
    """`<environment>/<recording>`: files in one sub-folder of an environment are pieces of one recording."""
    if len(path.parts) < 2:
        reason = "no environment: it lies outside the folders <environment>/<recording>"
        return {"refused": (reason, "no_environment")}
    stem = path.parts[1] if len(path.parts) > 2 else path.stem
    return {"environment": identifier(path.parts[0]), "recording": identifier(stem)}


def identifier(text: str) -> str:
    """A name as it stands in `env_id`, `recording`, `speaker`: lower case, printable, no slash, no blank, no `~`."""
    shown = "".join(c if c.isprintable() else "-" for c in text.strip().lower())
    return re.sub(r"[\s/~]+", "-", shown) or "unnamed"


def _read_index(index: Path, columns: tuple[str, ...]) -> list[Entry]:
    """Rows of an index file. Raises `UserError` naming the line."""
    try:
        with index.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            header = reader.fieldnames or []
    except FileNotFoundError:
        raise UserError(f"{index} does not exist", kind="missing") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{index} is not a CSV file in UTF-8 ({e})", kind="bad_index") from None
    lacking = [c for c in ("path", "split", *columns) if c not in header]
    if lacking:
        raise UserError(f"{index} has no column {', '.join(lacking)}", kind="bad_index")
    if not rows:
        raise UserError(f"{index} has no rows", kind="bad_index")
    known = {"path", "split", "license", *columns}
    entries, seen = [], set()
    for line, row in enumerate(rows, 2):
        if row["split"] not in INDEX_SPLITS:
            raise UserError(f"{index} line {line}: split '{row['split']}' is none of train, valid, test", "bad_index")
        if not all(row[c] for c in ("path", *columns)):
            raise UserError(f"{index} line {line}: {', '.join(('path', *columns))} may not be empty", "bad_index")
        if row["path"] in seen:
            raise UserError(f"{index} line {line}: {row['path']} appears twice", kind="bad_index")
        seen.add(row["path"])
        meta = {k: v or "" for k, v in row.items() if k and k not in known}
        entry = {"path": row["path"], "split": row["split"], "license": row.get("license") or "unknown", "meta": meta}
        entries.append(entry | {c: identifier(row[c]) for c in columns})
    return entries


def _measured(
    entries: list[Entry],
    given: tuple[tuple[str, Path], ...],
    index: Path | None,
    side: str,
    options: Options,
    refused: list[Refused],
    notes: list[str],
) -> list[Entry]:
    """The entries whose files can be used, with their levels; the others go to the refused."""
    roots = dict(_roots(given, index))
    good = []
    with Progress(len(entries), f"reading {side}") as progress:
        for entry in entries:
            progress.advance()
            if "refused" in entry:
                refused.append(Refused(entry["path"], *entry["refused"]))
                continue
            root = roots[entry["source"]]
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    entry |= _measure(root, entry["path"], side, options)
            except UserError as e:
                refused.append(Refused(entry["path"], str(e).replace(f"{root}/", ""), e.kind or "unreadable"))
                continue
            notes += [str(w.message).replace(f"{root}/", "") for w in caught]
            good.append(entry)
    if not good:
        raise UserError(f"none of the {len(entries)} files of {side} can be used: {refused[-1].reason}", "no_source")
    return good


def _leave_out_unseen(noise: list[Entry], options: Options, refused: list[Refused]) -> None:
    """Take the environments of --unseen out of training and validation where an index fixes the splits."""
    names = {e["environment"] for e in noise}
    for name in options.unseen or ():
        if identifier(name) not in names:
            raise UserError(f"--unseen {name}: there is no such environment ({', '.join(sorted(names))})", "bad_option")
    unseen = {identifier(name) for name in options.unseen or ()}
    out = [e for e in noise if e["environment"] in unseen and e["split"] in ("train", "valid")]
    refused += [Refused(e["path"], "its environment is kept for test (--unseen)", "unseen") for e in out]
    noise[:] = [e for e in noise if not any(e is o for o in out)]


def _draw_noise_splits(noise: list[Entry], options: Options) -> tuple[str, ...]:
    """Fill in the splits of bare folders; returns the environments unseen in training."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for e in noise:
        groups[e["environment"]].append(e)
    if options.unseen is None:
        unseen = splits.unseen_environments(list(groups), options.seed)
    else:
        unseen = tuple(identifier(name) for name in options.unseen)
    for environment, entries in groups.items():
        by_recording = splits.recordings(
            [f"{e['source']}/{e['recording']}" for e in entries], environment, environment in unseen, options.seed
        )
        for e in entries:
            e["split"] = by_recording[f"{e['source']}/{e['recording']}"]
    return unseen
