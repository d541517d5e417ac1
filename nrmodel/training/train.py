"""The training loop: a stream of batches, one loss, AdamW, EMA, states that lose nothing.

A run is a function of its configuration: batch k comes from the stream's position, the times and the noise of step k
from (seed, k). So a killed run that is started again ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nrdata
from nrdata.errors import Failure, UserError
from nrdata.sampling import loader
from nrdata.sampling.stream import Stream
from nrmodel import checkpoint
from nrmodel.config import ModelConfig
from nrmodel.model import Model, load
from nrmodel.training import distributed
from nrmodel.training.config import TrainConfig
from nrmodel.training.run_folder import RunFolder
from nrmodel.training.settled import model_for, optimisation, settled, stream_config
from nrmodel.training.step import batch_loss, draw
from nrmodel.training.validation import Validation

__all__ = ["Stopped", "TrainConfig", "train"]

log = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal asked the run to stop; its state is written."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    def __reduce__(self) -> tuple[Any, ...]:  # from a worker it comes pickled
        return Stopped, (self.signum,)


def train(config: TrainConfig, report: Any = None) -> Path:
    """Train, or go on with what is in the run folder; returns the folder.

    Raises UserError for what the user can mend, Stopped on SIGTERM and SIGINT after the state is written,
    loader.LoaderError where the data stopped coming.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    begun = (out / "train-state.pt").exists() and (out / "model.safetensors").exists()
    given = load(config.init_from) if config.init_from and not begun else None
    known = checkpoint.read_model(out / "model.safetensors")[1] if begun and config.init_from else None
    started_from = given.config if given else known
    asked = stream_config(config, model_for(config, None, started_from))  # judged before any data is opened
    device = _device(config.device)
    dataset = nrdata.open(*config.shards, keep_decoded=config.in_memory)
    model_config = model_for(config, dataset.sample_rate, started_from)
    stream = Stream(dataset, "train", asked)
    heard = None if given is None else given.training_data
    with (
        distributed.group(device) as (rank, ranks),
        RunFolder(out, settled(config, model_config), dataset, rank == 0, heard) as folder,
        _Signals() as signals,
    ):
        for shortfall in stream.shortfalls:
            folder.say(f"reference missing or uncertain: {shortfall}")
        trainer = Trainer(config, model_config, folder, stream, device, given, (rank, ranks))
        trainer.run(signals, report)
    return folder.path


