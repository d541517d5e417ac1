"""What a run is judged by while it trains: ESTOI on twenty fixed files with and without reference, and the loss with
the right, a wrong and no reference under the same noise draws (is the reference read at all?).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nrdata.sampling.references import evaluation_reference, parse_law
from nrdata.sampling.stream import Stream, StreamConfig
from nrmodel.network.presets import ModelConfig
from nrmodel.step import batch_loss, draw

FILES = 20


class Validation:
    def __init__(self, dataset: Any, stream: StreamConfig, settings: ModelConfig, seed: int):
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.split = "valid" if "valid" in dataset.splits else None
        law = dict(parse_law(stream.law).shares)
        self.null_weight = law.get("none", 0.0)
        self.mode = next((mode for mode in law if mode != "none"), None)
        self.ref_seconds = stream.ref_range[1]
        if self.split is None:
            return
        rows = len(dataset.index(self.split).key)
        self.rows = np.unique(np.linspace(0, rows - 1, min(FILES, rows)).astype(int))
        size = min(8, rows)
        config = StreamConfig(size, stream.crop_frames, law=self.mode or "none", on_missing_ref="none", seed=1)
        self.batch = Stream(dataset, self.split, config).batch(0, 0)

    def run(self, model: Any) -> dict[str, Any]:
        """`score` (ESTOI under the training law), `estoi_ref`, `estoi_none`, `estoi_noisy`; `loss` by reference."""
        if self.split is None:
            return {"score": None}
        result: dict[str, Any] = {}
        with_ref, without, noisy = [], [], []
        for row in self.rows:
            triplet = self.dataset.sample(self.dataset.index(self.split).key[row].decode())
            noisy.append(_estoi(triplet.clean, triplet.noisy, triplet.sample_rate))
            without.append(self._enhanced(model, triplet, None))
            if model.reference is not None and self.mode is not None:
                drawn = evaluation_reference(self.dataset, self.split, int(row), self.mode, self.ref_seconds, self.seed)
                with_ref.append(self._enhanced(model, triplet, drawn[0] if drawn is not None else None))
        result["estoi_noisy"], result["estoi_none"] = _mean(noisy), _mean(without)
        result["estoi_ref"] = _mean(with_ref)
        if result["estoi_ref"] is None:
            result["score"] = result["estoi_none"]
        else:
            result["score"] = self.null_weight * result["estoi_none"] + (1 - self.null_weight) * result["estoi_ref"]
        result["loss"] = self._losses(model)
        return result

    def _enhanced(self, model: Any, triplet: Any, ref: np.ndarray | None) -> float | None:
        estimate = model.enhance(triplet.noisy, triplet.sample_rate, ref, triplet.sample_rate, seed=self.seed)
        return _estoi(triplet.clean, estimate, triplet.sample_rate)

    def _losses(self, model: Any) -> dict[str, float]:
        size, frames = len(self.batch.key), self.settings.spectrogram.frames(self.batch.noisy.shape[1])
        draws = draw(self.seed, 0, size, frames, self.settings, model.device)
        with torch.no_grad():
            if model.reference is None:
                return {"none": float(batch_loss(model, self.batch, draws, self.settings)[0])}
            ref = torch.from_numpy(self.batch.ref).to(model.device)
            z_r = model.embed_batch(ref, torch.from_numpy(self.batch.ref_frames).to(model.device))
            choices = {"right": z_r, "wrong": z_r.roll(len(z_r) // 2 or 1, 0), "none": model.null(len(z_r))}
            return {
                name: float(batch_loss(model, self.batch, draws, self.settings, z_r=z)[0])
                for name, z in choices.items()
            }

    def line(self, step: int, result: dict[str, Any]) -> str:
        if result["score"] is None:
            return f"step {step}: no split 'valid' in the data, the last weights count"
        told = {"noisy": "estoi_noisy", "without reference": "estoi_none", f"with ({self.mode})": "estoi_ref"}
        text = f"step {step}: validation ESTOI " + ", ".join(
            f"{name} {result[entry]:.3f}" for name, entry in told.items() if result[entry] is not None
        )
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
