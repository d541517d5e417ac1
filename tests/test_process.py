"""The forward processes against numerically integrated moments, their limits, and the conversions between times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.diffusion.process import OUVE, SBVE

thetas, lows, ratios = st.floats(0.3, 3.0), st.floats(0.01, 0.2), st.floats(2.0, 30.0)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(thetas, lows, ratios, st.floats(0.05, 1.0))
@settings(max_examples=20, deadline=None)
def test_moments_are_those_of_the_integrated_equation(theta, low, ratio, t):
    """d mean/dt = drift(mean), d variance/dt = -2 theta variance + g^2: integrated by RK4, no closed form used."""
    process = OUVE(theta, low, low * ratio)
    x0, y = 2.0, -1.0

    def slope(moments, now):
        mean, variance = moments
        g = process.diffusion(numbers(now)).item()
        return np.array([process.drift(numbers(mean), numbers(y), numbers(now)).item(), g**2 - 2 * theta * variance])

    state, steps = np.array([x0, 0.0]), 200
    h = t / steps
    for i in range(steps):
        now = i * h
        a = slope(state, now)
        b = slope(state + h / 2 * a, now + h / 2)
        c = slope(state + h / 2 * b, now + h / 2)
        d = slope(state + h * c, now + h)
        state = state + h / 6 * (a + 2 * b + 2 * c + d)
    time = numbers(t)
    assert process.mean(numbers(x0), numbers(y), time).item() == pytest.approx(state[0], rel=1e-6)
    assert process.std(time).item() == pytest.approx(math.sqrt(state[1]), rel=1e-6)


def test_moments_are_those_of_simulated_paths():
    process, n, steps = OUVE(), 20000, 400
    generator = torch.Generator().manual_seed(0)
    x = torch.full((n,), 0.8, dtype=torch.complex128)
    y = torch.full((n,), -0.3, dtype=torch.complex128)
    for i in range(steps):
        t = numbers((i + 0.5) / steps)
        z = torch.randn(n, dtype=torch.complex128, generator=generator)
        x = x + process.drift(x, y, t) / steps + process.diffusion(t) * math.sqrt(1 / steps) * z
    assert abs(x.mean().item() - process.mean(numbers(0.8), numbers(-0.3), numbers(1.0)).item()) < 0.01
    assert x.std().item() == pytest.approx(process.std(numbers(1.0)).item(), rel=0.02)


@given(thetas, lows, ratios)
@settings(max_examples=30, deadline=None)
def test_the_process_starts_at_the_clean_sound_and_moves_towards_the_noisy_one(theta, low, ratio):
    process = OUVE(theta, low, low * ratio)
    of_x0, of_y = process.mean_weights(numbers(0.0, 0.3, 0.6, 1.0))
    assert of_x0[0] == 1 and of_y[0] == 0 and process.std(numbers(0.0)) == 0
    torch.testing.assert_close(of_x0 + of_y, torch.ones(4, dtype=torch.float64))
    assert (of_x0.diff() < 0).all() and (process.std(numbers(0.0, 0.3, 0.6, 1.0)).diff() > 0).all()


def test_published_values():
    std = OUVE().std(numbers(0.03, 0.1, 0.5, 1.0))
    assert std.tolist() == pytest.approx([0.018830, 0.035746, 0.121657, 0.388983], abs=1e-6)
    g = OUVE().diffusion(numbers(0.03, 0.5, 1.0))
    assert g.tolist() == pytest.approx([0.114972, 0.339307, 1.072983], abs=1e-6)
    assert SBVE().std(numbers(0.5)).item() == pytest.approx(0.491805, abs=1e-6)


@given(st.floats(1.2, 5.0), st.floats(0.05, 2.0))
@settings(max_examples=30, deadline=None)
def test_a_bridge_is_pinned_at_both_ends_and_finite_between(k, c):
    bridge = SBVE(k=k, c=c)
    t = torch.linspace(0, 1, 11)
    assert torch.isfinite(bridge.std(t)).all() and torch.isfinite(bridge.mean_weights(t)[0]).all()
    of_x0, of_y = bridge.mean_weights(numbers(0.0, 1.0))
    assert of_x0.tolist() == pytest.approx([1, 0], abs=1e-6) and of_y.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert bridge.std(numbers(0.0, 1.0)).max() < 1e-3


@given(st.floats(1.2, 5.0), st.floats(0.05, 2.0), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_bridges_variances_are_integrals_of_its_diffusion(k, c, t):
    bridge = SBVE(k=k, c=c)
    passed, left, whole = bridge.variances(numbers(t))
    grid = np.linspace(0, t, 2001)
    g2 = bridge.diffusion(torch.from_numpy(grid)).numpy() ** 2
    assert passed.item() == pytest.approx(scipy.integrate.trapezoid(g2, grid), rel=1e-5)
    assert (passed + left).item() == pytest.approx(whole + 1e-8, rel=1e-9)


@pytest.mark.parametrize("process", [OUVE(), SBVE()])
def test_every_item_has_its_own_time(process):
    x0, y = torch.full((3, 1, 2, 2), 1.0), torch.full((3, 1, 2, 2), -1.0)
    t = torch.tensor([0.1, 0.5, 0.9])
    whole = process.mean(x0, y, t)
    for i in range(3):
        assert torch.equal(whole[i : i + 1], process.mean(x0[:1], y[:1], t[i : i + 1]))
