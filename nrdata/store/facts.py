"""What is known of a sample beside its sound: its JSON member, and its row in the index of a shard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypedDict

from nrdata.store.tar import MAX_MEMBER

MEMBERS = ("clean.flac", "json", "noise.flac", "noisy.flac", "ref.flac")
REQUIRED = MEMBERS[:4]
BAD_ROW = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
NAMES: tuple[Literal["key", "env_id", "split", "speaker", "recording"], ...] = (
    "key", "env_id", "split", "speaker", "recording",
)  # fmt: skip
Place = tuple[int, int, int]  # of a member in its tar: offset of the first byte, size, CRC-32


@dataclass(frozen=True)
class SampleFacts:
    """A sample's JSON member. What is not known of a stretch is [-1, -1]."""

    env_id: str  # "<noise source>/<environment>", lower case
    split: str
    speaker: str  # "<speech source>/<name>"
    recording: str
    stretch: tuple[int, int]  # of the mixture's noise in the recording, samples
    snr_db: float  # energy SNR, measured on the stored integers
    sample_rate: int
    frames: int
    ref_frames: int  # of the reserved clip; 0 where there is none
    noise_dbfs: float
    meta: dict[str, Any]  # what the builder says besides; no nulls, no empty lists

    def json(self) -> bytes:
        return json.dumps(asdict(self), allow_nan=False).encode()


class IndexRow(NamedTuple):
    """What a sample's JSON says (but `meta`), and where its members are. A tuple: there may be a million."""

    key: str
    env_id: str
    split: str
    speaker: str
    recording: str
    stretch: tuple[int, int]
    snr_db: float
    sample_rate: int
    frames: int
    ref_frames: int
    noise_dbfs: float
    members: dict[str, Place]

    def line(self) -> str:
        """The row of the index file."""
        return json.dumps(self._asdict(), allow_nan=False)


TYPES = {"env_id": str, "split": str, "speaker": str, "recording": str, "stretch": list, "snr_db": float,
         "sample_rate": int, "frames": int, "ref_frames": int, "noise_dbfs": float, "meta": dict}  # fmt: skip


def index_row(key: str, facts: SampleFacts, members: dict[str, Place]) -> IndexRow:
    f = facts
    return IndexRow(
        key, f.env_id, f.split, f.speaker, f.recording, f.stretch, f.snr_db, f.sample_rate, f.frames, f.ref_frames,
        f.noise_dbfs, members,
    )  # fmt: skip


def parse_facts(data: bytes) -> SampleFacts:
    """A sample's JSON; `ValueError` for a missing field, a wrong type, a null or an empty list."""
    facts = load_json(data)
    if not isinstance(facts, dict):
        raise ValueError("an object is expected")
    for name, kind in TYPES.items():
        if name not in facts:
            raise ValueError(f"field {name} is missing")
        if type(facts[name]) is not kind:
            raise ValueError(f"field {name} is {json.dumps(facts[name])[:40]}, {kind.__name__} expected")
    stretch = facts["stretch"]
    if len(stretch) != 2 or any(type(t) is not int for t in stretch):
        raise ValueError("field stretch is not [start, stop]")
    if stretch != [-1, -1] and not 0 <= stretch[0] < stretch[1]:
        raise ValueError(f"stretch {stretch} is empty or negative")
    if facts["sample_rate"] <= 0 or facts["frames"] <= 0 or facts["ref_frames"] < 0:
        raise ValueError("sample_rate, frames or ref_frames is out of range")
    if facts["env_id"] != facts["env_id"].lower() or "/" not in facts["env_id"]:
        raise ValueError(f"env_id {facts['env_id']!r} is not lower case <source>/<environment>")
    hole = _hole(facts["meta"], "meta")
    if hole:
        raise ValueError(f"{hole} is null or an empty list: readers could not give it a type")
    return SampleFacts(**{name: facts[name] for name in TYPES} | {"stretch": (stretch[0], stretch[1])})


def _hole(value: Any, where: str) -> str:
    if value is None or value == []:
        return where
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((h for name, v in inner if (h := _hole(v, f"{where}.{name}"))), "")


class RowFields(TypedDict):
    """One line of an index file as JSON has it: the fields of `IndexRow`, lists for tuples."""

    key: str
    env_id: str
    split: str
    speaker: str
    recording: str
    stretch: list[int]
    snr_db: float
    sample_rate: int
    frames: int
    ref_frames: int
    noise_dbfs: float
    members: dict[str, list[int]]


def parse_fields(line: bytes) -> RowFields:
    """One line of an index file, what later code relies on checked; raises one of `BAD_ROW`.

    Written by hand, and no object made of it: of a million lines json itself takes half of the time.
    """
    fields: RowFields = load_json(line)
    for name, (offset, size, _) in fields["members"].items():
        if name not in MEMBERS or offset < 0 or not 0 < size <= MAX_MEMBER:
            raise ValueError(f"member {name} at {offset} of {size} bytes")
    if not all(type(fields[name]) is str for name in NAMES):
        raise ValueError("a name is not a string")
    if fields["sample_rate"] <= 0 or fields["frames"] <= 0 or fields["ref_frames"] < 0:
        raise ValueError("sample_rate, frames or ref_frames is out of range")
    return fields


def parse_row(line: bytes) -> IndexRow:
    """One line of an index file; raises one of `BAD_ROW`."""
    fields = parse_fields(line)
    start, stop = fields["stretch"]
    members = {name: (offset, size, crc) for name, (offset, size, crc) in fields["members"].items()}
    return IndexRow(**{**fields, "stretch": (start, stop), "members": members})  # type: ignore[arg-type]


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


STRICT = json.JSONDecoder(parse_constant=_refuse)


def load_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN. Raises `ValueError`."""
    try:
        return STRICT.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
