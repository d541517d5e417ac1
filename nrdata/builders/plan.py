"""The plan of a data set: a row a sample, every random draw written down before anything is rendered.

A shard is a pure function of (plan, shard number), so processes, machines and interruptions cannot change a byte.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from nrdata.builders.rows import PlanRow
from nrdata.errors import UserError

SPLITS = ("train", "valid", "test", "seen")
SAMPLES_PER_SHARD = 256


@dataclass(frozen=True)
class Options:
    """What a user asks of a build; the same options and sources give the same plan."""

    source: str
    root: Path | None = None
    seed: int = 0
    sample_rate: int = 16000  # Hz, stored
    source_rate: int = 48000  # Hz, expected of voicebank-demand's files
    speech: tuple[tuple[str, Path], ...] = ()  # (name, folder)
    noise: tuple[tuple[str, Path], ...] = ()
    speech_index: Path | None = None
    noise_index: Path | None = None
    clean: Path | None = None  # pairs
    noisy: Path | None = None
    pairs: Path | None = None  # CSV: clean, noisy, and perhaps split, env_id, speaker, ref
    reserve_seconds: float | None = None  # None: 1 s, 2 s in units of 6 s and more; 0: no reserve
    hours: float | None = None  # of training mixtures; None: twice the training speech or noise, whichever is more
    snr_db: tuple[float, float] = (-5.0, 15.0)  # training, drawn uniformly
    snr_test_db: tuple[float, ...] = (-5.0, 0.0, 5.0, 10.0)
    per_cell: int | None = None  # draws per environment and SNR of valid, test and seen; None: 4, 1 for synthetic
    unseen: tuple[str, ...] | None = None  # environments kept for test; None: drawn where there is no index
    seen_split: bool = False
    rooms: int = 0  # simulated rooms for each environment; 0: sound as it was recorded
    t60_s: tuple[float, float] = (0.2, 0.5)  # asked reverberation times, drawn uniformly
    augment: int = 0  # chains of filters for each environment, on the noise and the clip


@dataclass(frozen=True)
class Refused:
    """A source item that is in no shard, and why; `kind` is the machine-readable reason."""

    item: str
    reason: str
    kind: str

    @property
    def fault(self) -> bool:
        """Something is wrong with the item, rather than that nobody asked for it."""
        return self.kind not in ("not_drawn", "unseen")

    def record(self) -> dict[str, str]:
        return {"item": self.item, "reason": self.reason, "kind": self.kind}


@dataclass
class Plan:
    """Rows in the order of their numbers, split after split; items refused before any row was made of them."""

    rows: list[PlanRow]
    refused: list[Refused] = field(default_factory=list)
    licenses: dict[str, int] = field(default_factory=dict)  # licence -> files under it
    notes: list[str] = field(default_factory=list)  # sentences for the summary: what was drawn, what was assumed

    @property
    def has_ref(self) -> bool:
        return any(row.ref is not None for row in self.rows)

    def text(self) -> str:
        """`plan.jsonl`."""
        return "".join(json.dumps(row.to_json(), allow_nan=False) + "\n" for row in self.rows)

    def sha256(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made: its name (`train-000000`) and its rows."""

    name: str
    split: str
    rows: tuple[PlanRow, ...]


def shards(plan: Plan) -> list[ShardPlan]:
    """Up to 256 rows a shard, split after split; the position in this list is the shard's number."""
    result = []
    for split in SPLITS:
        rows = [row for row in plan.rows if row.split == split]
        for i in range(0, len(rows), SAMPLES_PER_SHARD):
            name = f"{split}-{i // SAMPLES_PER_SHARD:06d}"
            result.append(ShardPlan(name, split, tuple(rows[i : i + SAMPLES_PER_SHARD])))
    return result


def number(rows: list[PlanRow]) -> list[PlanRow]:
    """Give every row its key, `<split>-0000001` onwards in each split, and put the splits in order."""
    result = []
    for split in SPLITS:
        mine = [row for row in rows if row.split == split]
        result += [replace(row, key=f"{split}-{n:07d}") for n, row in enumerate(mine, 1)]
    return result


def read_plan(path: Path) -> Plan:
    """A plan file, checked: every row whole, every key new. Raises `UserError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", kind="missing") from None
    rows: list[PlanRow] = []
    keys: set[str] = set()
    for n, line in enumerate(lines, 1):
        try:
            row = PlanRow.from_json(json.loads(line))
        except json.JSONDecodeError as e:
            raise UserError(f"{path} line {n} is not JSON ({e.msg})", kind="bad_plan") from None
        except UserError as e:
            raise UserError(f"{path} line {n} {e}", e.kind) from None
        if row.split not in SPLITS:
            raise UserError(f"{path} line {n}: split '{row.split}' is none of {', '.join(SPLITS)}", kind="bad_plan")
        if row.key.casefold() in keys:
            raise UserError(f"{path} line {n}: key {row.key} appears twice", kind="duplicate_key")
        keys.add(row.key.casefold())
        rows.append(row)
    if not rows:
        raise UserError(f"{path} has no rows", kind="bad_plan")
    return Plan([row for split in SPLITS for row in rows if row.split == split])
