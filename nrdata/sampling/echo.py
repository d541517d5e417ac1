"""Rooms around the speech: responses from a bank that is drawn by key once, since the image method takes a second.

The direct path of a response stands at zero delay, and has unit energy, so that levels stay about what
they were. The target keeps the room: no dereverberation is asked for.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nrdata.builders.synthesis import rooms
from nrdata.keyed import bank_rng

BANK = 64  # rooms of one seed
T60_SECONDS = (0.15, 0.7)
LEAD_SECONDS = 0.5  # of sound before a crop, whose reverberation is heard in it
BEFORE = 40  # samples in front of the direct path
SPEED_OF_SOUND = 343.0  # m/s, as the simulation has it


class Echo(NamedTuple):
    """Responses float32 (taps,) from the talker and from the noise's place to the microphone of one room."""

    speech: np.ndarray
    noise: np.ndarray


@lru_cache(maxsize=2 * BANK)
def echo(seed: int, number: int, sample_rate: int, t60_s: tuple[float, float] = T60_SECONDS) -> Echo:
    """Room `number` of the bank of a seed: the same in every process, simulated where it is first asked for."""
    room = rooms.draw(bank_rng(seed, number, t60_s), t60_s, sample_rate)
    speech, noise = rooms.responses(room, sample_rate)
    return Echo(
        _aligned(speech, math.dist(room.speech_m, room.microphone_m), sample_rate),
        _aligned(noise, math.dist(room.noise_m, room.microphone_m), sample_rate),
    )


def _aligned(response: np.ndarray, distance_m: float, sample_rate: int) -> np.ndarray:
    """The direct path at sample `BEFORE` (its filter rings that long before it), at unit energy."""
    direct = round(distance_m / SPEED_OF_SOUND * sample_rate)
    cut: np.ndarray = np.pad(response, (BEFORE, 0))[direct:]
    found: np.ndarray = (cut / np.sqrt(np.sum(np.square(cut)))).astype(np.float32)
    return found


def heard_in(sound: np.ndarray, response: np.ndarray, lead: int = 0) -> np.ndarray:
    """`sound` float32 (lead + frames,) through an aligned response: its last `frames`, float32, without delay."""
    from scipy.signal import oaconvolve

    wet: np.ndarray = oaconvolve(sound, response)[BEFORE + lead : BEFORE + len(sound)]
    return wet.astype(np.float32)
