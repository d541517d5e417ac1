"""The page: gradio's parts, what they call, and the server. Nothing is asked of the network, nothing is kept.

All that users bring, and all that is made of it, lies in one temporary folder, the only one that is served; what a
session brought goes when its page is closed, what nobody claims after an hour, the rest with the server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from nrdata.errors import UserError
from nrmodel.app import press
from nrmodel.app.desk import BROUGHT, FOUND, MARKED, NONE, Desk
from nrmodel.enhancement.interface import Model

FORGOTTEN_SECONDS = 3600
WAITING = 16  # presses in the queue; one is worked on at a time
ABOUT = """# nr: take the room out of a talk
Bring a talk, and a second or two of the room without it; hear it before and after. The example is synthetic: a voice
that says nothing, in a workshop that is nowhere. Files stay on this server until you close the page.
"""


def blocks(desk: Desk) -> Any:
    """The layout."""

    def pressed(talk: Any, how: Any, room: Any, marked: Any, strength: Any, request: gr.Request) -> str:
        return desk.press(talk, how, room, marked, strength, str(request.session_hash))

    def brought(talk: Any, request: gr.Request) -> tuple[dict[str, Any], str]:
        return desk.brought(talk, str(request.session_hash))

    def closed(request: gr.Request) -> None:
        desk.sessions.close(str(request.session_hash))

    def sound(name: str, label: str, value: Path) -> Any:
        return gr.Audio(
            str(value), sources=["upload", "microphone"], type="filepath", label=label, editable=False, buttons=[],
            elem_id=f"nr-{name}",
        )  # fmt: skip

    with gr.Blocks(title="nr", analytics_enabled=False, delete_cache=(60, FORGOTTEN_SECONDS)) as demo:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                talk = sound("talk", "The talk", desk.example[0])
                strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="share of the noise that is removed")
            with gr.Column():
                how = gr.Radio([BROUGHT, MARKED, FOUND, NONE], value=BROUGHT, label="The room alone is heard in")
                room = sound("room", "The room alone", desk.example[1])
                marked = gr.HTML(
                    desk.stretch,
                    html_template=_asset("stretch.html"),
                    js_on_load=_asset("stretch.js"),
                    apply_default_css=False,
                    visible=False,
                )
        button = gr.Button("Remove the noise", variant="primary")
        result = gr.HTML(desk.opening, js_on_load=_asset("player.js"), apply_default_css=False, elem_classes="nr-flat")

        private: dict[str, Any] = {"api_visibility": "private"}
        shows = [gr.update(visible=True), gr.update(visible=False)]
        how.change(lambda choice: (shows[choice != BROUGHT], shows[choice != MARKED]), how, [room, marked], **private)
        talk.change(brought, talk, [marked, result], show_progress="hidden", concurrency_limit=2, **private)
        button.click(pressed, [talk, how, room, marked, strength], result, concurrency_limit=1, **private)
        demo.unload(closed)
    demo.queue(max_size=WAITING, api_open=False)
    return demo


def _free(host: str, port: int) -> int:
    """The port, or any free one for 0; before the work of making an example."""
    try:
        with socket.create_server((host, port)) as found:
            return int(found.getsockname()[1])
    except OSError as e:
        text = f"port {port} of {host} cannot be had ({e.strerror or e}): give another --port, 0 for any"
        raise UserError(text, "port") from e


def _asset(name: str) -> str:
    return resources.files("nrmodel.app").joinpath(name).read_text(encoding="utf-8")


@contextlib.contextmanager
def serving(model: Model, host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """The page's address while it is served; port 0 takes any free one. Raises `UserError` (port)."""
    port = _free(host, port)
    with tempfile.TemporaryDirectory(prefix="nr-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = folder  # gradio serves both
        desk = Desk(model, Path(folder))
        demo = blocks(desk)
        desk.sessions.spare()  # gradio's copies of the example, too
        theme = gr.themes.Default(  # fonts that need not be fetched
            primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        )  # fmt: skip
        _, local, _ = demo.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
            max_file_size=f"{press.MAX_MEGABYTES}mb", footer_links=[], theme=theme, css=_asset("page.css"),
            enable_monitoring=False,
        )  # fmt: skip
        try:
            yield str(local)
        finally:
            demo.close(verbose=False)
