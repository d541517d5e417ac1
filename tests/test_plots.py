"""What the pictures of results show: differences with their intervals under names, where own estimates begin, a map of
few colours."""

from __future__ import annotations

import json

import pytest
from planted import row

from nrdata import drawing
from nrmodel.evaluation.names import clip_name, system_name
from nrmodel.evaluation.schema import Setting, row_of
from nrmodel.evaluation.summary import summarise
from nrmodel.experiment import plots
from nrmodel.training.curve import read_curve


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, still open."""
    drawn, plt = [], drawing.pyplot()
    close = plt.close
    monkeypatch.setattr(plt, "close", drawn.append)
    yield drawn
    for figure in drawn:
        close(figure)


def labels(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def summary(*settings):
    return summarise([row_of(row(k, *setting)) for setting in settings for k in range(24)])


NOISY = ("noisy", "none", 0.0, 0.0, 0)
NONE = ("nr:00000000", "none", 0.0, 0.1, 1)


def test_means_shows_the_paired_differences_by_name(figures):
    found = summary(NOISY, NONE, ("nr:00000000", "disjoint", 1.0, 0.13, 1), ("nr:00000000", "disjoint", 0.5, 0.12, 1),
                    ("peer:dtln", "none", 0.0, 0.05, 0), ("peer:mmse-lsa", "disjoint", 1.0, 0.02, 0))  # fmt: skip
    assert plots.paired_gains(found).startswith(b"\x89PNG")
    axes = figures[0].axes
    assert len(axes) == 6
    assert sorted(labels(axes[0])) == sorted(
        ["nr, no clip", "nr, clip of the same place", "nr, clip of the same place, 0.5 s", "DTLN",
         "MMSE-LSA, clip of the same place"])  # fmt: skip
    assert sorted(labels(axes[3])) == ["nr, clip of the same place", "nr, clip of the same place, 0.5 s"]
    assert axes[1].get_xlabel() == "ESTOI, minus the noisy sound" and axes[4].get_xlabel() == "ESTOI, minus no clip"
    place = labels(axes[3]).index("nr, clip of the same place")
    points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes[4].lines if line.get_marker() == "o"}
    spans = {line.get_ydata()[0]: tuple(line.get_xdata()) for line in axes[4].lines if len(set(line.get_xdata())) == 2}
    (gain,) = (e["metrics"]["estoi"] for e in found["differences"] if e["minus"] == "none" and e["ref_seconds"] == 1)
    assert points[place] == gain["mean"] == pytest.approx(0.03, abs=0.01)
    assert spans[place] == (gain["low"], gain["high"])


def test_where_two_models_are_their_digests_part_them_and_where_nothing_is_to_subtract_there_is_no_picture(figures):
    plots.paired_gains(summary(NOISY, NONE, ("nr:11111111", "none", 0.0, 0.1, 1)))
    assert set(labels(figures[0].axes[0])) == {"nr 00000000, no clip", "nr 11111111, no clip"}
    assert plots.paired_gains(summary(NOISY)) == b""


def test_every_mode_has_a_name_and_one_of_somebodys_own_keeps_its():
    names = {mode: clip_name(mode) for mode in ("none", "leak:-5", "disjoint+mp3", "given", "toy")}
    assert names == {"none": "no clip", "leak:-5": "clip with speech at -5 dB", "given": "the clip given", "toy": "toy",
                     "disjoint+mp3": "clip of the same place, through MP3"}  # fmt: skip
    assert system_name(Setting("nr:00000000", "toy", 1.0, 5)) == "nr, toy, 5 calls"
    assert system_name(Setting("peer:another", "none", 0.0, 0)) == "another"


def run_folder(folder, config="", own=None):
    lines = [{"step": 10 * k, "loss": 1.0 / k} | ({} if own is None or 10 * k <= own else {"own_from": own})
             for k in range(1, 11)]  # fmt: skip
    lines.insert(5, {"step": 50, "validation": {"score": 0.5, "loss": {"right": 0.2, "wrong": 0.4, "none": 0.3}}})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        (folder / "config.toml").write_text(config)
    return read_curve(folder)


def test_the_log_tells_where_own_estimates_begin_else_the_configuration(tmp_path):
    assert run_folder(tmp_path).own_from is None
    assert run_folder(tmp_path, 'preset = "nano"\nmax_steps = 100\n').own_from == 40
    assert run_folder(tmp_path, own=73).own_from == 73  # resumed with a smaller budget
    assert run_folder(tmp_path, 'preset = "nano"\nmax_steps = 1000\n').own_from is None  # it never came so far
    assert run_folder(tmp_path, 'preset = "base"\nmax_steps = 100\n').own_from is None  # it has none


def test_a_loss_picture_has_the_validation_and_a_line_where_own_estimates_begin(tmp_path, figures):
    curve = run_folder(tmp_path, own=60)
    plots.loss_curve(curve.steps, curve.loss, curve.validation, curve.own_from)
    (axis,) = figures[0].axes
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["validation, right clip"].get_ydata()) == [0.2]
    assert list(lines["validation, no clip"].get_xdata()) == [50]
    assert set(lines["own estimates begin"].get_xdata()) == {60} and len(lines["training"].get_xdata()) == 10
    told = {text.get_text() for legend in figures[0].legends for text in legend.get_texts()}
    assert told == set(lines)


def test_a_map_of_many_places_has_few_colours(figures):
    points = [[(k % 24) + 0.1 * k, (k * 7) % 24, f"local/e{k % 24}"] for k in range(240)]
    plots.embedding_map(points)
    (axis,) = figures[0].axes
    coloured = [line for line in axis.lines if line.get_label() != "18 others"]
    assert len(coloured) == 6 and sum(len(line.get_xdata()) for line in axis.lines) == 240
    assert {line.get_label() for line in coloured} <= {f"e{k}" for k in range(24)}
    assert len({line.get_color() for line in axis.lines}) == 7
    plots.embedding_map(points[:3])
    assert len(figures[1].axes[0].lines) == 3  # nothing is grey where there are few
