"""What an evaluation writes and everything else reads: rows, and the settings that they are grouped by.

    Row        one file enhanced once: what was asked (its identity), what the file is, the clip, scores or failures
    Setting    what rows are averaged over files for: system, mode, length of the clip, network calls, sampler
    Calls      how an estimate was made: so many network calls, by that sampler

rows.jsonl holds a row a line, its fields in this order, the scores by metric in their middle.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nrdata.errors import UserError
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.rungs import bases

IDENTITY = ("key", "system", "mode", "ref_seconds", "nfe", "sampler", "seed")  # of a row, in the order of rows.jsonl
CONTROLS = ("clean", "noise")  # systems whose rows are the negative controls: what the model is given instead of noisy
SELDOM = ("left_db", "delay_ms", "pair", "made_from")  # fields of a row that most do not have
OLD_SAMPLE_RATE = 16000  # Hz, of rows that do not name their data's


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of rows.jsonl."""

    key: str
    system: str  # noisy, nr:<digest>, peer:<name>, enhanced, or a control
    mode: str
    ref_seconds: float  # 0 where the mode has no clip
    sampler: str
    nfe: int
    seed: int
    env_id: str
    recording: str
    speaker: str
    snr_db: float | None  # as measured
    seen: str | None  # recording, environment or unseen in training; None: not known
    speaker_seen: bool | None = None
    sample_rate: int = OLD_SAMPLE_RATE
    relation: str = "none"
    ref_source: str = ""
    ref_span: Sequence[int] = (-1, -1)  # samples of the source
    ref_distance_db: float | None = None
    left_db: float | None = None  # of noise alone, RMS out over RMS in
    scores: dict[str, float | None] = field(default_factory=dict)  # None: failed
    failures: dict[str, str] = field(default_factory=dict)  # metric -> why it has no number
    flags: Sequence[str] = ()
    delay_ms: float = 0.0
    pair: dict[str, Any] | None = None  # how clean lies in noisy, where it is not as it is: fault, scale, delay_ms ...
    made_from: dict[str, str] | None = None  # plain files, what each was: `<bytes>-<SHA-256>`; None: shards alone

    def score(self, metric: str) -> float | None:
        """None where the metric failed, or was not known when the row was made."""
        return self.scores.get(metric)

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in IDENTITY)

    @property
    def setting(self) -> Setting:
        return Setting(self.system, self.mode, self.ref_seconds, self.nfe, self.sampler)

    def as_json(self) -> dict[str, Any]:
        """Plain data, scores among the fields; `SELDOM` only where there is something to tell."""
        told: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "scores":
                told |= value
            elif f.name not in SELDOM or value != f.default:
                told[f.name] = value
        return told


def row_of(values: dict[str, Any]) -> Row:
    """A row from plain data. Raises `KeyError` for a missing entry; metrics that are no longer known are passed."""
    known = {f.name: values[f.name] for f in fields(Row) if f.name in values}
    for name in (*IDENTITY, "env_id", "recording", "speaker", "snr_db", "seen"):
        values[name]
    return Row(**known, scores={name: values[name] for name in METRICS if name in values})


class Calls(NamedTuple):
    """How an estimate is made: network calls and the sampler that spends them."""

    nfe: int
    sampler: str = ""


@dataclass(frozen=True)
class Setting:
    """What was asked of every file."""

    system: str
    mode: str
    ref_seconds: float
    nfe: int
    sampler: str = ""

    @property
    def calls(self) -> Calls:
        return Calls(self.nfe, self.sampler)

    def without_clip(self) -> Setting:
        """The same weights, calls and sampler with the null reference."""
        return replace(self, mode="none", ref_seconds=0.0)

    def words(self, every_mode: bool = False, calls_from: float = 1) -> str:
        """`nr:1ca6256b disjoint 1 s, 5 calls`. The mode of what has but one is left out unless `every_mode`, the
        number of calls below `calls_from`."""
        mode = "" if self.system in ("noisy", "enhanced") and not every_mode else f" {self.mode}"
        seconds = f" {self.ref_seconds:g} s" if self.ref_seconds else ""
        calls = f", {self.nfe} call{'s' if self.nfe > 1 else ''}" if self.nfe and self.nfe >= calls_from else ""
        return f"{self.system}{mode}{seconds}{calls}"

    def described(self) -> dict[str, Any]:
        """What the summary says of it."""
        return {"system": self.system, "mode": self.mode, "ref_seconds": self.ref_seconds, "nfe": self.nfe}


def setting_of(entry: dict[str, Any]) -> Setting:
    """The setting of an entry of the summary."""
    return Setting(entry["system"], entry["mode"], entry["ref_seconds"], entry["nfe"])


NOISY = Setting("noisy", "none", 0.0, 0)
Files = dict[str, Row]  # key -> row, its scores averaged over seeds


def by_setting(rows: Iterable[Row]) -> dict[Setting, Files]:
    """Rows grouped by setting, each file's scores averaged over the seeds that have them."""
    groups: dict[Setting, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.setting][row.key].append(row)
    return {
        setting: {key: averaged(same) for key, same in groups[setting].items()}
        for setting in sorted(groups, key=_place)
    }


def averaged(same: Sequence[Row]) -> Row:
    """One row of several seeds' rows of a file."""
    scores: dict[str, float | None] = {}
    for name in METRICS:
        if any(name in row.scores for row in same):
            values = [value for row in same if (value := row.score(name)) is not None]
            scores[name] = float(np.mean(values)) if values else None
    return replace(same[0], scores=scores)


def _place(setting: Setting) -> tuple[Any, ...]:
    """Noisy first, then our models, then the others; modes as the ladder goes up, treated clips behind it."""
    system = setting.system
    ours = system.startswith("nr:")
    rung = place_of_mode(setting.mode)
    return (system != "noisy", not ours, system, setting.nfe, rung, setting.ref_seconds, setting.sampler)


def place_of_mode(mode: str) -> tuple[int, str, float, str]:
    """As the ladder goes up, what is on none of its rungs behind it; `leak:DB` by its number."""
    ladder, (base, _, number) = bases(), mode.partition("+")[0].partition(":")
    rung = ladder.index(mode) if mode in ladder else len(ladder)
    return (rung, base, float(number), mode) if number else (rung, mode, 0.0, mode)


def line_of(row: Row) -> str:
    """A row as a line of rows.jsonl."""
    return json.dumps(row.as_json(), allow_nan=False, ensure_ascii=True) + "\n"


def read_rows(path: Path) -> list[Row]:
    """The rows of a finished evaluation. Raises `UserError` naming file and line."""
    if not path.is_file():
        raise UserError(f"{path} is not there: the evaluation is unfinished; the same command goes on", "missing")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(row_of(json.loads(line)))
        except ValueError as e:
            raise UserError(
                f"{path}, line {number}, is no JSON ({e}): evaluate again with --force", "unreadable"
            ) from e
        except (KeyError, TypeError) as e:
            raise UserError(
                f"{path}, line {number}, is no row of an evaluation ({e} is missing): evaluate again with --force",
                "unreadable",
            ) from e
    return rows
