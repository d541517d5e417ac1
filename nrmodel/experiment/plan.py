"""The plan of an experiment: a TOML file -> arms (training configurations) -> cells, the units of work.

    name = "mine"                      [[ablation]]
    shards = ["shards/real"]           name = "conditioning"
    seeds = [0, 1, 2]                  seeds = [0]
    [train]                            arms.film = { conditioning = "film" }
    max_steps = 2000                   [[evaluation]]
    [baseline]                         name = "lengths"
    [proposed]                         of = ["proposed"]
                                       ref_seconds = [0.25, 0.5, 1.0, 2.0]

`baseline` is trained without reference (`baseline = false`: there is none, and only what stands within one network is
told), `proposed` as `[train]` says; what they and the arms of ablations add to `[train]` is all that may differ.
`[evaluate]` is asked of every arm, an `[[evaluation]]` of the arms it names. `source = "synthetic"` in place of
`shards` makes the embedded data first. An arm equal to its ablation's base is that base: baselines are trained once.
`run = "runs/x{seed}"` names an arm's run folder; one that is finished is not trained again.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nrdata.errors import UserError
from nrdata.options import affecting, decode, options
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.experiment.compared import comparable, differing
from nrmodel.training.config import TrainConfig

TOP = {"name", "about", "shards", "source", "seeds", "runs", "train", "evaluate", "proposed", "baseline", "ablation",
       "evaluation", "report", "estimate"}  # fmt: skip
REQUEST = affecting(EvaluationRequest, "result") - {"selective"}  # what a plan may ask of an evaluation
NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*")
MAIN = "main"  # the evaluation of every arm, which the verdicts read


@dataclass(frozen=True)
class Arm:
    """One training configuration, without its seed. `same_as`: the arm whose runs it shares."""

    name: str
    config: dict[str, Any]  # entries of TrainConfig, but for `out` and `seed`
    run: str  # run folder with {seed}
    seeds: tuple[int, ...]
    of: str = ""  # the base of its ablation
    ablation: str = ""
    fields: tuple[str, ...] = ()  # what it may differ in from its base
    same_as: str = ""


@dataclass(frozen=True)
class Cell:
    """`kind`: data, train, evaluate, probe, listen. `needs`: names of the cells that come before it."""

    name: str
    kind: str
    arm: str = ""
    seed: int = 0
    request: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a plan file says, resolved."""

    name: str
    shards: tuple[str, ...]
    synthetic: bool  # the data are made here
    seeds: tuple[int, ...]
    arms: dict[str, Arm]
    cells: tuple[Cell, ...]
    split: str  # of the main evaluation
    ref_seconds: float  # of the main evaluation: the length that verdicts speak of
    report: dict[str, Any]
    estimate: dict[str, float]
    text: str  # the file itself

    def run_folder(self, arm: str, seed: int) -> Path:
        return Path(self.arms[arm].run.format(seed=seed))

    def train_config(self, arm: str, seed: int) -> TrainConfig:
        """The TrainConfig of one run; `encoder_from` may name an arm of the plan: its run of the same seed."""
        values = dict(self.arms[arm].config)
        if values.get("encoder_from") in self.arms:
            values["encoder_from"] = str(self.run_folder(self.owner(values["encoder_from"]), seed))
        return _train_config(values, self.shards, str(self.run_folder(arm, seed)), seed)

    def owner(self, arm: str) -> str:
        """The arm whose runs `arm` uses: itself, or the one it equals."""
        return self.arms[arm].same_as or arm


