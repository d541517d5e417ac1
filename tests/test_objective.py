"""Conversions, preconditionings and losses: identities that hold whatever the network says."""

import pytest
import torch

from nrmodel.diffusion.objective import (
    Objective,
    Preconditioning,
    draw_times,
    loss,
    mean_from_score,
    mean_from_x0,
    score_from_mean,
    state,
    x0_from_mean,
)
from nrmodel.diffusion.process import OUVE
from nrmodel.diffusion.process import start as start_of
from nrmodel.diffusion.spectrogram import Spectrogram

PROCESS, SPEC = OUVE(), Spectrogram()


def maps(seed=0, batch=3, bins=256, frames=8, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, 1, bins, frames, generator=generator, dtype=torch.cfloat)


def test_three_conversions_are_inverse():
    x0, y, t = maps(1), maps(2), torch.tensor([0.05, 0.4, 1.0])
    x_t, std, weights = maps(3), PROCESS.std(t), PROCESS.mean_weights(t)
    mean = mean_from_x0(x0, y, weights)
    assert torch.allclose(x0_from_mean(mean, y, weights), x0, atol=1e-6)
    assert torch.allclose(mean_from_score(score_from_mean(mean, x_t, std), x_t, std), mean, atol=1e-6)
    assert torch.allclose(mean, PROCESS.mean(x0, y, t), atol=1e-7)


def test_score_of_a_known_kernel():
    """With x0 known, the score of the kernel is -z / sigma; it must be what x0 converts to."""
    x0, y, z, t = maps(1), maps(2), maps(3, scale=1.0), torch.tensor([0.1, 0.5, 0.9])
    x_t = state(x0, y, t, z, torch.zeros(3, dtype=torch.bool), PROCESS)
    score = score_from_mean(mean_from_x0(x0, y, PROCESS.mean_weights(t)), x_t, PROCESS.std(t))
    assert torch.allclose(score, -z / PROCESS.std(t).view(-1, 1, 1, 1), atol=1e-4)


@pytest.mark.parametrize("form", ["v1", "v2", "compact"])
@pytest.mark.parametrize("predicts", ["score", "denoiser", "data"])
@pytest.mark.parametrize("scaling", ["none", "1/sigma", "1/t"])
def test_outputs_agree_with_each_other(form, predicts, scaling):
    precondition = Preconditioning(form, predicts, scaling, c_out="edm", c_skip="edm")
    x_t, y, t = maps(1), maps(2), torch.tensor([0.05, 0.4, 1.0])
    got = precondition.outputs(maps(3), x_t, y, t, PROCESS)
    std, weights = PROCESS.std(t), PROCESS.mean_weights(t)
    assert torch.allclose(mean_from_score(got["score"], x_t, std), got["mean"], atol=1e-5)
    assert torch.allclose(mean_from_x0(got["x0"], y, weights), got["mean"], atol=1e-5)


def test_compact_form_at_zero_output_shrinks_u_towards_y():
    """F = 0: x0 = y + sd^2 / (s^2 + sd^2) (u - y)."""
    x_t, y, t = maps(1), maps(2), torch.tensor([0.05, 0.4, 1.0])
    x0 = Preconditioning().outputs(torch.zeros_like(y), x_t, y, t, PROCESS)["x0"]
    of_x0, of_y = (w.view(-1, 1, 1, 1) for w in PROCESS.mean_weights(t))
    u, s = (x_t - of_y * y) / of_x0, PROCESS.std(t).view(-1, 1, 1, 1) / of_x0
    assert torch.allclose(x0, y + 0.01 / (s**2 + 0.01) * (u - y), atol=1e-6)


def test_start_share_takes_the_samplers_own_start():
    u, share = torch.tensor([0.0, 0.5, 1.0, 0.2]), torch.tensor([0.9, 0.1, 0.3, 0.5])
    t, at_start = draw_times(u, share, Objective(start_share=0.4), PROCESS)
    assert at_start.tolist() == [False, True, True, False]
    assert torch.allclose(t, torch.tensor([0.03, 1.0, 1.0, 0.03 + 0.2 * 0.97]))
    x0, y, z = maps(1, 4), maps(2, 4), maps(3, 4, scale=1.0)
    x_t = state(x0, y, t, z, at_start, PROCESS)
    assert torch.allclose(x_t[1:3], start_of(PROCESS, y, z)[1:3], atol=1e-6)
    assert torch.allclose(x_t[0], PROCESS.mean(x0, y, t)[0] + PROCESS.std(t)[0] * z[0], atol=1e-6)


