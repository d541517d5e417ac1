"""An option is described once: in the field of the dataclass that holds it.

    @dataclass(frozen=True)
    class Walk:
        steps: int = option(100, "Steps in all.", at_least=1, affects="length", main=True)

        def __post_init__(self) -> None:
            check(self)

From the field are made the check of its value, its entry in a TOML file (`read_toml`, `to_toml`), its flag on the
command line (cli/options.py), its row in the table of a page (`table`), and what the rules on configurations that may
or may not differ need to know of it (`affecting`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tomllib
from collections.abc import Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from nrdata.errors import UserError

Affects = Literal[
    "result",  # what is learnt, measured or built
    "reference",  # the same, where references are in play
    "length",  # how far a run goes: a longer one goes on where a shorter one ended
    "seed",  # which of several equal runs it is
    "place",  # where things lie: what is in them counts, not their names
    "speed",  # nothing of the result: the machine, the bookkeeping
]


class Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a field cannot say by its name, type and default."""

    help: str
    choices: Collection[Any]  # read when it is needed: a table of rows may grow
    at_least: float | None
    at_most: float | None
    above: float | None
    unit: str
    unset: str  # what None stands for, in words
    affects: Affects
    main: bool  # stands first in --help and in tables
    flag: str  # the users' name, where it is not the field's
    older: str  # a former flag, still taken
    repeated: bool  # a tuple whose flag is given several times; otherwise a tuple is one text with commas


@dataclasses.dataclass(frozen=True)
class Kind:
    """The type of a field: `X`, `X | None`, `tuple[X, X]` (from low to high), `tuple[X, ...]`."""

    item: Any  # bool, int, float, str, Path, or tuple[str, Path]
    count: int | None = 1  # None: any number
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Option:
    name: str
    kind: Kind
    default: Any  # dataclasses.MISSING: it must be given
    of: Description

    @property
    def flag(self) -> str:
        return self.of.flag or self.name

    def default_text(self) -> str:
        """What holds where nothing is given; empty: nothing does."""
        if self.of.unset or any(self.default is nothing for nothing in (None, dataclasses.MISSING, False, ())):
            return self.of.unset
        if isinstance(self.default, tuple):
            shown = [f"{v:g}" if isinstance(v, float) and v == int(v) else str(v) for v in self.default]
            text = (":" if self.kind.count else ",").join(shown)
        else:
            text = str(self.default)
        return f"{text} {self.of.unit}".rstrip()

    def limits(self) -> str:
        low, high, above = self.of.at_least, self.of.at_most, self.of.above
        if low is not None and high is not None:
            return f"must lie in {low:g} to {high:g}"
        if above is not None:
            return f"must be a number above {above:g}"
        return "must be a finite number" if low is None else f"must be {low:g} or more"

    def fault(self, value: Any) -> str:
        """What is wrong with one value, as the rest of a sentence that begins with the option's name."""
        if self.of.choices and value not in self.of.choices:
            return f"'{value}' is unknown: {', '.join(map(str, self.of.choices))}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high, above = self.of.at_least, self.of.at_most, self.of.above
            inside = (low is None or value >= low) and (high is None or value <= high)
            if not (inside and (above is None or value > above) and math.isfinite(value)):
                return f"{self.limits()}, not {value}"
        return ""


def option(
    default: Any = dataclasses.MISSING, help: str = "", *, choices: Collection[Any] = (), at_least: float | None = None,
    at_most: float | None = None, above: float | None = None, unit: str = "", unset: str = "",
    affects: Affects = "result", main: bool = False, flag: str = "", older: str = "", repeated: bool = False,
) -> Any:  # fmt: skip
    """A dataclass field with its description (see `Description`). Numbers are finite; limits hold for every member of
    a tuple."""
    of = Description(help, choices, at_least, at_most, above, unit, unset, affects, main, flag, older, repeated)
    return dataclasses.field(default=default, metadata={"option": of})


