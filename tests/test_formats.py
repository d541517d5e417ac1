"""docs/formats.md: what lies on disk has the fields that the page shows, no more and no fewer."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from corpora import bare_folders, build
from helpers import names

from cli.main import run

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def shown(title: str, number: int = 0) -> dict[str, Any]:
    """The example in a section."""
    return json.loads(re.findall(r"^```json.*?\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)[number])


def first_row(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        return json.loads(next(file))


def test_a_sample_and_its_row_of_the_index(tiny_dataset):
    with tarfile.open(tiny_dataset / "train-000000.tar") as tar:
        members = tar.getnames()[:5]
        said = json.load(tar.extractfile(members[1]))  # type: ignore[arg-type]
    key = members[0].split(".")[0]
    assert [member.removeprefix(f"{key}.") for member in members] == list(shown("Shard", 1)["members"])
    assert set(said) == set(shown("Shard")) and None not in said.values()
    row = first_row(tiny_dataset / "train-000000.index.jsonl")
    assert set(row) == set(shown("Shard", 1)) and set(row["members"]) == set(shown("Shard", 1)["members"])


def test_the_manifest(tiny_dataset):
    def shape(value: Any) -> Any:
        """Names of the fields, all the way down; of names that are data, the first stands for all."""
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

    said, page = json.loads((tiny_dataset / "manifest.json").read_text()), shown("Manifest")
    assert set(said) == set(page)
    of, example = said["splits"]["train"], page["splits"]["train"]
    assert shape(of["shards"][0]) == shape(example["shards"][0]) and set(of) == set(example)
    assert shape(next(iter(of["environments"].values()))) == shape(next(iter(example["environments"].values())))


def test_a_row_of_a_plan(tmp_path):
    speech, noise = bare_folders(tmp_path)
    out = tmp_path / "set"
    assert build("--source", "folders", "--speech", speech, "--noise", noise, "--hours", 0.005, "--out", out) == 0
    row, page = first_row(out / "plan.jsonl"), shown("Plan")
    assert set(row) == set(page)
    assert all(set(row[name]) == set(page[name]) for name in ("speech", "noise", "ref"))


def test_a_row_of_an_evaluation(tiny_dataset, tmp_path):
    argv = f"evaluate --shards {tiny_dataset} --peer mmse-lsa --modes none,disjoint --limit 1 --workers 1"
    assert run([*argv.split(), "--out", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert {frozenset(row) for row in rows} == {frozenset(shown("Rows of an evaluation"))}


@pytest.mark.slow
def test_a_run_folder(tiny_dataset, tmp_path):
    argv = f"train --shards {tiny_dataset} --out {tmp_path / 'run'} --max-steps 2 --checkpoint-every 1 --threads 1"
    assert run([*argv.split(), "--batch-size", "2", "--crop-frames", "16"]) == 0
    told = set(re.findall(r"`([\w.-]+\.\w+)`", section("Run folder")))
    assert told == set(names(tmp_path / "run"))
