"""Reference clips for other people's pipelines: a stage for stock `webdataset`.

    WebDataset(urls).decode(nrdata.decode_audio).compose(nrdata.sampling.references("env", seed=0))

The laws are those of `laws.py`; the pool is the `pool_size` samples read last, so memory is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from nrdata.errors import UserError
from nrdata.keyed import CLIP, generator, key_of
from nrdata.sampling.clips import Listener, draw_clip
from nrdata.sampling.columns import Columns
from nrdata.sampling.laws import Item, LawMixture, parse_law
from nrdata.sampling.pool import MIN_REF_SECONDS, Pool

Sample = dict[str, Any]


@dataclass
class _Stage:
    law: LawMixture
    seed: int
    pool_size: int
    ref_seconds: float
    passes: int = 0

    def __call__(self, source: Iterable[Sample]) -> Iterator[Sample]:
        key = key_of("stage", self.seed, self.passes)
        self.passes += 1
        pool: deque[Sample] = deque(maxlen=self.pool_size)
        waiting: deque[Sample] = deque()
        for sample in source:
            pool.append(sample)
            waiting.append(sample)
            if len(waiting) == self.pool_size:
                yield self.with_reference(waiting.popleft(), pool, key)
        while waiting:
            yield self.with_reference(waiting.popleft(), pool, key)

    def with_reference(self, sample: Sample, samples: deque[Sample], key: np.ndarray) -> Sample:
        """`sample` with its reference, drawn from the pool, which holds it."""
        rows = list(samples)
        row = next(i for i, other in enumerate(rows) if other is sample)
        sample_rate = _sound(sample, "noise")[1]
        pool = Pool(_columns(rows, sample_rate), sample_rate)
        listener = Listener(lambda row, field, start, stop: _sound(rows[row], field)[0][start:stop])
        rng = generator(key_of(key.tobytes(), sample["__key__"]), CLIP)
        mode = self.law.mode(rng.random())
        item = Item(row, 0, int(pool.index.frames[row]))
        clip = draw_clip(item, pool, mode, round(self.ref_seconds * sample_rate), rng, listener)
        sound = np.zeros(0, np.float32) if clip is None else listener.clip(clip)
        return sample | {
            "ref": (sound, sample_rate),
            "mode": mode,
            "relation": "none" if clip is None else clip.relation,
            "ref_key": "" if clip is None else rows[clip.row]["__key__"],
        }


def references(law: str = "env", seed: int = 0, pool_size: int = 256, ref_seconds: float = 1.0) -> _Stage:
    """A stage that adds a reference to every decoded sample: `ref` (float32 (ref_frames,), sample rate), `mode`,
    `relation` and `ref_key` (the sample it was taken from).

    Samples need `noise.flac` as `nrdata.decode_audio` gives it, and `json` with `env_id` (and `recording`, `stretch`,
    `noise_dbfs` where known); the whole sample counts as heard. Draws are keyed by (seed, pass, sample key): the same
    seed on the same order of samples gives the same references. Where the law cannot be served, and under mode
    `none`, `ref` has length 0 and `relation` is "none". Raises `UserError` naming the sample that lacks something.
    """
    if pool_size < 2:
        raise UserError(f"a pool of {pool_size} samples cannot serve a reference; give pool_size 2 or more")
    if not ref_seconds >= MIN_REF_SECONDS:
        raise UserError(f"a reference of {ref_seconds:g} s is too short; ask for {MIN_REF_SECONDS} s or more")
    return _Stage(parse_law(law), seed, pool_size, ref_seconds)


def _sound(sample: Sample, field: str) -> tuple[np.ndarray, int]:
    decoded = sample.get(f"{field}.flac")
    if not (isinstance(decoded, tuple) and len(decoded) == 2):
        raise UserError(
            f"sample {sample.get('__key__')!r} has no decoded {field}.flac; put .decode(nrdata.decode_audio) before"
        )
    return decoded


def _columns(samples: list[Sample], sample_rate: int) -> Columns:
    """The index columns that a `Pool` reads, for samples in memory."""
    facts = [_facts(sample) for sample in samples]
    for sample in samples:
        if _sound(sample, "noise")[1] != sample_rate:
            raise UserError(
                f"sample {sample['__key__']!r} is at {_sound(sample, 'noise')[1]} Hz, the sample before it at "
                f"{sample_rate} Hz; resample one of them"
            )
    env_names, env = np.unique([fact["env_id"] for fact in facts], return_inverse=True)
    recordings = [fact.get("recording", fact["env_id"]) for fact in facts]
    recording_names, recording = np.unique(recordings, return_inverse=True)
    columns = SimpleNamespace(
        key=np.array([sample["__key__"] for sample in samples]),
        env=env, env_names=env_names.tolist(),
        recording=recording, recording_names=recording_names.tolist(),
        stretch=np.array([fact.get("stretch", (-1, -1)) for fact in facts], dtype=np.int64),
        noise_dbfs=np.array([fact.get("noise_dbfs", np.nan) for fact in facts], dtype=np.float32),
        frames=np.array([len(_sound(sample, "noise")[0]) for sample in samples]),
        ref_frames=np.array([len(_sound(sample, "ref")[0]) if "ref.flac" in sample else 0 for sample in samples]),
    )  # fmt: skip
    return cast(Columns, columns)


def _facts(sample: Sample) -> dict[str, Any]:
    facts = sample.get("json")
    if not (isinstance(facts, dict) and isinstance(facts.get("env_id"), str)):
        raise UserError(f"sample {sample.get('__key__')!r} has no env_id in its json; the laws need to know the place")
    return facts