def read_plan(path: Path, out: Path) -> Plan:
    """The plan of a file; runs and made data lie under `out` where the file does not say otherwise.

    Raises `UserError` for an unknown entry, an arm that changes nothing, or one that changes what it does not name.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such plan", "missing") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is no TOML ({e})", "unreadable") from e
    try:
        return plan_of(values, out, text)
    except UserError as e:
        raise UserError(f"{path}: {e}", e.kind) from e


def plan_of(values: dict[str, Any], out: Path, text: str = "") -> Plan:
    """The plan of a parsed file."""
    _known(values, TOP, "the plan")
    name = _name(values.get("name", ""))
    synthetic = values.get("source") == "synthetic"
    if synthetic == bool(values.get("shards")):
        raise UserError('give either shards = ["FOLDER"] or source = "synthetic"')
    runs = values.get("runs", str(out / "runs"))
    shards = (f"{runs}/shards",) if synthetic else tuple(values["shards"])
    seeds = tuple(values.get("seeds", (0,)))
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("seeds must be a list of different numbers")
    arms = _arms(values, shards, runs, seeds)
    main: dict[str, Any] = {
        "split": "test",
        "modes": ["none", "disjoint", "mismatch"],
        "ref_seconds": [1.0],
        "seeds": [0],
    }
    main |= values.get("evaluate", {})
    _known(main, REQUEST, "[evaluate]")
    report: dict[str, Any] = {"files": 12, "modes": main["modes"], "probe_batches": 16, "probe_rows": 256} | values.get(
        "report", {}
    )
    _known(report, {"files", "modes", "probe_batches", "probe_rows"}, "[report]")
    estimate = values.get("estimate", {})
    _known(estimate, {"seconds_per_step", "seconds_per_call", "seconds_per_row", "files"}, "[estimate]")
    cells = _cells(values, arms, main, report, synthetic)
    length = float(main["ref_seconds"][0])
    return Plan(name, shards, synthetic, seeds, arms, cells, main["split"], length, report, estimate, text)


def _arms(values: dict[str, Any], shards: tuple[str, ...], runs: str, seeds: tuple[int, ...]) -> dict[str, Arm]:
    common = values.get("train", {})
    arms: dict[str, Arm] = {}

    def add(name: str, changes: dict[str, Any], **more: Any) -> None:
        changes = dict(changes)
        run = changes.pop("run", f"{runs}/{name}-s{{seed}}")
        if "{seed}" not in run:
            raise UserError(f"run = {run!r} of {name} must hold {{seed}}: a folder for each seed")
        if name in arms:
            raise UserError(f"two arms are called {name}")
        arms[name] = Arm(name, {**more.pop("base", common), **changes}, run, **{"seeds": seeds, **more})

    add("proposed", values.get("proposed", {}))
    if (given := values.get("baseline", {})) is not False:
        add("baseline", {"ref_mode": "none", **given}, of="proposed", fields=("ref_mode",))
    for ablation in values.get("ablation", []):
        _known(ablation, {"name", "of", "seeds", "arms", "evaluate"}, "[[ablation]]")
        title, of = _name(ablation.get("name", "")), ablation.get("of", "proposed")
        if of not in arms:
            raise UserError(f"ablation {title} is of {of!r}, which no arm before it is called")
        base = arms[of]
        chosen = tuple(ablation.get("seeds", seeds[:1]))
        if missing := [s for s in chosen if s not in base.seeds]:
            raise UserError(f"ablation {title} has seed {missing[0]}, which its base {of} has not: pairs need both")
        for short, changes in ablation.get("arms", {}).items():
            fields = tuple(sorted(set(changes) - {"run"}))
            name = f"{title}-{_name(short)}"
            add(name, changes, base=base.config, seeds=chosen, of=of, ablation=title, fields=fields)
    for arm in list(arms.values()):
        for seed in arm.seeds:
            _train_config(arm.config, shards, "x", seed)
        if arm.of:
            arms[arm.name] = _checked(arm, arms[arm.of], shards)
    return arms


def _checked(arm: Arm, base: Arm, shards: tuple[str, ...]) -> Arm:
    """The arm, perhaps as its base's equal. What it names must do something, and nothing else may differ."""
    mine, its = (comparable(_train_config(a.config, shards, "x", 0)) for a in (arm, base))
    if arm.ablation and (idle := _idle(arm, base, mine["ref_mode"])):
        raise UserError(f"arm {arm.name} changes {', '.join(idle)}: without effect under ref_mode = {mine['ref_mode']}")
    differs = differing(mine, its)
    if more := sorted(differs - set(arm.fields)):
        raise UserError(f"arm {arm.name} differs from {base.name} in {', '.join(more)} too: nothing could be concluded")
    return dataclasses.replace(arm, same_as=base.same_as or base.name) if not differs else arm


def _idle(arm: Arm, base: Arm, law: str) -> list[str]:
    """The fields that an arm changes although its law makes no use of them."""
    default = {o.name: o.default for o in options(TrainConfig)}
    of_reference = affecting(TrainConfig, "reference")
    unused = of_reference if law == "none" else {"ref_dropout"} if "none" in law else frozenset()
    changed = {f for f in arm.fields if arm.config.get(f, default[f]) != base.config.get(f, default[f])}
    return sorted(changed & unused)


