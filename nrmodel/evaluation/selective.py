"""Does the clip choose? Mixtures of speech and two other sounds, the clip from one of them; told from the parts
(nrmodel.evaluation.parts).

Kinds: `two-noises` (the rest another environment's noise, as loud as the clip's; speech at 0 dB in three of four
mixtures) and `talker` (another speaker at the level of the speech, the clip his other words). Every draw is keyed by
(seed, key). A line of parts.jsonl is a file and a system.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nrdata.environment import provenance
from nrdata.errors import UserError
from nrdata.files import write_json, write_text
from nrdata.keyed import key_of, selective_rng
from nrdata.progress import Progress
from nrdata.protocols import Samples
from nrdata.sampling.clips import evaluation_reference
from nrdata.sampling.harder import draw_talker, speaker_place, talker_clip
from nrdata.sampling.pool import Pool
from nrdata.sampling.transforms import noise_gain
from nrmodel.evaluation import peers as peer_functions
from nrmodel.evaluation.folders import drawn
from nrmodel.evaluation.parts import FIGURES, Mixture, figures, ideal
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.evaluation.statistics import interval
from nrmodel.evaluation.systems import Enhancer

SECONDS = 2.0  # of a mixture, at most
SPEECHLESS = 4  # one of so many two-noise mixtures holds no speech

System = Callable[[Mixture], np.ndarray]


@dataclass(frozen=True)
class PartsRow:
    """One line of parts.jsonl, with `FIGURES` behind these fields."""

    kind: str
    key: str
    env_id: str  # of the clip's sound
    rest: str  # the other noise's environment; empty: none
    speaker: str
    system: str
    figures: dict[str, float | None]

    def line(self) -> str:
        told = asdict(self)
        return json.dumps(told | told.pop("figures"), allow_nan=False) + "\n"


def read_parts(path: Path) -> list[PartsRow]:
    """Raises `UserError` naming file and line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            told = json.loads(line)
            rows.append(PartsRow(figures={name: told.pop(name) for name in FIGURES}, **told))
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"{path}, line {number}, is no row of --selective ({e}): evaluate again into another --out",
                "unreadable",
            ) from e
    return rows


def mixture(dataset: Samples, split: str, row: int, kind: str, pool: Pool, seed: int = 0) -> Mixture | None:
    """The mixture of one row; None where the split has no partner or no clip for it."""
    make = with_talker if kind == "talker" else with_two_noises
    return make(dataset, split, row, pool, seed)


def with_talker(dataset: Samples, split: str, row: int, pool: Pool, seed: int) -> Mixture | None:
    index, rate = dataset.index(split), dataset.sample_rate
    key, speaker, clean = _speech(dataset, split, row)
    talker = draw_talker(key_of("selective", seed, key), 1.0, (0, 0), pool, index, row, len(clean))
    if talker is None:
        return None
    clip = talker_clip(talker, rate, selective_rng("talker", seed, key))
    sound = dataset.read(split, clip.row, clip.field, clip.start, clip.stop)
    other = dataset.read(split, talker.row, "clean", talker.start, talker.start + len(clean))
    other = np.float32(noise_gain(clean, other, 0.0)) * other
    place = speaker_place(index, talker.row)
    return Mixture(key, place, "", speaker, clean, other, np.zeros_like(clean), sound, rate)


def with_two_noises(dataset: Samples, split: str, row: int, pool: Pool, seed: int) -> Mixture | None:
    index = dataset.index(split)
    key, speaker, clean = _speech(dataset, split, row)
    rng = selective_rng("two-noises", seed, key)
    found = evaluation_reference(dataset, split, row, "disjoint", 1.0, seed)
    partners = [other for other in map(int, rng.permutation(len(index.key))) if pool.place(other) != pool.place(row)]
    partner = next((other for other in partners if index.frames[other] >= len(clean)), None)
    if found is None or partner is None:
        return None
    noise = dataset.read(split, row, "noise")[: len(clean)]
    rest = dataset.read(split, partner, "noise")[: len(clean)]
    rest = np.float32(noise_gain(noise, rest, 0.0)) * rest
    gain = np.float32(noise_gain(clean, noise + rest, 0.0))
    if rng.integers(SPEECHLESS) == 0:
        clean = np.zeros_like(clean)
    own, others = (index.env_names[index.env[r]] for r in (row, partner))
    return Mixture(key, own, others, speaker, clean, gain * noise, gain * rest, found[0], dataset.sample_rate)


