"""The example that the page opens with, synthesised when it starts: a voice that says nothing, in a place that is
nowhere, and the place alone a moment later."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nrdata import audio
from nrdata.builders.synthesis import scenes, voices
from nrdata.keyed import plan_rng

PLACE = "workshop"
SNR_DB = 2.0
PAUSE_SECONDS = 1.2  # before the voice: long enough to be marked, or found
TALK_SECONDS, ROOM_SECONDS = 6.0, 2.0


def write(folder: Path) -> tuple[Path, Path]:
    """`talk.wav` and `room.wav` in `folder`, 16 kHz; the same at every start."""
    rng = plan_rng("app", PLACE)
    rate = voices.RATE
    frames, pause = round(TALK_SECONDS * rate), round(PAUSE_SECONDS * rate)
    noise = scenes.recording(PLACE, TALK_SECONDS + ROOM_SECONDS, rng)
    voice = voices.utterance(voices.voice(rng), TALK_SECONDS, rng)[: frames - pause]
    gain = 10 ** (-SNR_DB / 20) * audio.rms(voice) / audio.rms(noise)
    talk = gain * noise[:frames] + np.pad(voice, (pause, frames - pause - len(voice)))
    paths = folder / "talk.wav", folder / "room.wav"
    for path, x in zip(paths, (talk, gain * noise[frames:]), strict=True):
        audio.write(path, x[:, None].astype(np.float32), rate)
    return paths
