"""Source `synthetic`: no download, seconds long. Talkers of `voices` in the places of `scenes`, for tests and the
demo.

A file is a pure function of its name and the seed: `t03/02` is the third utterance of the fourth talker, `rain/1`
the second recording of rain. Two environments are in the test split only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nrdata import audio
from nrdata.builders import scenes, voices
from nrdata.builders.draws import NoiseFile, SpeechFile, mixtures
from nrdata.builders.plan import Options, Plan, keyed_rng
from nrdata.builders.render import Sources
from nrdata.builders.sources import frames_at
from nrdata.builders.units import Levels, Unit, measure

NAME = "synthetic"
LICENSE = "CC0-1.0"
TALKERS = {"train": (0, 8, 4), "valid": (8, 10, 3), "test": (10, 13, 4)}  # first, one behind the last, utterances each
RECORDINGS = {"train": (0, 3), "valid": (3, 4), "test": (4, 6)}  # of every environment that training sees
UNSEEN = ("siren", "keyboard")
SPEECH_SECONDS = 4.5
NOISE_SECONDS = 8.0
PER_CELL = 1


def plan(options: Options) -> Plan:
    """All talkers in all places."""
    speech = [
        SpeechFile(NAME, f"{talker}/{n:02d}", talker, split, _speech(f"{talker}/{n:02d}", options), LICENSE)
        for split, (first, last, count) in TALKERS.items()
        for talker in (f"t{i:02d}" for i in range(first, last))
        for n in range(count)
    ]
    noise = [
        NoiseFile(NAME, f"{scene}/{n}", scene, str(n), split, *_noise(f"{scene}/{n}", options), LICENSE)
        for scene in scenes.SCENES
        for split, (first, last) in RECORDINGS.items()
        if split == "test" or scene not in UNSEEN
        for n in range(first, last)
    ]
    return mixtures(speech, noise, replace(options, per_cell=options.per_cell or PER_CELL))


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """Both sides are made when they are asked for, and kept."""
    yield Sources({NAME: Made("speech", options.seed)}, {NAME: Made("noise", options.seed)})


@dataclass(frozen=True)
class Made:
    """Sound by its name, as if it were a file."""

    side: str
    seed: int

    def extent(self, name: str) -> tuple[int | None, int]:
        return len(sound(self.side, name, self.seed)), voices.RATE

    def read(self, name: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
        return sound(self.side, name, self.seed)[start:stop, None], voices.RATE


@functools.lru_cache(maxsize=256)
def sound(side: str, name: str, seed: int) -> np.ndarray:
    """An utterance or a recording: float32 (samples,) at 16 kHz, not to be written to."""
    first, _, _ = name.partition("/")
    rng = keyed_rng(seed, NAME, side, name)
    if side == "speech":
        talker = voices.voice(keyed_rng(seed, NAME, "voice", first))
        x = voices.utterance(talker, SPEECH_SECONDS * float(rng.uniform(0.8, 1.1)), rng)
    else:
        x = scenes.recording(first, NOISE_SECONDS, rng)
    x.flags.writeable = False
    return x


def _at_rate(side: str, name: str, options: Options) -> np.ndarray:
    x = sound(side, name, options.seed)
    rate = options.sample_rate
    return audio.resample(x, voices.RATE, rate)[: frames_at(len(x), voices.RATE, rate)]


def _speech(name: str, options: Options) -> Levels:
    return Levels.of(_at_rate("speech", name, options), options.sample_rate)


def _noise(name: str, options: Options) -> tuple[Levels, list[Unit], list[str]]:
    return measure(_at_rate("noise", name, options), options.sample_rate, options.reserve_seconds)
