"""From rows to numbers, as plain JSON: the declared contrast, means, differences, strata, controls, failures.

Rows of one file are first averaged over seeds. A comparison uses the files where both sides have a number, and says
how many files, environments and speakers these are. Nothing here draws but the bootstrap, which is seeded.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict

import numpy as np

from nrdata.labels import is_unknown, place_of
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import CONTROLS, NOISY, Calls, Files, Row, Setting, by_setting
from nrmodel.evaluation.statistics import Interval, holm, interval, rank_correlation, two_way_bootstrap

HARM_DB = 1.0  # a file that loses more SI-SDR than this is harmed
PRIMARY_SNR_DB = (-7.5, 2.5)  # the levels -5 and 0 dB, as measured
DISTANCE_EDGES_DB = (0.0, 3.0, 6.0, 9.0, 12.0, math.inf)
TOO_SHORT = "too short to conclude"

Groups = dict[Setting, Files]


class Facts(TypedDict):
    """An interval in JSON: rounded, None for what is not a number."""

    mean: float | None
    low: float | None
    high: float | None
    p_value: float | None
    files: int
    environments: int
    speakers: int
    method: str
    fixed: list[str]
    conclusive: bool
    p_holm: NotRequired[float | None]


def measured(groups: Groups) -> list[str]:
    """The metrics that these rows know: rows may be older than a row of the table."""
    return [name for name in METRICS if any(name in row.scores for files in groups.values() for row in files.values())]


def numbers(rows: Sequence[Row], metric: str) -> np.ndarray:
    """The scores of rows that all have one."""
    return np.array([row.scores[metric] for row in rows], dtype=float)


def mean_of(files: Files, metric: str) -> Interval:
    """The mean of one metric with its clustered interval."""
    have = [row for row in files.values() if row.score(metric) is not None]
    return interval(numbers(have, metric), *clusters(have))


def difference(files: Files, other: Files, metric: str) -> Interval:
    """`files` minus `other`, paired by key, over the files where both have a number."""
    have = paired(files, other, metric)
    return interval(gains(have, other, metric), *clusters(have))


def gains(rows: Sequence[Row], other: Files, metric: str) -> np.ndarray:
    """Score minus that of the same file in `other`, of paired rows."""
    gained: np.ndarray = numbers(rows, metric) - numbers([other[row.key] for row in rows], metric)
    return gained


def paired(files: Files, other: Files, metric: str) -> list[Row]:
    both = [(row, other[key]) for key, row in files.items() if key in other]
    return [row for row, its in both if row.score(metric) is not None and its.score(metric) is not None]


def clusters(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Environment (its rooms and variants are one place) and speaker of each row. Unknown labels: each file its own."""
    environment = [place_of_row(row) or row.key for row in rows]
    speaker = [row.key if is_unknown(row.speaker) else row.speaker for row in rows]
    return np.array(environment, dtype=object).astype(str), np.array(speaker, dtype=object).astype(str)


def place_of_row(row: Row) -> str | None:
    """The environment without its room or variant; None where it is unknown."""
    return None if is_unknown(row.env_id) else place_of(row.env_id)


def harm_rate(files: Files, other: Files) -> tuple[float | None, int]:
    """Share of files that lose more than `HARM_DB` of SI-SDR against `other`, and of how many."""
    have = paired(files, other, "si_sdr")
    if not have:
        return None, 0
    return float(np.mean(gains(have, other, "si_sdr") < -HARM_DB)), len(have)


def primary_contrast(files: Files, none: Files) -> dict[str, Any]:
    """The declared contrast: ESTOI, `disjoint` minus `none`, the same weights, -5 and 0 dB, all test recordings.

    It shows a gain only beside a baseline trained without reference at the same budget, which one evaluation does not
    have (an experiment does, `nrmodel.experiment.verdicts`): `shown` and `quoted` are None here.
    """
    low, high = PRIMARY_SNR_DB
    chosen = {k: r for k, r in files.items() if r.snr_db is not None and low <= r.snr_db < high}
    gain = difference(chosen, none, "estoi")
    return {
        "over_none": as_dict(gain), "bootstrap": bootstrap(chosen, none, "estoi"), "conclusive": gain.conclusive,
        "shown": None, "quoted": None,
    }  # fmt: skip


