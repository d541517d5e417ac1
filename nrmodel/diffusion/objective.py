"""What the network is asked for, and how its output becomes a score or an estimate of the clean speech.

Three quantities say the same about x_t = mean(x0, y, t) + sigma z:
    mean  = x_t + sigma^2 score                          (Tweedie)
    x0    = (mean - w_y(t) y) / w_x0(t)                  (the kernel's mean, solved for x0)
A preconditioning turns (x_t, y, t) into the network's inputs and its output F into one of them:
    `v1`       state x_t, cond y; score = -F                              (SGMSE+, Richter et al. 2023)
    `v2`       state c_in x_t, cond c_in y; F by `network_scaling`, c_skip, c_out (Richter et al. 2024)
    `compact`  in u = (x_t - w_y y) / w_x0 = x0 + s z, s = sigma / w_x0:
               state c_in (u - y), cond y; x0 = y + c_skip (u - y) + c_out F    (Karras et al. 2022, around y)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nrmodel.diffusion.process import OUVE, SBVE, per_item
from nrmodel.diffusion.spectrogram import Spectrogram

Process = OUVE | SBVE


def mean_from_score(score: Tensor, x_t: Tensor, std: Tensor) -> Tensor:
    """Denoised mean of the kernel from the score; `std` is `(B,)`."""
    return x_t + per_item(std, x_t) ** 2 * score


def score_from_mean(mean: Tensor, x_t: Tensor, std: Tensor) -> Tensor:
    return (mean - x_t) / per_item(std, x_t) ** 2


def x0_from_mean(mean: Tensor, y: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """x0 from the kernel's mean; `weights` are `process.mean_weights(t)`."""
    of_x0, of_y = weights
    return (mean - per_item(of_y, y) * y) / per_item(of_x0, y)


