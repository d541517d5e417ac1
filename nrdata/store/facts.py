"""What is known of a sample beside its sound: its JSON member, and its row in the index of a shard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nrdata.store.tar import MAX_MEMBER

MEMBERS = ("clean.flac", "json", "noise.flac", "noisy.flac", "ref.flac")
REQUIRED = MEMBERS[:4]
REQUIRED_SET = frozenset(REQUIRED)
LIMIT = 1 << 62  # samples and bytes that columns of 64 bits can hold
BAD_ROW = (ValueError, TypeError, KeyError, AttributeError)
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
    return IndexRow(key, *(getattr(facts, name) for name in IndexRow._fields[1:-1]), members)


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


def parse_row(line: bytes) -> IndexRow:
    """One line of an index file, what later code relies on checked; raises one of `BAD_ROW`.

    Written by hand: of a million lines json itself takes half of the time, and all that goes with it counts.
    """
    fields = load_json(line)
    members = fields["members"]
    for name, place in members.items():
        offset, size, crc = place
        if name not in MEMBERS or not 0 <= offset < LIMIT or not 0 < size <= MAX_MEMBER or not 0 <= crc < 1 << 32:
            raise ValueError(f"member {name} at {offset} of {size} bytes")
        members[name] = offset, size, crc
    if not members.keys() >= REQUIRED_SET:
        raise ValueError(f"members missing: {', '.join(sorted(REQUIRED_SET - members.keys()))}")
    start, stop = fields["stretch"]
    fields["stretch"] = start, stop
    row = IndexRow(**fields)
    if not (type(row.key) is type(row.env_id) is type(row.split) is type(row.speaker) is type(row.recording) is str):
        raise ValueError("a name is not a string")
    if not type(start) is type(stop) is type(row.sample_rate) is type(row.frames) is type(row.ref_frames) is int:
        raise ValueError("stretch, sample_rate, frames or ref_frames is no whole number")
    if not type(row.snr_db) is type(row.noise_dbfs) is float:
        raise ValueError("snr_db or noise_dbfs is no number")
    if not (0 < row.sample_rate < LIMIT and 0 < row.frames < LIMIT and 0 <= row.ref_frames < LIMIT > stop):
        raise ValueError("sample_rate, frames or ref_frames is out of range")
    if not row.key.isascii():
        raise ValueError("the key is not ASCII")
    return row


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


STRICT = json.JSONDecoder(parse_constant=_refuse)


def load_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN. Raises `ValueError`."""
    try:
        return STRICT.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
