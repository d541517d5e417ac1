"""What a plan will cost, cell by cell, before it runs: steps x seconds a step, calls x seconds a call, rows scored.

Seconds come from the plan's `[estimate]`, or are measured here and now: two steps and two calls of each distinct
network, on noise. Machines differ, and a busy one measures itself busy.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nrmodel.experiment.plan import Cell, Plan
from nrmodel.experiment.run import is_done
from nrmodel.training.config import TrainConfig

if TYPE_CHECKING:
    from nrmodel.config import ModelConfig

FILES = 384  # of an evaluation without `limit`, where the data are not there to be counted
SECONDS_PER_ROW = 0.35  # PESQ, ESTOI and SI-SDR of one file of 3 s on one core
CLIP_SECONDS = 3.0
Measured = dict[tuple[object, ...], tuple[float, float]]  # network -> seconds a step, seconds a call


def estimate(plan: Plan, out: Path) -> list[tuple[Cell, float, bool]]:
    """(cell, seconds, done) of every cell, in order; what is done costs 0."""
    measured: Measured = {}
    found = []
    for cell in plan.cells:
        done = is_done(plan, out, cell)
        found.append((cell, 0.0 if done else seconds_of(plan, cell, measured), done))
    return found


def seconds_of(plan: Plan, cell: Cell, measured: Measured) -> float:
    """Of one cell; `measured` remembers (seconds a step, seconds a call) by network."""
    if cell.kind == "data":
        return 30.0
    config = plan.train_config(cell.arm, cell.seed)
    per_step, per_call = costs(plan, config, measured)
    given = plan.estimate
    if cell.kind == "train":
        return float(config.max_steps * per_step)
    if cell.kind == "probe":
        batches = plan.report["probe_batches"]
        return float(batches * per_step + 2 * plan.report["probe_rows"] * 0.02 + 36 * per_call * default_calls(config))
    if cell.kind == "listen":
        return float(plan.report["files"] * len(plan.report["modes"]) * per_call * default_calls(config))
    request = cell.request
    calls = request.get("nfe", [default_calls(config)])
    conditioned = config.ref_mode != "none"
    with_ref = [m for m in request["modes"] if m != "none"] if conditioned else []
    settings = (("none" in request["modes"] or not conditioned) + len(with_ref) * len(request["ref_seconds"])) * len(
        request["seeds"]
    )
    files = min(request.get("limit") or 10**9, files_of(plan, request["split"]))
    rows = files * (1 + len(calls) * settings + len(request.get("peers", [])))
    return float(files * settings * sum(calls) * per_call + rows * given.get("seconds_per_row", SECONDS_PER_ROW))


def default_calls(config: TrainConfig) -> int:
    from nrmodel.training.settled import model_for

    return model_for(config, 16000, None).nfe


def files_of(plan: Plan, split: str) -> int:
    """Files of a split, if the data are there."""
    if all((Path(folder) / "manifest.json").exists() for folder in plan.shards):
        import nrdata

        dataset = nrdata.open(*plan.shards)
        return len(dataset.index(split).key) if split in dataset.splits else 0
    return int(plan.estimate.get("files", FILES))


def costs(plan: Plan, config: TrainConfig, measured: Measured) -> tuple[float, float]:
    """Seconds of one training step and of one network call on 3 s."""
    from nrmodel.training.settled import model_for, optimisation

    given = plan.estimate
    if {"seconds_per_step", "seconds_per_call"} <= given.keys():
        return given["seconds_per_step"], given["seconds_per_call"]
    model_config = model_for(config, 16000, None)
    frames = optimisation(config, model_config).crop_frames
    kind = (model_config.preset, model_config.conditioning, config.batch_size, config.accumulate, frames)
    if kind not in measured:
        step, call = measure(model_config, config.batch_size, frames)
        measured[kind] = (step * config.accumulate, call)
    step, call = measured[kind]
    return given.get("seconds_per_step", step), given.get("seconds_per_call", call)


def measure(model_config: ModelConfig, batch_size: int, frames: int) -> tuple[float, float]:
    """Seconds of one step (loss, gradients) and of one call, the quicker of two."""
    import numpy as np
    import torch

    from nrdata.sampling.stream import Batch
    from nrmodel.model import Model
    from nrmodel.training.step import batch_loss, draw

    rng = np.random.default_rng(0)
    model = Model(model_config)
    shape = (batch_size, (frames - 1) * model_config.spectrogram.hop)
    noisy, clean = (0.1 * rng.standard_normal((2, *shape))).astype(np.float32)
    ref = (0.1 * rng.standard_normal((batch_size, 16000))).astype(np.float32)
    lengths = np.full(batch_size, shape[1]), np.full(batch_size, 16000)
    keys, keep = [str(i) for i in range(batch_size)], np.zeros(batch_size, bool)
    batch = Batch(noisy, clean, lengths[0], ref, lengths[1], [], [], [], keys, [], keep)
    took = [math.inf, math.inf]
    for k in range(2):
        begun = time.perf_counter()
        draws = draw(0, k, batch_size, frames, model_config, torch.device("cpu"))
        torch.autograd.backward(batch_loss(model, batch, draws, model_config)[0])
        took[0] = min(took[0], time.perf_counter() - begun)
    sound = noisy.reshape(-1)[: int(CLIP_SECONDS * model_config.sample_rate)]
    model.eval()
    calls = 1 if model_config.nfe == 1 else 2
    for _ in range(2):
        begun = time.perf_counter()
        model.enhance(sound, model_config.sample_rate, nfe=calls)
        took[1] = min(took[1], (time.perf_counter() - begun) / calls)
    return took[0], took[1]
