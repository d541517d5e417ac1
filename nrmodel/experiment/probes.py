"""Is the reference read at all? Three questions to the weights, beside the scores.

loss          the training loss with the right clip, a clip of another environment and none, under the same draws
sensitivity   how far the output moves when the clip changes
embedding     does z_r know the recording and the environment? Retrieval and a linear probe on held-out recordings,
              beside the long-term log-Mel spectrum of the same clips; a 2-D map (principal components)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nrdata.audio.levels import rms
from nrdata.labels import place_of
from nrdata.sampling.config import StreamConfig
from nrdata.sampling.stream import Stream
from nrmodel.evaluation.rungs import long_term_log_mel
from nrmodel.evaluation.summary import finite

BATCH = 8
CROP_FRAMES = 128  # STFT frames
SENSITIVITY_FILES = 12
RIDGE = 1e-2  # of the linear probe, relative to the mean variance of a feature


def probe(
    model: Any, dataset: Any, split: str, batches: int, rows: int, ref_seconds: float, seed: int = 0,
    sampler: str = "budget",
) -> dict[str, Any]:  # fmt: skip
    """All probes of one model on `split` (held out), as plain data. The loss is taken on the split `valid` where there
    is one."""
    chosen = next(name for name in ("valid", split) if name in dataset.splits)
    return {
        "loss": losses(model, dataset, chosen, batches, ref_seconds, seed),
        "sensitivity": sensitivity(model, dataset, split, ref_seconds, seed, sampler),
        "embedding": embedding(model, dataset, split, rows, seed),
    }


# Loss ---------------------------------------------------------------------------------------------------------------


def losses(model: Any, dataset: Any, split: str, batches: int, ref_seconds: float, seed: int) -> dict[str, Any]:
    """Mean training loss over batches with `right`, `wrong` and `none` references, the same crops, times and noise;
    `wrong_minus_right` and `none_minus_right` with 95 % t intervals over batches."""
    import torch

    from nrmodel.training.step import batch_loss, draw

    crop = (CROP_FRAMES - 1) * model.spectrogram.hop
    config = StreamConfig(BATCH, crop, law="disjoint", ref_seconds=ref_seconds, on_missing_ref="none", seed=seed)
    stream = Stream(dataset, split, config)
    found: dict[str, list[float]] = {"right": [], "wrong": [], "none": []}
    position = (0, 0)
    with torch.no_grad():
        for k in range(batches):
            batch = stream.batch(*position)
            position = stream.next(*position)
            draws = draw(seed, k, BATCH, CROP_FRAMES, model.config, model.device)
            right = model.embed_batch(
                torch.from_numpy(batch.ref).to(model.device), torch.from_numpy(batch.ref_frames).to(model.device)
            )
            choices = {"right": right, "wrong": right[shuffled(batch.env_id)], "none": model.null(BATCH)}
            for name, z_r in choices.items():
                found[name].append(float(batch_loss(model, batch, draws, model.config, z_r=z_r)[0]))
    values = {name: np.array(v) for name, v in found.items()}
    return {
        "split": split,
        "batches": batches,
        "items": batches * BATCH,
        **{name: finite(float(v.mean())) for name, v in values.items()},
        "wrong_minus_right": t_interval(values["wrong"] - values["right"]),
        "none_minus_right": t_interval(values["none"] - values["right"]),
    }


def shuffled(environments: list[str]) -> np.ndarray:
    """For each item the place of another one, of another environment where there is one: the next behind it."""
    n = len(environments)
    places = [place_of(name) for name in environments]
    found = []
    for i in range(n):
        others = [(i + step) % n for step in range(1, n)] or [i]
        found.append(next((j for j in others if places[j] != places[i]), others[0]))
    return np.array(found)


def t_interval(values: np.ndarray) -> dict[str, float | None]:
    """Mean with its 95 % t interval, of independent values."""
    from scipy.stats import t

    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": finite(mean), "low": None, "high": None}
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return {"mean": finite(mean), "low": finite(mean - half), "high": finite(mean + half)}


# Output -------------------------------------------------------------------------------------------------------------


def sensitivity(
    model: Any, dataset: Any, split: str, ref_seconds: float, seed: int, sampler: str
) -> dict[str, Any]:
    """How far enhanced files move when the clip is exchanged, RMS of the change over RMS of the output in dB, medians;
    the same sampler noise."""
    from nrdata.sampling.clips import evaluation_reference

    count = len(dataset.index(split).key)
    changes: dict[str, list[float]] = {"disjoint_none": [], "disjoint_mismatch": []}
    for row in np.unique(np.linspace(0, count - 1, min(SENSITIVITY_FILES, count)).astype(int)):
        noisy, rate = dataset.read(split, int(row), "noisy"), dataset.sample_rate
        outputs = {"none": model.enhance(noisy, rate, seed=seed, sampler=sampler)}
        for mode in ("disjoint", "mismatch"):
            drawn = evaluation_reference(dataset, split, int(row), mode, ref_seconds, seed)
            if drawn is not None:
                outputs[mode] = model.enhance(noisy, rate, model.embed(drawn[0], rate), seed=seed, sampler=sampler)
        for name in changes:
            one, other = (outputs.get(mode) for mode in name.split("_"))
            if one is not None and other is not None and np.any(one):
                changes[name].append(20 * math.log10(max(rms(one - other), 1e-9) / rms(one)))
    return {name: {"median_db": finite(float(np.median(v))) if v else None, "files": len(v)}
            for name, v in changes.items()}  # fmt: skip


# Embedding ----------------------------------------------------------------------------------------------------------


def embedding(model: Any, dataset: Any, split: str, rows: int, seed: int) -> dict[str, Any]:
    """What z_r knows of held-out recordings. Each chosen sample gives two clips of 1 s that share no time: of its
    mixture's noise and of its reserve."""
    index, rate = dataset.index(split), dataset.sample_rate
    served = np.flatnonzero((index.ref_frames >= rate // 4) & (index.frames >= rate // 4))
    if len(served) < 4:
        return {"clips": 0}
    chosen = np.sort(np.random.default_rng(seed).permutation(served)[:rows])
    place = np.array([place_of(index.env_names[index.env[row]]) for row in chosen])
    recording = np.array([index.recording_names[index.recording[row]] for row in chosen])
    features: dict[str, list[list[np.ndarray]]] = {"log-Mel spectrum": [], "z_r": []}
    for row in chosen:
        clips = [dataset.read(split, int(row), field)[:rate] for field in ("noise", "ref")]
        features["z_r"].append([model.embed(clip, rate)[0].cpu().double().numpy() for clip in clips])
        levels = [long_term_log_mel(clip, rate) for clip in clips]
        features["log-Mel spectrum"].append([level - level.mean() for level in levels])
    pairs = {name: np.array(found) for name, found in features.items()}
    size = model.reference.z_dim
    if pairs["z_r"].shape[-1] > size:  # behind the learned embedding stands the clip's spectrum
        pairs["learned embedding"] = pairs["z_r"][..., :size]
    return {
        "clips": 2 * len(chosen),
        "recordings": len(set(recording)),
        "environments": len(set(place)),
        "features": {name: knowledge(standardised(both), place, recording) for name, both in pairs.items()},
        "map": principal_map(standardised(pairs["z_r"])[:, 1], place),
    }


def standardised(pairs: np.ndarray) -> np.ndarray:
    """Features `(n, 2, d)` with mean 0 and deviation 1 over all clips; constant ones become 0."""
    flat = pairs.reshape(-1, pairs.shape[-1])
    deviation = flat.std(axis=0)
    scaled: np.ndarray = (pairs - flat.mean(axis=0)) / np.where(deviation < 1e-9, 1.0, deviation)
    return scaled


def knowledge(pairs: np.ndarray, place: np.ndarray, recording: np.ndarray) -> dict[str, Any]:
    """Retrieval (cosine) and linear probes from standardised features `(n, 2, d)`; each beside its chance."""
    one, other = pairs[:, 0], pairs[:, 1]
    same = recording[:, None] == recording
    alike = cosine(other, one)
    nearest = alike.argmax(axis=1)
    found = {"recording": float(np.mean(recording[nearest] == recording)), "recording_chance": float(same.mean())}
    # The environment: what lies nearest among the clips of other recordings.
    elsewhere = np.where(same, -np.inf, alike)
    able = np.array([np.any((place == p) & (recording != r)) for p, r in zip(place, recording, strict=True)])
    if able.any():
        hits = place[elsewhere.argmax(axis=1)] == place
        fair = ((place[:, None] == place) & ~same).sum(axis=1) / np.maximum((~same).sum(axis=1), 1)
        found |= {"environment": float(hits[able].mean()), "environment_chance": float(fair[able].mean())}
    found |= {"recording_probe": linear_accuracy(one, recording, other, recording)}
    if (probed := held_out_probe(pairs, place, recording)) is not None:
        found["environment_probe"] = probed
    return {name: finite(value) for name, value in found.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines `(n, m)` of rows."""
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
    cosines: np.ndarray = unit[0] @ unit[1].T
    return cosines


def held_out_probe(pairs: np.ndarray, place: np.ndarray, recording: np.ndarray) -> float | None:
    """Accuracy of a linear probe of the environment on recordings that it was not fitted to: two folds by recording,
    over the environments with two recordings or more; None where there are fewer than two."""
    fold = np.full(len(place), -1)
    for name in np.unique(place):
        recordings = np.unique(recording[place == name])
        if len(recordings) > 1:
            for number, r in enumerate(recordings):
                fold[recording == r] = number % 2
    if len(np.unique(place[fold >= 0])) < 2:
        return None
    hits, count = 0.0, 0
    for tested in (0, 1):
        fit, test = fold == 1 - tested, fold == tested
        features = pairs[fit].reshape(-1, pairs.shape[-1]), pairs[test].reshape(-1, pairs.shape[-1])
        accuracy = linear_accuracy(features[0], np.repeat(place[fit], 2), features[1], np.repeat(place[test], 2))
        hits, count = hits + accuracy * test.sum(), count + int(test.sum())
    return hits / count


def linear_accuracy(x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, labels_test: np.ndarray) -> float:
    """Ridge regression onto one-hot labels, fitted on `x (n, d)`; share of `x_test` whose greatest answer is right."""
    names, codes = np.unique(labels, return_inverse=True)
    targets = np.eye(len(names))[codes]
    centre = x.mean(axis=0)
    a, b = x - centre, targets - targets.mean(axis=0)
    ridge = RIDGE * len(a) * max(float(a.var(axis=0).mean()), 1e-12)
    weights = a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(len(a)), b)  # the dual: fewer clips than features
    answers = (x_test - centre) @ weights + targets.mean(axis=0)
    return float(np.mean(names[answers.argmax(axis=1)] == labels_test))


def principal_map(x: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    """The first two principal components of `(n, d)`: points with their environments, and the share of variance."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    total = float(np.square(s).sum())
    if len(s) < 2 or total == 0:
        return {"points": [], "variance": []}
    points = u[:, :2] * s[:2]
    points *= np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])  # the sign of an axis is arbitrary: fix it
    shares = np.square(s[:2]) / total
    labelled = zip(points, place, strict=True)
    return {
        "points": [[round(float(p[0]), 3), round(float(p[1]), 3), str(name)] for p, name in labelled],
        "variance": [round(float(share), 4) for share in shares],
    }
