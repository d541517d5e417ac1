"""CONTRIBUTING's table of what to add: files, tables and tests exist, counts are right; so it is with the versions."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (an? [^|]+) \| (\d) \| (.+) \| `(tests/\w+\.py)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("what", "count", "where", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_what_to_add_and_the_files_to_touch(what, count, where, test):
    files = re.findall(r"`([\w/]+/(?:\w+|<name>)\.\w+)`", where)
    assert len(files) == int(count)
    for file in files:
        assert list(ROOT.glob(file.replace("<name>", "*"))), f"{what}: there is no {file}"
    assert (ROOT / test).exists()
    for file, table in re.findall(r"`([\w/]+)\.py`: [^`;]*row of `([A-Z]+)`", where):
        assert getattr(importlib.import_module(file.replace("/", ".")), table)


def test_every_kind_is_in_the_table():
    kinds = {"law", "corpus", "option", "sampler", "conditioning", "encoder", "preset", "metric", "peer", "command"}
    assert {row[0].split()[1] for row in ROWS} == kinds


def test_the_lowest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(re.split(r">=", wanted) for wanted in project["dependencies"])
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert lowest == bounds
