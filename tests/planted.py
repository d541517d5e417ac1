"""The folder of a finished experiment with planted effects, written without training anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nrdata import audio
from nrmodel.evaluation.metrics import METRICS
from nrmodel.experiment.plan import read_plan
from nrmodel.experiment.run import asked, cell_file, evaluation_folder, probe_file

PLAN = """
name = "planted"
shards = ["nowhere"]
seeds = [0, 1]
[train]
max_steps = 10
ref_mode = "disjoint:0.7,none:0.3"
[evaluate]
modes = ["none", "disjoint", "mismatch"]
[[ablation]]
name = "conditioning"
arms.film = { conditioning = "film" }
[[evaluation]]
name = "length"
ref_seconds = [0.25, 0.5, 1.0, 2.0]
modes = ["none", "disjoint"]
[[evaluation]]
name = "leak"
modes = ["none", "disjoint", "leak:-5"]
peers = ["noisereduce"]
"""
LEVEL = {"none": 0.100, "disjoint": 0.130, "mismatch": 0.097, "leak:-5": 0.05}
SNRS = (-5.0, 0.0, 5.0, 10.0)


def row(number: int, system: str, mode: str, ref_seconds: float, gain: float, nfe: int, **changes) -> dict:
    """A row of one file of 12 environments and 12 speakers, crossed."""
    level = 0.5 + 0.1 * np.random.default_rng(number).standard_normal() + gain
    level += 0.01 * np.random.default_rng((number, round(1e5 * (gain + 1)))).standard_normal()
    fields = {
        "key": f"test-{number:07d}", "system": system, "mode": mode, "ref_seconds": ref_seconds, "sampler": "",
        "nfe": nfe, "seed": 0, "env_id": f"local/e{number % 12}", "recording": "local/r", "flags": [],
        "speaker": f"local/s{number // 12 % 12}", "snr_db": SNRS[number // 3 % 4],
        "seen": "unseen" if number % 12 > 7 else "environment", "relation": "none" if mode == "none" else mode,
        "ref_source": "", "ref_span": [0, round(16000 * ref_seconds)],
        "ref_distance_db": {"disjoint": 2.5, "mismatch": 9.5}.get(mode),
        "pesq_wb": round(1 + level, 6), "estoi": round(level, 6), "si_sdr": round(20 * level, 6), "failures": {},
    }  # fmt: skip
    fields |= {name: round(1 - level, 6) for name, metric in METRICS.items() if metric.better < 0}
    return fields | changes


def make_experiment(folder: Path, files: int = 144, hostile: str = "", baseline: bool = True) -> Path:
    """Plan, cells, rows, probes and sounds in `folder`; `hostile` stands in a name from the data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.toml").write_text(PLAN if baseline else f"baseline = false\n{PLAN}")
    plan = read_plan(folder / "plan.toml", folder)
    digests = {}
    for number, cell in enumerate(plan.cells):
        record = {"name": cell.name, "kind": cell.kind, "arm": cell.arm, "seed": cell.seed, "asked": asked(plan, cell)}
        if cell.kind == "train":
            digests[cell.arm, cell.seed] = f"{number:08d}" * 8
            record |= {"digest": f"{number:08d}" * 8, "config": record["asked"], "fingerprint": "f" * 64}
        elif cell.kind == "evaluate":
            digest = digests[cell.arm, cell.seed]
            record |= {"digest": digest, "fingerprint": "e" * 64, "nfe": 1}
            rows = [row(k, "noisy", "none", 0.0, 0.0, 0) for k in range(files)]
            modes = ["none"] if cell.arm == "baseline" else cell.request["modes"]
            bonus = 0.02 if cell.arm == "conditioning-film" else 0.002 * cell.seed
            for mode in modes:
                for seconds in cell.request["ref_seconds"] if mode != "none" else [0.0]:
                    gain = LEVEL[mode] + (bonus + 0.005 * np.log2(seconds) if mode == "disjoint" else 0.0)
                    rows += [row(k, f"nr:{digest[:8]}", mode, seconds, gain, 1) for k in range(files)]
            for peer in cell.request.get("peers", []):
                rows += [row(k, f"peer:{peer}", "disjoint", 1.0, 0.02, 0) for k in range(files)]
            place = evaluation_folder(folder, cell)
            place.mkdir(parents=True)
            (place / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        elif cell.kind == "probe":
            write_probe(probe_file(folder, cell), hostile)
        else:
            write_listening(folder / "listening", hostile)
        cell_file(folder, cell.name).parent.mkdir(exist_ok=True)
        cell_file(folder, cell.name).write_text(json.dumps(record))
    return folder


def write_probe(path: Path, hostile: str) -> None:
    known = {"recording": 0.5, "recording_chance": 0.1, "recording_probe": 0.4, "environment": 0.2,
             "environment_chance": 0.05, "environment_probe": 0.3}  # fmt: skip
    points = [[float(np.cos(k)), float(np.sin(k)), f"local/e{k % 3}"] for k in range(12)]
    loss = {"right": 0.2, "wrong": 0.25, "none": 0.22, "split": "valid", "batches": 4, "items": 32}
    spread = {"mean": 0.05, "low": 0.04, "high": 0.06}
    found = {
        "loss": loss | {"wrong_minus_right": spread, "none_minus_right": spread},
        "sensitivity": {n: {"median_db": -20.0, "files": 12} for n in ("disjoint_none", "disjoint_mismatch")},
        "embedding": {"clips": 24, "features": {f"z_r{hostile}": known}, "map": {"points": points, "variance": [0.5]}},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))


def write_listening(folder: Path, hostile: str) -> None:
    folder.mkdir()
    entries = []
    for number in (1, 2):
        names = ["clean", "noisy", "reference", "none", "disjoint"]
        for k, name in enumerate(names):
            t = np.arange(8000) / 16000
            sound = (0.3 * np.sin(2 * np.pi * (300 + 200 * k) * t)).astype(np.float32)
            audio.write(folder / f"{number:02d}-{name}.flac", sound[:, None], 16000)
        scores = {name: {"pesq_wb": 1.5, "estoi": 0.7, "si_sdr": 8.0} for name in ("noisy", "none", "disjoint")}
        facts = {"env_id": f"local/e{number}{hostile}", "speaker": "local/s1", "snr_db": 0.0, "seen": "unseen"}
        entry = {"key": f"test-{number:07d}", "why": "from the middle", **facts}
        entries.append(entry | {"sounds": names, "scores": scores})
    (folder / "listening.json").write_text(json.dumps(entries))
