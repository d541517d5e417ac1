"""Source `pairs`: clean and noisy files of the same names, which somebody else has mixed.

Layouts: `ROOT/<train|valid|test>/<clean|noisy>/...` (as SGMSE has it), `ROOT/<clean|noisy>/...`, `--clean DIR
--noisy DIR`; or a CSV (`--pairs`) with the columns `clean, noisy` (paths relative to the CSV) and perhaps `split`,
`env_id`, `speaker`, `ref` (a room tone of the place); further columns are kept in `meta`. Names are matched without
regard to case and extension.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nrdata import audio
from nrdata.builders import splits
from nrdata.builders.duplicates import told, twins
from nrdata.builders.entries import LOCAL, check_columns, identifier, read_csv, same_name
from nrdata.builders.plan import SPLITS, Options, Plan, Refused, number
from nrdata.builders.render import Sources
from nrdata.builders.rows import PlanRow, Stretch
from nrdata.builders.sources import Folder, Place, Places, find
from nrdata.errors import UserError
from nrdata.labels import UNKNOWN

SIDES = ("clean", "noisy")
COLUMNS = ("clean", "noisy", "split", "env_id", "speaker", "ref")


def plan(options: Options) -> Plan:
    """Pair up what is there. Raises `UserError` where nothing is."""
    result = _from_csv(options.pairs, options) if options.pairs else _from_folders(options)
    rows = result.rows
    if not rows:
        reason = f": {result.refused[0].item}: {result.refused[0].reason}" if result.refused else ""
        raise UserError(f"there is no pair of clean and noisy files{reason}", kind="no_pairs")
    if result.has_ref:
        reason = "it has no ref, and other rows have one: a data set has it in all samples or in none"
        result.refused += [Refused(row.meta["noisy"], reason, "no_ref") for row in rows if row.ref is None]
        rows = [row for row in rows if row.ref is not None]
    drawn = {row.meta["noisy"] for row in rows if not row.split}
    if drawn:
        rows = _with_splits(rows, options, result)
    rows = _without_copies(rows, drawn, options, result)
    result.rows = number(rows)
    result.licenses = {UNKNOWN: len(rows)}
    return result


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """Files by the names that the rows give them."""
    with _opened(options) as files:
        yield Sources({LOCAL: files}, {})


def _opened(options: Options) -> contextlib.AbstractContextManager[Folder | Places]:
    if options.pairs:
        return contextlib.nullcontext(Folder(options.pairs.parent))
    return Places(dict(_named(options)))


def _row(split: str, clean: str, noisy: str, env: str, speaker: str, options: Options) -> PlanRow:
    env_id = env.lower() if "/" in env else f"{LOCAL}/{identifier(env)}"
    stem = identifier(noisy.rpartition(".")[0] or noisy)
    return PlanRow(
        split=split,
        speech=Stretch(clean),
        noisy=Stretch(noisy),
        sample_rate=options.sample_rate,
        align=options.align,
        env_id=env_id,
        recording=f"{env_id}/{stem}",
        speaker=f"{LOCAL}/{identifier(speaker)}",
        meta={"clean": clean, "noisy": noisy},
    )


def _named(options: Options) -> Iterator[tuple[str, Place]]:
    """(`clean/...`, `noisy/...`, perhaps below a split, place) of every file of the layout."""
    if options.clean or options.noisy:
        if not (options.clean and options.noisy):
            raise UserError("--clean and --noisy go together", kind="bad_option")
        for side, folder in zip(SIDES, (options.clean, options.noisy), strict=True):
            yield from ((f"{side}/{name}", place) for name, place in find(folder))
        return
    assert options.root is not None
    yield from find(options.root)


def _from_folders(options: Options) -> Plan:
    """Both sides of every name: pairs, and what has no partner or more than one."""
    sides: dict[str, dict[tuple[str, str], list[str]]] = {side: defaultdict(list) for side in SIDES}
    result = Plan([])
    for name, place in _named(options):
        parts = name.split("/")
        at = next((i for i, part in enumerate(parts[:-1]) if part.lower() in SIDES), None)
        if at is None:
            continue
        if audio.is_foreign(name):
            result.refused.append(Refused(name, audio.why_foreign(name), "needs_decoder"))
        if place.suffix not in audio.EXTENSIONS:
            continue
        split = next((part.lower() for part in parts[:at] if part.lower() in SPLITS), "")
        key = same_name("/".join(parts[at + 1 :]).rpartition(".")[0])
        sides[parts[at].lower()][split, key].append(name)
    if not any(sides.values()):
        where = options.root or options.clean
        reason = f": {result.refused[0].item}: {result.refused[0].reason}" if result.refused else ""
        raise UserError(f"{where} has no folders 'clean' and 'noisy' with sound files{reason}", kind="no_pairs")
    for split, key in sorted(sides["clean"].keys() | sides["noisy"].keys()):
        clean, noisy = (sides[side].get((split, key), []) for side in SIDES)
        if len(clean) == len(noisy) == 1:
            result.rows.append(_row(split, clean[0], noisy[0], UNKNOWN, UNKNOWN, options))
        elif not clean or not noisy:
            lacking = "noisy" if clean else "clean"
            for name in clean or noisy:
                result.refused.append(Refused(name, f"there is no {lacking} file of this name", "missing_pair"))
        else:
            names = ", ".join([*clean, *noisy])
            result.refused.append(Refused(noisy[0], f"several files of one name: {names}", "ambiguous"))
    result.notes.append("environments and speakers are unknown: name them in a CSV (--pairs)")
    return result


def _from_csv(index: Path, options: Options) -> Plan:
    lines, header = read_csv(index)
    more_columns = check_columns(index, header, COLUMNS)
    if not {"clean", "noisy"} <= set(header):
        raise UserError(f"{index} needs the columns clean and noisy", kind="bad_index")
    result = Plan([])
    if more_columns:
        result.notes.append(f"columns of {index.name} kept in meta, not used otherwise: {', '.join(more_columns)}")
    seen: set[str] = set()
    for n, line in enumerate(lines, 2):
        split = line.get("split") or ""
        if split and split not in SPLITS:
            raise UserError(f"{index} line {n}: split '{split}' is none of {', '.join(SPLITS)}", kind="bad_index")
        if not line["clean"] or not line["noisy"] or same_name(line["noisy"]) in seen:
            what = "appears twice" if same_name(line["noisy"]) in seen else "lacks its clean or its noisy file"
            result.refused.append(Refused(line["noisy"] or f"line {n}", what, "bad_row"))
            continue
        seen.add(same_name(line["noisy"]))
        env, speaker = line.get("env_id") or UNKNOWN, line.get("speaker") or UNKNOWN
        row = _row(split, line["clean"], line["noisy"], env, speaker, options)
        more = {name: line[name] for name in more_columns}
        ref = Stretch(line["ref"]) if line.get("ref") else None
        result.rows.append(replace(row, ref=ref, meta=row.meta | more))
    return result


def _without_copies(rows: list[PlanRow], drawn: set[str], options: Options, result: Plan) -> list[PlanRow]:
    """The same speech in two splits under two names: refused where we drew the split, told where it was given."""
    with _opened(options) as files:
        copies = twins(rows, files)
    ours = {twin.row.meta["noisy"]: str(twin) for twin in copies if twin.row.meta["noisy"] in drawn}
    result.refused += [Refused(noisy, reason, "duplicate") for noisy, reason in ours.items()]
    if theirs := [twin for twin in copies if twin.row.meta["noisy"] not in ours]:
        result.notes.append(told(theirs, "kept, since the splits are as given"))
    return [row for row in rows if row.meta["noisy"] not in ours]


def _with_splits(rows: list[PlanRow], options: Options, result: Plan) -> list[PlanRow]:
    """By speaker where at least three are known, else all is training."""
    names = {row.speaker for row in rows}
    drawn = splits.speakers(list(names), options.seed) if len(names) > 2 else dict.fromkeys(names, "train")
    how = "speakers were divided by the seed" if len(names) > 2 else "all of it is training: fewer than three speakers"
    result.notes.append(f"no splits are given; {how}")
    return [replace(row, split=row.split or drawn[row.speaker]) for row in rows]
