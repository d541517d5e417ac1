"""A model: transform, process, network and reference encoder behind a few calls on arrays.

model = nrmodel.load("runs/x")
clean = model.enhance(noisy, 16000, ref=clip, ref_sample_rate=16000)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel.network.compact import CompactConfig, CompactNetwork
from nrmodel.network.ncsnpp import NCSNpp
from nrmodel.network.presets import ModelConfig
from nrmodel.reference import Reference

LEVEL = 0.1  # the loudness that a wave is brought to
_SILENCE = 1e-7


class Model(nn.Module):
    """Built from a configuration; `seed` draws the backbone, the encoder has its own generator, so that a backbone
    starts the same with any conditioning."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.spectrogram, self.process, self.sample_rate = config.spectrogram, config.process, config.sample_rate
        conditioned = config.conditioning != "none"
        if config.conditioning not in ("none", "additive", "film", "spectrum"):
            raise UserError(f"conditioning '{config.conditioning}' is unknown: none, additive, film or spectrum")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(config)
            torch.manual_seed(seed + 1)
            with_spectrum = config.conditioning == "spectrum"
            self.reference = (
                Reference(
                    config.encoder, config.z_dim, with_spectrum, config.sample_rate, config.spectrogram, config.keep
                )
                if conditioned
                else None
            )
        self.published_sampler = False  # True: predictor and corrector at any budget, in place of what suits it
        self.digest = ""
        self.training_data: dict[str, Any] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # What the sampler and the training ask for ------------------------------------------------------------------

    def estimates(self, x_t: Tensor, y: Tensor, t: Tensor, z_r: Tensor | None = None) -> dict[str, Tensor]:
        """`score`, `mean` and `x0` of one network call; `t (B,)`, maps complex `(B, 1, F, T)`."""
        state, cond = self.config.precondition.inputs(x_t, y, t, self.process)
        out = self.network(state, cond, t, z_r)
        return self.config.precondition.outputs(out, x_t, y, t, self.process)

    def score(self, x_t: Tensor, y: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        """Estimate of the gradient of log p_t(x_t | y, r)."""
        estimates = self.estimates(x_t, y, t, z_r)
        if "score" not in estimates:
            raise UserError("this model predicts data on a bridge: it has no score")
        return estimates["score"]

    def denoised(self, x_t: Tensor, y: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        """Estimate of x0."""
        return self.estimates(x_t, y, t, z_r)["x0"]

    # References -------------------------------------------------------------------------------------------------

    def null(self, batch: int = 1) -> Tensor | None:
        """z_r of the null reference `(batch, D)`; None where the model has no conditioning."""
        return None if self.reference is None else self.reference.null(batch)

    def embed_batch(self, ref: Tensor, samples: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """z_r of clips `(B, R)` at the model's rate, `samples (B,)` of them valid, 0 for null; `keep` bool (B,): only
        the clip's noise is to go."""
        return None if self.reference is None else self.reference(ref, samples, keep)

    @torch.inference_mode()
    def embed(self, ref: np.ndarray, sample_rate: int, keep_rest: bool = False) -> Tensor | None:
        """z_r `(1, D)` of one clip `(samples,)` or `(samples, channels)` at any rate; `keep_rest`: only its noise is
        to go, speech and every other sound stay."""
        from nrdata import audio

        ref = audio.resample(audio.to_mono(np.asarray(ref, np.float32)), sample_rate, self.sample_rate)
        clip = torch.from_numpy(np.ascontiguousarray(ref, np.float32))[None].to(self.device)
        keep = torch.tensor([True], device=self.device) if keep_rest else None
        return self.embed_batch(clip, torch.tensor([clip.shape[1]], device=self.device), keep)

    # Waves ------------------------------------------------------------------------------------------------------

    def level(self, wave: Tensor, samples: Tensor | None = None) -> Tensor:
        """What waves `(B, S)` are divided by, `(B,)`; `samples (B,)` of them valid. 0 where a wave is silent."""
        if self.config.level == "max":
            peak = wave.abs().amax(-1)
            return torch.where(peak < _SILENCE, 0.0, peak)
        return loudness(wave, samples) / LEVEL

    @property
    def nfe(self) -> int:
        return self.config.nfe

    def sampler(self, nfe: int | None = None) -> tuple[str, Callable[..., Tensor]]:
        """(name, sampler) for a number of calls."""
        from nrmodel import sampler

        choose = sampler.published if self.published_sampler else sampler.for_budget
        return choose(nfe or self.nfe, self)

    @torch.inference_mode()
    def enhance_window(
        self, noisy: Tensor, z_r: Tensor | None, nfe: int | None, noise: Callable[[torch.Size], Tensor]
    ) -> Tensor:
        """Waves `(B, S)` at the model's rate, divided by their level -> `(B, S)`."""
        y = self.spectrogram.forward(noisy)
        frames = y.shape[-1]
        multiple: Any = getattr(self.network, "enhancement_multiple", self.network.frame_multiple)
        y = pad_frames(y, multiple, self.config.pad)
        if z_r is not None:
            z_r = z_r.expand(len(y), -1)
        _, sample = self.sampler(nfe)
        estimate = sample(self, y, z_r, noise)
        if not isinstance(self.network, NCSNpp):  # as published, NCSN++ keeps the frames that were filled up
            estimate = estimate[..., :frames]
        return self.spectrogram.inverse(estimate, noisy.shape[-1])

    def enhance(
        self,
        noisy: np.ndarray,
        sample_rate: int,
        ref: np.ndarray | Tensor | None = None,
        ref_sample_rate: int | None = None,
        nfe: int | None = None,
        seed: int = 0,
        keep_rest: bool = False,
    ) -> np.ndarray:
        """Enhanced sound of the same shape and rate as `noisy`, `(samples,)` or `(samples, channels)`; `keep_rest`:
        only what the clip holds goes."""
        from nrmodel.enhance import enhance_array

        return enhance_array(self, noisy, sample_rate, ref, ref_sample_rate, nfe, seed, keep_rest)


def _network(config: ModelConfig) -> nn.Module:
    conditioning = {"none": None, "spectrum": "additive"}.get(config.conditioning, config.conditioning)
    z_dim = config.z_dim if conditioning else 0
    if isinstance(config.network, CompactConfig):
        return CompactNetwork(config.network, z_dim, conditioning, config.conditioning == "spectrum")
    if config.conditioning == "spectrum":
        raise UserError("NCSN++ takes --conditioning additive or film; spectrum belongs to the compact networks")
    return NCSNpp(config.network, z_dim=z_dim, conditioning=conditioning)


def loudness(wave: Tensor, samples: Tensor | None = None) -> Tensor:
    """RMS of the frames (32 ms) between the median and the 95th percentile of power: `(B, S)` -> `(B,)`.

    One loud instant moves it as little as a long pause does; 0 for silence.
    """
    size = 512
    batch, length = wave.shape
    wave = F.pad(wave, (0, -length % size))
    power = wave.view(batch, -1, size).square().mean(-1)
    if samples is None:
        samples = torch.full((batch,), length, device=wave.device)
    count = ((samples + size - 1) // size).clamp(min=1)
    # Valid frames sorted upwards to the end: padding is marked with -1 and sorts to the front.
    index = torch.arange(power.shape[1], device=wave.device)
    power = torch.where(index < count[:, None], power, -1.0).sort(-1).values
    rank = index - (power.shape[1] - count)[:, None]  # 0 .. count-1 among the valid
    upper = torch.maximum((0.95 * count).long(), count // 2 + 1)
    chosen = (rank >= (count // 2)[:, None]) & (rank < upper[:, None])
    mean = torch.where(chosen, power, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
    rms = mean.clamp(min=0).sqrt()
    return torch.where(rms < _SILENCE, 0.0, rms)


def pad_frames(spec: Tensor, multiple: int, how: str) -> Tensor:
    """Fill `(B, 1, F, T)` up to a multiple of frames at its end; reflection only where there is enough to mirror."""
    extra = -spec.shape[-1] % multiple
    if how == "reflection" and extra < spec.shape[-1]:
        return torch.cat([spec, spec[..., -1 - extra : -1].flip(-1)], dim=-1)
    return F.pad(spec, (0, extra))


def load(path: str | Path) -> Model:
    """A model from a run folder (`best.safetensors`, else `model.safetensors`) or a safetensors file, ready to use."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("best.safetensors", "model.safetensors") if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds neither best.safetensors nor model.safetensors: is it a run folder?")
        path = found[0]
    tensors, config, metadata = checkpoint.read_model(path)
    model = Model(config)
    checkpoint.load_into(model, tensors, path)
    model.digest = metadata["sha256"]
    beside = path.parent / "training-data.json"
    if beside.is_file() and "training_data_sha256" in metadata:
        text = beside.read_bytes()
        if hashlib.sha256(text).hexdigest() == metadata["training_data_sha256"]:
            model.training_data = json.loads(text)
    return model.eval().requires_grad_(False)
