"""A data set in memory with the interface that the stream uses; sound is a pure function of (row, field)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

RATE = 1000  # one sample a millisecond


def columns(rows: list[dict]) -> SimpleNamespace:
    """Index columns from rows of `env`, `recording`, `frames`, and where it matters `stretch`, `ref_frames`, ..."""
    env_names = sorted({r["env"] for r in rows})
    recording_names = sorted({r["recording"] for r in rows})
    return SimpleNamespace(
        key=np.array([r.get("key", f"train-{i:07d}").encode() for i, r in enumerate(rows)]),
        env=np.array([env_names.index(r["env"]) for r in rows], np.int32),
        env_names=env_names,
        recording=np.array([recording_names.index(r["recording"]) for r in rows], np.int32),
        recording_names=recording_names,
        speaker=np.zeros(len(rows), np.int32),
        speaker_names=["local/p1"],
        stretch=np.array([r.get("stretch", (-1, -1)) for r in rows], np.int64).reshape(-1, 2),
        snr_db=np.zeros(len(rows), np.float32),
        noise_dbfs=np.array([r.get("noise_dbfs", -20.0) for r in rows], np.float32),
        frames=np.array([r["frames"] for r in rows], np.int64),
        ref_frames=np.array([r.get("ref_frames", 0) for r in rows], np.int64),
    )


class InMemory:
    """Every sample is white noise of its own, at -20 dB; `sound` overrides members by (row, field)."""

    name, sample_rate, fingerprint, has_ref = "memory", RATE, "f" * 64, True

    def __init__(self, rows: list[dict], sound: dict | None = None, shards: list[int] | None = None):
        self.columns = columns(rows)
        self.sound = sound or {}
        self.columns.shard = np.repeat(np.arange(len(shards or [0])), shards or [len(rows)])
        self.reads = 0

    def index(self, split: str) -> SimpleNamespace:
        return self.columns

    def read(self, split: str, row: int, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        self.reads += 1
        if (row, field) in self.sound:
            return self.sound[row, field][start:stop]
        if field == "noisy":
            return self.read(split, row, "clean", start, stop) + self.read(split, row, "noise", start, stop)
        frames = self.columns.ref_frames[row] if field == "ref" else self.columns.frames[row]
        rng = np.random.default_rng([row, ["clean", "noise", "ref"].index(field)])
        return (0.1 * rng.standard_normal(int(frames))).astype(np.float32)[start:stop]


def small(n: int = 24, environments: int = 4, **fields) -> list[dict]:
    """`n` samples of 3 to 4 s in `environments`, two recordings each, a 1 s reserve."""
    return [
        {
            "env": f"local/e{i % environments}",
            "recording": f"local/e{i % environments}/r{i // environments % 2}",
            "frames": 3000 + 40 * i,
            "stretch": (10_000 * (i // environments), 10_000 * (i // environments) + 3000 + 40 * i),
            "ref_frames": 1000,
        }
        | fields
        for i in range(n)
    ]
