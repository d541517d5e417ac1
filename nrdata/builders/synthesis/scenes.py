"""Places from nothing: parametric environments, each with a spectrum, a modulation and events of its own.

A recording of an environment has its own draw of the parameters, so that two recordings of a place are as alike as
two cafes are, while a later moment of the same recording sounds the same. `recording(name, seconds, rng)` is all
that is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nrdata.builders.synthesis.voices import RATE, utterance, voice

LEVEL = 0.02  # RMS of full scale

Rng = np.random.Generator
Sound = NDArray[np.float64]  # (samples,) at 16 kHz


def recording(environment: str, seconds: float, rng: Rng) -> np.ndarray:
    """Sound of an environment at 16 kHz: float32 (samples,), RMS 0.02 (less where a peak would leave the range)."""
    x = SCENES[environment](int(seconds * RATE), rng)
    gain = float(min(LEVEL / np.sqrt(np.mean(x**2)), 0.9 / np.max(np.abs(x))))
    return (x * gain).astype(np.float32)


def shaped(n: int, points: list[tuple[float, float]], rng: Rng) -> Sound:
    """Gaussian noise whose spectrum passes through (Hz, dB) points, straight on a logarithmic axis; RMS 1."""
    hz = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 1.0)
    at, db = zip(*points, strict=True)
    gain = 10 ** (np.interp(np.log(hz), np.log(at), db) / 20)
    x = np.fft.irfft(gain * (rng.standard_normal(len(hz)) + 1j * rng.standard_normal(len(hz))), n)
    return x / float(np.sqrt(np.mean(x**2)))


def slow(n: int, hz: float, depth: float, rng: Rng) -> Sound:
    """A positive modulation that wanders at up to `hz`: exp of smooth noise, `depth` its deviation."""
    knots = max(4, int(n / RATE * hz * 2) + 2)
    return np.exp(depth * np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.standard_normal(knots)))


def times(n: int, per_second: float, rng: Rng) -> np.ndarray:
    """Moments of events that know nothing of each other."""
    return np.sort(rng.integers(0, n, rng.poisson(per_second * n / RATE) + 1))


def ring(hz: float, decay: float, rng: Rng, attack: float = 0.0005) -> Sound:
    """One struck thing: a damped sinusoid."""
    t = np.arange(int(7 * decay * RATE) + 1) / RATE
    x: Sound = np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) * np.exp(-t / decay) * (1 - np.exp(-t / attack))
    return x


def place(x: Sound, event: Sound, at: int, level: float) -> None:
    event = event[: len(x) - at]
    x[at : at + len(event)] += level * event


def hum(n: int, hz: Sound | float, falloff: float, rng: Rng) -> Sound:
    """Harmonics of `hz` with amplitudes 1 / k^falloff, up to 7 kHz."""
    turn = np.cumsum(np.broadcast_to(hz, n)) / RATE
    top = int(min(60, 7000 / np.max(hz)))
    x = np.zeros(n)
    for k in range(1, top + 1):
        x += np.sin(2 * np.pi * (k * turn + rng.random())) * rng.uniform(0.5, 1.2) / k**falloff
    return x


def fan(n: int, rng: Rng) -> Sound:
    blades = rng.uniform(45, 130)
    air = shaped(n, [(60, 0), (rng.uniform(250, 600), 0), (2000, -14), (8000, -34)], rng)
    return air * (1 + 0.15 * np.sin(2 * np.pi * blades / 4 * np.arange(n) / RATE)) + 0.35 * hum(n, blades, 1.2, rng)


def rain(n: int, rng: Rng) -> Sound:
    x = shaped(n, [(100, -25), (rng.uniform(1200, 2500), 0), (6000, -3), (8000, -8)], rng) * slow(n, 0.5, 0.15, rng)
    for at in times(n, rng.uniform(60, 160), rng):
        place(x, ring(rng.uniform(1500, 6000), rng.uniform(0.001, 0.004), rng), at, rng.exponential(2.0))
    return x


def car(n: int, rng: Rng) -> Sound:
    road = shaped(n, [(25, 6), (90, 0), (400, -22), (1500, -38), (8000, -62)], rng)
    motor = hum(n, rng.uniform(28, 55) * (1 + 0.03 * np.log(slow(n, 0.3, 1.0, rng))), 0.8, rng)
    return road * slow(n, 0.4, 0.2, rng) + 0.25 * motor


def cafe(n: int, rng: Rng) -> Sound:
    x = 0.35 * shaped(n, [(80, -6), (400, 0), (2000, -10), (8000, -26)], rng)
    for _ in range(5):
        talk = utterance(voice(rng), n / RATE, rng)[:n].astype(np.float64)
        talk *= rng.uniform(0.4, 1.0) / np.sqrt(np.mean(talk**2))
        x[: len(talk)] += talk
    for at in times(n, rng.uniform(0.8, 2.0), rng):
        for _ in range(3):
            place(x, ring(rng.uniform(2000, 5500), rng.uniform(0.01, 0.05), rng), at, rng.uniform(0.5, 2.5))
    return x


def crickets(n: int, rng: Rng) -> Sound:
    x = 0.12 * shaped(n, [(50, 0), (500, -6), (8000, -20)], rng)
    t = np.arange(n) / RATE
    for _ in range(int(rng.integers(2, 5))):
        chirp, pulse, hz = rng.uniform(0.8, 2.5), rng.uniform(25, 60), rng.uniform(3500, 5600)
        gate = np.clip(np.sin(2 * np.pi * (chirp * t + rng.random())) * 3, 0, 1)
        x += gate * np.maximum(np.sin(2 * np.pi * pulse * t), 0) ** 2 * np.sin(2 * np.pi * hz * t) * rng.uniform(0.4, 1)
    return x


def sea(n: int, rng: Rng) -> Sound:
    t = np.arange(n) / RATE
    period, phase = rng.uniform(2.2, 4.0), rng.random()
    swell = (0.5 + 0.5 * np.sin(2 * np.pi * (t / period + phase))) ** 2
    low = shaped(n, [(40, 0), (200, -3), (1000, -16), (8000, -40)], rng)
    foam = shaped(n, [(200, -20), (rng.uniform(1200, 2500), 0), (8000, -8)], rng)
    return low * (0.4 + 0.6 * swell) + foam * (0.12 + 1.2 * np.roll(swell, int(0.2 * RATE)))


def rails(n: int, rng: Rng) -> Sound:
    x = shaped(n, [(40, 0), (250, -2), (800, -14), (3000, -26), (8000, -44)], rng) * slow(n, 1.0, 0.2, rng)
    every, hz = rng.uniform(0.55, 0.9), rng.uniform(180, 420)
    for joint in np.arange(rng.uniform(0, every), n / RATE, every):
        for later in (0.0, 0.13):
            at = int((joint + later) * RATE)
            if at < n:
                loud = rng.uniform(5, 8)
                place(x, ring(hz, 0.03, rng), at, loud)
                place(x, ring(hz * 5.3, 0.01, rng), at, 0.4 * loud)
    return x


def workshop(n: int, rng: Rng) -> Sound:
    t = np.arange(n) / RATE
    load = np.clip(np.sin(2 * np.pi * (t / rng.uniform(1.0, 1.8) + rng.random())) * 4 + 1.5, 0.25, 1)
    whine = hum(n, rng.uniform(150, 260) * (1.1 - 0.1 * load), 0.45, rng)
    return load * (0.5 * whine + shaped(n, [(300, -18), (2500, 0), (6000, -4), (8000, -10)], rng))


def siren(n: int, rng: Rng) -> Sound:
    turn = np.cumsum(slow(n, 1.0, 0.3, rng)) * rng.uniform(0.5, 2.0) / RATE  # never twice the same sweep
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (turn + rng.random()))
    tone = hum(n, rng.uniform(500, 700) * slow(n, 0.7, 0.04, rng) + rng.uniform(500, 900) * sweep, 1.3, rng)
    return tone * slow(n, 0.3, 0.2, rng) + 0.4 * shaped(n, [(40, 0), (200, -4), (1000, -16), (8000, -36)], rng)


def keyboard(n: int, rng: Rng) -> Sound:
    x = 0.1 * shaped(n, [(60, 0), (300, -8), (8000, -26)], rng)
    body = rng.uniform(250, 600)
    for at in times(n, rng.uniform(5, 9), rng):
        loud = rng.uniform(2, 5)
        for later, share in ((0, 1.0), (int(rng.uniform(0.06, 0.12) * RATE), 0.5)):
            click = ring(rng.uniform(2200, 5000), 0.003, rng)
            if at + later < n:
                place(x, click, at + later, loud * share)
                place(x, ring(body * rng.uniform(0.9, 1.1), 0.012, rng), at + later, loud * share * 0.6)
    return x


SCENES: dict[str, Callable[[int, Rng], Sound]] = {
    "fan": fan, "rain": rain, "car": car, "cafe": cafe, "crickets": crickets, "sea": sea, "rails": rails,
    "workshop": workshop, "siren": siren, "keyboard": keyboard,
}  # fmt: skip
