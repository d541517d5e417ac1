"""DNSMOS P.835 (Reddy et al. 2022): what users can have without clean files. Behind the extra `dnsmos`.

A network's guess at listeners' ratings (1 to 5) of speech, background and the whole; it is no substitute for PESQ,
ESTOI and SI-SDR where there is clean speech, and it can be pleased by speech that says something else.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nrdata.errors import UserError
from nrdata.files import write_text
from nrmodel.evaluation.folders import by_name, check_pairs, drawn, read_mono, warn_of_unused
from nrmodel.evaluation.markdown import escaped, table
from nrmodel.evaluation.metrics import SAMPLE_RATE
from nrmodel.evaluation.spreadsheet import csv_cell

RATINGS = ("sig", "bak", "ovrl")
Enhancer = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # (noisy, clip) -> enhanced, at 16 kHz
SHORTEST_SECONDS = 0.5  # DNSMOS repeats what is under 9 s; under this it rates the repetition


def dnsmos(x: np.ndarray) -> dict[str, float]:
    """The three ratings of float32 (frames,) at 16 kHz. Raises `UserError` for what is too short."""
    if len(x) < SHORTEST_SECONDS * SAMPLE_RATE:
        raise UserError(f"{len(x) / SAMPLE_RATE:.2f} s are too short to rate: {SHORTEST_SECONDS} s needed", "too_short")
    if importlib.util.find_spec("speechmos") is None or importlib.util.find_spec("onnxruntime") is None:
        raise UserError("DNSMOS is not installed: pip install 'nr[dnsmos]', or give the clean files (--clean)", "extra")
    from speechmos import dnsmos as package

    found = package.run(np.clip(x, -1.0, 1.0), SAMPLE_RATE)
    return {name: float(found[f"{name}_mos"]) for name in RATINGS}


def rate_folders(
    noisy: Path,
    out: Path,
    enhanced: Path | None = None,
    enhancers: Mapping[str, Enhancer] | None = None,
    ref: Path | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Ratings of each noisy file, of its estimate in `enhanced`, and of what each of `enhancers` makes of it.

    Writes dnsmos.csv (a line a file and system) and dnsmos.md (means) into `out`; returns the lines.
    """
    found = by_name(noisy)
    estimates = by_name(enhanced) if enhanced else {}
    clips = by_name(ref) if ref else {}
    for folder, have in ((enhanced, estimates), (ref, clips)):
        if folder:
            check_pairs(folder, have, noisy, found)
            warn_of_unused(folder, have, found)
    warn_of_unused(noisy, found, found)
    lines = []
    names = sorted(found)
    for name in (names[place] for place in drawn(len(names), limit)):
        x = read_mono(found[name])
        sounds = {"noisy": x}
        if estimates:
            sounds["enhanced"] = read_mono(estimates[name])
        for system, enhance in (enhancers or {}).items():
            sounds[system] = enhance(x, read_mono(clips[name]) if clips else None)
        for system, sound in sounds.items():
            try:
                lines.append({"key": name, "system": system, **dnsmos(sound), "failure": ""})
            except UserError as e:
                if e.kind != "too_short":
                    raise
                lines.append({"key": name, "system": system, **dict.fromkeys(RATINGS), "failure": e.kind})
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["key", "system", *RATINGS, "failure"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)
    write_text(out / "dnsmos.csv", buffer.getvalue())
    write_text(out / "dnsmos.md", means(lines))
    return lines


def means(lines: list[dict[str, Any]]) -> str:
    """A table of mean ratings and of how many files have one."""
    rows = []
    for system in dict.fromkeys(line["system"] for line in lines):
        rated = [line for line in lines if line["system"] == system and not line["failure"]]
        cells = [f"{np.mean([line[name] for line in rated]):.2f}" if rated else "–" for name in RATINGS]
        rows.append((escaped(system), [str(len(rated)), *cells]))
    return table("DNSMOS P.835, without clean speech", ["files", "speech", "background", "overall"], rows)