def value(kind, estimates, x0, y, x_t, t, form="compact", **more):
    return loss(
        estimates, x0, y, x_t, t, objective=Objective(kind), process=PROCESS, spectrogram=SPEC,
        precondition=Preconditioning(form, predicts="data" if form == "compact" else kind), **more,
    )[0]  # fmt: skip


@pytest.mark.parametrize("at_start", [False, True])
def test_score_loss_is_the_seeds(at_start):
    """|sigma s + z|^2, and the same number from the score and from x0 (v1 sums half of it, compact takes the mean)."""
    x0, y, z, t = maps(1), maps(2), maps(3, scale=1.0), torch.full((3,), 0.6)
    x_t = state(x0, y, t, z, torch.full((3,), at_start), PROCESS)
    estimates = Preconditioning().outputs(maps(4), x_t, y, t, PROCESS)
    sigma = PROCESS.std(t)[0]
    effective = z if not at_start else (x_t - PROCESS.mean(x0, y, t)) / sigma
    expected = (estimates["score"] * sigma + effective).abs().square()
    assert torch.allclose(value("score", estimates, x0, y, x_t, t), expected.mean(), rtol=1e-4)
    assert torch.allclose(
        value("score", estimates, x0, y, x_t, t, "v1"), 0.5 * expected.sum((1, 2, 3)).mean(), rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["score", "data"])
def test_truth_has_no_loss_and_padding_does_not_count(kind):
    wave = torch.randn(2, 1920, generator=torch.Generator().manual_seed(0)) * 0.1
    x0 = SPEC.forward(wave)
    y, t = x0 + maps(2, 2, frames=x0.shape[-1]), torch.tensor([0.3, 1.0])
    x_t = PROCESS.mean(x0, y, t) + 0.1 * maps(3, 2, frames=x0.shape[-1])
    assert value(kind, {"x0": x0}, x0, y, x_t, t) < 1e-9
    samples = torch.tensor([640, 640])  # frames 0..5 are heard
    spoilt = x0.clone()
    spoilt[..., 10:] += 5.0
    assert value(kind, {"x0": spoilt}, x0, y, x_t, t, samples=samples) < 1e-9
    spoilt[..., 3] += 0.1
    assert value(kind, {"x0": spoilt}, x0, y, x_t, t, samples=samples) > 1e-6


def test_silent_items_have_finite_gradients():
    zero = torch.zeros(2, 1, 256, 16, dtype=torch.cfloat)
    estimate = zero.clone().requires_grad_(True)
    value("data", {"x0": estimate}, zero, zero, zero, torch.tensor([0.03, 1.0])).backward()
    assert torch.isfinite(torch.view_as_real(estimate.grad)).all()


def test_the_trap_of_the_start_and_its_cure():
    """An oracle that reads x0 - y out of x_T is perfect from the true mean and useless from the sampler's start.

    Along one direction: linear least squares for x0 given (x_T, y), fitted on the kernel alone or with a share of the
    sampler's own starts; the fit with the share must do better from y. Data: y = x0 + n, one bin known without noise.
    """
    generator = torch.Generator().manual_seed(1)
    n, draw = 20000, lambda: torch.randn(20000, generator=generator, dtype=torch.float64)
    x0, noise = draw(), draw()
    y = x0 + noise
    a = float(torch.exp(torch.tensor(-1.5)))
    sigma = 0.05  # many bins read together act as one with little noise
    kernel = a * x0 + (1 - a) * y + sigma * draw()
    start = y + sigma * draw()

    def fit(share):
        chosen = torch.rand(n, generator=generator) < share
        x_T = torch.where(chosen, start, kernel)
        return torch.linalg.lstsq(torch.stack([x_T, y], 1), x0[:, None]).solution[:, 0]

    def error(weights, x_T):
        return float((torch.stack([x_T, y], 1) @ weights - x0).square().mean())

    naive, cured = fit(0.0), fit(0.4)
    assert error(naive, kernel) < 0.06
    assert error(naive, start) > 0.9  # it believes that there is no noise: it returns y
    assert error(cured, start) < 0.8 * error(naive, start)
