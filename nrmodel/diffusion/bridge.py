"""Samplers of the Schroedinger bridge (Jukic et al. 2024), called like every sampler of `sampler`. The model's
process is `SBVE`, its network estimates x0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nrmodel.diffusion.process import SBVE
from nrmodel.diffusion.sampler import Callback, Estimator, Noise, times_of


@torch.no_grad()
def bridge_ode(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    steps: int = 50,
    t_end: float = 1e-4,
    callback: Callback | None = None,
) -> Tensor:
    """The bridge's ODE from y at t = 1 to `t_end`, no noise drawn. Each step is w_prev x + w_est D + w_y y. At t = 1
    the first and the last weight nearly cancel (5308.85 and -5308.17 for N = 5): the state is kept as d + a y, with
    d = 0 at the start and a in double precision, so that the cancelling terms merge before they meet float32.
    Network calls: steps."""
    deviation, share = torch.zeros_like(y), 1.0
    x = y
    for k, (t, (w_prev, w_est, w_y)) in enumerate(zip(*bridge_ode_weights(model.process, steps, t_end), strict=True)):
        estimate = model.denoised(x, y, times_of(y, t), z_r)
        deviation = float(w_prev) * deviation + float(w_est) * estimate
        share = w_prev * share + w_y
        x = deviation + float(share) * y
        if callback is not None:
            callback(k, float(t), x)
    return x


@torch.no_grad()
def bridge_sde(
    model: Estimator,
    y: Tensor,
    z_r: Tensor | None,
    noise: Noise,
    *,
    steps: int = 50,
    t_end: float = 1e-4,
    callback: Callback | None = None,
) -> Tensor:
    """The bridge's SDE from y at t = 1 to `t_end`: x = w_prev x + w_est D + w_z z, the last z with weight 0.
    Network calls: steps."""
    x = y
    for k, (t, (w_prev, w_est, w_z)) in enumerate(zip(*bridge_sde_weights(model.process, steps, t_end), strict=True)):
        estimate = model.denoised(x, y, times_of(y, t), z_r)
        x = float(w_prev) * x + float(w_est) * estimate + float(w_z) * noise(y.shape)
        if callback is not None:
            callback(k, float(t), x)
    return x


def bridge_ode_weights(process: SBVE, steps: int, t_end: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """(times (steps,), weights (steps, 3) of previous state, estimate, y) in double precision. The network is called
    with the previous state and the new, smaller time."""
    times, s, sb, s1, eps = _bridge_schedule(process, steps, t_end)
    sp, sbp, s, sb = s[:-1], sb[:-1], s[1:], sb[1:]
    w_prev = s * sb / (sp * sbp + eps)
    w_est = (sb**2 - sbp * s * sb / (sp + eps)) / (s1**2 + eps)
    w_y = (s**2 - sp * s * sb / (sbp + eps)) / (s1**2 + eps)
    return times[1:], np.stack([w_prev, w_est, w_y], axis=1)


def bridge_sde_weights(process: SBVE, steps: int, t_end: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """(times (steps,), weights (steps, 3) of previous state, estimate, noise) in double precision."""
    times, s, _, _, eps = _bridge_schedule(process, steps, t_end)
    w_prev = s[1:] ** 2 / (s[:-1] ** 2 + eps)
    w_est = 1 - w_prev
    w_z = s[1:] * np.sqrt(w_est)
    w_z[-1] = 0.0
    return times[1:], np.stack([w_prev, w_est, w_z], axis=1)


def _bridge_schedule(
    process: SBVE, steps: int, t_end: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Grid and s(t), s-bar(t), s(1), eps of the bridge, in double precision: in float32 s-bar(1) is the square root of
    a rounding error, NaN for some k and c."""
    times = torch.linspace(1.0, t_end, steps + 1, dtype=torch.float64)
    passed, left, whole = process.variances(times)
    return times.numpy(), passed.sqrt().numpy(), left.sqrt().numpy(), math.sqrt(whole), process.eps
