"""Run the cells of a plan, one after another or one by number; skip what is done, go on with what is not.

    OUT/plan.toml                     the plan
    OUT/cells/<cell>.json             written last, when a cell is done: what it was asked, what it came from
    OUT/evaluations/<cell>/           rows.jsonl and tables          OUT/probes/<arm>-s<seed>.json
    OUT/listening/                    a few files as heard           OUT/verdicts.json, report.md, report.html, *.png

Run folders lie where the plan says (OUT/runs). A cell's file is all that later cells need to know of it, so results can
be kept without weights. Training, evaluation and building resume by themselves.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from nrdata.environment import provenance
from nrdata.errors import UserError
from nrdata.files import write_json, write_text
from nrmodel.experiment.plan import MAIN, Cell, Plan, resolved


def run(plan: Plan, out: Path, number: int | None = None, scoring_processes: int | None = None) -> bool:
    """Run all cells, or the one of that number (from 1, as `--dry-run` prints them); true when all cells are done.
    `scoring_processes` of an evaluation: half of the machine's cores where none are given.

    Raises `UserError` where a cell needs another one first, or where a folder holds something else.
    """
    prepare(plan, out)
    if number is not None and not 1 <= number <= len(plan.cells):
        raise UserError(f"--cell {number}: the plan has cells 1 to {len(plan.cells)}", "cell")
    for k, cell in enumerate(plan.cells, 1):
        if number is not None and k != number:
            continue
        if is_done(plan, out, cell):
            say(f"cell {k} of {len(plan.cells)}: {cell.name}: done before")
            continue
        for needed in cell.needs:
            if not cell_file(out, needed).exists():
                other = 1 + [c.name for c in plan.cells].index(needed)
                raise UserError(f"cell {k} ({cell.name}) needs cell {other} ({needed}): run it first", "cell")
        say(f"cell {k} of {len(plan.cells)}: {cell.name}")
        begun = time.monotonic()
        if cell.kind == "evaluate":
            came_of = evaluate_cell(plan, out, cell, scoring_processes)
        else:
            came_of = DO[cell.kind](plan, out, cell)
        record = {"name": cell.name, "kind": cell.kind, "arm": cell.arm, "seed": cell.seed, "asked": asked(plan, cell)}
        seconds = round(time.monotonic() - begun, 1)
        record |= {**came_of, "seconds": seconds, "made_with": provenance()}
        write_json(cell_file(out, cell.name), record, sort_keys=True)
    return all(cell_file(out, cell.name).exists() for cell in plan.cells)


def prepare(plan: Plan, out: Path) -> None:
    """The folder with its plan.toml, which jobs that start at one moment may all write."""
    (out / "cells").mkdir(parents=True, exist_ok=True)
    path = out / "plan.toml"
    if path.is_file() and path.read_text(encoding="utf-8") == plan.text:
        return
    write_text(path, plan.text)


def cell_file(out: Path, name: str) -> Path:
    return out / "cells" / f"{name.replace(' ', '-')}.json"


def read_cell(out: Path, name: str) -> dict[str, Any]:
    """What is known of a finished cell."""
    path = cell_file(out, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is missing or unreadable: run the experiment again", "missing") from e


def asked(plan: Plan, cell: Cell) -> dict[str, Any]:
    """What a cell is asked: the same cell of another plan is another cell."""
    if cell.kind == "train":
        # Through JSON, so that it equals what is read back.
        return json.loads(json.dumps(resolved(plan.train_config(cell.arm, cell.seed))))
    if cell.kind == "listen":
        return {"split": plan.split, "ref_seconds": plan.ref_seconds, **plan.report}
    if cell.kind == "probe":
        return {"split": plan.split, "ref_seconds": plan.ref_seconds,
                **{name: plan.report[name] for name in ("probe_batches", "probe_rows")}}  # fmt: skip
    return dict(cell.request)


def is_done(plan: Plan, out: Path, cell: Cell) -> bool:
    """Whether a cell, and what it needs, is finished as asked. A run or an evaluation that is finished as something
    else is refused, the rest is done again."""
    from nrmodel.training.config import entry

    if not all(cell_file(out, name).exists() for name in (cell.name, *cell.needs)):
        return False
    record, wanted = read_cell(out, cell.name), asked(plan, cell)
    before = record["asked"]
    of = entry if cell.kind == "train" else dict.get
    changed = sorted(k for k in wanted.keys() | before.keys() if of(before, k) != of(wanted, k))
    if cell.kind in ("evaluate", "probe", "listen") and record["digest"] != digest_of(plan, out, cell):
        changed.append("weights")
    if changed and cell.kind in ("train", "evaluate"):
        raise UserError(
            f"{out}: '{cell.name}' was done with another {', '.join(changed)}: take another --out", "exists"
        )
    return not changed


def digest_of(plan: Plan, out: Path, cell: Cell) -> str:
    """The digest of the weights that a cell is about."""
    return read_cell(out, f"train {cell.arm} seed {cell.seed}")["digest"]


# One kind after another ---------------------------------------------------------------------------------------------


def make_data(plan: Plan, out: Path, cell: Cell) -> dict[str, Any]:
    """The embedded synthetic data."""
    import nrdata
    from nrdata.builders import build as engine
    from nrdata.builders.plan import Options

    folder = Path(plan.shards[0])
    if not (folder / "manifest.json").exists():
        options = Options(source="synthetic")
        engine.build(options, engine.make_plan(options), folder)
    return {"fingerprint": nrdata.open(folder).fingerprint}


def train_cell(plan: Plan, out: Path, cell: Cell) -> dict[str, Any]:
    """Train, unless the run folder is finished: then its own configuration is checked against the plan's."""
    from nrmodel.training.train import train

    config = plan.train_config(cell.arm, cell.seed)
    folder = Path(config.out)
    if finished_step(folder) is None:
        train(config)
    return finished_run(folder, config)


