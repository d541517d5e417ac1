"""From a plan to shards: what is whole stays, the rest is made by processes, the manifest is written last.

A shard counts as whole when its tar has its final name, passes the strict reader and holds the rows of the plan that
can be rendered. Rendering is a pure function of the row, so the reasons of refused rows are found again by rendering
them again."""

from __future__ import annotations

import contextlib
import errno
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from nrdata import files, locks
from nrdata.builders import cluster, origins, processes
from nrdata.builders.draws import why
from nrdata.builders.plan import Options, Plan, Refused, ShardPlan, read_plan, shards
from nrdata.builders.render import Sources, render
from nrdata.builders.rows import PlanRow
from nrdata.builders.variants import vary
from nrdata.errors import UserError
from nrdata.progress import Progress
from nrdata.store.gather import write_manifest
from nrdata.store.manifest import NAME
from nrdata.store.shard import ShardWriter, build_index, index_path, read_index, write_index
from nrdata.store.tar import ShardFault

SOURCES = ("voicebank-demand", "pairs", "folders", "synthetic")
LOCK = ".lock"
MADE = (NAME, "refused.jsonl", origins.NAME)  # beside plan and shards
SMALL_BUILD = 512  # samples
BYTES_PER_FRAME = 4.0  # three sounds of 16 bits and a clip, as FLAC
SNR_SLACK_DB = 3.0  # the logged SNR counts active speech only


@dataclass(frozen=True)
class Summary:
    """What a build came to."""

    out: Path
    complete: bool  # manifest written
    made: int  # shards made now
    kept: int  # shards found whole
    samples: Counter[str]  # split -> samples
    refused: list[Refused]
    snr_deviations: list[str]  # "key: logged 15, measured 11.2"
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "out": str(self.out),
            "complete": self.complete,
            "shards_built": self.made,
            "shards_found": self.kept,
            "samples": dict(self.samples),
            "refused": [r.record() for r in self.refused],
            "snr_deviations": self.snr_deviations,
            "notes": self.notes,
        }


class Builder(Protocol):
    """The module of a source."""

    def plan(self, options: Options) -> Plan:
        """All rows, and what is refused before there is a row of it."""
        ...

    def sources(self, options: Options) -> AbstractContextManager[Sources]:
        """What the rows name, open."""
        ...


def builder(source: str) -> Builder:
    if source not in SOURCES:
        raise UserError(f"there is no source '{source}': choose one of {', '.join(SOURCES)}", kind="bad_option")
    return cast(Builder, import_module(f"nrdata.builders.{source.replace('-', '_')}"))


def make_plan(options: Options, plan_file: Path | None = None) -> Plan:
    """Draw a plan, or read a given one: then nothing is drawn."""
    if plan_file:
        return read_plan(plan_file)
    plan = builder(options.source).plan(options)
    plan.rows = vary(plan.rows, options)
    return plan


def build(
    options: Options,
    plan: Plan,
    out: Path,
    workers: int = 1,
    force: bool = False,
    part: tuple[int, int] | None = None,
    engine: str = "local",
) -> Summary:
    """Make the shards of a plan in `out`; then manifest, card and refusals. With `part`, the shards numbered
    [start, stop) only, beside others who make other parts: the build without `part` then finds them and finishes.
    `engine` "ray" makes them on a Ray cluster, whose machines see `out` and the sources under the same names.

    Raises `UserError` where `out` holds something else, and `OSError` from the disk; what is whole then stays.
    """
    everything = shards(plan)
    mine = everything if part is None else everything[part[0] : part[1]]
    if not mine:
        raise UserError(f"the plan has {len(everything)} shards, 0:{len(everything)}", kind="bad_option")
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out, shared=part is not None):
        _claim(out, plan, force)
        files.remove_leftovers(out, alone=part is None)
        with builder(options.source).sources(options) as sources:
            stamps, untold = _origins(out, plan, mine, sources, whole=part is None)
            todo, refused, notes = _find_whole(out, mine, options)
            notes += untold
            with _disk_full(out, todo):
                results = _make(todo, options, out, plan.has_ref, workers, engine)
            _untouched(out, todo, stamps, sources)
        refused |= {name: result.refused for name, result in results.items()}
        notes += [note for result in results.values() for note in result.notes]
        complete = part is None
        summary = _summarise(out, mine, plan, refused, notes, len(todo), complete)
        if not any(summary.samples.values()) and complete:
            raise UserError(
                f"nothing is left to store, all {len(summary.refused)} items were refused{why(summary.refused)}",
                kind="all_refused",
            )
        if complete and (todo or not (out / NAME).exists() or not (out / "refused.jsonl").exists()):
            _finish(out, plan, summary.refused)
        return summary


def save_plan(plan: Plan, out: Path, force: bool = False) -> Path:
    """Write `plan.jsonl` alone; a build of the same options goes on from it."""
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _claim(out, plan, force)
    return out / "plan.jsonl"


