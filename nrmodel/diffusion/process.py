"""The forward diffusions: the Ornstein-Uhlenbeck process with exploding variance (Richter et al. 2023, eq. 6-9)
and the Schroedinger bridge's schedule (Jukic et al. 2024). `t` is float `(B,)`; maps are `(B, 1, F, T)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def per_item(value: Tensor, like: Tensor) -> Tensor:
    """A `(B,)` value shaped to multiply a batch of maps."""
    return value.view(-1, *([1] * (like.dim() - 1)))


@dataclass(frozen=True)
class OUVE:
    """dx = theta (y - x) dt + g(t) dw,  g(t) = sigma_min (sigma_max/sigma_min)^t sqrt(2 ln(sigma_max/sigma_min))."""

    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    T: float = 1.0
    t_eps: float = 0.03

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def mean_weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of x0 and of y in the mean of x_t, both `(B,)`."""
        of_x0 = torch.exp(-self.theta * t)
        return of_x0, 1.0 - of_x0

    def mean(self, x0: Tensor, y: Tensor, t: Tensor) -> Tensor:
        of_x0, of_y = self.mean_weights(t)
        return per_item(of_x0, x0) * x0 + per_item(of_y, y) * y

    def std(self, t: Tensor) -> Tensor:
        """sigma^2 = sigma_min^2 e^(-2 theta t) (e^(2 (theta + l) t) - 1) l / (theta + l), l = ln(max/min)."""
        ratio = self._log_ratio
        growth = torch.expm1(2 * (self.theta + ratio) * t)
        return self.sigma_min * torch.exp(-self.theta * t) * torch.sqrt(growth * (ratio / (self.theta + ratio)))

    def drift(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return self.theta * (y - x)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), `(B,)`."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t * math.sqrt(2 * self._log_ratio)


@dataclass(frozen=True)
class SBVE:
    """The bridge's variance-exploding schedule: g(t) = sqrt(c) k^t, alpha = 1. Computed in float64 (near t = 1 the
    remaining variance is a difference of equal numbers)."""

    k: float = 2.6
    c: float = 0.4
    eps: float = 1e-8
    T: float = 1.0
    t_eps: float = 0.03

    def variances(self, t: Tensor) -> tuple[Tensor, Tensor, float]:
        """s(t)^2, sbar(t)^2 = s(T)^2 - s(t)^2 and s(T)^2, in float64."""
        rate = 2 * math.log(self.k)
        t = t.double()
        passed = self.c * torch.expm1(rate * t) / rate
        whole = self.c * math.expm1(rate * self.T) / rate
        left = self.c * self.k ** (2 * t) * torch.expm1(rate * (self.T - t)) / rate
        return passed, left + self.eps, whole

    def mean_weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        passed, left, whole = self.variances(t)
        of_x0 = left / (whole + self.eps)
        of_y = passed / ((1 + self.eps) * (whole + self.eps))
        return of_x0.to(t.dtype), of_y.to(t.dtype)

    def mean(self, x0: Tensor, y: Tensor, t: Tensor) -> Tensor:
        of_x0, of_y = self.mean_weights(t)
        return per_item(of_x0, x0) * x0 + per_item(of_y, y) * y

    def std(self, t: Tensor) -> Tensor:
        passed, left, whole = self.variances(t)
        return (torch.sqrt(left * passed) / (math.sqrt(whole) + self.eps)).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        return math.sqrt(self.c) * self.k**t


def start(process: OUVE | SBVE, y: Tensor, z: Tensor) -> Tensor:
    """The sampler's start: x_T = y + sigma(T) z (the kernel's own mean at T still holds some x0)."""
    return y + float(process.std(torch.tensor(process.T, dtype=torch.float64))) * z
