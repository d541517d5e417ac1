"""Results as HTML and what the page's own scripts work on. Everything that comes from a user is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nrmodel.app.press import Result

Address = Callable[[Path], str]  # of a file that the page serves


def player(result: Result, address: Address) -> str:
    """Two sounds that run together, of which one is heard; what was done; both spectrograms."""
    before, after = (escape(address(path)) for path in (result.before, result.after))
    name = escape(result.after.name)
    wide, narrow = (escape(address(path)) for path in result.pictures)
    return f"""
<div class="nr-player" role="group" aria-label="Before and after">
  <audio class="nr-before" preload="auto" src="{before}" muted></audio>
  <audio class="nr-after" preload="auto" src="{after}"></audio>
  <div class="nr-bar">
    <button type="button" class="nr-play" data-nr="play" aria-label="Play">&#9654;&#xFE0E;</button>
    <input type="range" class="nr-seek" data-nr="seek" min="0" max="{result.seconds:.3f}" step="0.01" value="0"
      aria-label="Position in seconds">
    <output class="nr-time">0:00 / {clock(result.seconds)}</output>
  </div>
  <div class="nr-bar">
    <div class="nr-switch" role="group" aria-label="What is heard">
      <button type="button" data-nr="before" aria-pressed="false">Before</button>
      <button type="button" data-nr="after" aria-pressed="true">After</button>
    </div>
    <a class="nr-download" href="{after}" download="{name}">Download {name}</a>
  </div>
</div>
<p class="nr-fact"><b>Reference:</b> {escape(result.reference)}.
  <b>Work:</b> {result.took:.1f} s for {result.seconds:.1f} s of sound.</p>
{notes(result.told)}
<picture><source media="(max-width: 640px)" srcset="{narrow}">
  <img class="nr-picture" src="{wide}" alt="Spectrograms before and after: kHz over seconds, in dB"></picture>
"""


def notes(told: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return f'<ul class="nr-notes">{"".join(f"<li>{escape(text)}</li>" for text in told)}</ul>' if told else ""


def fault(text: str) -> str:
    """What a user can mend, in a sentence."""
    return f'<p class="nr-fault" role="alert">{escape(text)}.</p>'


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def stretch(peaks: Sequence[float], seconds: float) -> dict[str, Any]:
    """What the waveform is drawn from, its first second marked: `path` in a box of 1000 by 100."""
    step = 1000 / max(len(peaks), 1)
    tops = [f"{(i + 0.5) * step:.1f},{50 - 48 * peak:.1f}" for i, peak in enumerate(peaks)]
    bottoms = [f"{(i + 0.5) * step:.1f},{50 + 48 * peak:.1f}" for i, peak in enumerate(peaks)]
    path = " ".join([*tops, *reversed(bottoms)])
    return {"path": path, "seconds": round(seconds, 2), "from": 0.0, "to": round(min(1.0, seconds), 2)}
