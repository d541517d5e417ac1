"""A row of a plan: one sample to be made, with every draw written down; and the records of `plan.jsonl` in general.

A row names stretches of files, relative to their sources' roots, in samples at the stored rate. It is of one of two
kinds: speech and noise that are mixed at a drawn SNR, or a ready pair whose noise is what speech leaves of it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from nrdata.builders.synthesis.augment import Augment
from nrdata.builders.synthesis.rooms import Room
from nrdata.errors import UserError

NEEDED = {"key", "split", "speech", "ref", "snr_db", "sample_rate", "env_id", "recording", "speaker", "meta"}


@dataclass(frozen=True)
class Stretch:
    """`[start, stop)` of a file; `stop` None: to its end."""

    path: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class PlanRow:
    """`noise` where speech and noise are mixed, `noisy` where a pair is ready: one of the two."""

    split: str
    speech: Stretch
    sample_rate: int  # Hz, stored
    env_id: str  # "<noise source>/<environment>", perhaps "~<variant>"
    recording: str
    speaker: str  # "<speech source>/<name>"
    meta: dict[str, Any]  # for the sample's JSON
    noise: Stretch | None = None
    noisy: Stretch | None = None
    ref: Stretch | None = None  # of a mixed row: in the file of its noise
    asked_snr_db: float | None = None  # None: the pair's own
    room: Room | None = None
    augment: Augment | None = None
    source_rate: int = 0  # Hz, of a ready pair's files; 0: any, as long as both agree
    align: bool = False  # of a ready pair: one scale and one delay between its sides are undone
    key: str = ""  # of a row that is not numbered yet

    def to_json(self) -> dict[str, Any]:
        """The line of `plan.jsonl`."""
        ref = self.ref and vars(self.ref).copy()
        if self.noise and ref:
            del ref["path"]
        return {
            "key": self.key,
            "split": self.split,
            "speech": vars(self.speech),
            **({"noise": vars(self.noise)} if self.noise else {}),
            **({"noisy": vars(self.noisy)} if self.noisy else {}),
            "ref": ref,
            "snr_db": self.asked_snr_db,
            "room": self.room and vars(self.room),
            "augment": self.augment and self.augment.to_json(),
            "sample_rate": self.sample_rate,
            **({"source_rate": self.source_rate} if self.noisy else {}),
            **({"align": True} if self.align else {}),
            "env_id": self.env_id,
            "recording": self.recording,
            "speaker": self.speaker,
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, data: Any) -> PlanRow:
        """The row of a line. Raises `UserError`: what it lacks or holds too much, or what is of the wrong kind."""
        missing = NEEDED - data.keys() if isinstance(data, dict) else NEEDED
        if missing:
            raise UserError(f"lacks {', '.join(sorted(missing))}", kind="bad_plan")
        data = {"asked_snr_db" if name == "snr_db" else name: value for name, value in data.items()}
        if ("noise" in data) == ("noisy" in data):
            raise UserError("needs either noise or noisy", kind="bad_plan")
        if data["ref"] and isinstance(data.get("noise"), dict):
            data["ref"] = {"path": data["noise"].get("path"), **data["ref"]}
        row: PlanRow = decoded(cls, data, "row")
        return row


def decoded(kind: Any, value: Any, name: str) -> Any:
    """`value`, as it was read from JSON, as `kind`: a plain type, perhaps None, a tuple or a record of these."""
    if isinstance(kind, UnionType):
        return None if value is None else decoded(get_args(kind)[0], value, name)
    if hasattr(kind, "__dataclass_fields__") and isinstance(value, dict):
        types, lacking = _record(kind)
        if unknown := value.keys() - types.keys():
            raise UserError(f"{name} has an unknown {min(unknown)}", kind="bad_plan")
        if lacking := lacking - value.keys():
            raise UserError(f"{name} lacks {min(lacking)}", kind="bad_plan")
        return kind(**{n: decoded(types[n], v, n) for n, v in value.items()})
    inner = get_args(kind)
    if get_origin(kind) is tuple and isinstance(value, list) and (len(value) == len(inner) or inner[-1] is ...):
        return tuple(decoded(inner[0], v, name) for v in value)
    plain = get_origin(kind) or kind
    if not isinstance(value, (int, float) if plain is float else plain) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}, {getattr(plain, '__name__', plain)} expected", kind="bad_plan")
    return value


@cache
def _record(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of a record's fields, and those that have no default."""
    return get_type_hints(kind), {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