def resolve(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain data, every choice that is left to the data and the presets made."""
    given = load(config.init_from).config if config.init_from else None
    model_for(config, None, given)  # judged before any data is opened
    return settled(config, model_for(config, nrdata.open(*config.shards).sample_rate, given))


class Trainer:
    """Model, EMA, optimiser and position of one run."""

    def __init__(
        self, config: TrainConfig, model_config: ModelConfig, folder: RunFolder, stream: Stream, device: torch.device,
        given: Model | None, rank: tuple[int, int],
    ):  # fmt: skip
        self.config, self.model_config = config, model_config
        self.folder, self.stream, self.device = folder, stream, device
        self.rank, self.ranks = rank
        self.optimisation = optimisation(config, model_config)
        self.model = Model(model_config, seed=config.seed).to(device)
        state = folder.resume()
        if state is None:
            if given is not None:
                self._take_over(given)
            if config.encoder_from:
                self._take_encoder(config.encoder_from)
        if config.freeze_encoder and self.model.reference is not None:
            self.model.reference.encoder.requires_grad_(False)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=self.optimisation.learning_rate,
            betas=self.optimisation.betas,
            weight_decay=self.optimisation.weight_decay,
        )
        self.step, self.position, self.ema_updates, self.bad_in_a_row = 0, (0, 0), 0, 0
        self.own_from: int | None = None  # the step from which on own estimates are trained on
        self.best: dict[str, float] = {}
        self.precision = _precision(config.precision, device, self.model, model_config)
        self.validation = (
            Validation(stream.dataset, stream.config, model_config, config.seed) if folder.writes else None
        )
        if state is not None:
            self._restore(state)
        folder.say(
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f} M parameters, {self.precision}, "
            f"{device}{f', {self.ranks} processes' if self.ranks > 1 else ''}, "
            f"from step {self.step} of {config.max_steps}"
        )

    def run(self, signals: _Signals, report: Any) -> None:
        config, folder = self.config, self.folder
        started, first = time.monotonic(), self.step
        window: list[dict[str, float]] = []
        batches = loader.batches(
            self.stream, self.position, workers=config.loader_workers, rank=self.rank, ranks=self.ranks
        )
        while self.step < config.max_steps:
            told = self._step(batches)
            if told is not None:
                window.append(told)
            last = self.step == config.max_steps
            if self.step % 10 == 0 or last:
                rate = (self.step - first) / max(time.monotonic() - started, 1e-9)
                own = {} if self.own_from is None else {"own_from": self.own_from}
                folder.log(self.step, window, rate=rate, learning_rate=self._rate(self.step), **own)
                folder.progress(self.step, config.max_steps, rate, window)
                window = []
            stopping = distributed.any_of(signals.received or 0)
            validating = (self.step % config.validate_every == 0 or last) and not stopping
            if validating:
                self._validate()
            if validating or self.step % config.checkpoint_every == 0 or stopping:
                self._save()
            if stopping:
                raise Stopped(stopping)
            if report is not None:
                report(self)
        folder.finish(self.step, **self._machine())

    # One step ---------------------------------------------------------------------------------------------------

    def _step(self, batches: Any) -> dict[str, float] | None:
        """One update; its loss and parts, or None where the batch was not finite and changed nothing."""
        config, model_config = self.config, self.model_config
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
            number = self.step * config.accumulate + part
            frames = model_config.spectrogram.frames(batch.noisy.shape[1])
            rows = config.seed, number, config.batch_size, frames
            draws = draw(*rows, model_config, self.device, self.rank, self.ranks)
            value, parts = batch_loss(
                self.model, batch, draws, model_config, self._own_share(), self.precision == "bf16",
                lambda_ref=config.lambda_ref, lambda_env=config.lambda_env, average=distributed.average,
            )  # fmt: skip
            torch.autograd.backward(value / config.accumulate)
            for name, part_value in {"loss": value, **parts}.items():
                totals[name] = totals.get(name, 0.0) + part_value.detach() / config.accumulate
        self.position = self.stream.next(*position)
        distributed.average_gradients(self.trained)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        # One transfer a step: on a GPU each is a wait.
        numbers = distributed.average(torch.stack([*totals.values(), norm])).tolist()
        told = dict(zip([*totals, "grad_norm"], numbers, strict=True)) | {"missing_refs": float(missing)}
        self.step += 1
        if not (math.isfinite(told["loss"]) and math.isfinite(told["grad_norm"])):
            self._skip(keys)
            return None
        self.bad_in_a_row = 0
        if math.isfinite(self.optimisation.clip_norm):
            torch.nn.utils.clip_grads_with_norm_(self.trained, self.optimisation.clip_norm, norm)
        self.optimizer.step()
        self._update_ema()
        return told

    def _own_share(self) -> float:
        aim = self.model_config.objective
        if self.own_from is None and aim.own_share and self.step >= aim.own_after * self.config.max_steps:
            self.own_from = self.step  # a budget that grows later does not take it back
        return 0.0 if self.own_from is None else aim.own_share

    def _skip(self, keys: list[str]) -> None:
        """A non-finite batch leaves weights, optimiser and EMA untouched and is named; ten in a row end the run."""
        self.bad_in_a_row += 1
        self.folder.note({"step": self.step, "skipped": "non-finite loss or gradient", "keys": keys})
        self.folder.say(f"step {self.step}: non-finite loss or gradient, batch skipped ({', '.join(keys)})")
        if self.bad_in_a_row >= 10:
            raise Failure(f"ten batches in a row were not finite, last {', '.join(keys)}: lower --learning-rate")

    def _rate(self, step: int) -> float:
        """Constant after a warm-up, linear to zero over the last part."""
        cooldown = self.optimisation.cooldown_steps
        rate = self.optimisation.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        left = self.config.max_steps - step
        return rate * min(1.0, left / cooldown) if cooldown else rate

    def _update_ema(self) -> None:
        self.ema_updates += 1
        decay = min(self.config.ema_decay, (1 + self.ema_updates) / (10 + self.ema_updates))
        with torch.no_grad():
            mine: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(list(self.ema.parameters()), mine, 1 - decay)

    # States -----------------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        if self.validation is None:
            return
        result = self.validation.run(self.ema)
        self.folder.note({"step": self.step, "validation": result})
        self.folder.say(self.validation.line(self.step, result))
        if result["score"] is not None and result["score"] > self.best.get("score", -math.inf):
            self.best = {"step": self.step, "score": result["score"]}
            self.folder.save_weights("best.safetensors", self.ema, self.model_config, self.step)

    def _save(self) -> None:
        self.folder.save_weights("model.safetensors", self.ema, self.model_config, self.step)
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
                "config": self.folder.config,
                "fingerprint": self.folder.fingerprint,
                "machine": self._machine(),
                "own_from": self.own_from,
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        log.info("resumes from %s, step %d", self.folder.path / "train-state.pt", state["step"])
        checkpoint.load_into(self.model, state["model"], self.folder.path / "train-state.pt")
        checkpoint.load_into(self.ema, state["ema"], self.folder.path / "train-state.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step, self.position = state["step"], tuple(state["position"])
        self.ema_updates, self.best = state["ema_updates"], state["best"]
        self.own_from = state["own_from"]
        before, now = state["machine"], self._machine()
        changed = [f"{name} {before[name]} before, {now[name]} now" for name in now if before[name] != now[name]]
        if changed:
            self.folder.say(f"goes on otherwise than it began ({'; '.join(changed)}): alike to about 1e-4, not in bits")

    def _machine(self) -> dict[str, Any]:
        """What bit-exactness hangs on."""
        return {
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "processes": self.ranks,
            "device": self.device.type,
        }

    def _take_over(self, other: Model) -> None:
        """Start from another model's weights; conditioning that it lacks starts as the identity."""
        path = self.config.init_from
        own, given = self.model.state_dict(), other.state_dict()
        for name, tensor in given.items():
            if name not in own or own[name].shape != tensor.shape:
                raise UserError(f"{path} has '{name}' where this run has not: give its --preset and --conditioning")
        lacking = [name for name in own if name not in given]
        for name in lacking:
            if name.startswith("network.") and not _conditions(name):
                raise UserError(f"{path} lacks '{name}': it is of another preset")
        self.model.load_state_dict({**own, **given})
        self.folder.say(f"weights from {path}, a new EMA from them" + (", new conditioning" if lacking else ""))

    def _take_encoder(self, path: str) -> None:
        other = load(path)
        if other.reference is None or self.model.reference is None:
            raise UserError(f"--encoder-from {path}: one of the two models has no encoder")
        checkpoint.load_into(self.model.reference, other.reference.state_dict(), Path(path))


def _conditions(name: str) -> bool:
    return any(part in name for part in ("embed.", "row_map.", "spectrum_stem.", "film."))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a kind that torch knows, and that this machine has
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f"--device {name} cannot be used here ({str(e).splitlines()[0]}): take cpu or auto") from e
    return device


def _precision(asked: str, device: torch.device, model: Model, model_config: ModelConfig) -> str:
    """bf16 autocast where the hardware has it and a short timing does not object, else float32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    shape = (2, 1, model_config.spectrogram.bins, 64)
    y = torch.ones(shape, dtype=torch.cfloat) * 0.01
    t = torch.full((2,), 0.5)
    seconds = {}
    for name in ("float32", "bf16"):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                torch.autograd.backward(model.denoised(y, y, t, model.null(2)).abs().sum())
            times.append(time.perf_counter() - begun)
        seconds[name] = min(times)
    model.zero_grad(set_to_none=True)
    log.info("a step on this processor: %.3f s in bf16, %.3f s in float32", seconds["bf16"], seconds["float32"])
    # Without hardware support bf16 takes ten times as long, with it less: the choice must not hang on a busy machine.
    return "bf16" if seconds["bf16"] < 2 * seconds["float32"] else "float32"


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
