"""The report of an experiment with planted effects: what it says, that it stands alone, that names cannot break it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from planted import make_experiment
from toys import TOY_METRIC

from nrmodel.evaluation.metrics import METRICS
from nrmodel.experiment import plots
from nrmodel.experiment.plan import read_plan
from nrmodel.experiment.plots import same_picture
from nrmodel.experiment.report import to_markdown, write_picture, write_report
from nrmodel.experiment.sections import sections

HOSTILE = "<script>alert(1)</script>|\"'`\x1b[31m"


class Page(HTMLParser):
    """Elements of a page, and whether its tags close in order."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_experiment(tmp_path_factory.mktemp("report") / "planted", hostile=HOSTILE)
    return folder, write_report(read_plan(folder / "plan.toml", folder), folder)


@pytest.fixture(scope="module")
def page(made):
    parsed = Page()
    parsed.feed((made[0] / "report.html").read_text())
    return parsed


def test_verdicts_are_what_was_planted(made):
    _, found = made
    assert found["primary"]["shown"] and found["primary"]["over_none"]["mean"] == pytest.approx(0.031, abs=0.004)
    assert [e["verdict"] for e in found["criteria"]] == ["met"] * 4
    (film,) = found["ablations"]
    assert film["disjoint"]["estoi"]["mean"] == pytest.approx(0.02, abs=0.004)
    (peer,) = found["peers"]
    assert peer["ours_minus"]["estoi"]["mean"] == pytest.approx(0.11, abs=0.005)


