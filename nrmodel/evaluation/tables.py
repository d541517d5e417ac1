"""From rows to what is read: summary.json, table.csv and table.md, the declared contrast first.

Rows of one file are first averaged over seeds. A comparison uses the files where both sides have a number, and says
how many files, environments and speakers these are. Nothing here draws but the bootstrap, which is seeded.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nrdata.errors import UserError
from nrdata.files import write_json, write_text
from nrdata.labels import is_unknown, place_of, printable
from nrmodel.evaluation.rungs import bases
from nrmodel.evaluation.speed import real_time_factors
from nrmodel.evaluation.statistics import Interval, holm, interval, rank_correlation, two_way_bootstrap

METRICS = ("pesq_wb", "estoi", "si_sdr")
TITLES = {"pesq_wb": "PESQ-WB", "estoi": "ESTOI", "si_sdr": "SI-SDR dB"}
MARGINS = {"pesq_wb": 0.05, "estoi": 0.01, "si_sdr": 0.3}  # what would matter
HARM_DB = 1.0  # a file that loses more SI-SDR than this is harmed
PRIMARY_SNR_DB = (-7.5, 2.5)  # the levels -5 and 0 dB, as measured
DISTANCE_EDGES_DB = (0.0, 3.0, 6.0, 9.0, 12.0, math.inf)
SAMPLE_RATE = 16000  # Hz, of rows that do not name their data's
TOO_SHORT = "too short to conclude"
CONTROLS = ("clean", "noise")  # systems whose rows are the negative controls

Row = dict[str, Any]
Setting = tuple[str, str, float, int]  # system, mode, ref_seconds, nfe
Files = dict[str, dict[str, Any]]  # key -> facts and metrics, averaged over seeds


def read_rows(path: Path) -> list[Row]:
    """The rows of a finished evaluation. Raises `UserError` naming file and line."""
    if not path.is_file():
        raise UserError(f"{path} is not there: the evaluation is unfinished; the same command goes on", "missing")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as e:
            raise UserError(
                f"{path}, line {number}, is no JSON ({e}): evaluate again with --force", "unreadable"
            ) from e
    return rows


def by_setting(rows: Sequence[Row]) -> dict[Setting, Files]:
    """Rows grouped by (system, mode, ref_seconds, nfe), each file's metrics averaged over the seeds that have them."""
    groups: dict[Setting, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["system"], row["mode"], row["ref_seconds"], row["nfe"]][row["key"]].append(row)
    result: dict[Setting, Files] = {}
    for setting, files in groups.items():
        result[setting] = {}
        for key, same in files.items():
            values = {m: [row[m] for row in same if row[m] is not None] for m in METRICS}
            result[setting][key] = same[0] | {m: float(np.mean(v)) if v else None for m, v in values.items()}
    return dict(sorted(result.items(), key=lambda item: _place(item[0])))


def _place(setting: Setting) -> tuple:
    """Noisy first, then our models, then the others; modes as the ladder goes up, treated clips behind it."""
    system, mode, seconds, nfe = setting
    ladder = bases()
    rung = ladder.index(mode) if mode in ladder else len(ladder)
    return (system != "noisy", not system.startswith("nr:"), system, nfe, rung, mode, seconds)


def mean_of(files: Files, metric: str) -> Interval:
    """The mean of one metric with its clustered interval."""
    have = [row for row in files.values() if row[metric] is not None]
    return interval(np.array([row[metric] for row in have]), *clusters(have))


def difference(files: Files, other: Files, metric: str) -> Interval:
    """`files` minus `other`, paired by key, over the files where both have a number."""
    have = paired(files, other, metric)
    return interval(np.array([row[metric] - other[row["key"]][metric] for row in have]), *clusters(have))


def paired(files: Files, other: Files, metric: str) -> list[Row]:
    return [r for k, r in files.items() if k in other and r[metric] is not None and other[k][metric] is not None]


