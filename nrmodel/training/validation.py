"""What a run is judged by while it trains: ESTOI on twenty fixed files with and without reference, and the loss with
the right, a wrong and no reference under the same noise draws (is the reference read at all?).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nrdata.keyed import validation_rng
from nrdata.sampling.clips import evaluation_reference
from nrdata.sampling.config import StreamConfig
from nrdata.sampling.laws import parse_law
from nrdata.sampling.stream import Stream
from nrmodel.config import ModelConfig
from nrmodel.training.step import batch_loss, draw

FILES = 20


class Validation:
    def __init__(self, dataset: Any, stream: StreamConfig, model_config: ModelConfig, seed: int):
        self.dataset, self.model_config, self.seed = dataset, model_config, seed
        self.split = "valid" if "valid" in dataset.splits else None
        self.law = parse_law(stream.law)
        self.dropout = 0.0 if "none" in self.law.modes else stream.ref_dropout
        self.mode = next((mode for mode in self.law.modes if mode != "none"), None)
        self.ref_seconds = stream.ref_range[1]
        if self.split is None:
            return
        rows = len(dataset.index(self.split).key)
        self.rows = np.unique(np.linspace(0, rows - 1, min(FILES, rows)).astype(int))
        size = min(8, rows)
        config = StreamConfig(size, stream.crop_samples, law=self.mode or "none", on_missing_ref="none", seed=1)
        self.batch = Stream(dataset, self.split, config).batch(0, 0)

    def run(self, model: Any) -> dict[str, Any]:
        """`score`: mean ESTOI with each file's reference drawn by the training law; `estoi_ref` (of `mode`),
        `estoi_none`, `estoi_noisy`, `unserved` (files that have no such reference); `loss` by reference. What is to be
        compared is so over the same files: `none_and_noisy`, `ref_and_none` (None without `mode`) are their number and
        the two means."""
        if self.split is None:
            return {"score": None}
        told: dict[str, list[float | None]] = {"score": [], "estoi_ref": [], "estoi_none": [], "estoi_noisy": []}
        unserved = 0
        for row in self.rows:
            triplet = self.dataset.sample(self.dataset.index(self.split).key[row].decode())
            scores = {"none": self._score(model, triplet, None)}
            drawn = self._drawn(row) if model.reference is not None else "none"
            for mode in {drawn, self.mode or "none"} - {"none"} if model.reference is not None else ():
                found = evaluation_reference(self.dataset, self.split, int(row), mode, self.ref_seconds, self.seed)
                scores[mode] = None if found is None else self._score(model, triplet, found[0])
                unserved += found is None
            told["estoi_noisy"].append(_estoi(triplet.clean, triplet.noisy, triplet.sample_rate))
            told["estoi_none"].append(scores["none"])
            told["estoi_ref"].append(scores.get(self.mode or ""))
            told["score"].append(scores[drawn] if scores[drawn] is not None else scores["none"])
        result: dict[str, Any] = {name: _mean(values) for name, values in told.items()}
        result["none_and_noisy"] = _paired(told["estoi_none"], told["estoi_noisy"])
        result["ref_and_none"] = _paired(told["estoi_ref"], told["estoi_none"]) if self.mode else None
        return {**result, "mode": self.mode, "unserved": unserved, "loss": self._losses(model)}

    def _drawn(self, row: int) -> str:
        """The mode of one file, by the law and the dropout, the same at every validation."""
        u, dropped = validation_rng(self.seed, int(row)).random(2)
        return "none" if dropped < self.dropout else self.law.mode(float(u))

    def _score(self, model: Any, triplet: Any, ref: np.ndarray | None) -> float | None:
        """ESTOI with a clip, taken as it is: no judgement whether it is a good one, as a user's would get."""
        z_r = None if ref is None else model.embed(ref, triplet.sample_rate)
        estimate = model.enhance(triplet.noisy, triplet.sample_rate, z_r, seed=self.seed)
        return _estoi(triplet.clean, estimate, triplet.sample_rate)

    def _losses(self, model: Any) -> dict[str, float]:
        size, frames = len(self.batch.key), self.model_config.spectrogram.frames(self.batch.noisy.shape[1])
        draws = draw(self.seed, 0, size, frames, self.model_config, model.device)
        with torch.no_grad():
            if model.reference is None:
                return {"none": float(batch_loss(model, self.batch, draws, self.model_config)[0])}
            ref = torch.from_numpy(self.batch.ref).to(model.device)
            z_r = model.embed_batch(ref, torch.from_numpy(self.batch.ref_frames).to(model.device))
            choices = {"right": z_r, "wrong": z_r.roll(len(z_r) // 2 or 1, 0), "none": model.null(len(z_r))}
            return {
                name: float(batch_loss(model, self.batch, draws, self.model_config, z_r=z)[0])
                for name, z in choices.items()
            }

    def line(self, step: int, result: dict[str, Any]) -> str:
        if result["score"] is None:
            return f"step {step}: no split 'valid' in the data, the last weights count"
        files, without, noisy = result["none_and_noisy"]
        text = f"step {step}: validation ESTOI"
        text += f" without reference {without:.3f}, noisy {noisy:.3f} ({counted(files)})" if files else " of no file"
        if result["ref_and_none"] and result["ref_and_none"][0]:
            files, with_ref, without = result["ref_and_none"]
            text += f"; with ({self.mode}) {with_ref:.3f}, without {without:.3f} ({counted(files)})"
        return text + "; loss " + ", ".join(f"{name} {value:.4f}" for name, value in result["loss"].items())


def _estoi(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float | None:
    """None where the file has no number (too little speech)."""
    from nrdata.audio import resample
    from nrmodel.evaluation.metrics import SAMPLE_RATE, MetricFailure, estoi

    try:
        return estoi(*(resample(x, sample_rate, SAMPLE_RATE) for x in (clean, estimate)))
    except MetricFailure:
        return None


def _mean(values: list[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return float(np.mean(numbers)) if numbers else None


def _paired(one: list[float | None], other: list[float | None]) -> list[float | None]:
    """Over the files where both have a number: how many, and the mean of each."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return [len(both), _mean([a for a, _ in both]), _mean([b for _, b in both])]


def counted(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"
