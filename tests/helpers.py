"""Sound and small data sets made on the spot, from seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nrdata.builders.synthesis import voices
from nrdata.store.gather import write_manifest
from nrdata.store.shard import ShardWriter
from nrdata.store.triplet import mix

RATE = 16000


def speech(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Something voiced: harmonics of a wandering pitch in syllables with pauses; float32, peak 0.5."""
    rng = np.random.default_rng((seed, 1))
    t = np.arange(round(seconds * rate)) / rate
    pitch = 90 + 90 * rng.random() + 15 * np.sin(2 * np.pi * (0.7 + rng.random()) * t + 6 * rng.random())
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tilt = 0.6 + 0.3 * rng.random()
    x = sum(tilt**k * np.sin(k * phase + 6 * rng.random()) for k in range(1, 16))
    syllables = np.clip(np.sin(2 * np.pi * (2.5 + rng.random()) * t + 6 * rng.random()) + 0.2, 0, None)
    x = x * syllables + 1e-4 * rng.standard_normal(len(t))
    return (0.5 * x / np.max(np.abs(x))).astype(np.float32)


def spoken(seconds: float, seed: int = 0) -> np.ndarray:
    """Speech that a detector of speech takes for it: sentences of the synthesiser; float32 at `RATE`, RMS 0.05."""
    parts: list[np.ndarray] = []
    rng = np.random.default_rng((seed, 3))
    voice = voices.voice(rng)
    while sum(map(len, parts)) < seconds * RATE:
        parts.append(voices.utterance(voice, 4.0, rng))
    x = np.concatenate(parts)[: round(seconds * RATE)]
    return (0.05 * x / np.sqrt(np.mean(x**2))).astype(np.float32)


def noise(seconds: float, environment: int = 0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise whose spectrum belongs to the environment (a resonance at a place of its own); float32, RMS 0.1."""
    rng = np.random.default_rng((seed, environment, 2))
    n = round(seconds * rate)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.fft.rfftfreq(n, 1 / rate)
    centre = 300.0 * 2.2**environment
    spectrum *= 1 / (1 + ((f - centre) / (0.3 * centre)) ** 2) + 0.02
    x = np.fft.irfft(spectrum, n)
    return (0.1 * x / np.sqrt(np.mean(x**2))).astype(np.float32)


def sample_fields(split: str, environment: int, recording: int, speaker: int, stretch: tuple[int, int]) -> dict:
    env_id = f"local/env{environment}"
    return {
        "env_id": env_id,
        "split": split,
        "speaker": f"local/s{speaker}",
        "recording": f"{env_id}/{split}{recording}",
        "stretch": list(stretch),
        "meta": {"asked_snr_db": 5.0, "unit": 0},
    }


def make_dataset(
    folder: Path,
    splits: dict[str, int] | None = None,
    environments: int = 3,
    recordings: int = 2,
    seconds: float = 1.5,
    ref_seconds: float = 1.0,
    per_shard: int = 8,
    seed: int = 0,
) -> Path:
    """A data set in `folder`: `splits` samples a split (default 12, 6, 6), every environment in every split.

    Recordings and speakers of one split are in no other. A recording is [mixture | 1 s gap | clip].
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames, ref_frames, gap = round(seconds * RATE), round(ref_seconds * RATE), RATE
    for s, (split, count) in enumerate((splits or {"train": 12, "valid": 6, "test": 6}).items()):
        for first in range(0, count, per_shard):
            path = folder / f"{split}-{first // per_shard:06d}.tar"
            with ShardWriter(path, RATE, ref_frames > 0) as writer:
                for i in range(first, min(count, first + per_shard)):
                    environment, recording = i % environments, i // environments % recordings
                    unit = i // (environments * recordings)
                    length = frames + gap + ref_frames
                    bed = noise(length / RATE, environment, seed=1000 * (seed + 1) + 100 * s + 10 * recording + unit)
                    mixture = mix(
                        speech(seconds, seed=10000 * (seed + 1) + 1000 * s + i),
                        bed[:frames],
                        snr_db=5.0 * (i % 3),
                        ref=bed[frames + gap :] if ref_frames else None,
                    )
                    start = unit * length
                    fields = sample_fields(split, environment, recording, 10 * s + i % 2, (start, start + frames))
                    fields["meta"]["asked_snr_db"] = 5.0 * (i % 3)
                    writer.write(f"{split}-{i + 1:07d}", mixture, fields)
    write_manifest(folder, name=folder.name)
    return folder


def names(folder: Path | str) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def flip(data: bytes, at: int) -> bytes:
    """One bit of one byte is wrong."""
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
