"""Differences between arms, paired twice: by training seed and by file. Pure functions on rows.

An arm's rows are `{seed: {setting: files}}`, settings and files as in `evaluation.schema`; a training seed is one
model, so the system of every setting is `OURS`. A contrast averages the differences of a file over the seeds, then the
mean over files gets its interval by environment and speaker. That interval speaks of these trainings; how far the seeds
lie apart stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nrmodel.evaluation.schema import Calls, Files, Row, Setting, by_setting
from nrmodel.evaluation.statistics import interval, two_way_bootstrap
from nrmodel.evaluation.summary import HARM_DB, Facts, as_dict, clusters, finite, harm_rate, whole_clip

OURS = "nr"  # the system of every setting of an arm
ArmRows = dict[int, dict[Setting, Files]]  # training seed -> setting -> files
BySeed = dict[int, Files]
Keep = Callable[[Row], bool]

PRIMARY = "estoi"


class Contrast(Facts):
    """The interval of a contrast in JSON, and what each training gave."""

    seeds: list[int]
    each: list[float | None]  # each seed's mean
    seed_sd: float | None  # their deviation; None for one seed


def settings_of(rows: Sequence[Row], system: str) -> dict[Setting, Files]:
    """The files of one system by setting; a row that stands in two evaluations counts once."""
    once = {row.identity: row for row in rows if row.system == system}
    return {replace(setting, system=OURS): files for setting, files in by_setting(once.values()).items()}


def select(arm: ArmRows, mode: str, ref_seconds: float, calls: Calls) -> BySeed:
    """The files of one setting by seed; seeds without it are left out."""
    setting = Setting(OURS, mode, 0.0 if mode == "none" else ref_seconds, *calls)
    return {seed: settings[setting] for seed, settings in arm.items() if setting in settings}


def differences(left: BySeed, right: BySeed, metric: str, keep: Keep | None) -> tuple[np.ndarray, list[Row], list[int]]:
    """`left` minus `right` (files, seeds), the rows of these files, the seeds that both have. A file without a number
    in any of the seeds is left out."""
    seeds = sorted(left.keys() & right.keys())
    facts: dict[str, Row] = {}
    values: dict[str, list[float]] = {}
    for seed in seeds:
        for key, row in left[seed].items():
            other = right[seed].get(key)
            if other is None or (keep is not None and not keep(row)):
                continue
            mine, its = row.score(metric), other.score(metric)
            if mine is not None and its is not None:
                facts[key] = row
                values.setdefault(key, []).append(mine - its)
    whole = [key for key, found in values.items() if len(found) == len(seeds)]
    return np.array([values[k] for k in whole]).reshape(len(whole), len(seeds)), [facts[k] for k in whole], seeds


def contrast(left: BySeed, right: BySeed, metric: str = PRIMARY, keep: Keep | None = None) -> Contrast:
    """`left` minus `right`, paired by seed and file."""
    table, rows, seeds = differences(left, right, metric, keep)
    found = as_dict(interval(table.mean(axis=1) if rows else np.zeros(0), *clusters(rows)))
    means = table.mean(axis=0) if rows else np.zeros(0)
    spread = finite(float(means.std(ddof=1))) if len(means) > 1 else None
    return {**found, "seeds": seeds, "each": [finite(float(mean)) for mean in means], "seed_sd": spread}


def bootstrap(left: BySeed, right: BySeed, keep: Keep) -> list[float] | None:
    """The two-way bootstrap of the same mean, as a check of its interval."""
    table, rows, _ = differences(left, right, PRIMARY, keep)
    if len(rows) < 2:
        return None
    return [round(x, 5) for x in two_way_bootstrap(table.mean(axis=1), *clusters(rows), np.random.default_rng(0))]


def harm(files: BySeed, other: BySeed) -> dict[str, Any]:
    """Share of files that lose more than `HARM_DB` of SI-SDR, mean over seeds and each seed's."""
    seeds = sorted(files.keys() & other.keys())
    pairs = [harm_rate(files[seed], other[seed]) for seed in seeds]
    rates = [rate for rate, _ in pairs if rate is not None]
    return {"rate": finite(float(np.mean(rates))) if rates else None, "each": [finite(rate) for rate in rates],
            "files": max((n for _, n in pairs), default=0), "over_db": HARM_DB}  # fmt: skip


def keys_with_whole_clip(arm: ArmRows, mode: str, calls: Calls) -> set[str]:
    """The files whose clip at the longest length has that length: those that can be compared at every length."""
    settings = {setting for per_seed in arm.values() for setting in per_seed}
    lengths = {s.ref_seconds for s in settings if (s.mode, s.calls) == (mode, calls)}
    if not lengths:
        return set()
    rows = [r for files in select(arm, mode, max(lengths), calls).values() for r in files.values()]
    return {row.key for row in rows} - {row.key for row in rows if not whole_clip(row, max(lengths))}


def of_split(arm: ArmRows, split: str) -> ArmRows:
    """An arm's rows on one split."""
    prefix = f"{split}-"
    return {
        seed: {s: {k: r for k, r in files.items() if k.startswith(prefix)} for s, files in settings.items()}
        for seed, settings in arm.items()
    }
