"""The pictures of a report, from verdicts as plain data: PNG bytes, the same for the same data and matplotlib.

A picture says in itself what it shows (a digest of its data) and what drew it, so that one drawn by another matplotlib
from the same data can be told from one that shows something else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from nrdata import drawing
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.names import clip_name, system_name
from nrmodel.evaluation.schema import setting_of

COLOURS = ("#1f5fa8", "#b5541c", "#3d7d3d", "#7a3d8f", "#c2a000", "#0b8a8f")  # of the environments on the map that
MARKERS = "os^vDp"  # are told apart


@contextmanager
def figure(
    shown: Any, columns: int, width: float, height: float, rows: Sequence[float] = (1,)
) -> Iterator[tuple[Any, Any, io.BytesIO]]:
    """A figure, its axes (of several `rows`, whose heights are in these proportions, row by row) and the buffer that
    holds the PNG afterwards; `shown` is its data, plain."""
    plt = drawing.pyplot()
    fig, axes = plt.subplots(
        len(rows), columns, figsize=(width, height), layout="constrained", squeeze=False, height_ratios=rows
    )
    buffer = io.BytesIO()
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    yield fig, axes if len(rows) > 1 else axes[0], buffer
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
    told = {"Software": f"matplotlib {drawing.matplotlib().__version__}", "Description": digest}
    fig.savefig(buffer, dpi=110, format="png", metadata=told)
    plt.close(fig)


def panels(shown: Any, width: float, height: float) -> AbstractContextManager[tuple[Any, Any, io.BytesIO]]:
    """A figure with a panel a metric; `width` is that of three."""
    return figure(shown, len(METRICS), width * len(METRICS) / 3, height)


def same_picture(one: bytes, other: bytes) -> bool:
    """Equal bytes; or the same data, drawn by another matplotlib."""
    from PIL import Image

    if one == other:
        return True
    a, b = (Image.open(io.BytesIO(png)).info for png in (one, other))
    return a.get("Description") == b.get("Description") is not None and a.get("Software") != b.get("Software")


def pictures(found: dict[str, Any], probes: dict[str, Any]) -> dict[str, bytes]:
    """Name -> PNG of what there is to show."""
    made = {"ladder": ladder(found["ladder"])}
    if found["dose"]["ref_seconds"]:
        made["length"] = curve(found["dose"]["ref_seconds"], "ref_seconds", "length of the clip, s", log=True)
    if found["dose"]["leak_db"]:
        made["leak"] = curve(found["dose"]["leak_db"], "leak_db", "speech in the clip, dB over its noise")
    if found["by_distance"]:
        made["distance"] = distance(found["by_distance"])
    points = next((p["embedding"].get("map", {}).get("points") for p in probes.values()), None)
    if points:
        made["map"] = embedding_map(points)
    return {name: png for name, png in made.items() if png}


def ladder(rungs: list[dict[str, Any]]) -> bytes:
    """Gain of every rung over `none` of the same weights, with intervals, a panel a metric; empty without rungs."""
    shown = [e for e in rungs if e["over_none"]]
    if not shown:
        return b""
    with panels(shown, 11.0, 1.1 + 0.32 * len(shown)) as (_, axes, buffer):
        lying(axes, [clip_name(e["mode"]) for e in shown], [e["over_none"] for e in shown])
        for axis, metric in zip(axes, METRICS, strict=True):
            axis.set_xlabel(f"{METRICS[metric].heading}, gain over none")
    return buffer.getvalue()


def lying(axes: Any, names: list[str], metrics: list[dict[str, Any]]) -> None:
    """Means with intervals and a line at zero, one under the other, a panel a metric; names at the first."""
    for axis, metric in zip(axes, METRICS, strict=True):
        for place, estimates in enumerate(reversed(metrics)):
            point(axis, estimates[metric], place, metric)
        axis.axvline(0, color="#888888", linewidth=0.8)
        axis.set_yticks(range(len(names)), names[::-1] if axis is axes[0] else [])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.margins(x=0.08)
        axis.locator_params(axis="x", nbins=4)


def point(axis: Any, estimate: dict[str, Any], y: float, metric: str) -> None:
    """A mean with its interval, lying."""
    if estimate["mean"] is None:
        return
    if estimate["low"] is not None:
        axis.plot([estimate["low"], estimate["high"]], [y, y], color=METRICS[metric].colour, linewidth=1.6)
    axis.plot(estimate["mean"], y, "o", color=METRICS[metric].colour, markersize=5)


def curve(entries: list[dict[str, Any]], name: str, label: str, log: bool = False) -> bytes:
    """Gain over `none` against a dose, a panel a metric; the dose None (no speech) stands at the left end."""
    doses = [e[name] for e in entries]
    known = [dose for dose in doses if dose is not None]
    left = min(known) - 10 if None in doses else None
    with panels(entries, 10.0, 2.8) as (_, axes, buffer):
        for axis, metric in zip(axes, METRICS, strict=True):
            shown = [(left if e[name] is None else e[name], e["metrics"][metric]) for e in entries]
            shown = [(x, v) for x, v in shown if v["mean"] is not None]
            x, mean = [x for x, _ in shown], [v["mean"] for _, v in shown]
            axis.plot(x, mean, "o-", color=METRICS[metric].colour, markersize=4)
            if shown and all(v["low"] is not None for _, v in shown):
                low, high = [v["low"] for _, v in shown], [v["high"] for _, v in shown]
                axis.fill_between(x, low, high, color=METRICS[metric].colour, alpha=0.18, linewidth=0)
            axis.axhline(0, color="#888888", linewidth=0.8)
            if log:
                axis.set_xscale("log", base=2)
            ticks = sorted([*known, *([] if left is None else [left])])
            axis.set_xticks(ticks, ["no speech" if dose == left else f"{dose:g}" for dose in ticks])
            axis.minorticks_off()
            axis.set(xlabel=label, ylabel=f"{METRICS[metric].heading}, gain over none")
    return buffer.getvalue()


def distance(entries: list[dict[str, Any]]) -> bytes:
    """Gain over `none` in bins of the distance of clip and noise, a panel a metric."""
    by_metric = {e["metric"]: e["bins"] for e in entries}
    with panels(entries, 10.0, 2.8) as (_, axes, buffer):
        for axis, metric in zip(axes, METRICS, strict=True):
            bins = by_metric.get(metric, [])
            for place, piece in enumerate(bins):
                gain = piece["gain"]
                if gain["low"] is not None:
                    axis.plot([place, place], [gain["low"], gain["high"]], color=METRICS[metric].colour, linewidth=1.6)
                axis.plot(place, gain["mean"], "o", color=METRICS[metric].colour, markersize=5)
            axis.axhline(0, color="#888888", linewidth=0.8)
            labels = [f"{b['from_db']:g}+" if b["to_db"] is None else f"{b['from_db']:g}-{b['to_db']:g}" for b in bins]
            axis.set_xticks(range(len(bins)), labels)
            axis.set(xlabel="distance of clip and noise, dB", ylabel=f"{METRICS[metric].heading}, gain over none")
    return buffer.getvalue()


def embedding_map(points: list[list[Any]]) -> bytes:
    """Clips on the first two principal components of z_r: a few environments in colours, the others grey."""
    coloured = around(points, len(COLOURS))
    others = [p for p in points if p[2] not in coloured]
    with figure([points, coloured], 1, 8.0, 4.6) as (fig, axes, buffer):
        axis = axes[0]
        if others:
            label = f"{len({p[2] for p in others})} others"
            axis.plot([p[0] for p in others], [p[1] for p in others], "o", color="#c4c9cf", markersize=4, label=label)
        for colour, marker, place in zip(COLOURS, MARKERS, coloured, strict=False):
            own = [p for p in points if p[2] == place]
            axis.plot([p[0] for p in own], [p[1] for p in own], marker, color=colour, markersize=7,
                      markeredgecolor="white", label=place.rpartition("/")[2])  # fmt: skip
        axis.set(xlabel="first principal component of z_r", ylabel="second")
        fig.legend(loc="outside right upper", frameon=False)
    return buffer.getvalue()


def around(points: list[list[Any]], count: int) -> list[str]:
    """`count` environments spread evenly over those there are, by the direction in which the mean of each lies, not by
    how closely its clips lie together."""
    means: dict[str, list[float]] = {}
    for place in sorted({p[2] for p in points}):
        own = [p for p in points if p[2] == place]
        means[place] = [sum(p[k] for p in own) / len(own) for k in (0, 1)]
    turned = sorted(means, key=lambda place: math.atan2(means[place][1], means[place][0]))
    count = min(count, len(turned))
    return sorted(turned[k * len(turned) // count] for k in range(count))


def loss_curve(
    steps: list[int],
    loss: list[float],
    validation: dict[str, list[tuple[int, float]]] | None = None,
    own_from: int | None = None,
) -> bytes:
    """Loss of training, and of validation by clip, of one run; a line where own estimates begin: they are harder."""
    colours = {"right": METRICS["si_sdr"].colour, "none": METRICS["pesq_wb"].colour}
    names = {"right": "validation, right clip", "none": "validation, no clip"}
    with figure([steps, loss, validation, own_from], 1, 8.0, 3.2) as (fig, axes, buffer):
        axis = axes[0]
        axis.plot(steps, loss, color="#9db9d6", linewidth=0.9, label="training")
        for clip, told in (validation or {}).items():
            if clip in colours:
                at, value = zip(*told, strict=True)
                axis.plot(at, value, "o-", color=colours[clip], markersize=5, label=names[clip])
        if own_from is not None:
            axis.axvline(own_from, color="#5c6773", linewidth=1, linestyle="--", label="own estimates begin")
        axis.set(xlabel="step", ylabel="loss")
        fig.legend(loc="outside right upper", frameon=False)
    return buffer.getvalue()


def paired_gains(summary: dict[str, Any]) -> bytes:
    """The paired differences of one evaluation with intervals, a panel a metric: above what every system adds to the
    noisy sound, below what a clip adds to none of the same weights; empty where there is nothing to subtract."""
    models = len({e["system"] for e in summary["means"] if e["system"].startswith("nr:")})
    titles = {"noisy": "minus the noisy sound", "none": "minus no clip"}
    shown = {other: [untimed(e) for e in summary["differences"] if e["minus"] == other] for other in titles}
    shown = {other: entries for other, entries in shown.items() if entries}
    if not shown:
        return b""
    heights = [1.2 + 0.3 * len(entries) for entries in shown.values()]
    width = 11.5 * len(METRICS) / 3
    with figure(shown, len(METRICS), width, sum(heights), heights) as (_, axes, buffer):
        for row, (other, entries) in zip([axes] if len(heights) == 1 else axes, shown.items(), strict=True):
            lying(row, [system_name(setting_of(e), models) for e in entries], [e["metrics"] for e in entries])
            for axis, metric in zip(row, METRICS, strict=True):
                axis.set_xlabel(f"{METRICS[metric].heading}, {titles[other]}")
    return buffer.getvalue()


def untimed(entry: dict[str, Any]) -> dict[str, Any]:
    """What a picture shows of an entry: not how long it took."""
    return {name: value for name, value in entry.items() if name != "real_time_factor"}


def quality_by_calls(summary: dict[str, Any]) -> bytes:
    """Means with intervals against the number of network calls, a panel a metric, a line a mode; empty where no
    system was asked for several numbers."""
    lines: dict[str, list[dict[str, Any]]] = {}
    models = len({e["system"] for e in summary["means"] if e["system"].startswith("nr:")})
    for e in summary["means"]:
        if e["nfe"]:
            name = system_name(dataclasses.replace(setting_of(e), nfe=1), models)
            lines.setdefault(name, []).append(untimed(e))
    shown = {name: entries for name, entries in lines.items() if len(entries) > 1}
    if not shown:
        return b""
    with panels(shown, 10.0, 3.2) as (fig, axes, buffer):
        for axis, metric in zip(axes, METRICS, strict=True):
            for k, (name, entries) in enumerate(shown.items()):
                known = [(e["nfe"], e["metrics"][metric]) for e in entries if e["metrics"][metric]["mean"] is not None]
                x = [calls * (1 + 0.04 * k) for calls, _ in known]
                axis.plot(x, [v["mean"] for _, v in known], "os^v"[k % 4] + "-", markersize=4, label=name)
                for place, (_, v) in zip(x, known, strict=True):
                    if v["low"] is not None:
                        axis.plot([place, place], [v["low"], v["high"]], color="#888888", linewidth=0.8)
            axis.set_xscale("log")
            calls = sorted({e["nfe"] for entries in shown.values() for e in entries})
            axis.set_xticks(calls, [str(n) for n in calls])
            axis.minorticks_off()
            axis.set(xlabel="network calls", ylabel=METRICS[metric].heading)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return buffer.getvalue()


def spectrogram(signal: Any, sample_rate: int, top_db: float | None = None) -> tuple[Any, float]:
    """A bare picture (`PIL.Image`) of `(samples,)`: time across, 0 to half the rate upwards, 70 dB under `top_db` (its
    own greatest level where None) in 64 colours; returns it and that level. Axes are the page's, as text."""
    matplotlib = drawing.matplotlib()
    import numpy as np
    from PIL import Image
    from scipy.signal import stft

    _, _, values = stft(signal, sample_rate, nperseg=512, noverlap=256)
    level = 20 * np.log10(np.abs(values) + 1e-7)
    top = float(level.max()) if top_db is None else top_db
    shade = np.clip((level - top + 70) / 70, 0, 1)[::-1]
    picture = Image.fromarray(np.rint(63 * shade).astype(np.uint8), "P")
    picture.putpalette(matplotlib.colormaps["magma"](np.linspace(0, 1, 64), bytes=True)[:, :3].tobytes())
    return picture, top


def spectrogram_png(signal: Any, sample_rate: int, top_db: float | None = None) -> tuple[bytes, float]:
    """The same as PNG."""
    picture, top = spectrogram(signal, sample_rate, top_db)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue(), top
