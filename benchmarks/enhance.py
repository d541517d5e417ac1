"""Speed of whole jobs: `python benchmarks/enhance.py [--rounds 3]`.

1. NCSN++ as published (its sampler, score, transform) with our operators and with the literal ones: enhancement for
   each second of sound, training steps with the stream of a data set in front; ratios are medians over rounds in turn.
2. The presets: parameters, work, training throughput, real-time factor at 1, 5 and 60 calls of the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "active")
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))

import numpy as np
import torch
from data import make_dataset
from literal import literal
from network import SMALL, compare, drawn, table, timed
from torch.utils.flop_counter import FlopCounterMode

from nrdata.sampling import loader
from nrdata.sampling.stream import Stream, StreamConfig
from nrdata.store.dataset import DataSet
from nrmodel.config import ModelConfig, preset
from nrmodel.diffusion import sampler
from nrmodel.model import Model
from nrmodel.network.compact import CompactConfig
from nrmodel.training.step import batch_loss, draw

CPU = torch.device("cpu")
RATE = 16000


def published(as_literal: bool) -> Model:
    """The preset `base` at the width and depth that a CPU trains, without conditioning."""
    model = Model(dataclasses.replace(preset("base"), network=SMALL, conditioning="none"))
    model.network = drawn(SMALL, CPU)
    if as_literal:
        model.network = literal(model.network)
    return model


def enhancing(model: Model, calls: int) -> Callable[[], None]:
    """Predictor and corrector on two seconds of sound, `calls` calls."""
    y = model.spectrogram.forward(0.1 * torch.randn(1, 2 * RATE, generator=torch.Generator().manual_seed(0)))
    y = torch.nn.functional.pad(y, (0, -y.shape[-1] % 64))
    noise = lambda shape: torch.randn(shape, dtype=torch.complex64)  # noqa: E731

    def work() -> None:
        estimate = sampler.predictor_corrector(model, y, None, noise, steps=calls // 2)
        model.spectrogram.inverse(estimate, 2 * RATE)

    return work


def training(model: Model, dataset: DataSet, batch: int, frames: int, bf16: bool) -> Callable[[], None]:
    """One step of training, its batch from the stream."""
    config: ModelConfig = model.config
    law = "none" if config.conditioning == "none" else "disjoint:0.7,none:0.3"
    crop = (frames - 1) * config.spectrogram.hop
    stream = Stream(dataset, "train", StreamConfig(batch_size=batch, crop_samples=crop, law=law))
    batches: Iterator = loader.batches(stream)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    number = iter(range(10**9))

    def work() -> None:
        _, items = next(batches)
        draws = draw(0, next(number), batch, frames, config, CPU)
        value, _ = batch_loss(model, items, draws, config, own_share=config.objective.own_share, bf16=bf16)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return work


def against_the_reference(dataset: DataSet, rounds: int) -> None:
    ours, theirs = published(as_literal=False), published(as_literal=True)
    calls = 6
    works = {"literal operators, float32": enhancing(theirs, calls), "ours, float32": enhancing(ours, calls)}
    times = compare(works, CPU, rounds)
    table(f"2 s of sound, {calls} calls of the published sampler", times, CPU)
    for name, own in times.items():
        second = median(wall for wall, _ in own) / 2 / calls
        print(
            f"  {name}: {1e3 * second:.0f} ms for a second of sound and call, real-time factor {60 * second:.1f} at 60"
        )
    works = {"literal operators, float32": training(theirs, dataset, 4, 64, False)}
    works["ours, float32"] = training(ours, dataset, 4, 64, False)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        works["ours, bf16 autocast"] = training(ours, dataset, 4, 64, True)
    table("a training step (4 x 64 frames), stream in front", compare(works, CPU, rounds), CPU)


def presets(dataset: DataSet, rounds: int) -> None:
    """A row a preset. Sixty calls of `base`, and its five, are counted from one."""
    heads = (f"{head:>14s}" for head in ("parameters", "GFLOP", "training", "RTF, 1 call", "5 calls", "60 calls"))
    print(f"{'preset':8s}{''.join(heads)}")
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for name in ("nano", "small", "base"):
        model = Model(preset(name)).eval()
        compact = isinstance(model.config.network, CompactConfig)
        parameters = sum(p.numel() for p in model.parameters())
        y = torch.zeros(1, 1, 256, 128, dtype=torch.complex64)  # 1.024 s of sound
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.denoised(y, y, torch.ones(1), model.null(1))
        work = counter.get_total_flops() / 1.024 / 1e9
        batch, frames = (8, 128) if compact else (1, 256)
        step = training(model.train(), dataset, batch, frames, bf16)
        step()
        seconds = median(timed(step, CPU)[0] for _ in range(rounds if compact else 1))
        throughput = batch * frames * 128 / RATE / seconds
        noisy = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
        model.eval()
        factors = []
        for nfe in (1, 5, 60):
            if compact or nfe == 1:
                model.enhance(noisy, RATE, nfe=1)
                times = [timed(lambda: model.enhance(noisy, RATE, nfe=nfe), CPU)[0] for _ in range(rounds)]  # noqa: B023
                factors.append(median(times) / 4)
            else:
                factors.append(factors[0] * nfe)
        columns = [f"{parameters / 1e6:.2f} M", f"{work:.1f}", f"{throughput:.2f} s/s", *(f"{f:.3f}" for f in factors)]
        print(f"{name:8s}" + "".join(f"{column:>14s}" for column in columns), flush=True)
    print("GFLOP: of one call, for a second of sound; RTF: real-time factor (wall time, float32);")
    print(f"training: seconds of sound in a second, {'bf16' if bf16 else 'float32'}, stream in front")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads of {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "data", 4.0)
        against_the_reference(dataset, options.rounds)
        presets(dataset, options.rounds)


if __name__ == "__main__":
    main()