def _cells(
    values: dict[str, Any], arms: dict[str, Arm], main: dict[str, Any], report: dict[str, Any], synthetic: bool
) -> tuple[Cell, ...]:
    """In the order in which they run: for each seed the arms, each trained, evaluated, probed."""
    requests: dict[str, dict[str, Any]] = {name: {MAIN: dict(main)} for name in arms}
    for ablation in values.get("ablation", []):
        _known(ablation.get("evaluate", {}), REQUEST, f"evaluate of ablation {ablation['name']}")
        for name, arm in arms.items():
            if arm.ablation == ablation["name"] and not arm.same_as:
                requests[name][MAIN] |= ablation.get("evaluate", {})
    for asked in values.get("evaluation", []):
        _known(asked, REQUEST | {"name", "of"}, "[[evaluation]]")
        title = _name(asked.get("name", ""))
        for name in asked.get("of", ["proposed"]):
            if name not in arms:
                raise UserError(f"evaluation {title} is of {name!r}, which is no arm")
            if title in requests[name]:
                raise UserError(f"two evaluations are called {title}")
            requests[name][title] = main | {k: v for k, v in asked.items() if k not in ("name", "of")}
    for name, asked in requests.items():
        _check_samplers(arms[name], asked.values())
    for name, arm in arms.items():
        if arm.config.get("ref_mode") == "none":  # it takes no clip
            requests[name] = {title: request | {"modes": ["none"]} for title, request in requests[name].items()}
    cells = [Cell("data", "data")] if synthetic else []
    first = ("data",) if synthetic else ()
    for seed in sorted({seed for arm in arms.values() for seed in arm.seeds}):
        for name, arm in arms.items():
            if seed not in arm.seeds or arm.same_as:
                continue
            trained = f"train {name} seed {seed}"
            other = arm.config.get("encoder_from")
            if other in arms and seed not in arms[other].seeds:
                raise UserError(f"arm {name} takes its encoder from {other}, which has no seed {seed}")
            needs = (f"train {arms[other].same_as or other} seed {seed}",) if other in arms else ()
            cells.append(Cell(trained, "train", name, seed, needs=first + needs))
            for title, request in requests[name].items():
                cells.append(Cell(f"evaluate {title} {name} seed {seed}", "evaluate", name, seed,
                                  {"title": title, **request}, (*first, trained)))  # fmt: skip
            if name == "proposed":
                cells.append(Cell(f"probe {name} seed {seed}", "probe", name, seed, needs=(*first, trained)))
    if report["files"]:
        seed = arms["proposed"].seeds[0]
        needs = (*first, f"train proposed seed {seed}", f"evaluate {MAIN} proposed seed {seed}")
        cells.append(Cell("listen", "listen", "proposed", seed, needs=needs))
    return tuple(cells)


def _check_samplers(arm: Arm, requests: Iterable[dict[str, Any]]) -> None:
    """Raises `UserError` before anything is trained for a sampler that cannot be had, or not in so many calls."""
    from nrmodel.diffusion.choice import choose
    from nrmodel.training.settled import model_for

    model = model_for(_train_config(arm.config, ("x",), "x", 0), 16000, None)
    for request in requests:
        for calls in request.get("nfe", [model.nfe]):
            choose(request_of(request).sampler, calls, model)


def _train_config(values: dict[str, Any], shards: tuple[str, ...], out: str, seed: int) -> TrainConfig:
    known = {o.name for o in options(TrainConfig)} - affecting(TrainConfig, "place", "seed")
    _known(values, known, "a training configuration")
    return TrainConfig(**{**values, "shards": shards, "out": out, "seed": seed})


def request_of(asked: dict[str, Any], **more: Any) -> EvaluationRequest:
    """What a plan asks of an evaluation, checked."""
    return EvaluationRequest(**decode(EvaluationRequest, asked, "an evaluation"), **more)


def _known(values: dict[str, Any], known: set[str] | frozenset[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise UserError(f"{where} has an unknown entry '{name}'; known: {', '.join(sorted(known))}")


def _name(text: str) -> str:
    """A name that may stand in a file name."""
    if not NAME.fullmatch(text):
        raise UserError(f"name {text!r}: small letters, digits and -_.+ are expected")
    return text