def test_a_toy_metric_of_which_less_is_better_is_in_the_report_by_its_row_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, *TOY_METRIC)
    folder = make_experiment(tmp_path / "toy", files=72)
    found = write_report(read_plan(folder / "plan.toml", folder), folder)
    assert found["criteria"][0]["metrics"]["rms_error"]["verdict"] == "met"
    assert found["criteria"][0]["metrics"]["rms_error"]["mean"] < 0
    for heading in ("Verdicts", "By SNR", "The ladder", "Length of the clip", "Peers"):
        part = (folder / "report.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
        assert "Toy error FS" in part, heading
    assert "Toy error FS" in (folder / "report.html").read_text()


def test_the_markdown_begins_with_the_sentence_and_the_verdicts(made):
    folder, found = made
    text = (folder / "report.md").read_text()
    places = [text.index(part) for part in (found["primary"]["sentence"][:40], "Declared contrast", "## Verdicts",
                                            "Is the reference read", "The ladder", "Ablations")]  # fmt: skip
    assert places == sorted(places)
    assert "<script>" not in text and "\x1b" not in text
    for picture in re.findall(r"\]\((\w+)\.png\)", text):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert {"ladder", "length", "leak", "map", "distance"} <= set(re.findall(r"\]\((\w+)\.png\)", text))
    verdicts = text.split("## Verdicts")[1].split("##")[0]
    cells = [line.replace("\\|", "").count("|") for line in verdicts.splitlines() if line.startswith("|")]
    assert len(cells) == 6 and len(set(cells)) == 1


def test_the_page_stands_alone_and_is_whole(page):
    assert page.open == []
    sources = [attrs.get("src", "") for tag in ("img", "audio", "script") for attrs in page.all(tag)]
    sources += [attrs.get("href", "") for attrs in page.all("link")]
    assert all(source == "" or source.startswith("data:") for source in sources)
    assert all(attrs.get("alt") for attrs in page.all("img"))


def test_every_version_has_a_player_a_picture_and_a_button(page):
    players = page.all("audio")
    assert len(players) == 10 and len(page.all("figure")) == 10
    for attrs in players:
        assert "controls" in attrs and attrs["aria-label"]
        assert base64.b64decode(attrs["src"].partition(",")[2]).startswith(b"fLaC")
    buttons = page.all("button")
    assert len(buttons) == 10 and all(b["aria-pressed"] == "false" for b in buttons)


def test_names_from_data_are_text_not_markup(made, page):
    assert len(page.all("script")) == 1 and "alert(1)" not in "".join(page.scripts)
    assert "&lt;script&gt;alert(1)" in (made[0] / "report.html").read_text()


def test_a_report_is_a_function_of_its_files(made, tmp_path):
    """No dates, no order of sets: the same bytes from a copy of rows, probes and cells."""
    folder, _ = made
    shutil.copytree(
        folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.png", "*.md", "*.html", "verdicts.json")
    )
    write_report(read_plan(tmp_path / "copy" / "plan.toml", tmp_path / "copy"), tmp_path / "copy")
    for name in ("verdicts.json", "report.md", "report.html", "ladder.png"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes(), name


def test_sections_without_anything_to_say_are_left_out(made):
    _, found = made
    bare = found | {
        "ablations": [],
        "peers": [],
        "probes": {},
        "seen": [],
        "by_distance": [],
        "snr": [],
        "dose": {"ref_seconds": [], "leak_db": []},
    }
    titles = [section.title for section in sections(bare)]
    assert not any("Ablations" in t or "Peers" in t or "Length" in t or "read at all" in t for t in titles)
    assert any("Verdicts" in t for t in titles) and len(titles) < len(sections(found))


def test_without_a_baseline_nothing_is_said_of_it(tmp_path):
    folder = make_experiment(tmp_path / "alone", files=96, baseline=False)
    found = write_report(read_plan(folder / "plan.toml", folder), folder)
    text = (folder / "report.md").read_text()
    assert "over baseline" not in text and "null's handicap" not in text
    assert found["primary"]["sentence"].startswith("Within one network")
    assert [e["verdict"] for e in found["criteria"][:3]] == ["undecided"] * 3


def test_the_numbers_of_each_training_stand_beside_their_mean(made):
    folder, found = made
    assert re.search(r"trainings \+0\.03\d, \+0\.03\d \(SD 0\.00\d\)", (folder / "report.md").read_text())
    json.dumps(found, allow_nan=False)


def test_a_picture_that_shows_the_same_is_left_alone(tmp_path):
    one, other = plots.loss_curve([1, 2, 3], [3.0, 2.0, 1.0]), plots.loss_curve([1, 2, 3], [3.0, 1.99, 1.0])
    path = tmp_path / "a.png"
    assert write_picture(path, one) and not write_picture(path, one)
    older = drawn_by(one, "matplotlib 3.0")
    assert same_picture(one, older) and not write_picture(path, older)
    assert not same_picture(one, other) and not same_picture(older, other)
    touched = drawn_by(one, None)  # other bytes that no other matplotlib accounts for
    assert not same_picture(one, touched) and not same_picture(one, plots.spectrogram_png([0.1] * 2000, 16000)[0])
    assert write_picture(path, other) and path.read_bytes() == other


def drawn_by(png: bytes, software: str | None) -> bytes:
    """The same picture in other bytes, by its own account drawn by other software."""
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    picture, told, buffer = Image.open(io.BytesIO(png)), PngInfo(), io.BytesIO()
    told.add_text("Description", picture.info["Description"])
    told.add_text("Software", software or picture.info["Software"])
    picture.save(buffer, "png", compress_level=1, pnginfo=told)
    return buffer.getvalue()


def test_a_spectrogram_shows_a_tone_at_its_height():
    t = np.arange(16000) / 16000
    png, top = plots.spectrogram_png(0.5 * np.sin(2 * np.pi * 2000 * t), 16000)
    import io

    from matplotlib.image import imread

    brightness = imread(io.BytesIO(png))[:, 20:-20, :3].sum(axis=(1, 2))
    assert abs(brightness.argmax() / len(brightness) - 0.75) < 0.01  # 2 of 8 kHz, from the top
    quiet, _ = plots.spectrogram_png(0.0005 * np.sin(2 * np.pi * 2000 * t), 16000, top)
    assert imread(io.BytesIO(quiet))[:, :, :3].mean() < imread(io.BytesIO(png))[:, :, :3].mean()


def test_cells_of_the_markdown_are_safe_too(made):
    _, found = made
    told = [{**found["ablations"][0], "values": {"init_from": HOSTILE}, "base": HOSTILE}]
    text = to_markdown(found | {"ablations": told}, set())
    assert "<script>" not in text and "\x1b" not in text and "alert(1)" in text
