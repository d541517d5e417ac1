"""Source `synthetic`: no download, seconds long. Talkers of `voices` in the places of `scenes`, for tests and the
demo.

A file is a pure function of its name: `0/t03/02` is the third utterance of the fourth talker of seed 0, `0/rain/1`
the second recording of rain. Two environments are in the test split only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nrdata import audio
from nrdata.builders.draws import NoiseFile, SpeechFile, mixtures
from nrdata.builders.plan import Options, Plan
from nrdata.builders.render import Sources
from nrdata.builders.synthesis import scenes, voices
from nrdata.builders.units import Levels, RefusedUnit, Unit, usable
from nrdata.errors import UserError
from nrdata.keyed import plan_rng

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
    rate = options.sample_rate
    unseen = UNSEEN if options.unseen is None else options.unseen
    if not set(unseen) <= scenes.SCENES.keys():
        raise UserError(f"--unseen {','.join(unseen)}: choose of {', '.join(scenes.SCENES)}", kind="bad_option")
    speech = [
        SpeechFile(NAME, path, talker, split, Levels.of([_at_rate("speech", path, options)], rate), LICENSE)
        for split, (first, last, count) in TALKERS.items()
        for talker in (f"t{i:02d}" for i in range(first, last))
        for path in (f"{options.seed}/{talker}/{n:02d}" for n in range(count))
    ]
    noise = [
        NoiseFile(NAME, path, scene, str(n), split, *_measure(path, options), LICENSE)
        for scene in scenes.SCENES
        for split, (first, last) in RECORDINGS.items()
        if split == "test" or scene not in unseen
        for n, path in ((n, f"{options.seed}/{scene}/{n}") for n in range(first, last))
    ]
    return mixtures(speech, noise, replace(options, per_cell=options.per_cell or PER_CELL))


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """Both sides are made when they are asked for, and kept."""
    yield Sources({NAME: Made("speech")}, {NAME: Made("noise")})


@dataclass(frozen=True)
class Made:
    """Sound by its name, as if it were a file."""

    side: str

    def extent(self, name: str) -> tuple[int | None, int]:
        return len(sound(self.side, name)), voices.RATE

    def read(self, name: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
        return sound(self.side, name)[start:stop, None], voices.RATE


@functools.lru_cache(maxsize=256)
def sound(side: str, name: str) -> np.ndarray:
    """`<seed>/<talker or scene>/<number>`: float32 (samples,) at 16 kHz, not to be written to."""
    parts = name.split("/")
    if len(parts) != 3 or (side == "noise" and parts[1] not in scenes.SCENES):
        raise UserError(f"{name} is no name of synthetic {side}: <seed>/<who or where>/<number>", kind="missing")
    seed, which, _ = parts
    rng = plan_rng(NAME, side, name)
    if side == "speech":
        talker = voices.voice(plan_rng(NAME, "voice", seed, which))
        x = voices.utterance(talker, SPEECH_SECONDS * float(rng.uniform(0.8, 1.1)), rng)
    else:
        x = scenes.recording(which, NOISE_SECONDS, rng)
    x.flags.writeable = False
    return x


def _at_rate(side: str, name: str, options: Options) -> np.ndarray:
    return audio.resample(sound(side, name), voices.RATE, options.sample_rate)


def _measure(name: str, options: Options) -> tuple[Levels, list[Unit], list[RefusedUnit]]:
    x, rate = _at_rate("noise", name, options), options.sample_rate
    levels = Levels.of([x], rate)
    return levels, *usable(levels, lambda start, stop: x[start:stop], rate, options.reserve_seconds)
