"""Samplers against theory: analytic scores of Gaussian data, orders of convergence, call counts, injected noise."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.errors import UserError
from nrmodel.diffusion import bridge, sampler
from nrmodel.diffusion.choice import SAMPLERS, choose
from nrmodel.diffusion.process import OUVE, SBVE

Y = torch.full((1, 1, 2, 3), 0.4 - 0.2j, dtype=torch.complex128)
SHAPE = (1, 1, 2, 3)


class Gaussian:
    """x0 ~ CN(m, v): score and posterior mean of x_t in closed form; counts its calls."""

    def __init__(self, m: complex = 0.7 + 0.1j, v: float = 0.09, kind: str = "score", process=None, form="v2"):
        self.m, self.v, self.calls = m, v, 0
        self.process = process or OUVE()
        kinds = {"objective": SimpleNamespace(kind=kind), "precondition": SimpleNamespace(form=form)}
        self.config = SimpleNamespace(process=self.process, **kinds)

    def moments(self, y, t):
        a = torch.exp(-self.process.theta * t).reshape(-1, 1, 1, 1)
        return a * self.m + (1 - a) * y, a**2 * self.v + self.process.std(t).reshape(-1, 1, 1, 1) ** 2

    def score(self, x_t, y, t, z_r=None):
        self.calls += 1
        mean, variance = self.moments(y, t)
        return -(x_t - mean) / variance

    def denoised(self, x_t, y, t, z_r=None):
        self.calls += 1
        a, b = (w.reshape(-1, 1, 1, 1) for w in self.process.mean_weights(t))
        mean, variance = a * self.m + b * y, a**2 * self.v + self.process.std(t).reshape(-1, 1, 1, 1) ** 2
        return self.m + a * self.v / variance * (x_t - mean)


def complex_noise(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator, dtype=torch.complex128)


def column(t: float) -> torch.Tensor:
    return torch.tensor([t], dtype=torch.float64)


def moments_after(model, steps: int, t_eps: float = 0.03) -> tuple[complex, float]:
    """Mean and variance that the predictor carries from the true marginal at 1 to t_eps, exactly: the step is affine in
    state and noise, so two probes give its matrix."""
    mean, variance = (v.flatten()[0].item() for v in model.moments(Y, column(1.0)))
    times = np.linspace(1.0, t_eps, steps + 1)
    for now, after in pairwise(times):

        def step(x, z, now=now, after=after):
            score = lambda x, t: model.score(x, Y, t)  # noqa: E731
            state, _ = sampler.reverse_diffusion(
                score,
                model.process,
                torch.full_like(Y, x),
                Y,
                column(now),
                now - after,
                lambda s: torch.full_like(Y, z),
            )
            return state.flatten()[0].item()

        offset = step(0, 0)
        gain, spread = step(1, 0) - offset, step(0, 1) - offset
        mean, variance = gain * mean + offset, abs(gain) ** 2 * variance.real + abs(spread) ** 2
    return mean, variance


def test_predictor_converges_at_first_order_in_mean_and_deviation():
    model = Gaussian()
    true_mean, true_variance = (v.flatten()[0].item() for v in model.moments(Y, column(0.03)))
    errors = [moments_after(model, n) for n in (40, 80, 160, 320)]
    of_mean = [abs(m - true_mean) for m, _ in errors]
    of_deviation = [abs(math.sqrt(v) - math.sqrt(true_variance.real)) for _, v in errors]
    for error in (of_mean, of_deviation):
        orders = np.diff(-np.log2(error))
        assert orders[-1] == pytest.approx(1.0, abs=0.1), (error, orders)


def flow_end(model, x: complex, t_eps: float = 0.03) -> complex:
    """Where the probability flow of Gaussian data carries x from 1 to t_eps: the standardised value is conserved."""
    m1, v1 = (v.flatten()[0].item() for v in model.moments(Y, column(1.0)))
    m0, v0 = (v.flatten()[0].item() for v in model.moments(Y, column(t_eps)))
    return m0 + math.sqrt(v0.real / v1.real) * (x - m1)


def test_heun_converges_at_second_order_and_rk45_to_the_truth():
    model = Gaussian()
    one = lambda shape: torch.full(tuple(shape), 0.3 + 0.5j, dtype=torch.complex128)  # noqa: E731
    start = Y + model.process.std(column(1.0)).item() * one(SHAPE)
    truth = flow_end(model, start.flatten()[0].item())
    errors = [
        (sampler.heun(model, Y, None, one, steps=n, denoise=False) - truth).abs().max().item() for n in (20, 40, 80)
    ]
    assert np.diff(-np.log2(errors))[-1] == pytest.approx(2.0, abs=0.2), errors
    adaptive = sampler.probability_flow(model, Y, None, one, tolerance=1e-8, denoise=False)
    assert (adaptive - truth).abs().max() < 1e-6


def test_final_denoising_of_the_ode_is_the_mean_step_to_zero():
    model = Gaussian()
    for solve in (sampler.heun, sampler.probability_flow):
        raw = solve(model, Y, None, complex_noise(0), denoise=False)
        t = column(0.03)
        g2 = model.process.diffusion(t).item() ** 2
        expected = raw - model.process.drift(raw, Y, t) * 0.03 + g2 * 0.03 * model.score(raw, Y, t)
        assert torch.allclose(solve(model, Y, None, complex_noise(0)), expected, atol=1e-12)


def test_few_step_is_exact_in_the_limit_of_many_levels():
    """The exponential integrator approaches the probability flow as the levels get dense."""
    model = Gaussian()
    one = lambda shape: torch.full(tuple(shape), -0.4 + 0.5j, dtype=torch.complex128)  # noqa: E731
    start = (Y + model.process.std(column(1.0)).item() * one(SHAPE)).flatten()[0].item()
    errors = []
    for n in (100, 200, 400):
        levels = sampler.spaced_levels(model.process, n)
        got = sampler.few_step(model, Y, None, one, levels=levels)
        end = torch.full_like(Y, flow_end(model, start))
        errors.append((got - model.denoised(end, Y, column(0.03))).abs().max().item())
    assert np.diff(-np.log2(errors))[-1] == pytest.approx(1.0, abs=0.15), errors


@pytest.mark.parametrize("renoise", ["ancestral", "fresh"])
def test_renoising_keeps_the_level(renoise):
    """Where D is the truth, u - D has deviation s' after the step whatever part of the noise is fresh."""
    kept, fresh = sampler._shares(0.8, 0.3, renoise)
    assert math.hypot(kept * 0.8, fresh) == pytest.approx(0.3)