def bootstrap(files: Files, other: Files, metric: str) -> list[float] | None:
    """The two-way bootstrap beside an interval, as its check."""
    have = paired(files, other, metric)
    if len(have) < 2:
        return None
    values = gains(have, other, metric)
    return [round(x, 5) for x in two_way_bootstrap(values, *clusters(have), np.random.default_rng(0))]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the tables show, as plain JSON."""
    groups = by_setting(rows)
    noisy = groups.get(NOISY, {})
    summary: dict[str, Any] = {"rows": len(rows), "files": len({row.key for row in rows})}
    summary["failures"] = count_failures(rows)
    summary["flags"] = count_flags(rows)
    summary["in_training"] = in_training(rows)
    summary["primary"] = primary_of(groups)
    summary["means"] = [
        setting.described()
        | {"metrics": {m: as_dict(mean_of(files, m)) for m in measured(groups)}, "n": len(files)}
        | same_files(setting, files, groups)
        for setting, files in groups.items()
        if setting.system not in CONTROLS
    ]
    summary["differences"] = differences(groups, noisy)
    summary["by"] = {
        "environment": strata(groups, place_of_row),
        "snr_db": strata(groups, lambda row: snr_level(row.snr_db)),
        "seen": strata(groups, lambda row: row.seen),
    }
    summary["lengths"] = lengths(groups)
    summary["calls"] = budgets(groups)
    summary["by_distance"] = by_distance(groups)
    summary["controls"] = controls(groups)
    return summary


def same_files(setting: Setting, files: Files, groups: Groups) -> dict[str, Any]:
    """Where not all files have a number: what `none` of the same weights and noisy have over those that do, by metric,
    so that means of different files are not compared. Empty where all have one."""
    others = {"none": setting.without_clip(), "noisy": NOISY}
    found: dict[str, dict[str, float]] = {}
    for metric in measured(groups):
        have = {key for key, row in files.items() if row.score(metric) is not None}
        for name, other in others.items():
            its = {key: row for key, row in groups.get(other, {}).items() if row.score(metric) is not None}
            if other != setting and have and not its.keys() & files.keys() <= have:
                means = found.setdefault(metric, {})
                means[name] = round(float(np.mean([its[key].scores[metric] for key in sorted(have & its.keys())])), 5)
    return {"same_files": found} if found else {}


def in_training(rows: Sequence[Row]) -> dict[str, int] | None:
    """How many of the speakers and recordings heard here the model was trained on; None where that is not known."""
    told = [row for row in rows if row.speaker_seen is not None or row.seen is not None]
    if not told:
        return None
    return {
        "speakers": len({row.speaker for row in told if row.speaker_seen}),
        "of_speakers": len({row.speaker for row in told if row.speaker_seen is not None}),
        "recordings": len({row.recording for row in told if row.seen == "recording"}),
        "of_recordings": len({row.recording for row in told if row.seen is not None}),
    }


def primary_of(groups: Groups) -> list[dict[str, Any]]:
    """The declared contrast for every (system, calls, length) that has both modes."""
    found = []
    for setting, files in groups.items():
        none = groups.get(setting.without_clip())
        if setting.mode == "disjoint" and none is not None and not setting.system.startswith("peer:"):
            found.append(setting.described() | primary_contrast(files, none))
    return found


def differences(groups: Groups, noisy: Files) -> list[dict[str, Any]]:
    """Every setting minus `none` of the same weights and minus noisy, with harm rates; Holm over each metric's
    p-values against `none`."""
    found, known = [], measured(groups)
    for setting, files in groups.items():
        if setting.system == "noisy" or setting.system in CONTROLS:
            continue
        for name, other in (("none", groups.get(setting.without_clip())), ("noisy", noisy)):
            if other and name != setting.mode:
                rate, of = harm_rate(files, other)
                entry = {"minus": name, "harm_rate": rate, "harm_files": of}
                metrics = {m: as_dict(difference(files, other, m)) for m in known}
                found.append(setting.described() | entry | {"metrics": metrics})
    for metric in known:
        tested = [e["metrics"][metric] for e in found if e["minus"] == "none"]
        tested = [e for e in tested if e["p_value"] is not None]
        for entry, adjusted in zip(tested, holm([e["p_value"] for e in tested]), strict=True):
            entry["p_holm"] = adjusted
    return found


def strata(groups: Groups, label: Callable[[Row], Any]) -> list[dict[str, Any]]:
    """Means in each level of a label (None: left out), for every setting, without intervals."""
    found, known = [], measured(groups)
    for setting, files in groups.items():
        if setting.system in CONTROLS:
            continue
        levels: dict[Any, list[Row]] = defaultdict(list)
        for row in files.values():
            if (level := label(row)) is not None:
                levels[level].append(row)
        for level in sorted(levels):
            means: dict[str, float | None] = {}
            for m in known:
                values = [value for row in levels[level] if (value := row.score(m)) is not None]
                means[m] = round(float(np.mean(values)), 5) if values else None
            here = {row.key: row for row in levels[level]}
            same = same_files(setting, here, groups)
            found.append(setting.described() | {"level": level, "n": len(here), "metrics": means} | same)
    return found


def snr_level(snr_db: float | None) -> float | None:
    """The measured SNR to the nearest 2.5 dB, what test sets use."""
    return None if snr_db is None else 2.5 * round(snr_db / 2.5) + 0.0


def lengths(groups: Groups) -> list[dict[str, Any]]:
    """Each length minus the longest, on the files whose clips have both lengths in full."""
    found, known = [], measured(groups)
    for setting, files in groups.items():
        others = [s for s in groups if replace(s, ref_seconds=setting.ref_seconds) == setting]
        longest = max(others, key=lambda s: s.ref_seconds)
        if setting.mode == "none" or longest == setting:
            continue
        whole = {key for key, row in groups[longest].items() if whole_clip(row, longest.ref_seconds)}
        same = {key: row for key, row in files.items() if key in whole and whole_clip(row, setting.ref_seconds)}
        metrics = {m: as_dict(difference(same, groups[longest], m)) for m in known}
        found.append(setting.described() | {"minus_seconds": longest.ref_seconds, "metrics": metrics})
    return found


def budgets(groups: Groups) -> list[dict[str, Any]]:
    """Each number of network calls minus the next smaller one: what the further calls bring."""
    found, known = [], measured(groups)
    for setting, files in groups.items():
        asked = (setting.system, setting.mode, setting.ref_seconds)
        fewer = [s for s in groups if (s.system, s.mode, s.ref_seconds) == asked and s.nfe < setting.nfe]
        if fewer:
            other = max(fewer, key=lambda s: s.nfe)
            metrics = {m: as_dict(difference(files, groups[other], m)) for m in known}
            found.append(setting.described() | {"minus_nfe": other.nfe, "metrics": metrics})
    return found


def whole_clip(row: Row, ref_seconds: float) -> bool:
    """Whether the clip has the length that was asked for. Noise made for it has; a recording may have held less."""
    start, stop = row.ref_span
    return start < 0 or stop - start == round(ref_seconds * row.sample_rate)


def by_distance(groups: Groups) -> list[dict[str, Any]]:
    """Gain over `none` by how far the clip's spectrum is from the mixture's noise, all recorded clips together."""
    points: dict[tuple[str, Calls], dict[str, list[tuple[float, float, Row]]]] = defaultdict(lambda: defaultdict(list))
    for setting, files in groups.items():
        none = groups.get(setting.without_clip())
        if none is None or setting.mode == "none":
            continue
        for metric in measured(groups):
            have = [r for r in paired(files, none, metric) if r.ref_distance_db is not None and r.relation != "made"]
            for row, gain in zip(have, gains(have, none, metric), strict=True):
                points[setting.system, setting.calls][metric].append((float(row.ref_distance_db or 0.0), gain, row))
    found = []
    for (system, calls), metrics in points.items():
        for metric, own in metrics.items():
            distance, gain = np.array([p[0] for p in own]), np.array([p[1] for p in own])
            bins = []
            for low, high in itertools.pairwise(DISTANCE_EDGES_DB):
                inside = np.flatnonzero((distance >= low) & (distance < high))
                if len(inside):
                    estimate = interval(gain[inside], *clusters([own[i][2] for i in inside]))
                    bins.append({"from_db": low, "to_db": finite(high), "gain": as_dict(estimate)})
            rho = finite(rank_correlation(distance, gain))
            found.append({"system": system, "nfe": calls.nfe, "metric": metric, "rank_correlation": rho, "bins": bins})
    return found


def controls(groups: Groups) -> dict[str, Any]:
    """Clean speech in: what the system breaks. Noise alone in: how much is left, RMS out over RMS in."""
    found: dict[str, Any] = {}
    for setting, files in groups.items():
        if setting.system == "clean":
            scores = {m: as_dict(mean_of(files, m)) for m in measured(groups)}
            found["clean_input"] = {"nfe": setting.nfe, "n": len(files)} | scores
        elif setting.system == "noise":
            left = [row.left_db for row in files.values() if row.left_db is not None]
            if left:
                found["noise_alone"] = {"nfe": setting.nfe, "n": len(left), "left_db": round(float(np.mean(left)), 3)}
    return found


def count_failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How often each metric failed under each name, by system and mode (the noise control has no speech to score)."""
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in rows:
        if row.system != "noise":
            for metric, kind in row.failures.items():
                counts[row.system, row.mode, metric, kind] += 1
    return [
        {"system": system, "mode": mode, "metric": metric, "kind": kind, "rows": n}
        for (system, mode, metric, kind), n in sorted(counts.items())
    ]


def count_flags(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        for flag in row.flags:
            counts[flag] += 1
    return dict(sorted(counts.items()))


def as_dict(x: Interval) -> Facts:
    """An interval for JSON."""
    return {
        "mean": finite(x.mean), "low": finite(x.low), "high": finite(x.high), "p_value": finite(x.p_value),
        "files": x.files, "environments": x.environments, "speakers": x.speakers, "method": x.method,
        "fixed": list(x.fixed), "conclusive": x.conclusive,
    }  # fmt: skip


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 5)
