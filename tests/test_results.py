"""`make results`: what is committed comes out again, and what is not is told."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from planted import make_experiment, row

from cli.results import command
from nrmodel.experiment.plan import read_plan
from nrmodel.experiment.report import write_tables


def results(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """results/ with an experiment and a run of its own, built once."""
    folder = tmp_path_factory.mktemp("committed") / "results"
    experiment = make_experiment(folder / "seed", files=48)
    shutil.rmtree(experiment / "listening")
    write_tables(read_plan(experiment / "plan.toml", experiment), experiment, experiment)
    first = folder / "first-run"
    first.mkdir()
    rows = [row(k, *s) for s in (("noisy", "none", 0.0, 0.0, 0), ("nr:00000000", "none", 0.0, 0.1, 1),
                                 ("nr:00000000", "disjoint", 1.0, 0.12, 1), ("nr:00000000", "none", 0.0, 0.11, 5))
            for k in range(48)]  # fmt: skip
    (first / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    of = {"system": "nr:00000000", "sound_seconds": 60.0, "threads": 2}
    speed = [of | {"nfe": n, "seconds": 6.0 * n} for n in (1, 5)]
    (first / "speed.json").write_text(json.dumps(speed))
    log = [{"step": 10 * k, "loss": 1 / k} for k in range(1, 9)] + [{"step": 80, "validation": {"score": 0.5}}]
    (first / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert results(folder).return_value == 0
    return folder


def test_what_is_committed_comes_out_again(committed):
    before = {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()}
    names = {str(path.relative_to(committed)) for path in before}
    assert {
        "first-run/table.md",
        "first-run/means.png",
        "first-run/calls.png",
        "first-run/loss.png",
        "seed/report.md",
        "seed/ladder.png",
    } <= names
    table = (committed / "first-run" / "table.md").read_text().split("## ")[2]
    assert [line.split("|")[-2].strip() for line in table.splitlines() if "nr:" in line] == ["0.100", "0.100", "0.500"]
    assert "2 threads" in table
    found = results(committed, "--check")
    assert found.return_value == 0 and "0 changed" in found.output
    assert results(committed).return_value == 0
    assert {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name", ["first-run/table.md", "first-run/summary.json", "seed/report.md", "seed/verdicts.json"]
)
def test_a_table_that_was_changed_by_hand_is_found_and_rebuilt(committed, tmp_path, name):
    shutil.copytree(committed, tmp_path / "results")
    path = tmp_path / "results" / name
    text = path.read_text()
    path.write_text(text.replace("0", "1", 1))
    found = results(tmp_path / "results", "--check")
    assert found.return_value == 1 and found.output.count("differs") == 1 and name in found.output
    assert path.read_text() != text  # --check writes nothing
    assert results(tmp_path / "results").return_value == 0 and path.read_text() == text


def test_a_row_that_was_changed_shows_in_the_tables(committed, tmp_path):
    shutil.copytree(committed, tmp_path / "results")
    rows = tmp_path / "results" / "first-run" / "rows.jsonl"
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([json.dumps(json.loads(lines[60]) | {"estoi": 0.999}), *lines[1:]]) + "\n")
    found = results(tmp_path / "results", "--check")
    assert found.return_value == 1 and "first-run/table.md" in found.output


def test_a_missing_picture_is_made_again(committed, tmp_path):
    shutil.copytree(committed, tmp_path / "results")
    (tmp_path / "results" / "seed" / "length.png").unlink()
    found = results(tmp_path / "results" / "seed")
    assert found.return_value == 0 and "length.png" in found.output
    assert (tmp_path / "results" / "seed" / "length.png").exists()


def test_the_projects_own_results_are_what_their_rows_say():
    from pathlib import Path

    folder = Path(__file__).parents[1] / "results"
    if not any(folder.rglob("rows.jsonl")):
        pytest.skip("no results are committed yet")
    found = results(folder, "--check")
    assert found.return_value == 0, found.output