def finished_step(folder: Path) -> int | None:
    """The step of a run that has reached its last one, else None."""
    from nrmodel.checkpoint import read_model
    from nrmodel.training.config import TrainConfig, read_config

    weights, config = folder / "model.safetensors", folder / "config.toml"
    if not (weights.is_file() and config.is_file()):
        return None
    step = int(read_model(weights)[2].get("step", -1))
    return step if step >= read_config(config).get("max_steps", TrainConfig.max_steps) else None


def finished_run(folder: Path, planned: Any) -> dict[str, Any]:
    """Facts of a finished run. Raises `UserError` where it is not the planned one."""
    from nrmodel.checkpoint import read_model
    from nrmodel.training.config import TrainConfig, read_config

    values = read_config(folder / "config.toml")
    actual = TrainConfig(**{**values, "shards": tuple(values["shards"])})
    mine, its = resolved(planned), resolved(actual)
    if changed := sorted(k for k in mine if mine[k] != its[k]) + ["seed"] * (planned.seed != actual.seed):
        told = ", ".join(f"{k} = {its.get(k, actual.seed)}" for k in changed)
        raise UserError(f"{folder} is a finished run of something else ({told}): name another run folder", "exists")
    try:
        made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{folder / 'run.json'} is missing or unreadable: no one can say what it was trained on") from e
    metadata = read_model(folder / "model.safetensors")[2]
    rate = logged_rate(folder / "log.jsonl")
    return {"digest": metadata["sha256"], "step": int(metadata["step"]), "config": its, "steps_per_second": rate,
            "fingerprint": made["fingerprint"], "trained_with": made}  # fmt: skip


def logged_rate(log: Path) -> float | None:
    """Steps a second of a run, the last that its log tells."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    rates = [entry["rate"] for entry in map(json.loads, lines) if isinstance(entry.get("rate"), float)]
    return round(rates[-1], 4) if rates else None


def loaded(plan: Plan, out: Path, cell: Cell) -> Any:
    """The last weights of a cell's run: the same budget for every arm, nothing selected on the validation files; with
    the sampler that is asked for, of a cell without a request that of the arm's main evaluation."""
    import nrmodel

    model = nrmodel.load(plan.run_folder(cell.arm, cell.seed) / "model.safetensors")
    if model.digest != digest_of(plan, out, cell):
        raise UserError(
            f"{plan.run_folder(cell.arm, cell.seed)} has other weights than when it was finished", "changed"
        )
    main = next(c for c in plan.cells if c.kind == "evaluate" and c.arm == cell.arm and c.request["title"] == MAIN)
    model.published_sampler = (cell.request or main.request).get("sampler") == "published"
    return model


def evaluate_cell(plan: Plan, out: Path, cell: Cell, scoring_processes: int | None) -> dict[str, Any]:
    """The rows and tables of one evaluation."""
    import nrdata
    from nrmodel.evaluation.evaluate import evaluate

    model, dataset, request = loaded(plan, out, cell), nrdata.open(*plan.shards), cell.request
    evaluate(
        model,
        dataset,
        request["split"],
        out=evaluation_folder(out, cell),
        modes=request["modes"],
        ref_seconds=request["ref_seconds"],
        nfe=request.get("nfe", [None]),
        seeds=request["seeds"],
        peers=request.get("peers", []),
        limit=request.get("limit"),
        workers=scoring_processes,
    )
    nfe = request.get("nfe", [model.nfe])[0]
    return {"digest": model.digest, "fingerprint": dataset.fingerprint, "nfe": nfe}


def evaluation_folder(out: Path, cell: Cell) -> Path:
    return out / "evaluations" / f"{cell.request['title']}-{cell.arm}-s{cell.seed}"


def probe_cell(plan: Plan, out: Path, cell: Cell) -> dict[str, Any]:
    """Is the reference read at all?"""
    import nrdata
    from nrmodel.experiment.probes import probe

    model, dataset = loaded(plan, out, cell), nrdata.open(*plan.shards)
    report = plan.report
    found = probe(
        model, dataset, plan.split, report["probe_batches"], report["probe_rows"], plan.ref_seconds, cell.seed
    )
    path = probe_file(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return {"digest": model.digest, "fingerprint": dataset.fingerprint}


def probe_file(out: Path, cell: Cell) -> Path:
    return out / "probes" / f"{cell.arm}-s{cell.seed}.json"


def listen_cell(plan: Plan, out: Path, cell: Cell) -> dict[str, Any]:
    """A few files as heard: clean, noisy, reference and every mode."""
    import nrdata
    from nrmodel.evaluation.tables import read_rows
    from nrmodel.experiment.listening import render

    model, dataset = loaded(plan, out, cell), nrdata.open(*plan.shards)
    main = next(c for c in plan.cells if c.kind == "evaluate" and c.name in cell.needs)
    rows = read_rows(evaluation_folder(out, main) / "rows.jsonl")
    nfe = read_cell(out, main.name)["nfe"]
    render(model, dataset, plan.split, rows, plan.report["modes"], plan.ref_seconds, nfe, plan.report["files"],
           out / "listening")  # fmt: skip
    return {"digest": model.digest, "fingerprint": dataset.fingerprint}


DO = {"data": make_data, "train": train_cell, "probe": probe_cell, "listen": listen_cell}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
