"""table.md: the summary as it is read, the declared contrast first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nrdata.labels import printable
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import setting_of
from nrmodel.evaluation.summary import HARM_DB, TOO_SHORT, Facts

UNRELATED_TO_CLIPS = ("pesq_wb",)  # left out of the table by distance, to keep it short


def to_markdown(summary: dict[str, Any]) -> str:
    """All sections that have something to say."""
    names = measured(summary)
    headings = [METRICS[m].heading for m in names]
    parts = [
        f"{summary['files']} files, {summary['rows']} rows. Brackets: 95 % intervals clustered by place and speaker.\n",
        primary(summary["primary"]),
        means(summary),
    ]
    for other, title in (("none", "Minus `none` of the same weights"), ("noisy", "Minus the noisy input")):
        chosen = [e for e in summary["differences"] if e["minus"] == other]
        columns = [*headings, f"harmed (over {HARM_DB:g} dB SI-SDR)", "files, clusters"]
        parts.append(table(title, columns, [(label(e), difference_cells(e)) for e in chosen]))
    margins = ", ".join(f"{METRICS[m].margin:g} {METRICS[m].heading}" for m in names)
    parts.append(f"A difference matters from {margins} on. All but the first contrast are exploratory.\n")
    for name, title in (("snr_db", "By SNR"), ("seen", "By what training saw"), ("environment", "By environment")):
        parts.append(stratified(f"{title} ({' / '.join(headings)})", summary["by"][name]))
    rows = [
        (label(e), [f"{e['minus_seconds']:g} s", *intervals(e["metrics"]), judged(e["metrics"])])
        for e in summary["lengths"]
    ]
    parts.append(table("Length of the clip, same files", ["minus", *headings, "files, clusters"], rows))
    rows = [(label(e), [str(e["minus_nfe"]), *intervals(e["metrics"]), judged(e["metrics"])]) for e in summary["calls"]]
    parts.append(table("Network calls: minus the next fewer", ["minus", *headings, "files, clusters"], rows))
    parts.append(distances(summary["by_distance"]))
    parts.append(controls(summary["controls"]))
    parts.append(failures(summary))
    return "\n".join(part for part in parts if part)


def measured(summary: dict[str, Any]) -> list[str]:
    """The metrics that the summary has."""
    return list(summary["means"][0]["metrics"]) if summary["means"] else []


def means(summary: dict[str, Any]) -> str:
    """Every setting's means, and where it was measured how long an enhancement took."""
    columns = ["files", *(METRICS[m].heading for m in measured(summary))]
    rows = [(label(e), means_cells(e)) for e in summary["means"]]
    if "threads" not in summary:
        return table("Means", columns, rows)
    factors = [e["real_time_factor"] for e in summary["means"]]
    rows = [(name, [*cells, "" if f is None else f"{f:.3f}"]) for (name, cells), f in zip(rows, factors, strict=True)]
    told = f"Real-time factor: wall time for a second of sound, {summary['threads']} threads, scoring beside it.\n"
    return table("Means", [*columns, "real-time factor"], rows) + "\n" + told


def primary(contrasts: Sequence[dict[str, Any]]) -> str:
    """A line a (system, calls, length); why there is none where there is none."""
    title = "## Declared contrast: ESTOI, `disjoint` minus `none`, same weights, -5 and 0 dB\n\n"
    lines = []
    for e in contrasts:
        gain = e["over_none"]
        if not gain["files"]:
            continue
        check = f", bootstrap {number_pair(e['bootstrap'], 3)}" if e["bootstrap"] else ""
        verdict = "" if e["conclusive"] else f": **{TOO_SHORT}**"
        lines.append(f"- {label(e)}: {with_interval(gain, 3)}, {counts(gain)}{check}{verdict}\n")
    if not lines:
        return title + "No files at -5 or 0 dB with both modes.\n"
    beside = "The null's handicap (`none` minus a baseline trained without reference) needs that baseline's rows."
    return f"{title}{''.join(lines)}\n{beside}\n"


def label(e: dict[str, Any]) -> str:
    """System, mode, length and calls in a few words."""
    return escaped(setting_of(e).words())


def short_label(e: dict[str, Any]) -> str:
    """The mode alone for a model of ours, the system for the others."""
    return escaped(e["mode"] if e["system"].startswith("nr:") else e["system"])


def means_cells(e: dict[str, Any]) -> list[str]:
    """Files, then each mean; where not all files have a number, how many do, and what others have over the same."""
    cells = [str(e["n"])]
    for metric, value in e["metrics"].items():
        beside = e.get("same_files", {}).get(metric, {})
        told = [f"n {value['files']}", *(f"{name} {plain(x, METRICS[metric].digits)}" for name, x in beside.items())]
        n = f" ({', '.join(told)})" if value["files"] != e["n"] else ""
        cells.append(with_interval(value, METRICS[metric].digits, sign=False) + n)
    return cells


def difference_cells(e: dict[str, Any]) -> list[str]:
    harm = "" if e["harm_rate"] is None else f"{100 * e['harm_rate']:.0f} %"
    return [*intervals(e["metrics"]), harm, judged(e["metrics"])]


def intervals(metrics: dict[str, Facts]) -> list[str]:
    return [with_interval(value, METRICS[m].digits) for m, value in metrics.items()]


