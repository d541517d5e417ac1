"""A model: transform, process, network and reference encoder behind a few calls on arrays.

model = nrmodel.load("runs/x")
clean = model.enhance(noisy, 16000, ref=clip, ref_sample_rate=16000)
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrdata import audio
from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel.config import ModelConfig
from nrmodel.diffusion.choice import choose
from nrmodel.diffusion.sampler import Noise, Sample
from nrmodel.enhancement import rumble
from nrmodel.enhancement.enhance import enhance_array
from nrmodel.enhancement.interface import Embedding
from nrmodel.enhancement.layout import Wave, sound_of
from nrmodel.enhancement.streaming import Stream
from nrmodel.network.conditioning import conditioning
from nrmodel.network.reference import Reference

log = logging.getLogger(__name__)

LEVEL = 0.1  # the loudness that a wave is brought to
_SILENCE = 1e-7


class Model(nn.Module):
    """Built from a configuration; `seed` draws the backbone, the encoder has its own generator, so that a backbone
    starts the same with any conditioning."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.spectrogram, self.process, self.sample_rate = config.spectrogram, config.process, config.sample_rate
        way = conditioning(config.conditioning)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = config.network.build(config.z_dim if way.takes_reference else 0, way)
            torch.manual_seed(seed + 1)
            self.reference = (
                Reference(
                    config.encoder, config.z_dim, way.with_spectrum, config.sample_rate, config.spectrogram, config.keep
                )
                if way.takes_reference
                else None
            )
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

    @property
    def takes_reference(self) -> bool:
        """Whether the model has a conditioning at all; if not, every z_r is `(B, 0)`."""
        return self.reference is not None

    def null(self, batch: int = 1) -> Embedding:
        """z_r of the null reference `(batch, D)`, D = 0 where the model takes none."""
        z_r = torch.zeros(batch, 0, device=self.device) if self.reference is None else self.reference.null(batch)
        return z_r.as_subclass(Embedding)

    @property
    def can_keep(self) -> bool:
        """Whether the model has the switch that keeps what the clip does not hold."""
        return self.takes_reference and self.config.keep

    def embed_batch(self, ref: Tensor, samples: Tensor, keep: Tensor | None = None) -> Tensor:
        """z_r of clips `(B, R)` at the model's rate, `samples (B,)` of them valid, 0 for null; `keep` bool `(B,)`: of
        which clips only their own sound is to go."""
        if self.reference is None:
            return ref.new_zeros(len(ref), 0)
        z_r: Tensor = self.reference(ref, samples, keep)
        return z_r

    @torch.inference_mode()
    def embed(self, ref: np.ndarray | Tensor, sample_rate: int, keep_rest: bool = False) -> Embedding:
        """z_r `(1, D)` of one clip, an array or tensor of either layout at any rate: not judged, only freed of a
        constant offset and rumble; `keep_rest`: only its sound is to go, speech and every other sound stay. Raises
        `UserError` as `enhance` does, and (no_switch)."""
        if keep_rest and not self.can_keep:
            text = "this model was not trained to keep the rest: take one that was (nr train --keep)"
            raise UserError(text, "no_switch")
        sound = rumble.without(sound_of(ref, sample_rate, "the reference").samples, sample_rate)
        if not np.isfinite(sound).all():
            raise UserError("the reference holds non-finite samples", kind="not_finite")
        mono = audio.resample(audio.to_mono(sound), sample_rate, self.sample_rate)
        clip = torch.from_numpy(np.ascontiguousarray(mono))[None].to(self.device)
        keep = torch.tensor([True], device=self.device) if keep_rest else None
        z_r = self.embed_batch(clip, torch.tensor([clip.shape[1]], device=self.device), keep)
        return z_r.as_subclass(Embedding)

    # Waves ------------------------------------------------------------------------------------------------------

    def level(self, wave: Tensor, samples: Tensor | None = None) -> Tensor:
        """What waves `(B, S)` are divided by, `(B,)`; `samples (B,)` of them valid. 0 where a wave is silent."""
        if self.level_is_peak:
            peak = wave.abs().amax(-1)
            return torch.where(peak < _SILENCE, 0.0, peak)
        return loudness(wave, samples) / LEVEL

    @property
    def level_is_peak(self) -> bool:
        return self.config.level == "max"

    @property
    def nfe(self) -> int:
        return self.config.nfe

    def sampler(self, nfe: int | None = None, sampler: str = "budget") -> tuple[str, Sample]:
        """(name, sampler) for a number of calls; `sampler` as in `nrmodel.diffusion.choice`."""
        name, sample = choose(sampler, nfe or self.nfe, self.config)
        log.debug("sampler %s for %d calls", name, nfe or self.nfe)
        return name, sample

    @torch.inference_mode()
    def enhance_window(
        self, noisy: Tensor, z_r: Tensor, nfe: int | None, noise: Noise, sampler: str = "budget"
    ) -> Tensor:
        """Waves `(B, S)` at the model's rate, divided by their level, and z_r `(1 or B, D)` -> `(B, S)`."""
        y = self.spectrogram.forward(noisy)
        frames = y.shape[-1]
        y = pad_frames(y, self.network.enhancement_multiple, self.config.pad)
        _, sample = self.sampler(nfe, sampler)
        estimate = sample(self, y, z_r.expand(len(y), -1), noise)
        if not self.network.keeps_filled_frames:
            estimate = estimate[..., :frames]
        return self.spectrogram.inverse(estimate, noisy.shape[-1])

    def enhance(
        self,
        noisy: Wave,
        sample_rate: int,
        ref: np.ndarray | Tensor | None = None,
        ref_sample_rate: int | None = None,
        nfe: int | None = None,
        seed: int = 0,
        sampler: str = "budget",
        ref_as_given: bool = False,
        keep_rest: bool = False,
        full_band: bool = True,
    ) -> Wave:
        """Enhanced sound of the type, shape and rate of `noisy`: an array or tensor `(samples,)`, `(samples, channels)`
        or `(channels, samples)`; all of it in `nrmodel.enhancement.enhance.enhance_array`."""
        return enhance_array(
            self, noisy, sample_rate, ref, ref_sample_rate, nfe, seed, sampler, ref_as_given, keep_rest, full_band
        )

    def stream(
        self,
        sample_rate: int,
        ref: np.ndarray | Embedding | Literal["pause"] | None = None,
        ref_sample_rate: int | None = None,
        chunk_seconds: float = 0.5,
    ) -> Stream:
        """A recording enhanced as it comes: `feed(sound) -> sound`, `flush() -> sound`, `latency_seconds`."""
        return Stream(self, sample_rate, ref, ref_sample_rate, chunk_seconds)


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
    log.info("model %s: %s, %s, sha256 %s", path, config.preset, config.conditioning, metadata["sha256"][:8])
    model = Model(config)
    checkpoint.load_into(model, tensors, path)
    model.digest = metadata["sha256"]
    beside = path.parent / "training-data.json"
    if beside.is_file() and "training_data_sha256" in metadata:
        text = beside.read_bytes()
        if hashlib.sha256(text).hexdigest() == metadata["training_data_sha256"]:
            model.training_data = json.loads(text)
    return model.eval().requires_grad_(False)
