"""The floor plan: no circle among modules, no import upwards. Imports inside functions and for type checkers count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {"manifests": 0, "nrdata": 0, "nrmodel": 1, "cli": 2}  # a package imports its own level and those below


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


@pytest.mark.parametrize("name", ["nrdata.builders.units", "nrdata.sampling.laws", "nrmodel.diffusion.sampler"])
def test_a_part_does_not_drag_the_network_along(name: str) -> None:
    """Cutting noise into units or drawing a clip needs neither transfers nor addresses."""
    graph, reached, waiting = imports(modules()), set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    assert not [module for module in reached if module.startswith("nrdata.fetch")]
