"""The page in a headless Chromium, with the shipped model: `pip install 'nr[app]' playwright`, and a chromium."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from helpers import noise, spoken
from test_app import HOSTILE, hostile

import nrmodel
from cli.main import run
from nrdata import audio

pytest.importorskip("gradio", reason="needs pip install 'nr[app]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the server's own sockets
]
PATIENCE = 300_000  # milliseconds: of a machine at work
STATE = """[...document.querySelectorAll('.nr-player audio')].map(a =>
  ({name: a.className, at: a.currentTime, muted: a.muted, paused: a.paused, seconds: a.duration, fault: a.error}))"""
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def served():
    from nrmodel.app import page

    with page.serving(nrmodel.load(), port=0) as address:
        yield address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # the server's sockets, before another test is told of them


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def opened(served, browser):
    """The page, and what went wrong on it: errors on the console, requests to other machines."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url) if foreign(request.url, served) else None)
    tab.goto(served)
    tab.wait_for_selector(".nr-player")
    yield tab, wrong
    context.close()


def foreign(url: str, served: str) -> bool:
    return urlsplit(url).scheme not in ("blob", "data") and urlsplit(url).netloc != urlsplit(served).netloc


def bring(tab, which: str, path) -> None:
    tab.click(f"#nr-{which} button[aria-label=Clear]")
    tab.set_input_files(f"#nr-{which} input[type=file]", path)


def test_a_talk_is_brought_enhanced_and_heard_on_a_phone_by_keyboard(opened, tmp_path):
    tab, wrong = opened
    talk, room = tmp_path / "short talk.wav", tmp_path / "kitchen.wav"
    audio.write(talk, 0.3 * noise(2.0) + np.pad(spoken(1.0), (16000, 0)), 16000)
    audio.write(room, 0.3 * noise(1.0, seed=1), 16000)
    assert tab.evaluate(OVERFLOW) <= 0
    bring(tab, "talk", talk)
    bring(tab, "room", room)
    tab.wait_for_selector("#nr-room button[aria-label=Clear]")
    for _ in range(80):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent.trim()") == "Remove the noise":
            break
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=Download short talk-enhanced.wav")
    assert "kitchen.wav, 1.00 s" in tab.inner_text(".nr-fact")
    assert "speech in 0%" in tab.inner_text(".nr-notes")
    assert tab.evaluate(OVERFLOW) <= 0

    tab.wait_for_function("[...document.querySelectorAll('.nr-player audio')].every(a => a.readyState >= 3)")
    tab.focus("[data-nr=play]")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('.nr-after').currentTime > 0.2")
    tab.keyboard.press("Enter")  # pauses
    before, after = tab.evaluate(STATE)
    assert (before["muted"], after["muted"], after["paused"], after["fault"]) == (True, False, True, None)
    tab.focus("[data-nr=before]")
    tab.keyboard.press("Enter")
    switched, _ = tab.evaluate(STATE)
    assert not switched["muted"] and abs(switched["at"] - after["at"]) < 0.05
    assert abs(switched["seconds"] - after["seconds"]) < 0.01 and abs(after["seconds"] - 2.0) < 0.05
    assert tab.get_attribute("[data-nr=before]", "aria-pressed") == "true"
    with tab.expect_download() as download:
        tab.click(".nr-download")
    x, rate = audio.read(download.value.path())
    assert (len(x), rate) == (32000, 16000)
    assert wrong == []


def test_the_room_is_marked_on_the_talk_s_waveform(opened):
    tab, wrong = opened
    tab.click("text=a stretch of the talk")
    tab.wait_for_selector(".nr-stretch svg")
    box = tab.locator(".nr-stretch svg").bounding_box()
    tab.mouse.move(box["x"] + 1, box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.15, box["y"] + 20, steps=3)
    tab.mouse.up()
    tab.focus(".nr-stretch label:last-of-type input")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(OVERFLOW) <= 0
    told = tab.inner_text(".nr-stretch label:last-of-type")
    end = float(told.split()[1])
    assert 0.85 < end < 0.95
    tab.click("text=Remove the noise")
    tab.wait_for_selector(f"text=-{end:.2f} s of the file itself")
    assert wrong == []


def test_hostile_files_are_a_sentence_on_the_page(opened, tmp_path):
    tab, _ = opened
    for kind in ("text", "empty", "three hours", "six channels"):
        bring(tab, "talk", hostile(tmp_path, kind))
        tab.wait_for_selector(f".nr-fault:has-text({HOSTILE[kind]!r})")
        assert "Traceback" not in tab.inner_text("body")


def test_nothing_but_the_page_s_own_files_is_served_and_those_go_with_it(served, browser, tmp_path, monkeypatch):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    there = set(folder.rglob("*"))
    monkeypatch.chdir(tmp_path)
    here = [Path("mine.wav"), Path(".gradio/cached_examples/mine.wav")]
    for path in here:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in (*here, __file__, "/etc/passwd", f"{folder}/../../etc/passwd", nrmodel.__file__, folder):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served}gradio_api/file={quote(str(path))}")
        assert refused.value.code in (403, 404)
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(served)
    tab.click("text=its longest pause")
    tab.click("text=Remove the noise")
    tab.wait_for_selector("text=of the file itself")
    made = set(folder.rglob("*")) - there
    assert made
    tab.close()
    deadline = time.monotonic() + PATIENCE / 1000
    while made & set(folder.rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not made & set(folder.rglob("*"))


def test_the_command_names_the_address_and_a_port_that_is_taken(served, monkeypatch, capsys):
    from nrmodel.app import page

    assert run(["app", "--port", str(urlsplit(served).port)]) == 2
    assert "cannot be had" in capsys.readouterr().err
    monkeypatch.setattr(page, "serving", lambda model, host, port: contextlib.nullcontext(f"http://{host}:{port}/"))
    monkeypatch.setattr("cli.app.wait", lambda: None)
    assert run(["app", "--port", "7999"]) == 0
    assert "http://127.0.0.1:7999/" in capsys.readouterr().out
