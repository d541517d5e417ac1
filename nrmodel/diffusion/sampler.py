"""Samplers: from the noisy spectrogram y back to an estimate of the clean one, in a stated number of network calls.

Every sampler is called alike, `sampler(model, y, z_r, noise, *, callback=None, **options) -> complex (B, 1, F, T)`:

* `model` is an `Estimator`;
* `y` is the noisy spectrogram, complex (B, 1, F, T);
* `z_r` is the embedded reference, computed once by the caller, or None;
* `noise(shape)` is the caller's source of complex Gaussian noise with E|z|^2 = 1: the sampler owns no generator;
* `callback(step, time, estimate)` is told after each step: its number from 0, the time that it has reached (from 1
  towards 0), and what would be returned if it ended there, complex (B, 1, F, T). The last one told is the result.

Predictors and correctors follow Song et al. 2021 (alg. 2, 4, 5) and Richter et al. 2023 (arXiv 2208.05830); the bridge
has samplers of its own (`bridge`), the table of all stands in `choice`. With u = (x_t - (1 - e^-theta t) y) e^(theta t)
= x0 + s z and s = sigma(t) e^(theta t), the process is variance-exploding in (u, s): there the linear drift is
integrated exactly, and `few_step` works in these coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nrdata.errors import UserError
from nrmodel.diffusion.process import OUVE

Noise = Callable[[Sequence[int]], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> score, y and z_r bound


Callback = Callable[[int, float, Tensor], None]  # (step, time, estimate)
Step = tuple[Tensor, Tensor]  # a state and its mean


class Estimator(Protocol):
    """What a sampler asks of a model: the process that it was trained on, and what its network says of a state x_t,
    complex (B, 1, F, T) like y, at times t, float (B,)."""

    @property
    def process(self) -> Any:
        """`OUVE` or `SBVE`."""

    def score(self, x_t: Tensor, y: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        """The gradient of log p_t(x_t | y, r), shaped like x_t."""

    def denoised(self, x_t: Tensor, y: Tensor, t: Tensor, z_r: Tensor | None = None) -> Tensor:
        """The estimate of x0, shaped like x_t."""


class Sample(Protocol):
    """The signature of every sampler, its options bound."""

    def __call__(
        self, model: Estimator, y: Tensor, z_r: Tensor | None, noise: Noise, *, callback: Callback | None = None
    ) -> Tensor: ...


# --- one step ---------------------------------------------------------------------------------------------------------


def reverse_diffusion(
    score: Score, process: OUVE, x: Tensor, y: Tensor, t: Tensor, dt: float, noise: Noise
) -> Step:
    """One step of the reverse SDE from t to t - dt, one network call: (state, its mean). Euler-Maruyama is this step
    too: with noise that does not depend on the state the two predictors coincide at equal dt."""
    g = _col(process.diffusion(t))
    mean = x - process.drift(x, y, t) * dt + g**2 * dt * score(x, t)
    return mean + g * math.sqrt(dt) * noise(x.shape), mean


def no_predictor(
    score: Score, process: OUVE, x: Tensor, y: Tensor, t: Tensor, dt: float, noise: Noise
) -> Step:
    """No step, no network call."""
    return x, x


def annealed_langevin(
    score: Score, process: OUVE, x: Tensor, y: Tensor, t: Tensor, snr: float, steps: int, noise: Noise
) -> Step:
    """`steps` Langevin steps at t of size 2 (snr sigma(t))^2 per item, one network call each: (state, its mean)."""
    step = 2 * (snr * _col(process.std(t))) ** 2
    mean = x
    for _ in range(steps):
        mean = x + step * score(x, t)
        x = mean + (2 * step).sqrt() * noise(x.shape)
    return x, mean


def langevin(
    score: Score, process: OUVE, x: Tensor, y: Tensor, t: Tensor, snr: float, steps: int, noise: Noise
) -> Step:
    """`steps` Langevin steps of size 2 (snr ||z|| / ||score||)^2, both norms averaged over the batch: as published, so
    the items of a batch share one step size."""
    mean = x
    for _ in range(steps):
        gradient, z = score(x, t), noise(x.shape)
        step = 2 * (snr * _mean_norm(z) / _mean_norm(gradient)) ** 2
        mean = x + step * gradient
        x = mean + (2 * step).sqrt() * z
    return x, mean


def no_corrector(
    score: Score, process: OUVE, x: Tensor, y: Tensor, t: Tensor, snr: float, steps: int, noise: Noise
) -> Step:
    """No step, no network call."""
    return x, x


PREDICTORS = {"reverse_diffusion": reverse_diffusion, "euler_maruyama": reverse_diffusion, "none": no_predictor}
CORRECTORS = {"ald": annealed_langevin, "langevin": langevin, "none": no_corrector}


# --- score-trained networks -------------------------------------------------------------------------------------------


@torch.no_grad()
def predictor_corrector(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    steps: int = 30,
    predictor: str = "reverse_diffusion",
    corrector: str = "ald",
    corrector_steps: int = 1,
    snr: float = 0.5,
    t_eps: float = 0.03,
    denoise: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """The published sampler, with its defaults: at each of `steps` times from 1 to `t_eps` first the corrector, then
    the predictor; the last step goes from `t_eps` to 0. `denoise`: the mean of the last step, not its sample.
    Network calls: steps x (1 + corrector_steps), 60 by default; steps x 1 with `corrector="none"`."""
    predict, correct = PREDICTORS[predictor], CORRECTORS[corrector]
    process, score = model.process, _bind(model, y, z_r)
    times = [*np.linspace(1.0, t_eps, steps), 0.0]
    x = mean = y + _col(process.std(times_of(y, 1.0))) * noise(y.shape)
    for k, (now, after) in enumerate(pairwise(times)):
        t = times_of(y, now)
        x, _ = correct(score, process, x, y, t, snr, corrector_steps, noise)
        x, mean = predict(score, process, x, y, t, now - after, noise)
        if callback is not None:
            callback(k, float(after), mean if denoise else x)
    return mean if denoise else x


@torch.no_grad()
def probability_flow(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    tolerance: float = 1e-5,
    t_eps: float = 0.03,
    denoise: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """The probability-flow ODE dx/dt = f - g^2 score / 2 from 1 to `t_eps` by SciPy's adaptive RK45 (rtol = atol =
    `tolerance`, state in double precision), then, with `denoise`, the mean of one reverse-diffusion step to 0.
    Network calls: as many as the tolerance needs, 6 for a step; `callback` is told the end alone."""
    from scipy.integrate import solve_ivp

    flow = _flow(model, y, z_r)
    start = y + _col(model.process.std(times_of(y, 1.0))) * noise(y.shape)

    def derivative(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat.reshape(y.shape)).to(device=y.device, dtype=y.dtype)
        return flow(x, t).to(torch.complex128).cpu().numpy().reshape(-1)

    flat = start.to(torch.complex128).cpu().numpy().reshape(-1)
    solution = solve_ivp(derivative, (1.0, t_eps), flat, method="RK45", rtol=tolerance, atol=tolerance)
    if not solution.success:
        raise UserError(f"the ODE solver stopped at t = {solution.t[-1]:.3f} ({solution.message}): use another sampler")
    x = torch.from_numpy(solution.y[:, -1].reshape(y.shape)).to(device=y.device, dtype=y.dtype)
    x = _to_zero(model, x, y, z_r, t_eps) if denoise else x
    if callback is not None:
        callback(0, 0.0 if denoise else t_eps, x)
    return x


@torch.no_grad()
def heun(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    steps: int = 15,
    t_eps: float = 0.03,
    denoise: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """The probability-flow ODE by `steps` equal steps of Heun's second-order method from 1 to `t_eps`, then, with
    `denoise`, the mean of one reverse-diffusion step to 0. Network calls: 2 x steps (+ 1 with `denoise`)."""
    flow = _flow(model, y, z_r)
    x = y + _col(model.process.std(times_of(y, 1.0))) * noise(y.shape)
    times = np.linspace(1.0, t_eps, steps + 1)
    for k, (now, after) in enumerate(pairwise(times)):
        slope = flow(x, now)
        x = x + (after - now) / 2 * (slope + flow(x + (after - now) * slope, after))
        if callback is not None:
            callback(k, float(after), x)
    if denoise:
        x = _to_zero(model, x, y, z_r, t_eps)
        if callback is not None:
            callback(steps, 0.0, x)
    return x


# --- any network that estimates x0 ------------------------------------------------------------------------------------


@torch.no_grad()
def few_step(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    levels: Sequence[float] = (),
    start: float = 1.0,
    renoise: str = "none",
    callback: Callback | None = None,
) -> Tensor:
    """An estimate D of x0 at time `start` and then at each of the falling noise levels s; the last one is the result.

    It starts at u = y + s(start) z. Between two levels u moves by the exact solution for constant D (the exponential
    integrator of the linear drift, DDIM in these coordinates): u' = D + (s'/s)(u - D). With `renoise="ancestral"` it
    moves as the reverse SDE does, part of the noise replaced; with `renoise="fresh"` to D + s' z.
    Network calls: 1 + len(levels)."""
    s = noise_level(model.process, start)
    u = y + s * noise(y.shape)
    estimate = _denoised_at(model, u, y, s, z_r)
    if callback is not None:
        callback(0, start, estimate)
    for k, after in enumerate(levels, 1):
        if not 0 < after < s:
            raise ValueError(f"noise levels must fall from s({start}) towards 0: {after} after {s}")
        kept, fresh = _shares(s, after, renoise)
        u = estimate + kept * (u - estimate)
        if fresh:
            u = u + fresh * noise(y.shape)
        s = after
        estimate = _denoised_at(model, u, y, s, z_r)
        if callback is not None:
            callback(k, time_of(model.process, s), estimate)
    return estimate


@torch.no_grad()
def average(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    times: int = 5,
    sample: Sample = few_step,
    callback: Callback | None = None,
) -> Tensor:
    """The mean of `times` estimates by `sample`, each from its own noise: what the noise adds to the squared error of
    one estimate falls as 1 / times. Network calls: times x those of `sample`. `callback` is told the mean so far after
    each estimate, at time 0: every one has gone the whole way."""
    total = torch.zeros_like(y)
    for k in range(times):
        total += sample(model, y, z_r, noise)
        if callback is not None:
            callback(k, 0.0, total / (k + 1))
    return total / times


def noise_level(process: OUVE, t: float) -> float:
    """s(t) = sigma(t) e^(theta t), the deviation of u = x0 + s z."""
    log_ratio = math.log(process.sigma_max / process.sigma_min)
    rate = process.theta + log_ratio
    return process.sigma_min * math.sqrt(math.expm1(2 * rate * t) * log_ratio / rate)


def time_of(process: OUVE, s: float) -> float:
    """The time t at which the noise level is s: the inverse of `noise_level`."""
    log_ratio = math.log(process.sigma_max / process.sigma_min)
    rate = process.theta + log_ratio
    return math.log1p((s / process.sigma_min) ** 2 * rate / log_ratio) / (2 * rate)


def spaced_levels(
    process: OUVE, calls: int, *, start: float = 1.0, t_eps: float = 0.03, power: float = 4.0
) -> list[float]:
    """The `calls - 1` levels after the first, from s(start) to s(t_eps), equally spaced in s^(1/power) (Karras et al.
    2022, eq. 5)."""
    ends = noise_level(process, start) ** (1 / power), noise_level(process, t_eps) ** (1 / power)
    return [float(root**power) for root in np.linspace(*ends, calls)[1:]]


# --- small things -----------------------------------------------------------------------------------------------------


def _shares(s: float, after: float, renoise: str) -> tuple[float, float]:
    """(what is kept of u - D, deviation of the fresh noise) from level s to `after`; both end at the level `after`."""
    if renoise == "none":
        return after / s, 0.0
    if renoise == "ancestral":
        return (after / s) ** 2, after * math.sqrt(1 - (after / s) ** 2)
    if renoise == "fresh":
        return 0.0, after
    raise ValueError(f"renoise: none, ancestral or fresh, not {renoise}")


def _denoised_at(model: Estimator, u: Tensor, y: Tensor, s: float, z_r: Tensor | None) -> Tensor:
    """The model's estimate of x0 from u = x0 + s z."""
    t = time_of(model.process, s)
    decay = math.exp(-model.process.theta * t)
    return model.denoised(decay * u + (1 - decay) * y, y, times_of(y, t), z_r)


