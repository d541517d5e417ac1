"""From the files of a finished experiment to its verdicts as plain data.

What is compared is checked first: every arm against its base, seed by seed, as their run folders say they were trained.
Rows, probes and the files of cells are enough: neither weights nor data are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nrdata.errors import UserError
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import Calls, Files, Row, by_setting, read_rows
from nrmodel.evaluation.summary import by_distance, controls
from nrmodel.experiment.compared import check_comparable
from nrmodel.experiment.contrasts import ArmRows, contrast, select, settings_of
from nrmodel.experiment.plan import MAIN, Plan
from nrmodel.experiment.run import evaluation_folder, probe_file, read_cell
from nrmodel.experiment.verdicts import ablation_entry, verdicts


def collect(plan: Plan, out: Path) -> dict[str, Any]:
    """Verdicts, ablations, probes and what they rest on, as plain data. Raises `UserError` where a cell is missing or
    two runs differ in more than the factor under study."""
    rows: dict[tuple[str, int], list[Row]] = {}
    budgets: dict[str, Calls] = {}
    noisy: Files = {}
    data = set()
    for cell in plan.cells:
        if cell.kind != "evaluate":
            continue
        record = read_cell(out, cell.name)
        data.add(record["fingerprint"])
        own = read_rows(evaluation_folder(out, cell) / "rows.jsonl")
        rows.setdefault((cell.arm, cell.seed), []).extend(own)
        noisy |= {row.key: row for row in own if row.system == "noisy"}
        if cell.request["title"] == MAIN:
            budgets[cell.arm] = calls_of(own, f"nr:{record['digest'][:8]}", record["nfe"])
    if len(data) > 1:
        raise UserError(f"the evaluations in {out} are of {len(data)} different data sets: nothing is compared")
    trained = {(cell.arm, cell.seed): read_cell(out, cell.name) for cell in plan.cells if cell.kind == "train"}
    arms: dict[str, ArmRows] = {}
    for (arm, seed), own in rows.items():
        arms.setdefault(arm, {})[seed] = settings_of(own, f"nr:{trained[arm, seed]['digest'][:8]}")
    check_arms(plan, trained)
    length, calls = plan.ref_seconds, budgets["proposed"]
    baseline, of_baseline = arms.get("baseline", {}), budgets.get("baseline", Calls(0))
    found = verdicts(arms["proposed"], baseline, noisy, plan.split, length, calls, of_baseline)
    first = plan.arms["proposed"].seeds[0]
    every = rows["proposed", first]
    of_first = by_setting(every)
    as_judged = {s: f for s, f in of_first.items() if s.calls == calls and s.system.startswith("nr:")}
    return {
        "name": plan.name,
        "ref_seconds": length,
        "nfe": calls.nfe,
        "facts": facts(plan, trained, next(iter(data)), noisy),
        **found,
        "ablations": ablations(plan, arms, budgets),
        "peers": peers(every, select(arms["proposed"], "disjoint", length, calls), noisy, first),
        "by_distance": by_distance(as_judged),
        "controls": controls(of_first),
        "probes": read_probes(plan, out),
    }


def check_arms(plan: Plan, trained: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Every arm against its base, seed by seed, as they were really trained."""
    for arm in plan.arms.values():
        if arm.of and not arm.same_as:
            for seed in arm.seeds:
                mine, its = trained[arm.name, seed], trained[plan.owner(arm.of), seed]
                check_comparable(arm.name, mine, arm.of, its, arm.fields)


def calls_of(rows: list[Row], system: str, nfe: int) -> Calls:
    """The calls of a system's rows with that budget: one evaluation has one sampler for it."""
    return next(row.setting.calls for row in rows if row.system == system and row.nfe == nfe)


def facts(plan: Plan, trained: dict[tuple[str, int], dict[str, Any]], fingerprint: str, noisy: Files) -> dict[str, Any]:
    """What the numbers rest on."""
    config = trained["proposed", plan.arms["proposed"].seeds[0]]
    budget = {name: config["config"][name] for name in ("preset", "max_steps", "batch_size", "accumulate", "ref_mode",
                                                        "conditioning", "encoder", "remix")}  # fmt: skip
    return {
        "budget": budget,
        "seeds": list(plan.seeds),
        "training_data": config["fingerprint"],
        "evaluation_data": fingerprint,
        "files": len(noisy),
        "models": {f"{arm} seed {seed}": record["digest"][:8] for (arm, seed), record in sorted(trained.items())},
    }


def ablations(plan: Plan, arms: dict[str, ArmRows], budgets: dict[str, Calls]) -> list[dict[str, Any]]:
    """Every ablation's arms against their base, exploratory."""
    found = []
    for arm in plan.arms.values():
        if not arm.ablation:
            continue
        base = plan.owner(arm.of)
        entry: dict[str, Any] = {"ablation": arm.ablation, "arm": arm.name, "base": arm.of, "same_as": arm.same_as}
        entry |= {"values": {name: arm.config[name] for name in arm.fields}, "seeds": list(arm.seeds)}
        if not arm.same_as:
            own = {seed: arms[base][seed] for seed in arm.seeds}
            entry |= ablation_entry(arms[arm.name], own, budgets[arm.name], budgets[base], plan.ref_seconds)
        found.append(entry)
    return found


def peers(rows: list[Row], proposed: dict[int, Files], noisy: Files, seed: int) -> list[dict[str, Any]]:
    """Other enhancers on the same files: over noisy, and the proposed model with the right clip minus them."""
    found = []
    for setting, files in by_setting(rows).items():
        if setting.system.startswith("peer:"):
            ours, theirs = {seed: proposed.get(seed, {})}, {seed: files}
            found.append({
                "system": setting.system, "mode": setting.mode,
                "over_noisy": {m: contrast(theirs, {seed: noisy}, m) for m in METRICS},
                "ours_minus": {m: contrast(ours, theirs, m) for m in METRICS},
            })  # fmt: skip
    return found


def read_probes(plan: Plan, out: Path) -> dict[str, Any]:
    """Probes by run."""
    found = {}
    for cell in plan.cells:
        if cell.kind == "probe":
            text = probe_file(out, cell).read_text(encoding="utf-8")
            found[f"{cell.arm} seed {cell.seed}"] = json.loads(text)
    return found