def mean_from_x0(x0: Tensor, y: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    of_x0, of_y = weights
    return per_item(of_x0, y) * x0 + per_item(of_y, y) * y


@dataclass(frozen=True)
class Preconditioning:
    """How a network is wrapped. `predicts`: what comes out: `score`, `denoiser` (the mean) or `data` (x0)."""

    form: str = "compact"  # "v1", "v2", "compact"
    predicts: str = "data"
    network_scaling: str = "none"  # v2: "none", "1/sigma", "1/t"
    c_in: str = "1"  # v2: "1", "edm"
    c_out: str = "1"  # v2: "1", "sigma", "1/sigma", "edm"
    c_skip: str = "0"  # v2: "0", "edm"
    sigma_data: float = 0.1

    def inputs(self, x_t: Tensor, y: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
        """The network's `state` and `cond`."""
        if self.form == "v1":
            return x_t, y
        if self.form == "v2":
            sigma = process.std(t)
            c_in = torch.rsqrt(sigma**2 + self.sigma_data**2) if self.c_in == "edm" else torch.ones_like(sigma)
            return per_item(c_in, x_t) * x_t, per_item(c_in, y) * y
        u, s = self._unbiased(x_t, y, t, process)
        return per_item(torch.rsqrt(s**2 + self.sigma_data**2), u) * (u - y), y

    def outputs(self, out: Tensor, x_t: Tensor, y: Tensor, t: Tensor, process: Process) -> dict[str, Tensor]:
        """All that the network's output says: `score`, `mean`, `x0` (the bridge: `x0` alone)."""
        if self.form == "compact":
            u, s = self._unbiased(x_t, y, t, process)
            sd2 = self.sigma_data**2
            c_skip, c_out = sd2 / (s**2 + sd2), s * self.sigma_data * torch.rsqrt(s**2 + sd2)
            return self._all("x0", y + per_item(c_skip, u) * (u - y) + per_item(c_out, u) * out, x_t, y, t, process)
        if self.form == "v1":
            return self._all("score", -out, x_t, y, t, process)
        sigma = process.std(t)
        if self.network_scaling == "1/sigma":
            out = out / per_item(sigma, out)
        elif self.network_scaling == "1/t":
            out = out / per_item(t, out)
        if self.predicts == "denoiser":
            return self._all("mean", out, x_t, y, t, process)
        sd2 = self.sigma_data**2
        ones = torch.ones_like(sigma)
        c_skip = sd2 / (sigma**2 + sd2) if self.c_skip == "edm" else 0 * ones
        c_out = {
            "1": ones,
            "sigma": sigma,
            "1/sigma": 1 / sigma,
            "edm": sigma * self.sigma_data * torch.rsqrt(sigma**2 + sd2),
        }[self.c_out]
        value = per_item(c_skip, x_t) * x_t + per_item(c_out, out) * out
        return self._all("x0" if self.predicts == "data" else "score", value, x_t, y, t, process)

    def _unbiased(self, x_t: Tensor, y: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
        of_x0, of_y = process.mean_weights(t)
        return (x_t - per_item(of_y, y) * y) / per_item(of_x0, y), process.std(t) / of_x0

    @staticmethod
    def _all(name: str, value: Tensor, x_t: Tensor, y: Tensor, t: Tensor, process: Process) -> dict[str, Tensor]:
        if isinstance(process, SBVE):
            return {name: value}
        std, weights = process.std(t), process.mean_weights(t)
        if name == "score":
            mean = mean_from_score(value, x_t, std)
            return {"score": value, "mean": mean, "x0": x0_from_mean(mean, y, weights)}
        if name == "mean":
            return {"score": score_from_mean(value, x_t, std), "mean": value, "x0": x0_from_mean(value, y, weights)}
        mean = mean_from_x0(value, y, weights)
        return {"score": score_from_mean(mean, x_t, std), "mean": mean, "x0": value}


@dataclass(frozen=True)
class Objective:
    """The training loss and the states it is taken at.

    `start_share` of a batch is trained at t = T from the sampler's own start y + sigma(T) z: the kernel's mean at T
    still holds some x0, which the sampler does not have. `own_share` of the rest takes the network's own one-call
    estimate for x0 in the kernel (from `own_after` of the training on); the target stays the true x0.
    """

    kind: str = "data"  # "score", "denoiser", "data"
    weighting: str = "sigma^2"  # of "denoiser": "1", "sigma^2", "edm"
    start_share: float = 0.4
    own_share: float = 0.5
    own_after: float = 0.4
    magnitude_weight: float = 1.0  # compact data: (|D| - |x|)^2
    wave_weight: float = 0.2  # compact data: L1 in time, relative to the batch's mean |x|
    l1_weight: float = 0.001  # v2 data (the bridge): L1 in time


def draw_times(u: Tensor, share: Tensor, objective: Objective, process: Process) -> tuple[Tensor, Tensor]:
    """Times `(B,)` from uniforms `u`, and which items start as the sampler does (`share` < start_share: t = T)."""
    at_start = share < objective.start_share
    t = process.t_eps + u * (process.T - process.t_eps)
    return torch.where(at_start, torch.full_like(t, process.T), t), at_start


def state(x0: Tensor, y: Tensor, t: Tensor, z: Tensor, at_start: Tensor, process: Process) -> Tensor:
    """x_t from the kernel, or from the sampler's start y + sigma(T) z where `at_start`."""
    mean = torch.where(per_item(at_start, y), y, process.mean(x0, y, t))
    return mean + per_item(process.std(t), z) * z


def loss(
    estimates: dict[str, Tensor],
    x0: Tensor,
    y: Tensor,
    x_t: Tensor,
    t: Tensor,
    *,
    objective: Objective,
    precondition: Preconditioning,
    process: Process,
    spectrogram: Spectrogram,
    samples: Tensor | None = None,
    average: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its named parts; `average` is the mean over ranks, where there are several.

    `samples (B,)`: valid samples of each item; frames beyond them count nothing. `v1` and `v2` reduce as published
    (half the sum over bins and frames, mean over the batch), `compact` takes the mean over all elements.
    The noise that `score` is matched to is the effective one, (x_t - mean(x0, y, t)) / sigma: z itself where x_t came
    from the kernel, and what the network must undo where it came from elsewhere.
    """
    frames = x0.shape[-1]
    if samples is None:
        valid = torch.ones(x0.shape[0], 1, 1, frames, device=x0.device)
    else:
        count = (samples // spectrogram.hop + 1).clamp(max=frames)
        valid = (torch.arange(frames, device=x0.device) < count[:, None]).float()[:, None, None]
    if precondition.form == "compact":
        return _compact_loss(
            estimates["x0"], x0, t, valid, objective, precondition, process, spectrogram, samples, average
        )
    sigma = per_item(process.std(t), x0)
    if objective.kind == "score":
        z = (x_t - process.mean(x0, y, t)) / sigma
        error = _abs2(estimates["score"] * sigma + z)
    elif objective.kind == "denoiser":
        sd = precondition.sigma_data
        edm = (sigma**2 + sd**2) / (sigma * sd) ** 2
        weight: Any = {"1": 1.0, "sigma^2": sigma**2, "edm": edm}[objective.weighting]
        error = weight * _abs2(estimates["mean"] - process.mean(x0, y, t))
    else:
        bins = x0.shape[-2]
        error = _abs2(estimates["x0"] - x0) / (bins * frames)
        length = (frames - 1) * spectrogram.hop
        wave = spectrogram.inverse(estimates["x0"], length) - spectrogram.inverse(x0, length)
        in_time = 0.5 * (wave.abs() * _heard(length, samples, x0.device) / length).sum(-1).mean()
        in_bins = 0.5 * (error * valid).sum((1, 2, 3)).mean()
        return in_bins + objective.l1_weight * in_time, {"bins": in_bins, "wave": in_time}
    value = 0.5 * (error * valid).sum((1, 2, 3)).mean()
    return value, {objective.kind: value}


def _compact_loss(
    estimate: Tensor,
    x0: Tensor,
    t: Tensor,
    valid: Tensor,
    objective: Objective,
    precondition: Preconditioning,
    process: Process,
    spectrogram: Spectrogram,
    samples: Tensor | None,
    average: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    s = per_item(process.std(t) / process.mean_weights(t)[0], x0)
    elements = average(valid.expand_as(x0.real).sum())
    if objective.kind == "score":  # |sigma score + z|^2 = |D - x0|^2 / s^2
        value = (_abs2(estimate - x0) / s**2 * valid).sum() / elements
        return value, {"score": value}
    sd2 = precondition.sigma_data**2
    weight = valid * (s**2 + sd2) / (s**2 * sd2)
    squared = (weight * _abs2(estimate - x0)).sum() / elements
    magnitude = (weight * (_magnitude(estimate) - _magnitude(x0)) ** 2).sum() / elements
    length = (x0.shape[-1] - 1) * spectrogram.hop
    wave, target = spectrogram.inverse(estimate, length), spectrogram.inverse(x0, length)
    heard = _heard(length, samples, x0.device).expand_as(wave)
    count = average(heard.sum())
    scale = (average((target.abs() * heard).sum()) / count).clamp(min=1e-3)
    in_time = ((wave - target).abs() * heard).sum() / count / scale
    total = squared + objective.magnitude_weight * magnitude + objective.wave_weight * in_time
    return total, {"squared": squared, "magnitude": magnitude, "wave": in_time}


def _heard(length: int, samples: Tensor | None, device: torch.device) -> Tensor:
    """1 where a sample of `(B or 1, length)` waves is sound, 0 where it is padding."""
    if samples is None:
        return torch.ones(1, length, device=device)
    return (torch.arange(length, device=device) < samples[:, None]).float()


def _abs2(x: Tensor) -> Tensor:
    return x.real**2 + x.imag**2


def _magnitude(x: Tensor) -> Tensor:
    return torch.sqrt(_abs2(x) + 1e-10)
