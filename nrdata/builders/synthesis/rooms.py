"""Rooms: a shoebox with a microphone, a talker and a source of noise, by the image method (Allen and Berkley 1979).

A room is drawn when the plan is made, simulated at once and kept only if its reverberation time is what was asked
for: Sabine's formula, from which the absorption comes, is up to 49 % off. So no row of a plan fails for its room.
Speech and noise each go through their own response; the reference clip goes through the noise's. A stretch enters a
silent room: nothing from outside of it is heard in its reverberation, so that mixture and reserve stay apart.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np

from nrdata.builders.synthesis.seeded import seeded
from nrdata.errors import UserError

SMALLEST_M = (3.0, 3.0, 2.4)
LARGEST_M = (10.0, 8.0, 4.5)
FROM_WALL_M = 0.4
APART_M = 0.5  # of microphone and source, at least
SHORTEST_T60, LONGEST_T60 = 0.15, 0.6  # seconds: what walls and 60 orders reach in the rooms above
HIGHEST_ORDER = 60  # of images: their number grows with its cube; a lower one than needed would cut the decay short
TOLERANCE = 0.2  # measured against asked T60
DECAY_DB = 30.0  # T30: the range of the decay that T60 is extrapolated from
T60_TRIES, ROOM_TRIES = 10, 60
RUMBLE_HZ = 20.0  # images all add up at 0 Hz, which no room does
FILTER_DELAY = 40  # samples: half of the fractional delay filter, before every path

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Room:
    """Everything that a response is computed from, and what came of it."""

    size_m: Point
    microphone_m: Point
    speech_m: Point
    noise_m: Point
    absorption: float
    order: int  # of images
    asked_t60_s: float
    seed: int
    measured_t60_s: tuple[float, float] = field(default=(0.0, 0.0), compare=False)  # of speech and of noise


def draw(rng: np.random.Generator, t60_s: tuple[float, float], sample_rate: int) -> Room:
    """A room whose measured T60 is within 20 % of the asked one, for the talker's and for the noise's response.

    The asked time is uniform in `t60_s` (seconds); one that no room has after 60 draws is drawn again. Raises
    `UserError` where none of the range can be had.
    """
    low, high = t60_s
    for _ in range(T60_TRIES if low > 0 else 0):
        asked = round(float(rng.uniform(low, high)), 3)
        for _ in range(ROOM_TRIES):
            room = _candidate(rng, asked)
            if room is None:
                continue
            measured = [t60(h, sample_rate) for h in responses(room, sample_rate)]
            if all(abs(m - asked) <= TOLERANCE * asked for m in measured):
                return replace(room, measured_t60_s=(round(measured[0], 3), round(measured[1], 3)))
    raise UserError(
        f"--t60 {low:g}:{high:g}: no room of {SMALLEST_M[0]:g} to {LARGEST_M[0]:g} m has such a reverberation time: "
        f"ask for seconds between {SHORTEST_T60:g} and {LONGEST_T60:g}",
        kind="bad_option",
    )


def _candidate(rng: np.random.Generator, asked: float) -> Room | None:
    """Walls and places, or None where the walls cannot give the asked time or need too many images."""
    import pyroomacoustics

    size = np.round(rng.uniform(SMALLEST_M, LARGEST_M), 2)
    places = np.round(rng.uniform(FROM_WALL_M, size - FROM_WALL_M, (3, 3)), 2)
    seed = int(rng.integers(2**32))
    microphone, speech, noise = places
    if min(np.linalg.norm(speech - microphone), np.linalg.norm(noise - microphone)) < APART_M:
        return None
    try:
        absorption, order = pyroomacoustics.inverse_sabine(asked, size)
    except ValueError:  # walls would have to absorb more than everything
        return None
    if order > HIGHEST_ORDER:
        return None
    size_m, microphone_m, speech_m, noise_m = (tuple(p.tolist()) for p in (size, microphone, speech, noise))
    return Room(size_m, microphone_m, speech_m, noise_m, round(float(absorption), 4), order, asked, seed)


def responses(room: Room, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """From the talker and from the noise to the microphone: float64 (taps,) each, not to be written to.

    The direct path stands at its geometric delay, distance / c * sample_rate. Raises `UserError` where a plan asks for
    more than 60 orders of images.
    """
    if room.order > HIGHEST_ORDER:
        raise UserError(f"a room of image order {room.order}: at most {HIGHEST_ORDER} are simulated", kind="room")
    return _simulated(room, sample_rate)


@functools.lru_cache(maxsize=256)
def _simulated(room: Room, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    import pyroomacoustics
    from scipy.signal import butter, sosfilt

    with seeded(room.seed):
        box = pyroomacoustics.ShoeBox(
            room.size_m,
            fs=sample_rate,
            materials=pyroomacoustics.Material(room.absorption),
            max_order=room.order,
        )
        box.add_source(room.speech_m)
        box.add_source(room.noise_m)
        box.add_microphone(room.microphone_m)
        box.compute_rir()
    high_pass = butter(2, RUMBLE_HZ, "highpass", fs=sample_rate, output="sos")
    speech, noise = (sosfilt(high_pass, h[FILTER_DELAY:]) for h in box.rir[0])
    speech.flags.writeable = noise.flags.writeable = False
    return speech, noise


def t60(response: np.ndarray, sample_rate: int) -> float:
    """Seconds for a decay of 60 dB, from the backward integral of the response between -5 and -35 dB (ISO 3382)."""
    import pyroomacoustics

    return float(pyroomacoustics.measure_rt60(response, sample_rate, decay_db=DECAY_DB))


def reverberant(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """x float (frames,) heard through the response: float64 (frames,), what comes after its end is cut off."""
    from scipy.signal import fftconvolve

    heard: np.ndarray = fftconvolve(x.astype(np.float64), response)[: len(x)]
    return heard