@functools.cache
def options(cls: type[Dataclass]) -> tuple[Option, ...]:
    """The described fields of a dataclass, in their order."""
    types = get_type_hints(cls)
    return tuple(
        Option(f.name, _kind(types[f.name]), f.default, f.metadata["option"])
        for f in dataclasses.fields(cls) if "option" in f.metadata
    )  # fmt: skip


def _kind(annotation: Any) -> Kind:
    optional, count = False, 1
    if get_origin(annotation) in (Union, UnionType):
        given = [t for t in get_args(annotation) if t is not NoneType]
        optional, annotation = len(given) < len(get_args(annotation)), given[-1]
    if get_origin(annotation) is tuple:
        first, *rest = get_args(annotation)
        return Kind(first, None if rest == [Ellipsis] else 1 + len(rest), optional)
    return Kind(annotation, count, optional)


def main_first(cls: type[Dataclass]) -> list[Option]:
    return sorted(options(cls), key=lambda o: not o.of.main)


def affecting(cls: type[Dataclass], *affects: Affects) -> frozenset[str]:
    """The names of the fields that affect any of this."""
    return frozenset(o.name for o in options(cls) if o.of.affects in affects)


def check(config: Dataclass, where: str = "") -> None:
    """Raise `UserError` (bad_option) for a value that its description excludes; `where` begins the sentence."""
    for o in options(type(config)):
        value = getattr(config, o.name)
        name = f"{where}{o.name}" + (f" (--{o.flag.replace('_', '-')})" if o.of.flag else "")
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if each is not None and (fault := o.fault(each)):
                raise UserError(f"{name} {fault}", "bad_option")
        if o.kind.count == 2 and isinstance(value, (tuple, list)) and list(value) != sorted(value):
            raise UserError(f"{name} is {value[0]} to {value[1]}: the lower number stands first", "bad_option")


# Files and pages ----------------------------------------------------------------------------------------------------


def read_toml(cls: type[Dataclass], path: Path) -> dict[str, Any]:
    """The entries of a TOML file that holds some of the options of `cls`; unknown names and wrong types are refused."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such configuration file", "missing") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not TOML ({e})", "unreadable") from e
    return decode(cls, values, str(path))


def decode(cls: type[Dataclass], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Plain data by the fields' names or the users' -> what the dataclass takes; `where` begins an error's sentence."""
    known = {name: o for o in options(cls) for name in (o.name, o.flag)}
    found = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where} has an unknown entry '{name}'", "bad_option")
        o = known[name]
        many = o.kind.count != 1
        given = value if many and isinstance(value, list) else [value]
        wanted = {float: (float, int), Path: (str,)}.get(o.kind.item, (o.kind.item,))
        alone = not many or (o.of.repeated and not isinstance(value, list))
        if isinstance(value, list) is alone or any(type(each) not in wanted for each in given):
            kind = f"list of {wanted[0].__name__}" if many else wanted[0].__name__
            raise UserError(f"{where}: {name} = {value!r} should be of type {kind}", "bad_option")
        made = [Path(each) if o.kind.item is Path else each for each in given]
        found[o.name] = tuple(made) if many else made[0]
    return found


def plain(config: Dataclass) -> dict[str, Any]:
    """The options as plain data, in their order."""
    values = {o.name: getattr(config, o.name) for o in options(type(config))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_toml(values: dict[str, Any]) -> str:
    """Plain data (numbers, texts, lists of them) as TOML; what is None is left out (it means the default)."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)


def table(cls: type[Dataclass]) -> str:
    """The options as a Markdown table, main ones first."""
    lines = ["| option | default | |", "|---|---|---|"]
    for o in main_first(cls):
        choices = f" ({', '.join(map(str, o.of.choices))})" if o.of.choices else ""
        text = o.default_text()
        default = f"`{text}`" if text and not o.of.unset else text
        told = (o.of.help.rstrip(".") + choices + ".").replace("|", "\\|")
        lines.append(f"| `--{o.flag.replace('_', '-')}` | {default} | {told} |")
    return "\n".join(lines) + "\n"
