"""A few test files as heard, with what the model made of them: sounds as FLAC and `listening.json` beside them.

Not the best ones: a third where the right clip helped most, a third where it harmed most, a third from the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.files import write_json
from nrdata.keyed import noise_seed
from nrmodel.evaluation.rungs import reference
from nrmodel.evaluation.tables import METRICS, Files, Row, by_setting, paired


def choose_files(files: Files, none: Files, count: int) -> list[tuple[str, str]]:
    """(key, why) of `count` files by their ESTOI gain over `none`: most helped, from the middle, most harmed."""
    rows = paired(files, none, "estoi")
    ordered = [r["key"] for r in sorted(rows, key=lambda r: (none[r["key"]]["estoi"] - r["estoi"], r["key"]))]
    count = min(count, len(ordered))
    ends = count // 3
    middle = (len(ordered) - (count - 2 * ends)) // 2
    return (
        [(key, "among the most helped") for key in ordered[:ends]]
        + [(key, "from the middle") for key in ordered[middle : middle + count - 2 * ends]]
        + [(key, "among the most harmed") for key in ordered[len(ordered) - ends :]]
    )


def render(
    model: Any, dataset: Any, split: str, rows: Sequence[Row], modes: Sequence[str], ref_seconds: float, nfe: int,
    count: int, out: Path,
) -> None:  # fmt: skip
    """Write the sounds of `count` files of an evaluation, the same as were scored, and listening.json."""
    name = f"nr:{model.digest[:8]}"
    settings = by_setting(rows)
    none = settings[name, "none", 0.0, nfe]
    right = settings.get((name, "disjoint", ref_seconds, nfe), none)
    places = {bytes(key).decode(): row for row, key in enumerate(dataset.index(split).key)}
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (key, why) in enumerate(choose_files(right, none, count), 1):
        row, fact = places[key], none[key]
        sounds = {field: dataset.read(split, row, field) for field in ("clean", "noisy")}
        scores = {"noisy": metrics_of(settings, ("noisy", "none", 0.0, 0), key)}
        for mode in modes:
            clip = reference(dataset, split, row, mode, ref_seconds, 0)
            if clip is None:
                continue
            seconds = 0.0 if mode == "none" else ref_seconds
            z_r = None if clip.sound is None else model.embed(clip.sound, dataset.sample_rate)
            if mode == "disjoint":
                sounds["reference"] = clip.sound
            estimate = model.enhance(sounds["noisy"], dataset.sample_rate, z_r, None, nfe, noise_seed(key, 0))
            sounds[mode] = estimate
            scores[mode] = metrics_of(settings, (name, mode, seconds, nfe), key)
        order = [n for n in ("clean", "noisy", "reference", *modes) if n in sounds]
        for what in order:
            sound = np.clip(sounds[what], -1, 1)[:, None]
            audio.write(out / sound_name(number, what), sound, dataset.sample_rate, "PCM_16")
        facts = {name: fact[name] for name in ("env_id", "speaker", "snr_db", "seen")}
        entries.append({"key": key, "why": why, **facts, "sounds": order, "scores": scores})
    write_json(out / "listening.json", entries)


def sound_name(number: int, what: str) -> str:
    return f"{number:02d}-{what.replace(':', '')}.flac"


def metrics_of(settings: dict, setting: tuple, key: str) -> dict[str, float | None]:
    """The scores of one file, empty where it has none."""
    row = settings.get(setting, {}).get(key)
    return {m: row[m] for m in METRICS} if row else {}
