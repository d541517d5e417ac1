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
from nrdata.options import check, option

SPLITS = ("train", "valid", "test", "seen")
SAMPLES_PER_SHARD = 256


@dataclass(frozen=True)
class Options:
    """What a user asks of a build; the same options and sources give the same plan."""

    source: str = option("synthetic", "voicebank-demand, pairs, folders or synthetic.", main=True)
    root: Path | None = option(None, "Where a corpus lies.", unset="data/SOURCE", affects="place")
    seed: int = option(0, "Of every draw.", at_least=0, main=True)
    sample_rate: int = option(16000, "Stored.", at_least=4000, at_most=192000, unit="Hz")
    source_rate: int = option(48000, "voicebank-demand: Hz of the files.", choices=(48000, 16000))
    speech: tuple[tuple[str, Path], ...] = option(
        (), "folders: clean speech, <speaker>/; see nr sources.", repeated=True, main=True
    )
    noise: tuple[tuple[str, Path], ...] = option(
        (), "folders: noise, <environment>/; see nr sources.", repeated=True, main=True
    )
    speech_index: Path | None = option(None, "CSV: path, split, speaker, license.")
    noise_index: Path | None = option(None, "CSV: path, split, environment, recording, license.")
    clean: Path | None = option(None, "pairs: the clean files.")
    noisy: Path | None = option(None, "pairs: the noisy files of the same names.")
    pairs: Path | None = option(None, "pairs: CSV with clean, noisy and perhaps split, env_id, speaker, ref.")
    align: bool = option(False, "Of ready pairs: undo one constant scale and delay between the sides.")
    reserve_seconds: float | None = option(
        None, "Seconds kept of each noise unit for the reference; 0: none.",
        at_least=0, at_most=60, unset="1, 2 in units of 6 s and more", flag="reserve_ref",
    )  # fmt: skip
    hours: float | None = option(
        None, "Of training mixtures.", above=0, unset="twice the training speech or noise, whichever is more", main=True
    )
    snr_db: tuple[float, float] = option((-5.0, 15.0), "Training, drawn uniformly.", unit="dB", flag="snr")
    snr_test_db: tuple[float, ...] = option((-5.0, 0.0, 5.0, 10.0), "The others.", unit="dB", flag="snr_test")
    per_cell: int | None = option(
        None, "Draws per environment and SNR of validation and test.", at_least=1, unset="4, 1 for synthetic"
    )
    unseen: tuple[str, ...] | None = option(
        None, "Environments kept for test: A,B,... or '' for none.", unset="a fifth, without index"
    )
    seen_split: bool = option(False, "A fourth split: training recordings, other time, test speakers.")
    rooms: int = option(0, "Simulated rooms per environment; 0: sound as it was recorded.", at_least=0, at_most=1000)
    t60_s: tuple[float, float] = option((0.2, 0.5), "Of the rooms, drawn uniformly.", unit="s", flag="t60")
    augment: int = option(0, "Chains of filters per environment, on noise and clip.", at_least=0, at_most=1000)

    def __post_init__(self) -> None:
        check(self)


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