def judged(metrics: dict[str, Facts]) -> str:
    """Files and clusters of ESTOI (the primary metric), with the words where they are too few."""
    enough = all(value["conclusive"] for value in metrics.values())
    return counts(metrics["estoi"]) + ("" if enough else f": {TOO_SHORT}")


def with_interval(value: Facts, digits: int, sign: bool = True) -> str:
    if value["mean"] is None:
        return "–"
    text = plain(value["mean"], digits, "+" if sign else "")
    return text if value["low"] is None else f"{text} {number_pair((value['low'], value['high']), digits)}"


def number_pair(pair: Sequence[float | None], digits: int) -> str:
    return f"[{plain(pair[0], digits)}, {plain(pair[1], digits)}]"


def counts(value: Facts) -> str:
    """Files and clusters, and what was held fixed."""
    fixed = f" ({' and '.join(value['fixed'])} held fixed)" if value["fixed"] else ""
    if value["files"] == value["environments"] == value["speakers"]:
        return f"{value['files']} files{fixed}"
    return f"{value['files']} files, {value['environments']} environments, {value['speakers']} speakers{fixed}"


def stratified(title: str, entries: Sequence[dict[str, Any]]) -> str:
    """Levels down; across each mode and system, of several lengths the longest, of several numbers of calls the least
    (summary.json has all)."""
    longest: dict[tuple[str, str], tuple[float, int]] = {}
    for e in entries:
        which = (e["system"], e["mode"])
        longest[which] = max(longest.get(which, (0.0, -99)), (e["ref_seconds"], -e["nfe"]))
    chosen = [e for e in entries if longest[e["system"], e["mode"]] == (e["ref_seconds"], -e["nfe"])]
    settings = list(dict.fromkeys(short_label(e) for e in chosen))
    levels = list(dict.fromkeys(e["level"] for e in chosen))
    cells = {(e["level"], short_label(e)): e for e in chosen}
    rows = []
    for level in sorted(levels):
        here = [cells.get((level, setting)) for setting in settings]
        n = max(e["n"] for e in here if e)
        row = [str(n)]
        row += ["" if e is None else stratum(e) for e in here]
        rows.append((f"{level:g} dB" if isinstance(level, float) else escaped(str(level)), row))
    return table(title, ["files", *settings], rows)


def stratum(e: dict[str, Any]) -> str:
    """Its means; where not all its files have a number, those of `none` (else of noisy) over the files that do."""
    beside = e.get("same_files", {})
    text = " / ".join(plain(v, METRICS[m].digits) for m, v in e["metrics"].items())
    for name in ("none", "noisy"):
        if any(name in means for means in beside.values()):
            its = " / ".join(plain(beside.get(m, {}).get(name), METRICS[m].digits) for m in e["metrics"])
            return f"{text} ({name} over these: {its})"
    return text


def plain(value: float | None, digits: int, sign: str = "") -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no "-0.00"


def distances(entries: Sequence[dict[str, Any]]) -> str:
    """Gain against the spectral distance of clip and noise."""
    rows = []
    for e in entries:
        for piece in e["bins"] if e["metric"] not in UNRELATED_TO_CLIPS else []:
            to = " and more" if piece["to_db"] is None else f" to {piece['to_db']:g} dB"
            calls = f", {e['nfe']} calls" if e["nfe"] > 1 else ""
            gain = with_interval(piece["gain"], METRICS[e["metric"]].digits)
            cells = [METRICS[e["metric"]].heading, gain, str(piece["gain"]["files"]), plain(e["rank_correlation"], 2)]
            rows.append((escaped(f"{e['system']}{calls}: {piece['from_db']:g} dB{to}"), cells))
    return table(
        "Gain over `none` by distance of clip and noise (log-Mel, level removed)",
        ["metric", "gain", "clips", "rank correlation"],
        rows,
    )


def controls(found: dict[str, Any]) -> str:
    """Both negative controls in two lines."""
    lines = []
    if clean := found.get("clean_input"):
        told = {m: with_interval(clean[m], METRICS[m].digits, sign=False) for m in METRICS if m in clean}
        scores = ", ".join(f"{METRICS[m].heading} {text}" for m, text in told.items())
        lines.append(f"- clean speech in ({clean['n']} files): {scores} against itself\n")
    if noise := found.get("noise_alone"):
        lines.append(f"- noise alone in ({noise['n']} files): {noise['left_db']:+.1f} dB of it are left\n")
    return "## Negative controls\n\n" + "".join(lines) if lines else ""


def failures(summary: dict[str, Any]) -> str:
    """Named failures and flags, counted."""
    rows = [
        (escaped(f"{e['system']} {e['mode']}"), [e["metric"], e["kind"], str(e["rows"])]) for e in summary["failures"]
    ]
    flags = ", ".join(f"{name}: {n} rows" for name, n in summary["flags"].items())
    return table("Without a number", ["metric", "why", "rows"], rows) + (f"\nFlags: {flags}\n" if flags else "")


def table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    """A Markdown table with its title, columns padded so that it reads in a terminal; nothing where there is no row."""
    if not rows:
        return ""
    lines = [["", *columns], *([name, *cells] for name, cells in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return f"## {title}\n\n" + "\n".join(text) + "\n"


def escaped(text: str) -> str:
    """Text from data inside a Markdown cell: no control characters, no HTML, no cell borders."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("|", "\\|").replace("`", "'")
