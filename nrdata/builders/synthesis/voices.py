"""A talker from nothing: speech-like sound by source and filter, for tests and the demo.

Words are made of consonants and vowels drawn at random; phrases have a falling pitch, accents and pauses. The voiced
sound is a sum of harmonics whose complex amplitudes follow the glottal source and the vocal tract's resonances
(formants move between their targets); breath, fricatives and the bursts of plosives are noise shaped in time and
frequency. Formant targets after Peterson and Barney (1952). It says nothing, but it has what enhancement works on:
harmonics, onsets, formants, pauses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE = 16000  # Hz
HOP = 80  # samples a frame: 5 ms
TOP_HZ = 7600.0
PEAK = 0.2  # of full scale

# Vowels and voiced consonants: first three resonances in Hz, of a man; level.
VOWELS = {
    "i": (270, 2290, 3010), "I": (390, 1990, 2550), "E": (530, 1840, 2480), "a": (660, 1720, 2410),
    "A": (730, 1090, 2440), "O": (570, 840, 2410), "U": (440, 1020, 2240), "u": (300, 870, 2240),
    "V": (640, 1190, 2390), "3": (490, 1350, 1690),
}  # fmt: skip
SONORANTS = {
    "m": (250, 1000, 2200), "n": (250, 1600, 2500), "l": (360, 1050, 2700), "r": (320, 1080, 1450),
    "w": (290, 620, 2150), "j": (270, 2150, 3000),
}  # fmt: skip
# Fricatives: middle and width of the noise in Hz, its level, the level of the voice under it.
FRICATIVES = {
    "s": (6000, 1500, 0.5, 0.0), "S": (3600, 1300, 0.5, 0.0), "f": (4500, 4000, 0.12, 0.0),
    "T": (5500, 3500, 0.10, 0.0), "z": (6000, 1500, 0.25, 0.35), "v": (4500, 4000, 0.06, 0.4), "h": (0, 0, 0.0, 0.0),
}  # fmt: skip
# Plosives: middle and width of the burst, second resonance of the place it is made at, voiced or not.
PLOSIVES = {
    "p": (900, 900, 900, False), "t": (4300, 1800, 1800, False), "k": (1900, 700, 2100, False),
    "b": (700, 700, 900, True), "d": (3600, 1600, 1800, True), "g": (1700, 600, 2100, True),
}  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """What tells one talker from another."""

    pitch_hz: float
    tract: float  # factor on all resonances: over 1 is a shorter tract
    breath: float
    tilt_hz: float  # where the source begins to fall by another 6 dB an octave
    rate: float  # factor on all durations
    jitter: float


@dataclass
class Frames:
    """Targets, a value a frame: what the vocal tract is asked to do."""

    formants: list[tuple[float, float, float]]
    voice: list[float]
    breath: list[float]
    noise: list[tuple[float, float, float]]  # middle Hz, width Hz, level
    pitch: list[float]  # factor on the voice's own

    def add(
        self,
        seconds: float,
        formants: tuple[float, float, float],
        voice: float,
        breath: float = 0.0,
        noise: tuple[float, float, float] = (3000.0, 3000.0, 0.0),
        pitch: float = 1.0,
    ) -> None:
        n = max(1, round(seconds * RATE / HOP))
        self.formants += [formants] * n
        self.voice += [voice] * n
        self.breath += [breath] * n
        self.noise += [noise] * n
        self.pitch += [pitch] * n


def voice(rng: np.random.Generator) -> Voice:
    """Draw a talker; low and high voices alike."""
    high = rng.random() < 0.5
    return Voice(
        pitch_hz=float(rng.uniform(165, 240) if high else rng.uniform(85, 145)),
        tract=float(rng.uniform(1.08, 1.22) if high else rng.uniform(0.93, 1.05)),
        breath=float(rng.uniform(0.02, 0.12)),
        tilt_hz=float(rng.uniform(1200, 3500)),
        rate=float(rng.uniform(0.85, 1.2)),
        jitter=float(rng.uniform(0.004, 0.012)),
    )


def utterance(talker: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """About `seconds` of speech-like sound at 16 kHz: float32 (samples,), peak 0.2, a faint floor in its pauses."""
    frames = _script(talker, seconds, rng)
    formants = _smooth(np.array(frames.formants), 11) * talker.tract
    voiced, breath = _smooth(np.array(frames.voice), 5), _smooth(np.array(frames.breath), 3)
    noise = np.array(frames.noise)
    noise[:, 2] = _smooth(noise[:, 2], 2)
    pitch = _smooth(np.array(frames.pitch), 15) * talker.pitch_hz
    wander = _smooth(rng.standard_normal(len(pitch)), 9) * 3 + rng.standard_normal(len(pitch))
    pitch = pitch * (1 + talker.jitter * wander)
    shimmer = np.exp(0.04 * rng.standard_normal(len(pitch)))
    x = _harmonics(pitch, formants, voiced * shimmer, talker)
    x += _noises(formants, breath + talker.breath * voiced, noise, rng)
    x *= PEAK / np.max(np.abs(x))
    return (x + 1e-4 * rng.standard_normal(len(x))).astype(np.float32)


def _script(talker: Voice, seconds: float, rng: np.random.Generator) -> Frames:
    frames = Frames([], [], [], [], [])
    wanted = seconds * RATE / HOP
    _pause(frames, 0.15)
    while len(frames.voice) < wanted:
        words = int(rng.integers(2, 6))
        for w in range(words):
            fall = 1.18 - 0.33 * w / max(words - 1, 1)
            for syllable in range(int(rng.integers(1, 4))):
                accent = 1 + (0.12 if syllable == 0 else 0.0) * float(rng.uniform(0.2, 1.0))
                _syllable(frames, talker, fall * accent, syllable == 0, rng)
            if rng.random() < 0.25:
                _pause(frames, 0.04)
        _pause(frames, float(rng.uniform(0.18, 0.5)))
    return frames


def _pause(frames: Frames, seconds: float) -> None:
    frames.add(seconds, frames.formants[-1] if frames.formants else (500.0, 1500.0, 2500.0), 0.0)


def _syllable(frames: Frames, talker: Voice, pitch: float, stressed: bool, rng: np.random.Generator) -> None:
    vowel = VOWELS[str(rng.choice(list(VOWELS)))]
    _consonant(frames, talker, vowel, pitch, rng)
    loud = 1.0 if stressed else float(rng.uniform(0.5, 0.8))
    target = vowel if stressed else tuple(0.7 * v + 0.3 * c for v, c in zip(vowel, (500, 1500, 2500), strict=True))
    frames.add((0.13 if stressed else 0.08) * talker.rate * float(rng.uniform(0.8, 1.4)), target, loud, pitch=pitch)  # type: ignore[arg-type]
    if rng.random() < 0.35:
        _consonant(frames, talker, vowel, pitch * 0.97, rng)


def _consonant(
    frames: Frames, talker: Voice, vowel: tuple[float, float, float], pitch: float, rng: np.random.Generator
) -> None:
    kind = rng.choice(3, p=[0.4, 0.27, 0.33])
    long = talker.rate * float(rng.uniform(0.8, 1.2))
    if kind == 0:
        frames.add(0.06 * long, SONORANTS[str(rng.choice(list(SONORANTS)))], 0.4, pitch=pitch)
    elif kind == 1:
        name = str(rng.choice(list(FRICATIVES)))
        middle, width, level, voiced = FRICATIVES[name]
        breath = 0.35 if name == "h" else 0.0
        frames.add(0.09 * long, (vowel[0] * 0.7, vowel[1], vowel[2]), voiced, breath, (middle, width, level), pitch)
    else:
        middle, width, place, voiced_stop = PLOSIVES[str(rng.choice(list(PLOSIVES)))]
        shape = (250.0, float(place), 2500.0)
        frames.add(0.06 * long, shape, 0.06 if voiced_stop else 0.0, pitch=pitch)
        frames.add(0.01, shape, 0.1 if voiced_stop else 0.0, 0.0, (middle, width, 0.6), pitch)
        if not voiced_stop:
            frames.add(0.035 * long, vowel, 0.0, 0.25, (middle, width, 0.05), pitch)


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Mean under a Hann window of `width` frames, along the first axis."""
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    padded = np.concatenate([x[:1].repeat(width, 0), x, x[-1:].repeat(width, 0)])
    columns = padded.reshape(len(padded), -1).T
    smooth = np.stack([np.convolve(c, window, "same") for c in columns], axis=1)
    return smooth[width:-width].reshape(x.shape)