def clusters(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Environment (its rooms and variants are one place) and speaker of each row. Unknown labels: each file its own."""
    environment = [place_or_none(row) or row["key"] for row in rows]
    speaker = [row["key"] if is_unknown(row["speaker"]) else row["speaker"] for row in rows]
    return np.array(environment, dtype=object).astype(str), np.array(speaker, dtype=object).astype(str)


def place_or_none(row: Row) -> str | None:
    """The environment without its room or variant; None where it is unknown."""
    return None if is_unknown(row["env_id"]) else place_of(row["env_id"])


def harm_rate(files: Files, other: Files) -> tuple[float | None, int]:
    """Share of files that lose more than 1 dB SI-SDR against `other`, and of how many."""
    have = paired(files, other, "si_sdr")
    if not have:
        return None, 0
    return float(np.mean([row["si_sdr"] - other[row["key"]]["si_sdr"] < -HARM_DB for row in have])), len(have)


def primary_contrast(files: Files, none: Files) -> dict[str, Any]:
    """The declared contrast: ESTOI, `disjoint` minus `none`, the same weights, -5 and 0 dB, all test recordings.

    It shows a gain only beside a baseline trained without reference at the same budget, which one evaluation does not
    have (an experiment does, `nrmodel.experiment.verdicts`): `shown` and `quoted` are None here.
    """
    low, high = PRIMARY_SNR_DB
    chosen = {k: r for k, r in files.items() if r["snr_db"] is not None and low <= r["snr_db"] < high}
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
    values = np.array([row[metric] - other[row["key"]][metric] for row in have])
    return [round(x, 5) for x in two_way_bootstrap(values, *clusters(have), np.random.default_rng(0))]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the tables show, as plain JSON."""
    groups = by_setting(rows)
    noisy = groups.get(("noisy", "none", 0.0, 0), {})
    summary: dict[str, Any] = {"rows": len(rows), "files": len({row["key"] for row in rows})}
    summary["failures"] = count_failures(rows)
    summary["flags"] = count_flags(rows)
    summary["in_training"] = in_training(rows)
    summary["primary"] = primary_of(groups)
    summary["means"] = [
        described(setting) | {"metrics": {m: as_dict(mean_of(files, m)) for m in METRICS}, "n": len(files)}
        for setting, files in groups.items()
        if setting[0] not in CONTROLS
    ]
    summary["differences"] = differences(groups, noisy)
    summary["by"] = {
        "environment": strata(groups, place_or_none),
        "snr_db": strata(groups, lambda row: snr_level(row["snr_db"])),
        "seen": strata(groups, lambda row: row["seen"]),
    }
    summary["lengths"] = lengths(groups)
    summary["calls"] = budgets(groups)
    summary["by_distance"] = by_distance(groups)
    summary["controls"] = controls(groups)
    return summary


def in_training(rows: Sequence[Row]) -> dict[str, int] | None:
    """How many of the speakers and recordings heard here the model was trained on; None where that is not known."""
    told = [row for row in rows if row.get("speaker_seen") is not None or row["seen"] is not None]
    if not told:
        return None
    return {
        "speakers": len({row["speaker"] for row in told if row.get("speaker_seen")}),
        "of_speakers": len({row["speaker"] for row in told if row.get("speaker_seen") is not None}),
        "recordings": len({row["recording"] for row in told if row["seen"] == "recording"}),
        "of_recordings": len({row["recording"] for row in told if row["seen"] is not None}),
    }


def primary_of(groups: dict[Setting, Files]) -> list[dict[str, Any]]:
    """The declared contrast for every (system, calls, length) that has both modes."""
    found = []
    for (system, mode, seconds, nfe), files in groups.items():
        none = groups.get((system, "none", 0.0, nfe))
        if mode == "disjoint" and none is not None and not system.startswith("peer:"):
            found.append(described((system, mode, seconds, nfe)) | primary_contrast(files, none))
    return found


def differences(groups: dict[Setting, Files], noisy: Files) -> list[dict[str, Any]]:
    """Every setting minus `none` of the same weights and minus noisy, with harm rates; Holm over each metric's
    p-values against `none`."""
    found = []
    for setting, files in groups.items():
        system, mode, _, nfe = setting
        if system == "noisy" or system in CONTROLS:
            continue
        for name, other in (("none", groups.get((system, "none", 0.0, nfe))), ("noisy", noisy)):
            if other and name != mode:
                rate, of = harm_rate(files, other)
                entry = {"minus": name, "harm_rate": rate, "harm_files": of}
                metrics = {m: as_dict(difference(files, other, m)) for m in METRICS}
                found.append(described(setting) | entry | {"metrics": metrics})
    for metric in METRICS:
        tested = [e["metrics"][metric] for e in found if e["minus"] == "none"]
        tested = [e for e in tested if e["p_value"] is not None]
        for entry, adjusted in zip(tested, holm([e["p_value"] for e in tested]), strict=True):
            entry["p_holm"] = adjusted
    return found


def strata(groups: dict[Setting, Files], label: Callable[[Row], Any]) -> list[dict[str, Any]]:
    """Means in each level of a label (None: left out), for every setting, without intervals."""
    found = []
    for setting, files in groups.items():
        if setting[0] in CONTROLS:
            continue
        levels: dict[Any, list[Row]] = defaultdict(list)
        for row in files.values():
            if (level := label(row)) is not None:
                levels[level].append(row)
        for level in sorted(levels):
            means: dict[str, float | None] = {}
            for m in METRICS:
                values = [row[m] for row in levels[level] if row[m] is not None]
                means[m] = round(float(np.mean(values)), 5) if values else None
            found.append(described(setting) | {"level": level, "n": len(levels[level]), "metrics": means})
    return found


def snr_level(snr_db: float | None) -> float | None:
    """The measured SNR to the nearest 2.5 dB, what test sets use."""
    return None if snr_db is None else 2.5 * round(snr_db / 2.5) + 0.0


def lengths(groups: dict[Setting, Files]) -> list[dict[str, Any]]:
    """Each length minus the longest, on the files whose clips have both lengths in full."""
    found = []
    for setting, files in groups.items():
        system, mode, seconds, nfe = setting
        others = [s for s in groups if (s[0], s[1], s[3]) == (system, mode, nfe)]
        longest = max(others, key=lambda s: s[2])
        if mode == "none" or longest == setting:
            continue
        whole = {key for key, row in groups[longest].items() if whole_clip(row, longest[2])}
        same = {key: row for key, row in files.items() if key in whole and whole_clip(row, seconds)}
        metrics = {m: as_dict(difference(same, groups[longest], m)) for m in METRICS}
        found.append(described(setting) | {"minus_seconds": longest[2], "metrics": metrics})
    return found


def budgets(groups: dict[Setting, Files]) -> list[dict[str, Any]]:
    """Each number of network calls minus the next smaller one: what the further calls bring."""
    found = []
    for setting, files in groups.items():
        fewer = [s for s in groups if s[:3] == setting[:3] and s[3] < setting[3]]
        if fewer:
            other = max(fewer, key=lambda s: s[3])
            metrics = {m: as_dict(difference(files, groups[other], m)) for m in METRICS}
            found.append(described(setting) | {"minus_nfe": other[3], "metrics": metrics})
    return found


def whole_clip(row: Row, ref_seconds: float) -> bool:
    """Whether the clip has the length that was asked for. Noise made for it has; a recording may have held less."""
    start, stop = row["ref_span"]
    return start < 0 or stop - start == round(ref_seconds * row.get("sample_rate", SAMPLE_RATE))


def by_distance(groups: dict[Setting, Files]) -> list[dict[str, Any]]:
    """Gain over `none` by how far the clip's spectrum is from the mixture's noise, all recorded clips together."""
    gains: dict[tuple[str, int], dict[str, list[tuple[float, float, Row]]]] = defaultdict(lambda: defaultdict(list))
    for (system, mode, _, nfe), files in groups.items():
        none = groups.get((system, "none", 0.0, nfe))
        if none is None or mode == "none":
            continue
        for metric in METRICS:
            for row in paired(files, none, metric):
                if row["ref_distance_db"] is not None and row["relation"] != "made":
                    gain = row[metric] - none[row["key"]][metric]
                    gains[system, nfe][metric].append((row["ref_distance_db"], gain, row))
    found = []
    for (system, nfe), metrics in gains.items():
        for metric, points in metrics.items():
            distance, gain = np.array([p[0] for p in points]), np.array([p[1] for p in points])
            bins = []
            for low, high in itertools.pairwise(DISTANCE_EDGES_DB):
                inside = np.flatnonzero((distance >= low) & (distance < high))
                if len(inside):
                    estimate = interval(gain[inside], *clusters([points[i][2] for i in inside]))
                    bins.append({"from_db": low, "to_db": finite(high), "gain": as_dict(estimate)})
            rho = finite(rank_correlation(distance, gain))
            found.append({"system": system, "nfe": nfe, "metric": metric, "rank_correlation": rho, "bins": bins})
    return found


def controls(groups: dict[Setting, Files]) -> dict[str, Any]:
    """Clean speech in: what the system breaks. Noise alone in: how much is left, RMS out over RMS in."""
    found: dict[str, Any] = {}
    for (system, _, _, nfe), files in groups.items():
        if system == "clean":
            found["clean_input"] = {"nfe": nfe, "n": len(files)} | {m: as_dict(mean_of(files, m)) for m in METRICS}
        elif system == "noise":
            left = [row["left_db"] for row in files.values() if row.get("left_db") is not None]
            if left:
                found["noise_alone"] = {"nfe": nfe, "n": len(left), "left_db": round(float(np.mean(left)), 3)}
    return found


def count_failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How often each metric failed under each name, by system and mode (the noise control has no speech to score)."""
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in rows:
        if row["system"] != "noise":
            for metric, kind in row["failures"].items():
                counts[row["system"], row["mode"], metric, kind] += 1
    return [
        {"system": system, "mode": mode, "metric": metric, "kind": kind, "rows": n}
        for (system, mode, metric, kind), n in sorted(counts.items())
    ]


def count_flags(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        for flag in row.get("flags", []):
            counts[flag] += 1
    return dict(sorted(counts.items()))


def described(setting: Setting) -> dict[str, Any]:
    return dict(zip(("system", "mode", "ref_seconds", "nfe"), setting, strict=True))


def as_dict(x: Interval) -> dict[str, Any]:
    """An interval for JSON: rounded, None for what is not a number."""
    rounded = {name: finite(getattr(x, name)) for name in ("mean", "low", "high", "p_value")}
    counts = {"files": x.files, "environments": x.environments, "speakers": x.speakers}
    return {**rounded, **counts, "method": x.method, "fixed": list(x.fixed), "conclusive": x.conclusive}


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 5)


def write_tables(rows: Sequence[Row], out: Path, speed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """summary.json, table.csv and table.md from the rows, and from how fast they were made; returns the summary."""
    from nrmodel.evaluation.markdown import to_markdown

    summary = summarise(rows)
    if speed:
        factors = real_time_factors(speed)
        summary["threads"] = max(e["threads"] for e in speed)
        for entry in summary["means"]:
            entry["real_time_factor"] = finite(factors.get((entry["system"], entry["nfe"])))
    write_json(out / "summary.json", summary)
    write_text(out / "table.csv", to_csv(summary))
    write_text(out / "table.md", to_markdown(summary))
    return summary


def to_csv(summary: dict[str, Any]) -> str:
    """A line a (setting, metric): the mean with its interval, and the difference to `none` and to noisy."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("mean", "low", "high", "files", "environments", "speakers", "method", "p_value", "p_holm")
    writer.writerow(["system", "mode", "ref_seconds", "nfe", "minus", "metric", *names])
    for entry in [e | {"minus": ""} for e in summary["means"]] + summary["differences"]:
        for metric, value in entry["metrics"].items():
            cells = [entry[k] for k in ("system", "mode", "ref_seconds", "nfe", "minus")] + [metric]
            writer.writerow([csv_cell(c) for c in [*cells, *(value.get(name) for name in names)]])
    return buffer.getvalue()


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe; control characters become escapes."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
