"""The page of examples: the committed one stands alone, is attributed, licensed, small; how it is chosen and made."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, noise, speech

import nrdata
from nrdata.errors import UserError
from nrmodel.evaluation.evaluate import ShardFiles

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "listen" / "index.html"


def load_script():
    path = ROOT / "benchmarks" / "listen.py"
    spec = importlib.util.spec_from_file_location("benchmarks_listen", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


listen = load_script()


class Page(HTMLParser):
    """Elements with their attributes, by the example that they stand in (0: none), and the text of links."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[int, str, dict]] = []
        self.example, self.link = 0, None
        self.links: list[tuple[int, dict, str]] = []
        self.text: list[tuple[int, str]] = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.example += tag == "section"
        self.found.append((self.example, tag, attrs))
        self.link = attrs if tag == "a" else self.link

    def handle_endtag(self, tag):
        self.link = None if tag == "a" else self.link

    def handle_data(self, data):
        self.text.append((self.example, data))
        if self.link is not None:
            self.links.append((self.example, self.link, data))

    def all(self, tag, example=None):
        return [attrs for number, name, attrs in self.found if name == tag and example in (None, number)]


@pytest.fixture(scope="module")
def page() -> Page:
    parsed = Page()
    parsed.feed(PAGE.read_text(encoding="utf-8"))
    return parsed


def test_the_page_loads_nothing_but_what_lies_beside_it(page):
    loaded = [attrs["src"] for tag in ("audio", "img") for attrs in page.all(tag)]
    assert len(loaded) == len(set(loaded)) and not any(re.search(r"[:/]", source) for source in loaded)
    beside = {path.name for path in PAGE.parent.iterdir()} - {"index.html"}
    assert set(loaded) == beside
    assert not page.all("iframe") and not any("src" in attrs for attrs in page.all("script"))
    assert all(attrs["href"].startswith("data:") for attrs in page.all("link"))
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
    assert any(attrs.get("content", "").startswith("default-src 'none'") for attrs in page.all("meta"))


def test_it_is_small(page):
    sizes = {path: path.stat().st_size for path in PAGE.parent.iterdir()}
    assert sum(size for path, size in sizes.items() if path.suffix == ".opus") <= 3_000_000
    assert sum(sizes.values()) <= 5_000_000


def test_every_example_is_attributed_and_nothing_is_share_alike(page):
    with (ROOT / "manifests" / "test-sources.csv").open(newline="", encoding="utf-8") as file:
        known = {(row["title"], row["link"]): row["license"] for row in csv.DictReader(file)}
    assert not any(re.search("SA|NC|ND|not stated|Pixabay", licence) for licence in listen.DEEDS)
    for number in range(1, len(listen.SLOTS) + 1):
        links = [(attrs, text) for example, attrs, text in page.links if example == number]
        licences = [(attrs["href"], text) for attrs, text in links if attrs.get("rel") == "license"]
        titles = [(text, attrs["href"]) for attrs, text in links if attrs.get("rel") != "license"]
        assert len(licences) == len(titles) == (3 if listen.SLOTS[number - 1][0] == "two noises" else 2)
        for (deed, licence), title in zip(licences, titles, strict=True):
            assert known[title] == licence and listen.DEEDS[licence] == deed


def test_every_example_has_its_versions_with_scores_of_one_length(page):
    conditions = [condition for condition, _ in listen.SLOTS]
    assert {"over a telephone", "two noises"} < set(conditions) and any("room" in c for c in conditions)
    sections = page.all("section")
    assert len(sections) == len(conditions)
    for number, (attrs, (condition, _)) in enumerate(zip(sections, listen.SLOTS, strict=True), 1):
        assert attrs["aria-label"].endswith(f", {condition}" if condition else " dB")
        names = [player["aria-label"].partition(" of ")[0] for player in page.all("audio", number)]
        assert names[:5] == ["noisy", "the clip", "nr without clip", "nr with clip", "nr with wrong clip"]
        assert {"DeepFilterNet3", "DTLN", "RNNoise", "clean speech"} <= set(names)
        assert ("nr --keep-rest" in names) == (condition == "two noises")
        pressed = [button["aria-pressed"] for button in page.all("button", number)]
        assert pressed == ["false"] * len(names) and len(page.all("img", number)) == len(names)
        told = [text for example, text in page.text if example == number and "PESQ-WB" in text]
        assert len(told) >= 7 and all("ESTOI" in text and "SI-SDR" in text for text in told)
        sounds = [PAGE.parent / player["src"] for player in page.all("audio", number)]
        frames = {name: soundfile.info(path).frames for name, path in zip(names, sounds, strict=True)}
        assert frames.pop("the clip") == RATE and len(set(frames.values())) == 1


def test_share_alike_and_unknown_licences_are_not_shown(tmp_path):
    path = tmp_path / "sources.csv"
    licences = {"a": "CC0", "b": "CC BY-SA 3.0", "c": "CC-BY-NC-SA-4.0", "d": "not stated", "e": "CC BY 4.0"}
    rows = [f"{name},{licence},t,a,l" for name, licence in licences.items()]
    path.write_text("\n".join(["path,license,title,author,link", *rows]))
    assert list(listen.sources(path)) == ["a", "e"]


def test_examples_are_drawn_from_what_may_be_shown_and_no_place_or_speaker_comes_twice(tiny_dataset, monkeypatch):
    monkeypatch.setattr(listen, "SECONDS", (1.0, 2.0))
    files = ShardFiles(nrdata.open(tiny_dataset), "test")
    index, rows = files.index, range(6)
    levels = [float(round(index.snr_db[row])) for row in rows]

    def chosen(slots, may=lambda row: True):
        return listen.choose(files, slots, may)

    for level in set(levels):
        (only,) = chosen([("", level)])
        assert levels[only.row] == level and only == chosen([("", level)])[0]
        with pytest.raises(UserError, match="no file left"):
            chosen([("", level)], lambda row, only=only: levels[row] != levels[only.row])
    first, then = chosen([("two noises", levels[0])])[0], None
    assert index.env[first.row] != index.env[first.second]
    for other in set(levels):
        try:
            a, then = chosen([("", levels[0]), ("", other)])
        except UserError:
            continue
        assert index.env[a.row] != index.env[then.row] and index.speaker[a.row] != index.speaker[then.row]
    assert then is not None


def test_all_versions_of_an_example_have_one_gain_and_the_same_bytes_again(tmp_path):
    clean, bed = speech(1.0), noise(1.0)
    found = [listen.Version("noisy", clean + bed, {"estoi": 0.5}), listen.Version("the clip", 9 * bed),
             listen.Version("nr without clip", clean, note="as it is")]  # fmt: skip
    made = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        made.append(listen.write_versions(found, 3, RATE, tmp_path / name))
    assert made[0] == made[1] and [v["sound"] for v in made[0]][2] == "03-nr-without-clip.opus"
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    heard = {v["name"]: soundfile.read(tmp_path / "once" / v["sound"])[0] for v in made[0]}
    gain = listen.PEAK / np.abs(clean + bed).max()
    for name, sound in (("noisy", clean + bed), ("nr without clip", clean)):
        fit = float(heard[name] @ sound / (sound @ sound))
        assert len(heard[name]) == RATE and abs(fit / gain - 1) < 0.1, name
    assert np.abs(heard["the clip"]).max() <= 1
    assert made[0][0]["told"] == "ESTOI 0.500" and made[0][2]["told"] == "as it is"
