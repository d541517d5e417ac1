"""What the pages say runs: their Python blocks on the small data set, their command lines as far as parsing goes.
The links between pages lead somewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from stand_ins import tiny_checkpoint

from cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language ("": those that name none)."""
    found = re.findall(r"^```(.*?)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def command_lines(page: Path) -> Iterator[str]:
    """The lines of blocks without a language, joined where they go on, and what stands in `code` and begins with nr."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.split(" #")[0].strip()
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from (code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose) if code.startswith("nr "))


def faults(line: str) -> list[str]:
    """What is wrong with a line that is meant for a shell: commands, options, targets and files that are not there."""
    words = shlex.split(line)
    if words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return [f"no target {word}" for word in words[1:] if "=" not in word and word not in targets]
    if words[:1] == ["python"]:
        return [f"no file {word}" for word in words[1:] if word.endswith(".py") and not (ROOT / word).exists()]
    if words[:1] != ["nr"]:
        return []
    name = next((word for word in words[1:] if not word.startswith("-")), "")
    if name and name not in COMMANDS:
        return [] if re.fullmatch(r"[A-Z.]+", name) else [f"no command {name}"]
    command = cli.get_command(click.Context(cli), name) if name else cli
    assert command is not None
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    return [f"{name} has no {w.split('=')[0]}" for w in words[1:] if w.startswith("-") and w.split("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_exist(page):
    wrong = {line: found for line in command_lines(page) if (found := faults(line))}
    assert not wrong


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_what_does_not_exist_is_found():
    assert faults("nr trian --shards x") == ["no command trian"]
    assert faults("nr train --shard x --out=y") == ["train has no --shard"]
    assert faults("make eval-mismatch CHECKPOINT=x") == [] and faults("make nothing") == ["no target nothing"]
    assert faults("python benchmarks/none.py") == ["no file benchmarks/none.py"]
    assert sum(line.startswith("nr ") for line in command_lines(ROOT / "README.md")) > 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    """A folder as the pages have it: data sets in shards/, a run in runs/."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("mine", "real"):
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / name).symlink_to(tiny_dataset)
    (folder / "runs" / "env").mkdir(parents=True)
    tiny_checkpoint(folder / "runs" / "env").rename(folder / "runs" / "env" / "model.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # stock webdataset's open shards
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page, place, tiny_dataset, monkeypatch):
    monkeypatch.chdir(place)
    known = {"urls": sorted(str(path) for path in tiny_dataset.glob("train-*.tar"))}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), known)  # blocks of a page go on from each other, as a reader does
    if page.name == "README.md":
        assert known["cleaned"].shape == known["sample"].noisy.shape and np.isfinite(known["cleaned"]).all()


def test_the_plan_on_the_page_is_one():
    from nrmodel.experiment.plan import plan_of

    (block,) = blocks(ROOT / "docs" / "experiments.md", "toml")
    plan = plan_of(tomllib.loads(block), Path("out"))
    assert {"proposed", "baseline", "conditioning-film"} == set(plan.arms)
    assert {cell.request["title"] for cell in plan.cells if cell.kind == "evaluate"} == {"main", "length", "published"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_foreign_pipeline(tiny_dataset):
    """Of docs/references.md: stock webdataset, our decoder, our stage; the same seed, the same references."""
    (block,) = (block for block in blocks(ROOT / "docs" / "references.md", "python") if "webdataset" in block)
    urls = sorted(str(path) for path in tiny_dataset.glob("train-*.tar"))
    passes = []
    for _ in range(2):
        known = {"urls": urls}
        exec(block, known)
        passes.append(list(known["data"]))
    assert len(passes[0]) == len(passes[1]) == 12
    for a, b in zip(*passes, strict=True):
        assert (a["__key__"], a["ref_key"], a["relation"]) == (b["__key__"], b["ref_key"], "same-environment")
        assert a["ref_key"] != a["__key__"] and a["ref"][1] == 16000
        assert len(a["ref"][0]) == 16000 and np.array_equal(a["ref"][0], b["ref"][0])
