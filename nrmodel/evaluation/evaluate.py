"""`nr evaluate`: systems x modes x files -> rows.jsonl, one row at a time, and the tables made of it.

    files     where sound and references come from: `ShardFiles` or `FolderFiles` (folders.py)
    System    what is asked to enhance (systems.py); the noisy signal itself is one
    Job       one row: file, system, mode, length of the reference, calls, seed

Enhancement runs here, in file order, so that a file is read once; worker processes score meanwhile. Rows are appended
to rows.partial as they come, and the same call goes on where one ended; when none is missing they are sorted and
take their name. Sampler noise is keyed by (key, seed) and shared by all modes: their differences are paired.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nrdata import audio, cores
from nrdata.environment import provenance
from nrdata.errors import UserError
from nrdata.files import write_json, write_text
from nrdata.keyed import noise_seed
from nrdata.labels import is_unknown, place_of
from nrdata.progress import Progress
from nrmodel.evaluation import peers as peer_functions
from nrmodel.evaluation.conditions import Changed, conditions_of
from nrmodel.evaluation.folders import FolderFiles, Inputs, Sounds, drawn
from nrmodel.evaluation.metrics import METRICS, SAMPLE_RATE, Scores, failed
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.evaluation.resume import prepare, request_of, resumable
from nrmodel.evaluation.rungs import NO_SPAN, ShownClip, reference
from nrmodel.evaluation.schema import Row, line_of, read_rows
from nrmodel.evaluation.scoring import ScoringPool
from nrmodel.evaluation.speed import Stopwatch, read_speed
from nrmodel.evaluation.systems import Enhancer, System, folder_system, model_systems, peer_system
from nrmodel.evaluation.tables import write_tables


@dataclass(frozen=True)
class Job:
    system: System
    mode: str
    ref_seconds: float  # 0 where the mode has none
    nfe: int
    seed: int

    @property
    def sampler(self) -> str:
        return self.system.sampler(self.nfe)

    def identity(self, key: str) -> tuple[Any, ...]:
        """That of its row, as `schema.IDENTITY` orders it."""
        return (key, self.system.name, self.mode, self.ref_seconds, self.nfe, self.sampler, self.seed)


class ShardFiles:
    """One split of a data set, or `limit` rows drawn from it."""

    inputs: Mapping[str, Inputs] = MappingProxyType({})  # the fingerprint says what its files are

    def __init__(self, dataset: Any, split: str, limit: int | None = None):
        if split not in dataset.splits:
            raise UserError(f"{dataset.name} has no split {split!r}: choose from {', '.join(dataset.splits)}", "split")
        self.dataset, self.split, self.sample_rate = dataset, split, dataset.sample_rate
        self.index = dataset.index(split)
        count = len(self.index.key)
        if count == 0:
            raise UserError(f"the split {split!r} of {dataset.name} is empty", "empty")
        self.rows = drawn(count, limit)
        self.fingerprint = str(dataset.fingerprint)

    def key(self, row: int) -> str:
        return bytes(self.index.key[row]).decode()

    def facts(self, row: int, sounds: Sounds) -> dict[str, Any]:
        index = self.index
        return {
            "key": self.key(row),
            "env_id": index.env_names[index.env[row]],
            "recording": index.recording_names[index.recording[row]],
            "speaker": index.speaker_names[index.speaker[row]],
            "snr_db": round(float(index.snr_db[row]), 4),
        }

    def sounds(self, row: int) -> Sounds:
        clean, noisy, noise = (self.dataset.read(self.split, row, field) for field in ("clean", "noisy", "noise"))
        return Sounds(clean, noisy, noise, self.dataset.sample_rate)

    def fault(self, sounds: Sounds) -> str | None:
        return None  # `noisy = clean + noise` is an invariant of shards

    def reference(self, row: int, sounds: Sounds, mode: str, ref_seconds: float, seed: int) -> ShownClip | None:
        return reference(self.dataset, self.split, row, mode, ref_seconds, seed)


Files = ShardFiles | FolderFiles | Changed
PARTIAL = "rows.partial"  # beside rows.jsonl only where a process was killed between the two


def evaluate(model: Enhancer | None, dataset: Any, asked: EvaluationRequest, out: Path) -> dict[str, Any]:
    """Score a model, peers or a folder of estimates, on a split of `dataset` or on plain folders; returns the summary.

    Writes into `out`: rows.jsonl, summary.json, table.csv, table.md, config.json (what was asked), speed.json (wall
    time by system and calls), run.json (revision, versions, fingerprint, digest). A finished `out` of the same request
    is only read. Raises `UserError` where `out` holds another evaluation and `force` is not set.
    """
    files: Files
    modes: Sequence[str] = asked.modes
    conditions = conditions_of(asked)
    if dataset is not None:
        files = ShardFiles(dataset, asked.split, asked.limit)
        if conditions.told():
            files = Changed(files, conditions)
    elif asked.clean is not None and asked.noisy is not None:
        files = FolderFiles(asked.clean, asked.noisy, asked.ref, asked.limit)
        modes = files.modes
    else:
        raise UserError("nothing to evaluate on: give --shards, or --clean and --noisy", "missing")
    keys = [files.key(row) for row in files.rows]
    systems = [System("noisy", lambda key, sounds, ref, nfe, seed: (sounds.noisy, []), alignment=dataset is None)]
    if model is not None:
        own = model_systems(
            model, files.sample_rate, modes, asked.ref_seconds, asked.nfe or (None,), asked.seeds, asked.sampler
        )
        systems += own[:1] if conditions.told() else own  # the negative controls are of the straight sound
    systems += [peer_system(name, modes, asked.ref_seconds) for name in peer_functions.chosen(asked.peers)]
    if asked.enhanced is not None:
        systems.append(folder_system(asked.enhanced, keys, asked.limit is not None))
    inputs = {**files.inputs, **{role: its for system in systems for role, its in system.inputs.items()}}
    split = asked.split if dataset is not None else ""
    request = request_of(asked, split, files.fingerprint, keys, modes, systems, inputs)
    training_data = None if model is None else model.training_data
    prepare(out, request, inputs, asked.force)
    if not (out / "rows.jsonl").exists():
        workers = asked.workers or max(1, cores.usable() // 2)
        folders = {role: str(getattr(asked, role)) for role in inputs}
        write_json(out / "run.json", provenance() | made_with(model, files.fingerprint, workers) | folders)
        run(files, systems, out, training_data, workers)
    (out / PARTIAL).unlink(missing_ok=True)
    rows = read_rows(out / "rows.jsonl")
    summary = write_tables(rows, out, read_speed(out))
    warn_of_pairs(rows)
    warn_of_training_data(summary["in_training"])
    return summary


def run(
    files: Files,
    systems: list[System],
    out: Path,
    training_data: dict[str, Any] | None,
    workers: int,
) -> None:
    """Make the rows that are missing, then sort and name the file."""
    partial = out / PARTIAL
    done = {row.identity for row in resumable(partial)}
    planned = [(row, job) for row, jobs in plan(files, systems) for job in jobs]
    with (
        partial.open("a", encoding="ascii") as file,
        ScoringPool(workers) as pool,
        Progress(len(planned), "rows") as progress,
        Stopwatch(out) as stopwatch,
    ):

        def append(row: Row, scores: Scores) -> None:
            file.write(line_of(finished_row(row, scores)))
            file.flush()
            progress.advance()

        for row, jobs in plan(files, systems):
            waiting = [job for job in jobs if job.identity(files.key(row)) not in done]
            progress.advance(len(jobs) - len(waiting))
            if not waiting:
                continue
            sounds = files.sounds(row)
            facts, fault = files.facts(row, sounds), files.fault(sounds)
            facts |= {"seen": seen(facts, training_data), "speaker_seen": speaker_seen(facts, training_data)}
            for job in waiting:
                described, estimate = enhanced_row(files, row, facts, sounds, job, stopwatch)
                if fault is not None or isinstance(estimate, str):
                    append(described, failed(fault or str(estimate)))
                    continue
                clean, estimate = (audio.resample(x, sounds.sample_rate, SAMPLE_RATE) for x in (sounds.clean, estimate))
                for tag, scores in pool.submit(described, clean, estimate, SAMPLE_RATE, job.system.alignment):
                    append(tag, scores)
        for tag, scores in pool.drain():
            append(tag, scores)
    rows = sorted(resumable(partial), key=lambda row: row.identity)
    write_text(out / "rows.jsonl", "".join(map(line_of, rows)))


def plan(files: Files, systems: list[System]) -> Iterator[tuple[int, list[Job]]]:
    """Every file with its jobs, in file order. A mode without a reference has one length, 0."""
    for place, row in enumerate(files.rows):
        jobs = []
        for system in systems:
            if system.rows is not None and not evenly(place, len(files.rows), system.rows):
                continue
            for mode in system.modes:
                for seconds in system.ref_seconds if mode not in ("none", "given") else (0.0,):
                    jobs += [Job(system, mode, seconds, n, seed) for n in system.budgets for seed in system.seeds]
        yield row, jobs


def enhanced_row(
    files: Files, row: int, facts: dict[str, Any], sounds: Sounds, job: Job, stopwatch: Stopwatch
) -> tuple[Row, np.ndarray | str]:
    """The row without its scores, and the estimate, or the name of why there is none."""
    clip = files.reference(row, sounds, job.mode, job.ref_seconds, job.seed)
    described = Row(
        **facts, system=job.system.name, mode=job.mode, ref_seconds=job.ref_seconds, sampler=job.sampler, nfe=job.nfe,
        seed=job.seed, sample_rate=sounds.sample_rate, relation=clip.relation if clip else "missing",
        ref_source=clip.source if clip else "", ref_span=clip.span if clip else NO_SPAN,
        ref_distance_db=None if clip is None or clip.distance_db is None else round(clip.distance_db, 3),
        made_from=made_from(files, job, facts["key"]),
    )  # fmt: skip
    if clip is None:
        return described, "no_reference"
    seed, begun = noise_seed(facts["key"], job.seed), time.perf_counter()
    estimate, flags = job.system.enhance(facts["key"], sounds, clip.sound, job.nfe, seed)
    if job.system.computes:
        seconds = time.perf_counter() - begun
        stopwatch.add(job.system.name, job.nfe, seconds, len(sounds.noisy) / sounds.sample_rate)
    described = replace(described, flags=[*flags, *(["odd_pair"] if described.pair else [])])
    if job.system.name == "noise":
        left_db = audio.rms_dbfs(estimate) - audio.rms_dbfs(sounds.noise)
        # There is no speech to score against.
        return replace(described, left_db=round(max(left_db, -120.0), 3)), "silent_reference"
    return described, estimate


def finished_row(described: Row, scores: Scores) -> Row:
    return replace(
        described,
        scores={name: round(scores.values[name], 6) if name in scores.values else None for name in METRICS},
        failures=scores.failures,
        flags=[*described.flags, *scores.flags],
        delay_ms=round(scores.delay_ms, 3),
    )


def made_from(files: Files, job: Job, key: str) -> dict[str, str] | None:
    """What the plain files of a row are; None where there is none."""
    used = {role: its for role, its in files.inputs.items() if role != "ref" or job.mode == "given"}
    return {role: its.content(key) for role, its in {**used, **job.system.inputs}.items()} or None


def made_with(model: Enhancer | None, fingerprint: str, workers: int) -> dict[str, Any]:
    """What else a result depends on, or may be asked about."""
    found = {"fingerprint": fingerprint, "scoring_processes": workers}
    if model is None:
        return found
    import torch

    return found | {"model_sha256": model.digest, "torch_threads": torch.get_num_threads()}


def seen(facts: dict[str, Any], training_data: dict[str, Any] | None) -> str | None:
    """`recording`, `environment` or `unseen` in training; None where it is not known. A variant (`~k`) of a seen
    environment is seen."""
    if training_data is None or is_unknown(facts["env_id"]):
        return None
    if facts["recording"] in training_data["recordings"]:
        return "recording"
    places = {place_of(env_id) for env_id in training_data["env_ids"]}
    return "environment" if place_of(facts["env_id"]) in places else "unseen"


def speaker_seen(facts: dict[str, Any], training_data: dict[str, Any] | None) -> bool | None:
    """Whether the model was trained on speech of this speaker; None where that is not known."""
    if training_data is None or is_unknown(facts["speaker"]):
        return None
    return facts["speaker"] in training_data["speakers"]


def warn_of_training_data(counts: dict[str, int] | None) -> None:
    """Say it where a test is none, since the model has heard its speakers or its very recordings of noise."""
    if counts is not None and (counts["speakers"] or counts["recordings"]):
        warnings.warn(
            f"the model was trained on {counts['speakers']} of the {counts['of_speakers']} speakers and on "
            f"{counts['recordings']} of the {counts['of_recordings']} noise recordings that it is scored on",
            stacklevel=3,
        )


def warn_of_pairs(rows: Sequence[Row]) -> None:
    """Tell the first file whose noisy side is not clean plus noise as they lie, with its numbers, and how many are."""
    odd = {row.key: row for row in rows if row.pair}
    for row in list(odd.values())[:1]:
        assert row.pair is not None
        undone = "its SNR cannot be told" if row.snr_db is None else f"with that undone its SNR is {row.snr_db:.1f} dB"
        warnings.warn(
            f"noisy minus clean is no noise in {len(odd)} of {len({row.key for row in rows})} files; {row.key}: "
            f"{row.pair['detail']} (correlation of clean with noisy - clean {row.pair['correlation']:+.2f}); {undone}",
            stacklevel=3,
        )


def evenly(place: int, count: int, wanted: int) -> bool:
    """Whether `place` is one of `wanted` places spread over `count`."""
    return wanted >= count or (place * wanted) // count != ((place - 1) * wanted) // count
