"""The training loop: a stream of batches, one loss, AdamW, EMA, states that lose nothing.

A run is a function of its configuration: batch k comes from the stream's position, the times and the noise of step k
from (seed, k). So a killed run that is started again ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nrdata
from nrdata.errors import UserError
from nrdata.sampling import loader
from nrdata.sampling.stream import Batch, Stream, StreamConfig
from nrmodel import checkpoint, objective
from nrmodel.model import Model, load, pad_frames
from nrmodel.network.presets import ModelConfig, preset
from nrmodel.process import start
from nrmodel.run_folder import RunFolder
from nrmodel.validation import Validation


@dataclass(frozen=True)
class TrainConfig:
    """All of a run; stands in its `config.toml`. `None`: the preset's own value."""

    shards: tuple[str, ...]  # folders of one data set
    out: str  # the run folder
    ref_mode: str = "disjoint:0.5,env:0.2,none:0.3"  # law of the reference, or a mixture of laws
    preset: str = "nano"
    objective: str | None = None  # "score", "denoiser", "data"
    conditioning: str | None = None  # "additive", "film", "spectrum"
    encoder: str = "conv"  # "conv", "stats"
    ref_seconds: str = "1.0"  # length of the clips, or a range "0.25:2.0" drawn per batch
    ref_dropout: float = 0.15  # share of references replaced by null (0 where ref_mode names none)
    on_missing_ref: str = "refuse"  # "none": items that the law cannot serve train without reference, counted
    remix: bool = False  # mixtures made anew each epoch, with invented environments
    batch_size: int = 8
    accumulate: int = 1  # batches a step
    crop_frames: int = 128  # STFT frames of a training crop
    max_steps: int = 5000
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    cooldown_steps: int | None = None  # linear decay at the end; None: the last fifth
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    start_share: float | None = None  # share of items at the sampler's own start
    lambda_ref: float = 0.0  # weight of the embedding consistency loss
    checkpoint_every: int = 500
    validate_every: int = 500
    loader_workers: int = 0
    in_memory: bool = False  # every worker keeps what it decoded: for accelerators that outrun decoding
    precision: str = "auto"  # "auto", "float32", "bf16"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    init_from: str | None = None  # weights to start from (a new EMA, step 0)
    encoder_from: str | None = None  # a run whose encoder is taken over
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        at_least = {"batch_size": 1, "accumulate": 1, "crop_frames": 2, "max_steps": 1, "warmup_steps": 0,
                    "checkpoint_every": 1, "validate_every": 1, "loader_workers": 0, "seed": 0}  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number above 0, not {getattr(self, name)}")
        for name in ("ref_dropout", "ema_decay", "lambda_ref", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in 0 to 1, not {getattr(self, name)}")
        if self.objective not in (None, "score", "denoiser", "data"):
            raise UserError(f"objective '{self.objective}' is unknown: score, denoiser or data")
        if self.objective == "denoiser" and self.preset != "base":
            raise UserError("the compact networks take --objective data or score; denoiser belongs to base")
        if self.precision not in ("auto", "float32", "bf16"):
            raise UserError(f"precision '{self.precision}' is unknown: auto, float32 or bf16")


class Interrupted(Exception):
    """A signal asked the run to stop; its state is written."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def model_config(config: TrainConfig, sample_rate: int) -> ModelConfig:
    """The model that a run trains."""
    base = preset(config.preset, sample_rate=sample_rate, encoder=config.encoder)
    changes: dict[str, Any] = {}
    if config.conditioning is not None:
        changes["conditioning"] = config.conditioning
    if config.ref_mode == "none":
        changes["conditioning"] = "none"
    aim: dict[str, Any] = {}
    if config.objective is not None:
        aim["kind"] = config.objective
    if config.start_share is not None:
        aim["start_share"] = config.start_share
    if aim:
        changes["objective"] = _replace(base.objective, **aim)
        if base.precondition.form != "compact" and config.objective is not None:
            changes["precondition"] = _replace(base.precondition, predicts=config.objective)
    if config.objective == "score" and base.precondition.form == "compact":
        changes["nfe"] = 60
    return _replace(base, **changes)


def _replace(value: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(value, **changes)


def train(config: TrainConfig, report: Any = None) -> Path:
    """Train, or go on with what is in the run folder; returns the folder.

    Raises UserError for what the user can mend, Interrupted on SIGTERM and SIGINT after the state is written,
    loader.LoaderError where the data stopped coming.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset = nrdata.open(*config.shards)
    dataset.keep_decoded = config.in_memory
    stream = Stream(dataset, "train", stream_config(config))
    settings = model_config(config, dataset.sample_rate)
    with RunFolder(Path(config.out), config, dataset) as folder, _Signals() as signals:
        trainer = Trainer(config, settings, folder, stream, dataset)
        for shortfall in stream.shortfalls:
            folder.say(f"reference missing or uncertain: {shortfall}")
        trainer.run(signals, report)
    return folder.path


def stream_config(config: TrainConfig) -> StreamConfig:
    """What the stream is asked for. The crop gives exactly `crop_frames` STFT frames at hop 128."""
    low, _, high = config.ref_seconds.partition(":")
    try:
        ref_seconds = (float(low), float(high)) if high else float(low)
    except ValueError:
        raise UserError(
            f"--ref-seconds '{config.ref_seconds}' is neither a number nor a range such as 0.25:2.0"
        ) from None
    return StreamConfig(
        batch_size=config.batch_size,
        crop_frames=(config.crop_frames - 1) * 128,
        law=config.ref_mode,
        ref_seconds=ref_seconds,
        ref_dropout=config.ref_dropout,  # the stream drops none where the law itself names none
        on_missing_ref=config.on_missing_ref,
        seed=config.seed,
        remix=config.remix,
    )


class Trainer:
    """Model, EMA, optimiser and position of one run."""

    def __init__(self, config: TrainConfig, settings: ModelConfig, folder: RunFolder, stream: Stream, dataset: Any):
        self.config, self.settings, self.folder, self.stream = config, settings, folder, stream
        self.device = _device(config.device)
        self.model = Model(settings, seed=config.seed).to(self.device)
        if config.init_from:
            self._take_over(config.init_from)
        if config.encoder_from:
            self._take_encoder(config.encoder_from)
        if config.freeze_encoder and self.model.reference is not None:
            self.model.reference.encoder.requires_grad_(False)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.step, self.position, self.ema_updates, self.bad_in_a_row = 0, (0, 0), 0, 0
        self.best: dict[str, float] = {}
        self.precision = _precision(config.precision, self.device, self.model, settings)
        self.validation = Validation(dataset, self.stream.config, settings, config.seed)
        state = folder.resume()
        if state is not None:
            self._restore(state)
        folder.say(
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f} M parameters, {self.precision}, "
            f"{self.device}, from step {self.step} of {config.max_steps}"
        )

    # One step ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, draws: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return batch_loss(self.model, batch, draws, self.settings, self._own_share(), self.precision == "bf16")

    def _own_share(self) -> float:
        aim = self.settings.objective
        return aim.own_share if self.step >= aim.own_after * self.config.max_steps else 0.0

    def run(self, signals: _Signals, report: Any) -> None:
        config, folder = self.config, self.folder
        started, first = time.monotonic(), self.step
        window: list[dict[str, float]] = []
        if self.step < config.max_steps:
            batches = loader.batches(self.stream, self.position, workers=config.loader_workers)
        while self.step < config.max_steps:
            parts, keys = self._step(batches)
            if parts is not None:
                window.append(parts)
            if self.step % 10 == 0 or self.step == config.max_steps:
                rate = (self.step - first) / max(time.monotonic() - started, 1e-9)
                folder.log(self.step, window, rate=rate, learning_rate=self._rate(self.step), keys=keys)
                folder.progress(self.step, config.max_steps, rate, window)
                window = []
            stopping = signals.received is not None
            last = self.step == config.max_steps
            if (self.step % config.validate_every == 0 or last) and not stopping:
                self._validate()
            if self.step % config.checkpoint_every == 0 or last or stopping:
                self._save()
            if stopping:
                assert signals.received is not None
                raise Interrupted(signals.received)
            if report is not None:
                report(self)
        folder.finish(self.step)

    def _step(self, batches: Any) -> tuple[dict[str, float] | None, list[str]]:
        config = self.config
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        keys: list[str] = []
        missing = 0
        for part in range(config.accumulate):
            position, batch = next(batches)
            keys += batch.key
            missing += batch.missing
            draws = draw(config.seed, self.step * config.accumulate + part, batch, self.settings, self.device)
            value, parts = self.loss(batch, draws)
            (value / config.accumulate).backward()
            for name, number in {"loss": value, **parts}.items():
                totals[name] = totals.get(name, 0.0) + number.detach() / config.accumulate
        self.position = self.stream.next(*position)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # One transfer a step: on a GPU each is a wait.
        numbers = torch.stack([*totals.values(), norm]).tolist()
        told = dict(zip([*totals, "grad_norm"], numbers, strict=True)) | {"missing_refs": float(missing)}
        self.step += 1
        if not (math.isfinite(told["loss"]) and math.isfinite(told["grad_norm"])):
            self._skip(keys)
            return None, keys
        self.bad_in_a_row = 0
        torch.nn.utils.clip_grads_with_norm_(trained, config.clip_norm, norm)
        self.optimizer.step()
        self._update_ema()
        return told, keys

    def _skip(self, keys: list[str]) -> None:
        """A non-finite batch leaves weights, optimiser and EMA untouched and is named; ten in a row end the run."""
        self.bad_in_a_row += 1
        self.folder.note({"step": self.step, "skipped": "non-finite loss or gradient", "keys": keys})
        self.folder.say(f"step {self.step}: non-finite loss or gradient, batch skipped ({', '.join(keys)})")
        if self.bad_in_a_row >= 10:
            raise RuntimeError(f"ten batches in a row were not finite, last {', '.join(keys)}: lower --learning-rate")

    def _rate(self, step: int) -> float:
        """Constant after a warm-up, linear to zero over the last part."""
        config = self.config
        cooldown = config.max_steps // 5 if config.cooldown_steps is None else config.cooldown_steps
        rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        left = config.max_steps - step
        return rate * min(1.0, left / cooldown) if cooldown else rate

    def _update_ema(self) -> None:
        self.ema_updates += 1
        decay = min(self.config.ema_decay, (1 + self.ema_updates) / (10 + self.ema_updates))
        with torch.no_grad():
            mine: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(list(self.ema.parameters()), mine, 1 - decay)

    # States -----------------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        result = self.validation.run(self.ema)
        self.folder.note({"step": self.step, "validation": result})
        self.folder.say(self.validation.line(self.step, result))
        if result["score"] is not None and result["score"] > self.best.get("score", -math.inf):
            self.best = {"step": self.step, "score": result["score"]}
            self.folder.save_weights("best.safetensors", self.ema, self.settings, self.step)

    def _save(self) -> None:
        self.folder.save_weights("model.safetensors", self.ema, self.settings, self.step)
        self.folder.save_state(
            {
                "step": self.step,
                "position": list(self.position),
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "ema_updates": self.ema_updates,
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "best": self.best,
                "config": self.folder.config_dict,
                "fingerprint": self.folder.fingerprint,
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        checkpoint.load_into(self.model, state["model"], self.folder.path / "train-state.pt")
        checkpoint.load_into(self.ema, state["ema"], self.folder.path / "train-state.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step, self.position = state["step"], tuple(state["position"])
        self.ema_updates, self.best = state["ema_updates"], state["best"]

    def _take_over(self, path: str) -> None:
        """Start from another model's weights; conditioning that it lacks starts as the identity."""
        other = load(path)
        if other.sample_rate != self.settings.sample_rate:
            raise UserError(f"{path} works at {other.sample_rate} Hz, the data are at {self.settings.sample_rate} Hz")
        own = self.model.state_dict()
        given = other.state_dict()
        for name, tensor in given.items():
            if name not in own or own[name].shape != tensor.shape:
                raise UserError(
                    f"{path} has '{name}' where this run has not: give the same --preset and --conditioning"
                )
        lacking = [name for name in own if name not in given]
        if any(name.startswith("network.") and not _conditions(name) for name in lacking):
            raise UserError(f"{path} lacks '{lacking[0]}': it is of another preset")
        self.model.load_state_dict({**own, **given})
        self.folder.say(f"weights from {path}, a new EMA from them" + (", new conditioning" if lacking else ""))

    def _take_encoder(self, path: str) -> None:
        other = load(path)
        if other.reference is None or self.model.reference is None:
            raise UserError(f"--encoder-from {path}: one of the two models has no encoder")
        checkpoint.load_into(self.model.reference, other.reference.state_dict(), Path(path))


def _conditions(name: str) -> bool:
    return any(part in name for part in ("embed.", "row_map.", "spectrum_stem.", "film."))


def draw(seed: int, step: int, batch: Batch, settings: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """Times, shares and noise of a batch, keyed by (seed, step) alone: the same whatever the law and the encoder."""
    size = len(batch.key)
    key = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(device=device).manual_seed(key)
    frames = settings.spectrogram.frames(batch.noisy.shape[1])
    shape = (2, size, 1, settings.spectrogram.bins, frames)
    uniform = torch.rand(3, size, generator=generator, device=device)
    z = torch.randn(shape, generator=generator, device=device, dtype=torch.cfloat)
    return {"u": uniform[0], "start": uniform[1], "own": uniform[2], "z": z[0], "z_own": z[1]}


def batch_loss(
    model: Model,
    batch: Batch,
    draws: dict[str, Tensor],
    settings: ModelConfig,
    own_share: float,
    bf16: bool = False,
    z_r: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch under given draws; `z_r` in place of the batch's own references where given."""
    device, process, aim = model.device, settings.process, settings.objective
    noisy, clean = (torch.from_numpy(a).to(device) for a in (batch.noisy, batch.clean))
    samples = torch.from_numpy(batch.frames).to(device)
    level = model.level(noisy, samples).clamp(min=1e-5)[:, None]
    multiple = int(model.network.frame_multiple)  # type: ignore[arg-type]
    y, x0 = (pad_frames(settings.spectrogram.forward(w / level), multiple, "zeros") for w in (noisy, clean))
    z, z_own = (pad_frames(draws[name], multiple, "zeros") for name in ("z", "z_own"))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        if z_r is None:
            z_r = model.embed_batch(
                torch.from_numpy(batch.ref).to(device), torch.from_numpy(batch.ref_frames).to(device)
            )
        t, at_start = objective.draw_times(draws["u"], draws["start"], aim, process)
        origin = x0
        own = ((draws["own"] < own_share) & ~at_start).nonzero()[:, 0]
        if len(own):  # the network's own one-call estimate in the kernel; the target stays the true x0
            with torch.no_grad():
                T = torch.full_like(t[own], process.T)
                guess = model.denoised(
                    start(process, y[own], z_own[own]), y[own], T, None if z_r is None else z_r[own].detach()
                )
            origin = x0.index_copy(0, own, guess.to(x0.dtype))
        x_t = objective.state(origin, y, t, z, at_start, process)
        estimates = model.estimates(x_t, y, t, z_r)
    return objective.loss(
        estimates,
        x0,
        y,
        x_t,
        t,
        objective=aim,
        precondition=settings.precondition,
        process=process,
        spectrogram=settings.spectrogram,
        samples=samples,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _precision(asked: str, device: torch.device, model: Model, settings: ModelConfig) -> str:
    """bf16 autocast where the hardware has it and a short timing agrees, else float32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    shape = (2, 1, settings.spectrogram.bins, 64)
    y = torch.ones(shape, dtype=torch.cfloat) * 0.01
    t = torch.full((2,), 0.5)
    seconds = {}
    for name in ("float32", "bf16"):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                model.denoised(y, y, t, model.null(2)).abs().sum().backward()
            times.append(time.perf_counter() - begun)
        seconds[name] = min(times)
    model.zero_grad(set_to_none=True)
    return "bf16" if seconds["bf16"] < 0.9 * seconds["float32"] else "float32"


class _Signals:
    """Remembers SIGTERM and SIGINT until the step is done; a second one ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        import threading

        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: Any) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.received = signum
