"""What the page's parts call, without gradio: a press, a talk that was brought, a page that was closed."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nrdata.errors import UserError
from nrmodel.app import example, press, shown
from nrmodel.enhancement.interface import Model
from nrmodel.enhancement.jobs import Span

BROUGHT, MARKED, FOUND, NONE = "a recording of it", "a stretch of the talk", "its longest pause", "nothing"


class Sessions:
    """What each open page has brought and been given: deleted when it closes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths: dict[str, set[Path]] = {}
        self.spared: set[Path] = set()

    def spare(self) -> None:
        """What is there now belongs to the page, whoever works on it."""
        self.spared = set(self.folder.rglob("*"))

    def new(self, session: str, *brought: Path | None) -> Path:
        """A folder for a result; uploads are remembered beside it."""
        made = self.folder / secrets.token_urlsafe(16)
        made.mkdir()
        self.paths.setdefault(session, set()).update({made, *(path for path in brought if path and path.is_file())})
        return made

    def close(self, session: str) -> None:
        """Delete what no other page has."""
        mine = self.paths.pop(session, set())
        for path in mine - self.spared.union(*self.paths.values()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class Desk:
    """The functions that gradio calls. `folder`: the only one that is served; `example`: what the page opens with."""

    def __init__(self, model: Model, folder: Path):
        self.model, self.sessions = model, Sessions(folder)
        self.example = example.write(folder)
        here = folder / "example"
        here.mkdir()
        self.opening = shown.player(press.enhanced(model, *self.example, 1.0, here), address)
        self.stretch = self._stretch(self.example[0], here)

    def press(
        self, talk: str | None, how: str, room: str | None, marked: dict[str, Any], strength: float, session: str
    ) -> str:
        """The result as HTML, or a sentence on what to mend."""
        try:
            if talk is None:
                raise UserError("bring or record a talk first")
            if how == BROUGHT and room is None:
                raise UserError("bring or record the room first, or choose where else it is heard alone")
            clip = Path(room) if room and how == BROUGHT else None
            folder = self.sessions.new(session, Path(talk), clip)
            reference: Path | Span | str | None = {BROUGHT: clip, FOUND: "auto"}.get(how)
            if how == MARKED:
                reference = float(marked["from"]), float(marked["to"])
            return shown.player(press.enhanced(self.model, Path(talk), reference, strength, folder), address)
        except UserError as e:
            return shown.fault(str(e))

    def brought(self, talk: str | None, session: str) -> tuple[dict[str, Any], str]:
        """The waveform of a talk, and what is wrong with it."""
        nothing = shown.stretch([], 1.0)
        if talk is None:
            return nothing, ""
        try:
            return self._stretch(Path(talk), self.sessions.new(session, Path(talk))), ""
        except UserError as e:
            return nothing, shown.fault(str(e))

    @staticmethod
    def _stretch(talk: Path, folder: Path) -> dict[str, Any]:
        taken = press.take(talk, folder / "talk.wav")
        return shown.stretch(press.peaks(taken.wave), taken.seconds)


def address(path: Path) -> str:
    """Where gradio serves a file of the folder, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"