def test_stochastic_few_step_samples_the_posterior_of_gaussian_data():
    """Many ancestral levels from the true start give the spread of the data, v, before the last estimate."""
    model = Gaussian(v=0.09)
    y = Y.expand(1, 1, 2, 3).repeat(1, 1, 400, 20)
    levels = sampler.spaced_levels(model.process, 60, t_eps=1e-4)
    out = sampler.few_step(model, y, None, complex_noise(1), levels=levels, renoise="ancestral")
    assert (out - out.mean()).abs().pow(2).mean().item() == pytest.approx(0.09, rel=0.1)


@given(st.floats(0.5, 3.0), st.floats(0.01, 0.1), st.floats(0.2, 1.0), st.floats(0.01, 1.0))
@settings(max_examples=50, deadline=None)
def test_level_and_time_are_inverse(theta, low, high, t):
    process = OUVE(theta, low, high)
    s = sampler.noise_level(process, t)
    assert sampler.time_of(process, s) == pytest.approx(t, rel=1e-9)
    assert s == pytest.approx(process.std(column(t)).item() * math.exp(theta * t), rel=1e-9)


def test_spaced_levels_fall_from_start_to_end():
    process = OUVE()
    levels = sampler.spaced_levels(process, 6, start=0.7)
    assert len(levels) == 5
    assert all(a > b for a, b in pairwise(levels))
    assert levels[-1] == pytest.approx(sampler.noise_level(process, 0.03))
    assert sampler.spaced_levels(process, 1) == []


def test_network_calls_are_what_the_samplers_state():
    def calls(run, **options):
        model = Gaussian(process=options.pop("process", None))
        run(model, Y, None, complex_noise(0), **options)
        return model.calls

    assert calls(sampler.predictor_corrector) == 60
    assert calls(sampler.predictor_corrector, steps=4, corrector_steps=2, corrector="langevin") == 12
    assert calls(sampler.predictor_corrector, steps=7, corrector="none") == 7
    assert calls(sampler.predictor_corrector, steps=7, predictor="none") == 7
    assert calls(sampler.heun, steps=6) == 13
    assert calls(sampler.heun, steps=6, denoise=False) == 12
    assert calls(sampler.few_step, levels=(0.3, 0.1)) == 3
    assert calls(sampler.average, times=4) == 4
    model = BridgeData()
    bridge.bridge_ode(model, Y, None, complex_noise(0), steps=9)
    assert model.calls == 9


@pytest.mark.parametrize("form", ["v1", "v2", "compact"])
@pytest.mark.parametrize("kind", ["score", "denoiser", "data"])
@pytest.mark.parametrize("nfe", [1, 2, 3, 5, 9, 10, 25, 30, 60])
def test_a_budget_is_used_and_not_exceeded(kind, nfe, form):
    model = Gaussian(kind=kind, form=form)
    name, sample = choose("budget", nfe, model.config)
    out = sample(model, Y, None, complex_noise(0))
    assert out.shape == Y.shape and name
    assert model.calls == nfe