def _tract(hz: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Response of the vocal tract at `hz` (frames, n) for `formants` (frames, 3): complex (frames, n).

    Resonances in series, w0^2 / (w0^2 - w^2 + j w B). The upper ones, a kilohertz apart, hardly move; those beyond the
    band are there for what they do within it: without them the high range would fall away.
    """
    scale = formants[:, 2:3] / 2600.0 * 0.3 + 0.7
    upper = [3500.0 * scale, 4500.0 * scale, 5500.0 * scale, 6500.0 * scale, 7500.0 * scale]
    response = np.ones(hz.shape, complex)
    for i, middle in enumerate([formants[:, 0:1], formants[:, 1:2], formants[:, 2:3], *upper]):
        width = 60.0 + 0.02 * middle + 25.0 * i
        response *= middle**2 / (middle**2 - hz**2 + 1j * hz * width)
    for beyond in range(8500, 14000, 1000):
        response /= 1 - np.minimum(hz / (beyond * scale), 0.95) ** 2
    return response


def _harmonics(pitch: np.ndarray, formants: np.ndarray, level: np.ndarray, talker: Voice) -> np.ndarray:
    """The voiced sound: harmonic k has the source's and the tract's complex amplitude at k times the pitch."""
    weight = np.arange(HOP) / HOP
    following = np.append(pitch[1:], pitch[-1])
    instant = (pitch[:, None] * (1 - weight) + following[:, None] * weight).ravel()
    turn = np.exp(2j * np.pi * (np.cumsum(instant) / RATE % 1)).astype(np.complex64)
    carrier = np.ones_like(turn)
    weight = weight.astype(np.float32)
    count = int(TOP_HZ / pitch.min())
    hz = pitch[:, None] * np.arange(1, count + 1)
    source = 1 / (1 + 1j * hz / (2.0 * pitch[:, None])) / (1 + 1j * hz / talker.tilt_hz)
    amplitude = source * _tract(hz, formants) * level[:, None]
    amplitude[hz > TOP_HZ] = 0
    amplitude = amplitude.astype(np.complex64)
    x = np.zeros(len(turn))
    for k in range(count):
        carrier *= turn
        a = amplitude[:, k]
        step = np.append(a[1:], a[-1]) - a
        smooth = (a[:, None] + step[:, None] * weight).ravel()
        x += smooth.real * carrier.real - smooth.imag * carrier.imag
    return x


def _noises(formants: np.ndarray, breath: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breath (through the tract) and frication (a band of its own): noise shaped frame by frame, half overlapping."""
    size = 2 * HOP
    hz = np.broadcast_to(np.fft.rfftfreq(size, 1 / RATE), (len(breath), size // 2 + 1))
    shape = breath[:, None] * np.abs(_tract(hz, formants)) * (hz / (hz + 400.0)) * 0.25
    middle, width, level = noise.T[:, :, None]
    shape = np.hypot(shape, level * np.exp(-0.5 * ((hz - middle) / np.maximum(width, 1.0)) ** 2))
    spectrum = shape * (rng.standard_normal(hz.shape) + 1j * rng.standard_normal(hz.shape))
    pieces = np.fft.irfft(spectrum * np.sqrt(size) * 2.0, size, axis=1) * np.hanning(size + 1)[:-1]
    x = np.zeros((len(breath) + 1, HOP))
    x[:-1] += pieces[:, :HOP]
    x[1:] += pieces[:, HOP:]
    return x[:-1].ravel()
