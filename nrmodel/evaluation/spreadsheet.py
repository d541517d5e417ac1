"""table.csv: the summary's numbers, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

from nrdata.labels import printable


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
