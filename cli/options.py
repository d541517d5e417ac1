"""Flags of a command made from the described fields of a dataclass (nrdata/options.py).

Every flag's own default is None, so that what was given is told from what was not (`given`): a file may speak where
the command line is silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nrdata.options import Dataclass, Option, options

FOLDER = click.Path(path_type=Path)


class Flag(click.Option):
    """`main`: stands in the first section of --help."""

    def __init__(self, *names: Any, main: bool = False, **more: Any):
        super().__init__(*names, **more)
        self.main = main


class Command(click.Command):
    """Its --help shows the main options first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, main in (("Main options", True), ("Other options", False)):
            mine = [p for p in self.get_params(ctx) if getattr(p, "main", False) is main]
            if rows := [record for p in mine if (record := p.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)


def from_fields(cls: type[Dataclass]) -> Callable[[Any], Any]:
    """Decorator: a flag for every described field; the command gets them by the fields' names."""

    def add(command: Any) -> Any:
        for o in reversed(options(cls)):
            command = _flag(o)(command)
        return command

    return add


def given(cls: type[Dataclass], values: dict[str, Any]) -> dict[str, Any]:
    """Of a command's values those that belong to `cls` and stood on the command line."""
    nothing = {o.name: () if o.of.repeated else None for o in options(cls)}
    return {name: values[name] for name in nothing if values[name] != nothing[name]}


def _flag(o: Option) -> Callable[[Any], Any]:
    default = o.default_text()
    text = f"{o.of.help}  [default: {default}]" if default else o.of.help
    names = (o.name, *("--" + flag.replace("_", "-") for flag in (o.flag, o.of.older) if flag))
    if o.kind.item is bool:
        return click.option(*names, cls=Flag, main=o.of.main, is_flag=True, default=None, help=text)
    choices = f"[{'|'.join(map(str, o.of.choices))}]" if o.of.choices else None
    more = {"type": _type(o), "multiple": o.of.repeated, "metavar": choices}
    return click.option(*names, cls=Flag, main=o.of.main, default=None, help=text, **more)


def _type(o: Option) -> click.ParamType[Any]:
    known: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING, Path: FOLDER}
    item = known.get(o.kind.item, NamedFolder())
    if o.of.repeated or o.kind.count == 1:
        return item
    return Names() if o.kind.item is str else Numbers(o.kind.item, o.kind.count)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # older click has no types to name here
    """`-5,0,5,10` -> a tuple of numbers; two that belong together: `-5:15`."""

    def __init__(self, kind: Callable[[str], Any], count: int | None):
        self.kind, self.count = kind, count
        self.name = "list" if count is None else "low:high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split("," if self.count is None else ":"))
        except ValueError:
            numbers = ()
        if not numbers or self.count not in (None, len(numbers)):
            wanted = "no list of numbers such as 1,2" if self.count is None else "not LOW:HIGH"
            self.fail(f"{value!r} is {wanted}", param, ctx)
        return numbers


class Names(click.ParamType):  # type: ignore[type-arg]  # older click has no types to name here
    """`A,B` -> (A, B); an empty text is an empty list, which is something else than nothing given."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(name for name in value.split(",") if name.strip())


class NamedFolder(click.ParamType):  # type: ignore[type-arg]  # older click has no types to name here
    """`[NAME:]DIR` -> (name, folder)."""

    name = "[NAME:]DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        named = re.fullmatch(r"([a-z0-9][a-z0-9_-]*):(.+)", value, re.DOTALL)
        if named and not Path(value).exists():
            return named[1], Path(named[2])
        return "local", Path(value)
