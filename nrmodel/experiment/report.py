"""The report of a finished experiment: verdicts.json, pictures, report.md, and report.html, one page that opens from
disk with pictures and sounds inside.

All but the sounds is a function of rows, probes and the files of cells: it can be made again without weights or data.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from nrdata.files import write_bytes, write_json, write_text
from nrmodel.evaluation.markdown import escaped, plain, table, with_interval
from nrmodel.evaluation.metrics import METRICS
from nrmodel.experiment import plots
from nrmodel.experiment.collect import collect
from nrmodel.experiment.listening import sound_name
from nrmodel.experiment.plan import Plan
from nrmodel.experiment.sections import Section, sections


def write_report(plan: Plan, out: Path) -> dict[str, Any]:
    """All of the report; returns the verdicts."""
    found = write_tables(plan, out, out)
    write_text(out / "report.html", to_html(found, out))
    return found


def write_tables(plan: Plan, experiment: Path, out: Path) -> dict[str, Any]:
    """verdicts.json, the pictures and report.md, into `out`, from the folder of an experiment."""
    found = collect(plan, experiment)
    write_json(out / "verdicts.json", found)
    made = plots.pictures(found, found["probes"])
    for name, png in made.items():
        write_picture(out / f"{name}.png", png)
    write_text(out / "report.md", to_markdown(found, set(made)))
    return found


def write_picture(path: Path, png: bytes) -> bool:
    """Write a picture unless the one there shows the same; whether it was written."""
    if path.exists() and plots.same_picture(path.read_bytes(), png):
        return False
    write_bytes(path, png)
    return True


def to_markdown(found: dict[str, Any], pictures: set[str]) -> str:
    """report.md."""
    parts = [f"# Experiment {escaped(found['name'])}\n", f"> {escaped(found['primary']['sentence'])}\n"]
    for section in sections(found):
        if section.rows:
            cells = [(escaped(name), [escaped(cell) for cell in row]) for name, row in section.rows]
            parts.append(table(escaped(section.title), [escaped(column) for column in section.columns], cells))
        else:
            parts.append(f"## {escaped(section.title)}\n")
        if section.lines:
            parts.append("".join(f"- {escaped(line)}\n" for line in section.lines))
        if section.picture in pictures:
            parts.append(f"![{section.title}]({section.picture}.png)\n")
    return "\n".join(parts)


def to_html(found: dict[str, Any], out: Path) -> str:
    """The page, from verdicts, the pictures in `out` and its `listening`."""

    def picture(section: Section) -> str:
        path = out / f"{section.picture}.png"
        return data_url("image/png", path.read_bytes()) if section.picture and path.exists() else ""

    return page(
        "report.html.j2", policy="default-src 'none'; img-src data:; media-src data:", found=found,
        sections=sections(found), picture=picture, interval=with_interval, files=heard(out / "listening"),
    )  # fmt: skip


def page(template: str, folder: Path | None = None, **shown: Any) -> str:
    """A template that extends `page.html.j2`, from this package or from `folder`, filled in."""
    import jinja2

    here = jinja2.PackageLoader("nrmodel.experiment", "")
    loader = here if folder is None else jinja2.ChoiceLoader([here, jinja2.FileSystemLoader(folder)])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**shown) + "\n"


def scores_told(scores: dict[str, float | None]) -> str:
    """The metrics that there are, in one line."""
    known = [(METRICS[m], scores[m]) for m in METRICS if scores.get(m) is not None]
    return ", ".join(f"{metric.title} {plain(value, metric.digits)} {metric.unit}".rstrip() for metric, value in known)


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def heard(folder: Path) -> list[dict[str, Any]]:
    """The files to listen to, sounds and spectrograms encoded. The noisy one sets the scale of a file's spectrograms,
    the reference has its own (its level is its own)."""
    from nrdata import audio

    path = folder / "listening.json"
    if not path.exists():
        return []
    found = []
    for number, entry in enumerate(json.loads(path.read_text(encoding="utf-8")), 1):
        noisy, rate = audio.read(folder / sound_name(number, "noisy"))
        top = plots.spectrogram_png(noisy[:, 0], rate)[1]
        versions = []
        for what in entry["sounds"]:
            file = folder / sound_name(number, what)
            sound, rate = audio.read(file)
            png, _ = plots.spectrogram_png(sound[:, 0], rate, None if what == "reference" else top)
            seconds, scores = round(len(sound) / rate, 2), scores_told(entry["scores"].get(what, {}))
            told = f"{seconds} s, {scores}" if scores else f"{seconds} s"
            urls = {"sound": data_url("audio/flac", file.read_bytes()), "picture": data_url("image/png", png)}
            versions.append({"name": what, "seconds": seconds, "khz": rate // 2000, "told": told, **urls})
        found.append(entry | {"number": number, "versions": versions})
    return found
