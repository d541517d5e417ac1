"""The folder of a run: lock, configuration, log, states and weights; nothing in it is ever half written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import files, locks
from nrdata.environment import provenance
from nrdata.errors import UserError
from nrdata.options import affecting, to_toml
from nrmodel import checkpoint
from nrmodel.config import ModelConfig
from nrmodel.training.config import FIXED, TrainConfig, entry


class RunFolder:
    """Context manager: holds the lock while a run writes. Of several processes one `writes`, the others only read."""

    def __init__(
        self, path: Path, config: dict[str, Any], dataset: Any, writes: bool = True, heard: dict[str, Any] | None = None
    ):
        """`config`: the settled configuration as plain data. `heard`: the training data of weights it starts from."""
        self.heard = heard
        self.path, self.config, self.fingerprint, self.writes = path, config, dataset.fingerprint, writes
        self.dataset = dataset
        self._told = 0.0

    def __enter__(self) -> RunFolder:
        self._board = None
        if not self.writes:
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        self._locked = contextlib.ExitStack()
        before = self._locked.enter_context(locks.held(self.path / "lock", f"{self.path} is in use"))
        if before is not None:
            self.say(f"taking over {self.path} from {before}, which is gone")
        files.remove_leftovers(self.path, alone=True)
        index = self.dataset.index("train")
        data = {"env_ids": index.env_names, "recordings": index.recording_names, "speakers": index.speaker_names}
        there = self.path / "training-data.json"  # of a run that goes on: what its first weights heard is in there
        for known in (self.heard, json.loads(there.read_text()) if there.exists() else None):
            data = {name: sorted({*values, *known[name]}) for name, values in data.items()} if known else data
        text = json.dumps(data, indent=1, sort_keys=True).encode()
        self._training_data, self.training_data_sha256 = text, hashlib.sha256(text).hexdigest()
        self._failures = 0
        if self.config["tensorboard"]:
            self._board = _tensorboard(self.path)
        return self

    def __exit__(self, *_: Any) -> None:
        if not self.writes:
            return
        if self._board is not None:
            self._board.close()
        self._locked.close()

    def resume(self) -> dict[str, Any] | None:
        """The last good training state, checked against this run's configuration and data; None at a fresh start.

        Only then is anything of the folder written: a refused command leaves all as it was.
        """
        state = self._last_state()
        if state is not None:
            self._check(state)
        elif self.writes:
            self._refuse_foreign_weights()
        if self.writes:
            self._cut_log(0 if state is None else state["step"])
            files.write_bytes(self.path / "training-data.json", self._training_data)
            files.write_bytes(self.path / "config.toml", to_toml(self.config).encode())
            self._write_run()
        return state

    def _last_state(self) -> dict[str, Any] | None:
        newest, older = self.path / "train-state.pt", self.path / "train-state.prev.pt"
        if newest.exists():
            try:
                return checkpoint.read_state(newest)
            except UserError as e:
                if not older.exists():
                    raise
                self.say(f"{e}; going on from {older.name}")
                if self.writes:  # out of the way, or the next save would take it for the state before
                    newest.replace(newest.with_name(newest.name + ".bad"))
        return checkpoint.read_state(older) if older.exists() else None

    def _check(self, state: dict[str, Any]) -> None:
        fixed = affecting(TrainConfig, *FIXED)
        for name, value in self.config.items():
            before = entry(state["config"], name)
            if name in fixed and before != value:
                raise UserError(
                    f"{self.path} was trained with {name} = {before}, not {value}: take another --out, or the old value"
                )
        if state["fingerprint"] != self.fingerprint:
            raise UserError(f"{self.path} was trained on other data (another fingerprint): take another --out")

    def _refuse_foreign_weights(self) -> None:
        """Weights without a state are a converted model or a finished result, or an own run died before its first."""
        weights = [name for name in ("best.safetensors", "model.safetensors") if (self.path / name).exists()]
        run = self.path / "run.json"
        unfinished = run.exists() and "finished_step" not in json.loads(run.read_text())
        if weights and not unfinished:
            raise UserError(f"{self.path} holds {weights[0]} and no training state: take another --out")

    def _cut_log(self, step: int) -> None:
        """Steps after the state come again: their lines of the log go."""
        log = self.path / "log.jsonl"
        if log.exists():
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            files.write_bytes(log, "".join(line + "\n" for line in kept).encode())

    def _write_run(self, **more: Any) -> None:
        run = {**provenance(), "fingerprint": self.fingerprint, "data": self.dataset.name, **more}
        files.write_bytes(self.path / "run.json", json.dumps(run, indent=1, sort_keys=True).encode())

    # Writing ----------------------------------------------------------------------------------------------------

    def save_weights(self, name: str, model: Any, model_config: ModelConfig, step: int) -> None:
        self._guard(
            lambda: checkpoint.save_model(
                self.path / name,
                model.state_dict(),
                model_config,
                step=str(step),
                fingerprint=self.fingerprint,
                training_data_sha256=self.training_data_sha256,
                ref_mode=self.config["ref_mode"],
            )
        )

    def save_state(self, state: dict[str, Any]) -> None:
        self._guard(lambda: checkpoint.save_state(self.path / "train-state.pt", state))

    def _guard(self, write: Any) -> None:
        """A failed write leaves the old file and is told; the third in a row ends the run."""
        if not self.writes:
            return
        try:
            write()
            self._failures = 0
        except (OSError, RuntimeError) as e:
            self._failures += 1
            self.say(f"could not write to {self.path} ({e}); the last checkpoint stays")
            if self._failures >= 3:
                raise UserError(
                    f"three writes in a row to {self.path} failed ({e}): free some space, start again"
                ) from e

    def note(self, entry: dict[str, Any]) -> None:
        """One line of `log.jsonl`."""
        if not self.writes:
            return

        def append() -> None:
            with (self.path / "log.jsonl").open("a") as file:
                file.write(json.dumps(_finite(entry)) + "\n")

        self._guard(append)

    def log(self, step: int, window: list[dict[str, float]], **more: Any) -> None:
        if window:
            means = {name: float(np.mean([w[name] for w in window])) for name in window[0]}
            self.note({"step": step, **means, **more})
            if self._board is not None:
                for name, value in {**means, **more}.items():
                    self._board.add_scalar(name, value, step)

    def finish(self, step: int, **facts: Any) -> None:
        if self.writes:
            self._write_run(finished_step=step, **facts)
        self.say(f"done: {step} steps in {self.path}")

    # Telling ----------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        if not self.writes:
            return
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        print(text, file=sys.stderr, flush=True)

    def progress(self, step: int, steps: int, rate: float, window: list[dict[str, float]]) -> None:
        """A line rewritten on a terminal, a line a minute elsewhere."""
        if not self.writes:
            return
        terminal = sys.stderr.isatty()
        if time.monotonic() - self._told < (0.5 if terminal else 60):
            return
        self._told = time.monotonic()
        left = (steps - step) / rate if rate else 0
        loss = f"loss {np.mean([w['loss'] for w in window]):.3f}, " if window else ""
        text = f"step {step}/{steps}, {loss}{rate:.2f} steps/s, {left / 60:.0f} min left"
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is none is written as its name."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _tensorboard(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise UserError("TensorBoard is not installed: pip install 'nr[tensorboard]'") from e
    return SummaryWriter(path / "tensorboard")
