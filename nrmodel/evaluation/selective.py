"""Does the clip choose? Mixtures of speech and two other sounds, the clip from one of them; told from the parts.

    y = s + a + b        a the sound of the clip, b what is to stay beside the speech

For each estimate, how much of every part went away: in each frequency bin the gains of s, a and b by least squares over
time, and from them the level of the part behind the system (decibels taken, positive: taken away). `apart` is what a
lost more than what is to stay (b; where there is none, s). `kept` is SI-SDR against s + b.

Kinds: `two-noises` (b another environment's noise as loud as a, speech at 0 dB in three of four mixtures) and `talker`
(a another speaker at the level of the speech, the clip his other words). Every draw is keyed by (seed, key).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nrdata.environment import provenance
from nrdata.errors import UserError
from nrdata.files import write_text
from nrdata.progress import Progress
from nrdata.sampling.harder import draw_talker, talker_clip
from nrdata.sampling.keyed import SECOND, generator, key_of
from nrdata.sampling.pool import Pool
from nrdata.sampling.references import evaluation_reference
from nrdata.sampling.transforms import noise_gain
from nrmodel.evaluation import peers as peer_functions
from nrmodel.evaluation.folders import drawn
from nrmodel.evaluation.statistics import interval

KINDS = ("two-noises", "talker")
SECONDS = 2.0  # of a mixture, at most
SPEECHLESS = 4  # one of so many two-noise mixtures holds no speech
FRAME = 512
FIGURES = ("clip_db", "rest_db", "speech_db", "apart_db", "kept_db", "kept_gain_db")

System = Callable[["Mixture"], np.ndarray]


@dataclass(frozen=True)
class Mixture:
    """float32 (frames,) each; `speech` or `rest` may be silent. `env_id` names the sound of the clip."""

    key: str
    env_id: str
    rest_id: str
    speaker: str
    speech: np.ndarray
    clip_sound: np.ndarray
    rest: np.ndarray
    clip: np.ndarray
    sample_rate: int

    @property
    def noisy(self) -> np.ndarray:
        return self.speech + self.clip_sound + self.rest

    @property
    def kept(self) -> np.ndarray:
        return self.speech + self.rest


def mixture(dataset: Any, split: str, row: int, kind: str, pool: Pool, seed: int = 0) -> Mixture | None:
    """The mixture of one row; None where the split has no partner or no clip for it."""
    index, rate = dataset.index(split), dataset.sample_rate
    key = bytes(index.key[row]).decode()
    rng = generator(key_of("selective", kind, seed, key), SECOND)
    voice = index.speaker_names[index.speaker[row]]
    clean = dataset.read(split, row, "clean")[: round(SECONDS * rate)]
    if kind == "talker":
        talker = draw_talker(key_of("selective", seed, key), 1.0, (0, 0), pool, row, len(clean))
        if talker is None:
            return None
        other = dataset.read(split, talker.row, "clean", talker.start, talker.start + len(clean))
        clip = talker_clip(talker, rate, rng)
        name = f"speaker/{index.speaker_names[index.speaker[talker.row]]}"
        sound = dataset.read(split, clip.row, clip.field, clip.start, clip.stop)
        other = np.float32(noise_gain(clean, other, 0.0)) * other
        return Mixture(key, name, "", voice, clean, other, np.zeros_like(clean), sound, rate)
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
    name, other_name = (index.env_names[index.env[r]] for r in (row, partner))
    return Mixture(key, name, other_name, voice, clean, gain * noise, gain * rest, found[0], rate)


def figures(made: np.ndarray, parts: Mixture) -> dict[str, float | None]:
    """`FIGURES` of one estimate; None where the part is silent."""
    spectra = [_spectrum(x) for x in (parts.speech, parts.clip_sound, parts.rest)]
    gains = part_gains(_spectrum(made), spectra)
    speech, clip, rest = (taken_db(g, s) for g, s in zip(gains, spectra, strict=True))
    stays = rest if rest is not None else speech
    kept = si_sdr(parts.kept, made)
    return {
        "clip_db": clip, "rest_db": rest, "speech_db": speech,
        "apart_db": None if clip is None or stays is None else clip - stays,
        "kept_db": kept, "kept_gain_db": kept - si_sdr(parts.kept, parts.noisy),
    }  # fmt: skip


def part_gains(made: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Complex (parts, bins): in each bin the gains that explain `made` (bins, frames) best as a sum of the parts."""
    stacked = np.stack(parts, axis=2)  # (bins, frames, parts)
    gram = np.einsum("ftp,ftq->fpq", stacked.conj(), stacked)
    floor = 1e-6 * np.trace(gram, axis1=1, axis2=2).real[:, None, None] + 1e-12
    right = np.einsum("ftp,ft->fp", stacked.conj(), made)
    return np.linalg.solve(gram + floor * np.eye(len(parts)), right[..., None])[..., 0].T


