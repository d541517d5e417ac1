"""The same speech under two names in two splits: content decides, whatever file, speaker or folder it lies in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from nrdata.builders.rows import PlanRow
from nrdata.builders.sources import Folder, Places
from nrdata.errors import UserError
from nrdata.progress import Progress

ORDER = ("test", "seen", "valid", "train")  # a copy counts as one of what stands before it
SHOWN = 3


@dataclass(frozen=True)
class Twin:
    """A row whose clean sound is that of a row in another split."""

    row: PlanRow
    other: PlanRow

    def __str__(self) -> str:
        return f"its clean sound is that of {self.other.speech.path} ({self.other.split})"


def twins(rows: Sequence[PlanRow], source: Folder | Places) -> list[Twin]:
    """Of ready pairs: rows of later splits in `ORDER` with the clean sound of an earlier one. `seen` has the speech of
    `test`: that is its purpose. Only files as long as one in another split are decoded; one that cannot be read is
    left to the rendering, which says why."""
    alike = _grouped(rows, _unless_unreadable(source.extent))
    of_two = [row for group in alike if len({_side(row) for row in group}) > 1 for row in group]
    found = []
    for group in _grouped(of_two, _unless_unreadable(source.sound_digest)):
        first = min(group, key=_rank)
        found += [Twin(row, first) for row in group if _side(row) != _side(first)]
    place = {id(row): i for i, row in enumerate(rows)}
    return sorted(found, key=lambda twin: place[id(twin.row)])


def told(copies: Sequence[Twin], kept: str) -> str:
    """A sentence for the summary on copies that stay, and why."""
    names = [f"{c.row.speech.path} ({c.row.split}) is {c.other.speech.path} ({c.other.split})" for c in copies]
    more = f" and {len(copies) - SHOWN} more" if len(copies) > SHOWN else ""
    shown = ", ".join(names[:SHOWN]) + more
    return f"the same speech in two splits: {shown}: {kept}; nr verify-shards --leaks finds it too"


def _rank(row: PlanRow) -> int:
    return ORDER.index(row.split)


def _side(row: PlanRow) -> str:
    return "test" if row.split == "seen" else row.split


def _unless_unreadable(ask: Callable[[str], Hashable]) -> Callable[[str], Hashable]:
    def answer(path: str) -> Hashable:
        try:
            return ask(path)
        except (UserError, OSError):
            return None

    return answer


def _grouped(rows: Sequence[PlanRow], key: Callable[[str], Hashable]) -> Iterable[list[PlanRow]]:
    """By what is asked once of each clean file; without those that have no answer."""
    paths = dict.fromkeys(row.speech.path for row in rows)
    keys: dict[str, Hashable] = {}
    with Progress(len(paths), "clean files compared") as progress:
        for path in paths:
            keys[path] = key(path)
            progress.advance()
    groups: dict[Hashable, list[PlanRow]] = defaultdict(list)
    for row in rows:
        if keys[row.speech.path] is not None:
            groups[keys[row.speech.path]].append(row)
    return groups.values()
