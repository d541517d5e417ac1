"""The floor plan: no circle among modules, no import upwards. Imports inside functions and for type checkers count.
docs/house.md tells it, and is held to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {"nrdata": 0, "nrmodel": 1, "cli": 2}  # a package imports its own level and those below


def modules() -> dict[str, Path]:
    found = {}
    for package in LEVELS:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, anywhere in its text."""
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= inner & known.keys()
                if node.module in known and not inner <= known.keys():
                    graph[name].add(node.module)
        graph[name].discard(name)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_no_circle_among_modules() -> None:
    assert circles(imports(modules())) == []


def test_no_import_upwards() -> None:
    upwards = [
        f"{name} -> {other}"
        for name, others in imports(modules()).items()
        for other in others
        if LEVELS[other.split(".")[0]] > LEVELS[name.split(".")[0]]
    ]
    assert upwards == []


def reached(name: str, graph: dict[str, set[str]]) -> set[str]:
    """All that a module imports, at whatever distance, and itself."""
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found


@pytest.mark.parametrize("name", ["nrdata.builders.units", "nrdata.sampling.laws", "nrmodel.diffusion.sampler"])
def test_a_part_does_not_drag_the_network_along(name: str) -> None:
    """Cutting noise into units or drawing a clip needs neither transfers nor addresses."""
    assert not [module for module in reached(name, imports(modules())) if module.startswith("nrdata.fetch")]


PAGE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("way", "imports_go"), [("sample", "up"), ("clip", "down")])
def test_a_way_through_the_house_is_short_and_leads_one_way(way: str, imports_go: str) -> None:
    told = PAGE.split(f"## The way of a {way}")[1].split("\n## ")[0]
    stations = [path.removesuffix(".py").replace("/", ".") for path in re.findall(r"^ +\d  (\S+\.py)", told, re.M)]
    graph = imports(modules())
    assert 3 < len(stations) <= 8 and set(stations) <= graph.keys()
    below = stations if imports_go == "up" else stations[::-1]
    wrong = [f"{a} -> {b}" for i, a in enumerate(below) for b in below[i + 1 :] if b in reached(a, graph)]
    assert wrong == []


def test_every_room_is_on_the_page_and_on_no_other() -> None:
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "nrdata").glob("*/*.py")}
    rooms |= {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "nrmodel").glob("*/*.py")}
    assert set(re.findall(r"^\| `(\w+/\w+)` \|", PAGE, re.M)) == rooms - {"nrmodel/pretrained"}


def test_every_module_has_tests_that_a_reader_finds() -> None:
    """By the name of the module or of its folder, else by a line in tests/README.md."""
    tests = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    lines = re.findall(r"^\| (`.*) \| (`.*) \|$", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"), re.M)
    named = {place for places, _ in lines for place in re.findall(r"`([^`]+)`", places)}
    assert {name for _, files in lines for name in re.findall(r"`([^`]+)`", files)} <= tests
    assert [place for place in named if not (ROOT / place).exists()] == []
    homeless = []
    for path in modules().values():
        inside = path.relative_to(ROOT)
        places = {place.as_posix() for place in (inside, *inside.parents)}
        by_name = {f"test_{path.stem}.py", f"test_{path.parent.name}.py"}
        if path.name != "__init__.py" and not by_name & tests and not places & named:
            homeless.append(inside.as_posix())
    assert homeless == []