def _speech(dataset: Samples, split: str, row: int) -> tuple[str, str, np.ndarray]:
    """Key, speaker and the beginning of the speech of a row."""
    index = dataset.index(split)
    clean = dataset.read(split, row, "clean")[: round(SECONDS * dataset.sample_rate)]
    return bytes(index.key[row]).decode(), index.speaker_names[index.speaker[row]], clean


def systems(model: Enhancer | None, peers: Sequence[str]) -> dict[str, System]:
    """By name; the model with its switch where it has one, and asked to take all noise away."""
    made: dict[str, System] = {"ideal mask": ideal}
    if model is not None:
        made[f"nr:{model.digest[:8]}"] = by_model(model, keep_rest=False)
        if model.can_keep:
            made[f"nr:{model.digest[:8]} keep-rest"] = by_model(model, keep_rest=True)
    return made | {f"peer:{name}": by_peer(peer_functions.load(name)) for name in peer_functions.chosen(peers)}


def by_model(model: Enhancer, keep_rest: bool) -> System:
    def enhance(parts: Mixture) -> np.ndarray:
        z_r = model.embed(parts.clip, parts.sample_rate, keep_rest)
        return model.enhance(parts.noisy, parts.sample_rate, z_r, None, None, 0, "budget")

    return enhance


def by_peer(peer: peer_functions.Peer) -> System:
    return lambda parts: peer(parts.noisy, parts.sample_rate, parts.clip)


def evaluate(model: Enhancer | None, dataset: Samples, asked: EvaluationRequest, out: Path) -> dict[str, Any]:
    """`parts.jsonl`, `summary.json` and `table.md` into `out`; the summary. `UserError` where `out` is not empty."""
    assert asked.selective is not None
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose another --out", "exists")
    split, kind = asked.split, asked.selective
    index = dataset.index(split)
    pool, made_by, rows = Pool(index, dataset.sample_rate), systems(model, asked.peers), []
    places = drawn(len(index.key), asked.limit)
    with Progress(len(places), "mixtures") as progress:
        for row in places:
            parts = mixture(dataset, split, row, kind, pool)
            progress.advance()
            if parts is None:
                continue
            for name, system in made_by.items():
                told = {k: None if v is None else round(v, 4) for k, v in figures(system(parts), parts).items()}
                rows.append(PartsRow(kind, parts.key, parts.env_id, parts.rest_id, parts.speaker, name, told))
    if not rows:
        raise UserError(f"no row of {split} has a partner and a clip for {kind}", "empty")
    write_text(out / "parts.jsonl", "".join(row.line() for row in rows))
    told_of_run = {"fingerprint": str(dataset.fingerprint), "kind": kind, "split": split, "limit": asked.limit}
    write_json(out / "run.json", provenance() | told_of_run)
    return write_summary(rows, out)


def write_summary(rows: Sequence[PartsRow], out: Path) -> dict[str, Any]:
    """`summary.json` and `table.md` from rows: means with 95 % intervals, clustered by the clip's environment."""
    summary: dict[str, Any] = {"kind": rows[0].kind, "systems": {}}
    for name in dict.fromkeys(row.system for row in rows):
        own = [row for row in rows if row.system == name]
        told: dict[str, Any] = {"files": len(own)}
        for figure in FIGURES:
            found = [(value, row) for row in own if (value := row.figures[figure]) is not None]
            if found:
                values = np.array([value for value, _ in found])
                environments, speakers = ([getattr(row, of) for _, row in found] for of in ("env_id", "speaker"))
                told[figure] = asdict(interval(values, np.array(environments), np.array(speakers)))
        summary["systems"][name] = told
    write_text(out / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_text(out / "table.md", table(summary))
    return summary


def table(summary: dict[str, Any]) -> str:
    """Decibels taken from each part; what is to stay is `rest` and speech."""
    heads = {"clip_db": "the clip's sound", "rest_db": "the rest", "speech_db": "speech", "apart_db": "apart",
             "kept_db": "SI-SDR of what stays", "kept_gain_db": "gain"}  # fmt: skip
    lines = [f"{summary['kind']}: dB taken from each part, mean [95 % interval over environments and speakers]", "",
             "| system | files | " + " | ".join(heads.values()) + " |", "|---" * (len(heads) + 2) + "|"]  # fmt: skip
    for name, told in summary["systems"].items():
        cells = [shown(told.get(figure)) for figure in heads]
        lines.append(f"| {name} | {told['files']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(told: dict[str, Any] | None) -> str:
    if told is None:
        return "-"
    span = "" if told["low"] is None else f" [{told['low']:.1f}, {told['high']:.1f}]"
    return f"{told['mean']:.1f}{span}"