def _to_zero(model: Estimator, x: Tensor, y: Tensor, z_r: Tensor | None, t_eps: float) -> Tensor:
    """The mean of one reverse-diffusion step from t_eps to 0."""
    t, no_noise = times_of(y, t_eps), torch.zeros_like(x)
    return reverse_diffusion(_bind(model, y, z_r), model.process, x, y, t, t_eps, lambda _: no_noise)[1]


def _flow(model: Estimator, y: Tensor, z_r: Tensor | None) -> Callable[[Tensor, float], Tensor]:
    process = model.process

    def flow(x: Tensor, now: float) -> Tensor:
        t = times_of(y, now)
        slope: Tensor = process.drift(x, y, t) - 0.5 * _col(process.diffusion(t)) ** 2 * model.score(x, y, t, z_r)
        return slope

    return flow


def _bind(model: Estimator, y: Tensor, z_r: Tensor | None) -> Score:
    return lambda x, t: model.score(x, y, t, z_r)


def times_of(y: Tensor, t: float) -> Tensor:
    """t for each item of the batch, float (B,)."""
    return torch.full((y.shape[0],), float(t), dtype=y.real.dtype, device=y.device)


def _col(a: Tensor) -> Tensor:
    """(B,) or a number -> broadcastable to (B, 1, F, T)."""
    return a.reshape(-1, 1, 1, 1)


def _mean_norm(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.mean()
