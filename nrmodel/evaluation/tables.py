"""The files that are read: summary.json, table.csv and table.md, from rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nrdata.files import write_text
from nrmodel.evaluation.markdown import to_markdown
from nrmodel.evaluation.schema import Row
from nrmodel.evaluation.speed import real_time_factors
from nrmodel.evaluation.spreadsheet import to_csv
from nrmodel.evaluation.summary import finite, summarise


def write_tables(rows: Sequence[Row], out: Path, speed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """summary.json, table.csv and table.md from the rows, and from how fast they were made; returns the summary."""
    summary = summarise(rows)
    if speed:
        factors = real_time_factors(speed)
        summary["threads"] = max(e["threads"] for e in speed)
        for entry in summary["means"]:
            entry["real_time_factor"] = finite(factors.get((entry["system"], entry["nfe"])))
    write_text(out / "summary.json", json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=True) + "\n")
    write_text(out / "table.csv", to_csv(summary))
    write_text(out / "table.md", to_markdown(summary))
    return summary