def taken_db(gains: np.ndarray, part: np.ndarray) -> float | None:
    """How much of a part's energy its gains (bins,) took away, in dB; None for silence."""
    power = np.sum(np.abs(part) ** 2, axis=1)
    if power.sum() <= 1e-9:
        return None
    left = float(np.sum(np.abs(gains) ** 2 * power) / power.sum())
    return -10 * math.log10(max(left, 1e-6))


def si_sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), without removal of the mean."""
    target, estimate = target.astype(np.float64), estimate.astype(np.float64)
    scaled = target * (estimate @ target) / max(float(target @ target), 1e-12)
    rest = estimate - scaled
    return float(10 * np.log10(max(float(scaled @ scaled), 1e-12) / max(float(rest @ rest), 1e-12)))


def ideal(parts: Mixture) -> np.ndarray:
    """The mixture through the Wiener mask that knows the parts: a bound."""
    kept, gone = (np.abs(_spectrum(x)) ** 2 for x in (parts.kept, parts.clip_sound))
    return _wave(_spectrum(parts.noisy) * kept / np.maximum(kept + gone, 1e-12), len(parts.noisy))


def systems(model: Any, peers: Sequence[str]) -> dict[str, System]:
    """By name; the model with its switch where it has one, and asked to take all noise away."""
    made: dict[str, System] = {"ideal mask": ideal}
    if model is not None:
        name = f"nr:{model.digest[:8]}"

        def enhanced(parts: Mixture, keep_rest: bool) -> np.ndarray:
            z_r = model.embed(parts.clip, parts.sample_rate, keep_rest)
            return model.enhance(parts.noisy, parts.sample_rate, z_r)

        made[name] = lambda parts: enhanced(parts, False)
        if model.config.keep:
            made[f"{name} keep-rest"] = lambda parts: enhanced(parts, True)
    for peer in peer_functions.chosen(peers):
        made[f"peer:{peer}"] = _peer(peer_functions.load(peer))
    return made


def _peer(peer: peer_functions.Peer) -> System:
    return lambda parts: peer(parts.noisy, parts.sample_rate, parts.clip)


def evaluate(
    model: Any, dataset: Any, split: str, kind: str, out: Path, peers: Sequence[str] = (), limit: int | None = None
) -> dict[str, Any]:
    """`parts.jsonl`, `summary.json` and `table.md` into `out`; the summary. `UserError` where `out` is not empty."""
    if kind not in KINDS:
        raise UserError(f"{kind!r} is unknown: choose from {', '.join(KINDS)}", "kind")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose another --out", "exists")
    index = dataset.index(split)
    pool, asked, rows = Pool(index, dataset.sample_rate), systems(model, peers), []
    places = drawn(len(index.key), limit)
    with Progress(len(places), "mixtures") as progress:
        for row in places:
            parts = mixture(dataset, split, row, kind, pool)
            progress.advance()
            if parts is None:
                continue
            for name, system in asked.items():
                told = {k: None if v is None else round(v, 4) for k, v in figures(system(parts), parts).items()}
                facts = {"env_id": parts.env_id, "rest": parts.rest_id, "speaker": parts.speaker}
                rows.append({"kind": kind, "key": parts.key, **facts, "system": name, **told})
    if not rows:
        raise UserError(f"no row of {split} has a partner and a clip for {kind}", "empty")
    write_text(out / "parts.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    made_with = provenance() | {"fingerprint": str(dataset.fingerprint), "kind": kind, "split": split, "limit": limit}
    write_text(out / "run.json", json.dumps(made_with, indent=1) + "\n")
    return write_summary(rows, out)


def write_summary(rows: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """`summary.json` and `table.md` from rows: means with 95 % intervals, clustered by the clip's environment."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    summary: dict[str, Any] = {"kind": rows[0]["kind"], "systems": {}}
    for name in names:
        own = [row for row in rows if row["system"] == name]
        told: dict[str, Any] = {"files": len(own)}
        for figure in FIGURES:
            found = [row for row in own if row[figure] is not None]
            if found:
                values, places, voices = (
                    np.array([row[label] for row in found]) for label in (figure, "env_id", "speaker")
                )
                told[figure] = asdict(interval(values, places, voices))
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


def _spectrum(x: np.ndarray) -> np.ndarray:
    """Complex (bins, frames), Hann square-root frames half overlapping."""
    window = np.sqrt(np.hanning(FRAME + 1)[:-1])
    padded = np.pad(x.astype(np.float64), (FRAME // 2, FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2] * window
    return np.fft.rfft(frames, axis=1).T


def _wave(spectrum: np.ndarray, length: int) -> np.ndarray:
    window = np.sqrt(np.hanning(FRAME + 1)[:-1])
    frames = np.fft.irfft(spectrum.T, axis=1) * window
    out = np.zeros((len(frames) + 1) * FRAME // 2)
    for i, frame in enumerate(frames):
        out[i * FRAME // 2 : i * FRAME // 2 + FRAME] += frame
    return out[FRAME // 2 : FRAME // 2 + length].astype(np.float32)