def test_the_published_sampler_belongs_to_the_published_network():
    names = {(f, n): choose("budget", n, Gaussian(form=f).config)[0] for f in ("v1", "compact") for n in (20, 40)}
    assert names == {
        ("v1", 20): "predictor",
        ("v1", 40): "predictor-corrector",
        ("compact", 20): "exponential-average",
        ("compact", 40): "exponential-average",
    }


@pytest.mark.parametrize("kind", ["score", "data"])
def test_no_budget_is_further_from_the_mean_than_a_smaller_one(kind):
    """With a perfect network the error against the posterior mean given y, here m, falls with every larger budget."""
    y = Y.repeat(1, 1, 100, 40)
    errors = []
    for nfe in (10, 30, 60):
        model = Gaussian(kind=kind, form="compact")
        out = choose("budget", nfe, model.config)[1](model, y, None, complex_noise(nfe))
        errors.append((out - out.mean()).abs().square().mean().item())
    assert all(b < a for a, b in pairwise(errors))


def test_the_published_sampler_on_demand_is_the_published_one():
    """Whatever the network was trained for: predictor and corrector, half of the calls each."""
    model = Gaussian(kind="data", form="compact")
    name, sample = choose("published", 8, model.config)
    out = sample(model, Y, None, complex_noise(0))
    assert name == "predictor-corrector" and model.calls == 8
    assert torch.equal(out, sampler.predictor_corrector(model, Y, None, complex_noise(0), steps=4))
    with pytest.raises(UserError, match="needs 2 calls"):
        choose("published", 1, model.config)
    with pytest.raises(UserError, match="bridge"):
        choose("published", 8, BridgeData().config)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("nfe", [1, 2, 3, 8, 12])
def test_a_row_of_the_table_keeps_its_budget_and_tells_its_steps(name, nfe):
    """The calls that it states; every step told in order, time falling from 1 to 0, the last estimate the result."""
    row = SAMPLERS[name]
    model = BridgeData() if row.process is SBVE else Gaussian()
    if not row.calls(nfe):
        with pytest.raises(UserError, match=f"{name} needs"):
            choose(name, nfe, model.config)
        return
    told = []
    out = choose(name, nfe, model.config)[1](
        model, Y, None, complex_noise(0), callback=lambda step, time, estimate: told.append((step, time, estimate))
    )
    assert model.calls == row.calls(nfe) <= nfe
    steps, times, estimates = zip(*told, strict=True)
    assert steps == tuple(range(len(told))) and times[0] <= 1 and times[-1] >= 0
    assert all(a >= b for a, b in pairwise(times))
    assert all(estimate.shape == Y.shape for estimate in estimates) and torch.equal(estimates[-1], out)


def test_a_sampler_of_another_process_or_of_no_name_is_refused():
    with pytest.raises(UserError, match=r"trained on no bridge.*choose from one-call"):
        choose("bridge-ode", 5, Gaussian().config)
    with pytest.raises(UserError, match="'fast' is unknown: choose from budget, published, one-call"):
        choose("fast", 5, Gaussian().config)


def test_a_budget_below_one_is_refused():
    with pytest.raises(UserError, match="at least one"):
        choose("budget", 0, Gaussian().config)


def test_levels_that_do_not_fall_are_refused():
    with pytest.raises(ValueError, match="fall"):
        sampler.few_step(Gaussian(), Y, None, complex_noise(0), levels=(0.1, 0.3))
    with pytest.raises(ValueError, match="renoise"):
        sampler.few_step(Gaussian(), Y, None, complex_noise(0), levels=(0.1,), renoise="some")


