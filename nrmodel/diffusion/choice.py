"""Which sampler spends a number of network calls: the table of all that are asked for by name, and two choosers.

A sampler is a value, the name of a row of `SAMPLERS`, or `budget` (what suits network and calls) or `published`
(SGMSE+'s predictor and corrector, whatever the network was trained for). `choose` makes a function of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from nrdata.errors import UserError
from nrmodel.config import ModelConfig
from nrmodel.diffusion.bridge import bridge_ode, bridge_sde
from nrmodel.diffusion.process import OUVE, SBVE
from nrmodel.diffusion.sampler import Sample, average, few_step, heun, predictor_corrector, spaced_levels

LATE_START = 0.7  # time at which the steps of a score-trained network begin
AVERAGED_CALLS = 5  # of each estimate that `exponential-average` averages


@dataclass(frozen=True)
class Sampler:
    """A row of the table. `options(nfe, config)` are those with which `function` makes at most `nfe` calls,
    `calls(nfe)` how many these are (0: too few for it); `process` is what the network must have been trained on."""

    function: Callable[..., Tensor]
    options: Callable[[int, ModelConfig], dict[str, Any]]
    calls: Callable[[int], int] = lambda nfe: nfe
    process: type[OUVE] | type[SBVE] = OUVE


def start_of(config: ModelConfig) -> float:
    """A network that estimates x0 is as good as it gets at the start of the process, a score only at small t."""
    return 1.0 if config.objective.kind == "data" else LATE_START


def exponential(nfe: int, config: ModelConfig) -> dict[str, Any]:
    """Exponential-integrator steps from a later start, part of the noise replaced."""
    assert isinstance(config.process, OUVE)  # the row's process
    levels = spaced_levels(config.process, nfe, start=LATE_START)
    return {"start": LATE_START, "levels": levels, "renoise": "ancestral"}


SAMPLERS: dict[str, Sampler] = {
    "one-call": Sampler(few_step, lambda nfe, config: {"start": start_of(config)}, lambda nfe: 1),
    "average": Sampler(
        average, lambda nfe, config: {"times": nfe, "sample": partial(few_step, start=start_of(config))}
    ),
    "exponential": Sampler(few_step, exponential),
    "exponential-average": Sampler(
        average,
        lambda nfe, config: {
            "times": nfe // AVERAGED_CALLS,
            "sample": partial(few_step, **exponential(AVERAGED_CALLS, config)),
        },
        lambda nfe: nfe // AVERAGED_CALLS * AVERAGED_CALLS,
    ),
    "predictor": Sampler(predictor_corrector, lambda nfe, config: {"steps": nfe, "corrector": "none"}),
    "predictor-corrector": Sampler(
        predictor_corrector, lambda nfe, config: {"steps": nfe // 2}, lambda nfe: nfe // 2 * 2
    ),
    "heun": Sampler(
        heun, lambda nfe, config: {"steps": (nfe - 1) // 2}, lambda nfe: (nfe - 1) // 2 * 2 + 1 if nfe > 2 else 0
    ),
    "bridge-ode": Sampler(bridge_ode, lambda nfe, config: {"steps": nfe}, process=SBVE),
    "bridge-sde": Sampler(bridge_sde, lambda nfe, config: {"steps": nfe}, process=SBVE),
}


def choose(name: str, nfe: int, config: ModelConfig) -> tuple[str, Sample]:
    """(name of the row, the sampler) that spends at most `nfe` network calls. Raises `UserError` for an unknown name,
    too few calls, and a sampler of another process than the network's."""
    if nfe < 1:
        raise UserError(f"--nfe {nfe}: a sampler needs at least one network call")
    check_name(name)
    name = suited(nfe, config) if name == "budget" else "predictor-corrector" if name == "published" else name
    sampler = SAMPLERS[name]
    if not isinstance(config.process, sampler.process):
        kind = "a bridge has no score" if isinstance(config.process, SBVE) else "this network was trained on no bridge"
        own = [other for other, row in SAMPLERS.items() if isinstance(config.process, row.process)]
        raise UserError(f"{kind}: the sampler {name} cannot be used, choose from {', '.join(own)}")
    if not sampler.calls(nfe):
        least = next(n for n in range(nfe, 1000) if sampler.calls(n))
        raise UserError(f"nfe {nfe}: the sampler {name} needs {least} calls, give {least} or more")
    return name, partial(sampler.function, **sampler.options(nfe, config))


def check_name(name: str) -> None:
    """Raises `UserError` for a sampler that nobody knows."""
    if name not in ("budget", "published", *SAMPLERS):
        raise UserError(f"sampler {name!r} is unknown: choose from budget, published, {', '.join(SAMPLERS)}")


def suited(nfe: int, config: ModelConfig) -> str:
    """What suits a network best within `nfe` calls.

    A bridge takes its ODE. NCSN++ trained on the score takes the published sampler (40 calls and more) or its predictor
    alone (20 and more). Below that, and for a compact network, the score is good at small t only: up to nine
    exponential-integrator steps from a later start, then the average of several times five. A network that estimates x0
    gives its best estimate at t = 1 already, and more calls average more of them: levels below s(1) were measured to
    lose in PESQ, ESTOI and SI-SDR, the average in none."""
    if isinstance(config.process, SBVE):
        return "bridge-ode"
    if nfe == 1:
        return "one-call"
    if config.objective.kind == "data":
        return "average"
    if config.precondition.form != "compact" and nfe >= 20:
        return "predictor-corrector" if nfe >= 40 else "predictor"
    return "exponential" if nfe < 10 else "exponential-average"