@contextlib.contextmanager
def _disk_full(out: Path, todo: list[ShardPlan]) -> Iterator[None]:
    """A full disk as a sentence that says how much is needed; what is whole stays."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        left = [row for s in todo if not (out / f"{s.name}.tar").exists() for row in s.rows]
        frames = sum((row.speech.stop or 0) - row.speech.start for row in left)
        needs = f", needs about {frames * BYTES_PER_FRAME / 1e6:.0f} MB more" if frames else ""
        name = Path(e.filename).name if e.filename else "a shard"
        raise UserError(
            f"no space left writing {name} in {out}{needs}: whole shards stay, the same command goes on",
            kind="disk_full",
        ) from e


def _alone(out: Path, shared: bool = False) -> contextlib.AbstractContextManager[Any]:
    """One builder at a time in a folder, or several (`shared`) of parts."""
    return locks.held(out / LOCK, f"another nr build-shards is at work in {out}", shared)


def _claim(out: Path, plan: Plan, force: bool) -> None:
    """Write `plan.jsonl`, or find that the folder has this very plan; another one is replaced only by `force`."""
    path, text = out / "plan.jsonl", plan.text()
    ours = path.exists() and path.read_text(encoding="utf-8") == text
    if ours and not force:
        return
    there = [p for p in out.iterdir() if not p.name.startswith(LOCK) and not p.name.endswith(".partial")]
    if there and not path.exists() and not (out / NAME).exists():
        raise UserError(f"{out} holds files that are no data set: choose another --out", kind="other_files")
    if there and not force:
        raise UserError(
            f"{out} holds another plan's data set: choose another --out, or overwrite it with --force",
            kind="other_plan",
        )
    for old in there:
        if old.suffix == ".tar" or old.name.endswith(".index.jsonl") or old.name in MADE:
            old.unlink()
    files.write_text(path, text)


@dataclass(frozen=True)
class Result:
    """What came of one shard."""

    refused: list[Refused]
    notes: list[str]


def _render_rows(
    shard: ShardPlan, options: Options, write: Callable[..., None], only: set[str] | None = None
) -> Result:
    """Render the rows of a shard (or those with the keys `only`) in order; what cannot be rendered is refused."""
    refused = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with builder(options.source).sources(options) as sources:
            for row in shard.rows:
                if only is not None and row.key not in only:
                    continue
                with processes.signals_deferred():
                    try:
                        mixture, fields = render(row, sources)
                    except UserError as e:
                        refused.append(Refused(_item(row), str(e), e.kind or "unreadable"))
                        continue
                    write(row.key, mixture, fields)
    return Result(refused, sorted({str(w.message) for w in caught}))


def _item(row: PlanRow) -> str:
    """How `refused.jsonl` calls a row: a pair by its noisy file, a mixture by its key."""
    return row.noisy.path if row.noisy else row.key


def make_shard(shard: ShardPlan, options: Options, out: Path, has_ref: bool) -> Result:
    """Write one shard: a pure function of its rows and of the sound they name."""
    rate = shard.rows[0].sample_rate
    # glibc gives blocks over a threshold back at once, and raises the threshold when a larger one is freed: without
    # this, the arrays of long samples are faulted in anew for every sample (8 s: mixing takes three times as long).
    np.empty(1 << 24, np.uint8)
    with ShardWriter(out / f"{shard.name}.tar", rate, has_ref) as writer:
        return _render_rows(shard, options, writer.write)


def _origins(
    out: Path, plan: Plan, mine: list[ShardPlan], sources: Sources, whole: bool
) -> tuple[dict[origins.Origin, origins.Stamp], list[str]]:
    """Hash what the rows name and keep it in `sources.jsonl`: the stamps of the files, and a note where an earlier
    build did not. Raises `UserError` where shards hold other contents of them."""
    before = origins.read(out)
    rows = plan.rows if whole or before is None else [row for shard in mine for row in shard.rows]
    now, stamps = origins.contents(origins.of_rows(rows), sources)
    stale = origins.changed(before or {}, now)
    there = {shard.name: _stored(out, shard) for shard in mine}
    if used := {o for s in mine for row in s.rows if row.key in there[s.name] for o in origins.of_row(row)} & stale:
        raise UserError(
            f"{out} was made from other contents of {origins.named(used)}: choose another --out, or build it anew with "
            "--force",
            kind="changed",
        )
    if now and before != {**(before or {}), **now}:
        origins.write(out, {**(before or {}), **now})
    lost = bool(now) and before is None and any(there.values())
    notes = [f"{out} does not say what its shards were made from: the files of now are taken for those of then"]
    return stamps, notes if lost else []


def _stored(out: Path, shard: ShardPlan) -> set[str]:
    """The keys that a shard holds by its index; all of its plan where it has none."""
    tar = out / f"{shard.name}.tar"
    if not tar.exists():
        return set()
    try:
        return {row.key for row in read_index(index_path(tar))}
    except (OSError, ShardFault):
        return {row.key for row in shard.rows}


def _untouched(out: Path, made: list[ShardPlan], stamps: dict[origins.Origin, origins.Stamp], sources: Sources) -> None:
    """Whether the files are what they were before the shards were made of them; if not, the shards are not kept."""
    touched = {o for o, stamp in stamps.items() if origins.stamp(o, sources) != stamp}
    known = origins.read(out) or {}
    now, _ = origins.contents(sorted(touched), sources)
    if other := {o for o in touched if now.get(o) != known.get(o)}:
        for shard in made:
            if any(o in other for row in shard.rows for o in origins.of_row(row)):
                (out / f"{shard.name}.tar").unlink(missing_ok=True)
                index_path(out / f"{shard.name}.tar").unlink(missing_ok=True)
        raise UserError(
            f"{origins.named(other)} changed while {out} was built: run the same command again when they are whole",
            kind="changed",
        )


def _find_whole(
    out: Path, mine: list[ShardPlan], options: Options
) -> tuple[list[ShardPlan], dict[str, list[Refused]], list[str]]:
    """The shards still to be made, and what is refused in the others, by shard. A damaged shard is made again."""
    todo: list[ShardPlan] = []
    refused: dict[str, list[Refused]] = {}
    notes: list[str] = []
    digests = _known_digests(out)
    for shard in mine:
        tar = out / f"{shard.name}.tar"
        planned = {row.key for row in shard.rows}
        there = _keys_of(tar, digests.get(tar.name))
        made: list[str] = []  # what could not be read then can be read now
        result = Result([], [])
        if there and there < planned:
            result = _render_rows(shard, options, lambda key, *_, made=made: made.append(key), planned - there)
        if there and there <= planned and not made:
            refused[shard.name] = result.refused
            notes += result.notes
        else:
            tar.unlink(missing_ok=True)
            index_path(tar).unlink(missing_ok=True)
            todo.append(shard)
    return todo, refused, notes


def _known_digests(out: Path) -> dict[str, str]:
    """SHA-256 by shard from an earlier manifest, which is not the last word: a damaged one is no hindrance."""
    try:
        data = json.loads((out / NAME).read_text(encoding="utf-8"))
        return {s["file"]: s["sha256"] for split in data["splits"].values() for s in split["shards"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _keys_of(tar: Path, digest: str | None) -> set[str]:
    """The keys of a whole shard, none for one that is not there or damaged. A missing index is made again."""
    if not tar.exists() or (digest is not None and files.sha256(tar) != digest):
        return set()
    try:
        rows = build_index(tar)
        if not index_path(tar).exists() or read_index(index_path(tar)) != rows:
            write_index(tar, rows)
    except ShardFault:
        return set()
    return {row.key for row in rows}


def _make(
    todo: list[ShardPlan], options: Options, out: Path, has_ref: bool, workers: int, engine: str
) -> dict[str, Result]:
    """Make shards, in this process, in several or on a cluster; progress by samples."""
    total = sum(len(s.rows) for s in todo)
    results = {}
    with Progress(total, "building samples") as progress:
        if engine == "ray":
            for shard, result in cluster.results(make_shard, todo, options, out, has_ref):
                results[shard.name] = result
                progress.advance(len(shard.rows))
            return results
        if workers <= 1 or len(todo) <= 1 or total < SMALL_BUILD:  # starting processes costs seconds
            for shard in todo:
                results[shard.name] = make_shard(shard, options, out, has_ref)
                progress.advance(len(shard.rows))
            return results
        with processes.pool(min(workers, len(todo))) as pool:
            waiting = {pool.submit(make_shard, s, options, out, has_ref): s for s in todo}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        shard = waiting.pop(future)
                        results[shard.name] = future.result()
                        progress.advance(len(shard.rows))
            except BrokenProcessPool:
                raise UserError(
                    "a builder process died (killed; out of memory?): run the same command again, with fewer --workers",
                    kind="worker_died",
                ) from None
    return results


def _summarise(
    out: Path,
    mine: list[ShardPlan],
    plan: Plan,
    refused: dict[str, list[Refused]],
    notes: list[str],
    made: int,
    complete: bool,
) -> Summary:
    samples: Counter[str] = Counter()
    deviations = []
    for shard in mine:
        tar = out / f"{shard.name}.tar"
        if not tar.exists():  # all of its rows were refused
            continue
        rows = read_index(index_path(tar))
        samples[shard.split] += len(rows)
        logged = {row.key: row.meta.get("logged_snr_db") for row in shard.rows}
        for row in rows:
            claim = logged[row.key]
            if claim is not None and abs(claim - row.snr_db) > SNR_SLACK_DB:
                deviations.append(f"{row.key}: logged {claim:g} dB, measured {row.snr_db:.1f} dB")
    in_order = [r for shard in mine for r in refused[shard.name]]
    kept = len(refused) - made
    return Summary(
        out, complete, made, kept, samples, plan.refused + in_order, deviations, list(dict.fromkeys(plan.notes + notes))
    )


def _finish(out: Path, plan: Plan, refused: list[Refused]) -> None:
    """`refused.jsonl` in the order of the plan, then the data card and the manifest."""
    files.write_text(out / "refused.jsonl", "".join(json.dumps(r.record()) + "\n" for r in refused))
    licenses = {name: f"{count} files" for name, count in plan.licenses.items()}
    write_manifest(out, licenses=licenses, plan_sha256=plan.sha256())