def test_all_noise_comes_from_the_caller():
    draws = iter(torch.randn(8, *SHAPE, dtype=torch.complex128, generator=torch.Generator().manual_seed(3)))
    order = []

    def noise(shape):
        z = next(draws)
        order.append(z)
        return z

    sampler.predictor_corrector(Gaussian(), Y, None, noise, steps=2, corrector_steps=2)
    assert len(order) == 1 + 2 * 3  # start, then two corrector draws and one of the predictor, each step
    state = torch.get_rng_state()
    for kind in ("score", "data"):
        for nfe in (1, 5, 60):
            choose("budget", nfe, Gaussian(kind=kind).config)[1](Gaussian(kind=kind), Y, None, complex_noise(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_last_draw_of_the_predictor_is_thrown_away():
    """The result is the last step's mean: changing the last draw changes nothing, the one before it does."""

    def run(changed):
        n = [0]
        base = complex_noise(5)

        def noise(shape):
            n[0] += 1
            return base(shape) + (1.0 if n[0] == changed else 0.0)

        return sampler.predictor_corrector(Gaussian(), Y, None, noise, steps=3)

    assert torch.equal(run(7), run(99))
    assert not torch.equal(run(6), run(99))
    sampled = sampler.predictor_corrector(Gaussian(), Y, None, complex_noise(5), steps=3, denoise=False)
    assert not torch.equal(sampled, run(99))


def test_langevin_shares_one_step_size_and_annealed_langevin_does_not():
    model = Gaussian()
    y = Y.repeat(2, 1, 1, 1)
    x = y + torch.tensor([1.0, 9.0]).reshape(2, 1, 1, 1)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    score = lambda x, t: model.score(x, y, t)  # noqa: E731
    _, mean = sampler.annealed_langevin(score, model.process, x, y, t, 0.5, 1, complex_noise(0))
    step = ((mean - x) / score(x, t)).real[:, 0, 0, 0]
    assert step.tolist() == pytest.approx((2 * (0.5 * model.process.std(t)) ** 2).tolist())
    _, mean = sampler.langevin(score, model.process, x, y, t, 0.5, 1, complex_noise(0))
    step = ((mean - x) / score(x, t)).real[:, 0, 0, 0]
    assert step[0].item() == pytest.approx(step[1].item())


def test_more_averaged_estimates_are_closer_to_the_mean():
    """An estimate's dependence on the start's noise falls as 1 / calls."""
    model = Gaussian(v=1.0)
    y = Y.repeat(1, 1, 100, 30)
    one = sampler.few_step(model, y, None, complex_noise(0))
    four = sampler.average(model, y, None, complex_noise(1), times=4)
    spread = lambda x: (x - x.mean()).abs().pow(2).mean().item()  # noqa: E731
    assert spread(four) == pytest.approx(spread(one) / 4, rel=0.15)


# --- the bridge -------------------------------------------------------------------------------------------------------


class BridgeData:
    """A network that knows the clean spectrogram."""

    def __init__(self, clean: complex = 0.9 + 0.3j, process: SBVE | None = None):
        self.clean, self.process, self.calls = clean, process or SBVE(), 0
        self.config = SimpleNamespace(process=self.process, objective=SimpleNamespace(kind="data"))

    def score(self, x_t, y, t, z_r=None):
        raise AssertionError("the bridge has no score")

    def denoised(self, x_t, y, t, z_r=None):
        self.calls += 1
        return torch.full_like(x_t, self.clean)


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_the_bridges_ode_follows_its_mean_where_the_network_knows_the_clean_sound(steps):
    """With D = x0 the ODE's solution is the marginal mean, at any number of steps."""
    model = BridgeData()
    y32 = Y.to(torch.complex64)
    out = bridge.bridge_ode(model, y32, None, complex_noise(0), steps=steps)
    expected = model.process.mean(torch.full_like(Y, model.clean), Y, column(1e-4))
    assert (out - expected).abs().max() < 1e-3  # eps = 1e-8 stands in every denominator, sqrt(eps) in the first step


@pytest.mark.parametrize("k, c", [(2.6, 0.4), (2.6, 0.51), (1.7, 0.3)])
def test_the_bridges_schedule_is_finite_where_float32_was_not(k, c):
    for weights in (bridge.bridge_ode_weights, bridge.bridge_sde_weights):
        assert np.isfinite(weights(SBVE(k, c), 5)[1]).all()


def test_merging_the_first_steps_terms_is_what_makes_float32_work():
    """The literal sum w_prev x + w_y y in float32 loses four digits in the first step; the merged one loses none."""
    model = BridgeData()
    double = bridge.bridge_ode(model, Y, None, complex_noise(0), steps=5)
    single = bridge.bridge_ode(model, Y.to(torch.complex64), None, complex_noise(0), steps=5)
    assert (single - double).abs().max() < 1e-6


def test_the_bridges_sde_ends_without_noise_and_injects_it_before():
    model = BridgeData()
    _, weights = bridge.bridge_sde_weights(model.process, 4)
    assert weights[-1, 2] == 0 and (weights[:-1, 2] > 0).all()
    np.testing.assert_allclose(weights[:, 0] + weights[:, 1], 1.0)
    out = bridge.bridge_sde(model, Y, None, complex_noise(0), steps=4)
    assert (out - model.clean).abs().max() < 1e-2


def test_a_bridge_takes_its_own_sampler():
    name, sample = choose("budget", 5, BridgeData().config)
    assert name == "bridge-ode"
    model = BridgeData()
    sample(model, Y, None, complex_noise(0))
    assert model.calls == 5
