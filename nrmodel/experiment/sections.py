"""What a report says, section by section, from verdicts as plain data; how it looks is `report.py`'s business."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nrmodel.evaluation.markdown import counts, intervals, plain, with_interval
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import Setting
from nrmodel.evaluation.summary import HARM_DB
from nrmodel.experiment.contrasts import PRIMARY

SEEN = {
    "recording": "another time of a seen recording",
    "environment": "another recording of a seen environment",
    "unseen": "an unseen environment",
}


@dataclass(frozen=True)
class Section:
    """A table (each row its name and cells), lines of text, a picture by name; all text is raw."""

    title: str
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    picture: str = ""

    @property
    def empty(self) -> bool:
        return not self.rows and not self.lines


def sections(found: dict[str, Any]) -> list[Section]:
    """All that have something to say, the declared contrast and the verdicts first."""
    dose = found["dose"]
    made = [
        declared(found),
        criteria(found["criteria"]),
        is_it_read(found["probes"]),
        embedding(found["probes"]),
        by_seen(found["seen"]),
        by_snr(found["snr"]),
        ladder(found["ladder"], found["ref_seconds"]),
        harm(found["ladder"]),
        doses(dose["ref_seconds"], "ref_seconds", "Length of the clip, the same files throughout", " s", "length"),
        doses(dose["leak_db"], "leak_db", "Speech in the clip, over its noise", " dB", "leak"),
        by_distance(found["by_distance"]),
        ablations(found["ablations"]),
        peers(found["peers"]),
        rests_on(found),
    ]
    return [section for section in made if not section.empty]


def declared(found: dict[str, Any]) -> Section:
    """The declared contrast, its check, the null's handicap, the other numbers of calls."""
    e = found["primary"]
    names = {
        "over_none": "disjoint minus none, the same weights",
        "over_baseline": "disjoint minus the baseline",
        "null_handicap": "the null's handicap: none minus the baseline",
    }
    told = [(title, e[name]) for name, title in names.items() if e[name]["files"]]
    lines = [f"{title}: {with_interval(gain, 3)}, {counts(gain)}{by_seed(gain)}" for title, gain in told]
    if e["bootstrap"] and e["over_none"]["conclusive"]:
        low, high = e["bootstrap"]
        lines.append(f"the first by two-way bootstrap, as a check: [{low:.3f}, {high:.3f}]")
    for s in found["samplers"]:
        gain = f"{with_interval(s['over_none'], 3)}, {counts(s['over_none'])}"
        lines.append(f"the first with {s['nfe']} calls ({s['sampler']}): {gain}")
    return Section("Declared contrast: ESTOI at -5 and 0 dB", lines=lines)


def by_seed(estimate: dict[str, Any]) -> str:
    """What each training gave."""
    if estimate["seed_sd"] is None:
        return "; one training" if len(estimate["seeds"]) == 1 else ""
    told = ", ".join(plain(mean, 3, "+") for mean in estimate["each"])
    return f"; trainings {told} (SD {estimate['seed_sd']:.3f})"


def criteria(entries: list[dict[str, Any]]) -> Section:
    """The four criteria of success."""
    rows, others = [], [m for m in METRICS if m != PRIMARY]
    for e in entries:
        estimate = e["metrics"][PRIMARY]
        word = e["verdict"] + (f" ({e['why']})" if e["why"] else "")
        cells = [e["what"], with_interval(estimate, 3), f"{estimate['margin']:g}", word, counts(estimate)]
        cells += [with_interval(e["metrics"][m], METRICS[m].digits) for m in others]
        rows.append((f"{e['criterion']}. {e['title']}", cells))
    columns = ["contrast", METRICS[PRIMARY].heading, "margin", "verdict", "files, clusters"]
    return Section("Verdicts", [*columns, *(METRICS[m].heading for m in others)], rows)


def is_it_read(probes: dict[str, Any]) -> Section:
    """Loss and sensitivity of every probed run."""
    rows = []
    for name, probe in probes.items():
        loss, moved = probe["loss"], probe["sensitivity"]
        cells = [plain(loss[k], 4) for k in ("right", "wrong", "none")]
        cells += [with_interval(loss[k], 4) for k in ("wrong_minus_right", "none_minus_right")]
        cells += [plain(moved[k]["median_db"], 1) for k in ("disjoint_none", "disjoint_mismatch")]
        rows.append((name, cells))
    columns = ["loss with the right clip", "a wrong one", "none", "wrong minus right", "none minus right",
               "output moves from right to none, dB", "to wrong, dB"]  # fmt: skip
    return Section("Is the reference read at all?", columns, rows)


def embedding(probes: dict[str, Any]) -> Section:
    """What z_r knows, beside a plain spectrum."""
    rows = []
    for name, probe in probes.items():
        for feature, known in probe["embedding"].get("features", {}).items():
            names = ("recording", "recording_probe", "environment", "environment_probe")
            rows.append((f"{name}: {feature}", [share(known, k) for k in names]))
    columns = ["nearest clip: same recording, other time (chance)", "recording by a linear probe",
               "nearest clip: same environment, other recording (chance)", "environment by a linear probe"]  # fmt: skip
    return Section("What a clip's features know of held-out recordings", columns, rows, picture="map")


def share(known: dict[str, Any], name: str) -> str:
    if known.get(name) is None:
        return "–"
    chance = known.get(f"{name}_chance")
    return percent(known[name]) + ("" if chance is None else f" ({percent(chance)})")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def headings() -> list[str]:
    return [metric.heading for metric in METRICS.values()]


def each(metrics: dict[str, Any]) -> list[str]:
    """A cell a metric."""
    return intervals(metrics) if metrics else ["–"] * len(METRICS)


def by_seen(entries: list[dict[str, Any]]) -> Section:
    """The right clip's gain by what training saw."""
    rows = []
    for e in entries:
        gains = [with_interval(e[name], 3) for name in ("over_none", "over_baseline")]
        rows.append((SEEN[e["seen"]], [*gains, counts(e["over_none"])]))
    title = "By what training saw: ESTOI of disjoint, all levels"
    return without_empty(Section(title, ["minus none", "minus the baseline", "files"], rows))


def without_empty(section: Section) -> Section:
    """Columns that have something to say in at least one row."""
    kept = [k for k in range(len(section.columns)) if any(cells[k] != "–" for _, cells in section.rows)]
    rows = [(name, [cells[k] for k in kept]) for name, cells in section.rows]
    return dataclasses.replace(section, columns=[section.columns[k] for k in kept], rows=rows)


def by_snr(entries: list[dict[str, Any]]) -> Section:
    """The right clip's gain at each level."""
    rows = [(f"{e['snr_db']:g} dB", [*each(e["over_none"]), counts(e["over_none"]["estoi"])]) for e in entries]
    return Section("By SNR: disjoint minus none", [*headings(), "files, clusters"], rows)


def ladder(entries: list[dict[str, Any]], ref_seconds: float) -> Section:
    """Every rung over none and over the baseline."""
    rows = []
    for e in entries:
        adjusted = e["over_none"].get("estoi", {}).get("p_holm")
        holm = "<0.001" if adjusted is not None and adjusted < 0.001 else plain(adjusted, 3)
        files = str(e["over_noisy"]["estoi"]["files"])
        rows.append((e["mode"], [files, *each(e["over_none"]), *each(e["over_baseline"]), holm]))
    columns = [f"{heading} over {other}" for other in ("none", "baseline") for heading in headings()]
    title = f"The ladder of references, {ref_seconds:g} s (exploratory)"
    columns = ["files", *columns, "p of ESTOI over none, Holm"]
    return without_empty(Section(title, columns, rows, picture="ladder"))


def harm(entries: list[dict[str, Any]]) -> Section:
    """Shares of harmed files."""
    rows = []
    for e in entries:
        rates = [percent(h["rate"]) if h else "–" for h in (e["harm_over_none"], e["harm_over_noisy"])]
        rows.append((e["mode"], [*rates, str(e["harm_over_noisy"]["files"])]))
    title = f"Harm: share of files that lose over {HARM_DB:g} dB SI-SDR"
    return Section(title, ["against none of the same weights", "against the noisy input", "files"], rows)


def doses(entries: list[dict[str, Any]], name: str, title: str, unit: str, picture: str) -> Section:
    """Gain over none by a dose."""
    rows = []
    for e in entries:
        label = "no speech" if e[name] is None else f"{e[name]:g}{unit}"
        rows.append((label, [*each(e["metrics"]), counts(e["metrics"]["estoi"])]))
    return Section(f"{title}: gain over none", [*headings(), "files, clusters"], rows, picture=picture)


def by_distance(entries: list[dict[str, Any]]) -> Section:
    """Gain over none by how far a clip's spectrum lies from the mixture's noise, of one training."""
    rows = []
    for e in entries:
        for piece in e["bins"]:
            upper = "and more" if piece["to_db"] is None else f"to {piece['to_db']:g} dB"
            gain = with_interval(piece["gain"], METRICS[e["metric"]].digits)
            cells = [gain, str(piece["gain"]["files"]), plain(e["rank_correlation"], 2)]
            rows.append((f"{METRICS[e['metric']].heading}: {piece['from_db']:g} {upper}", cells))
    title = "Gain over none by the distance of clip and noise (log-Mel, level removed; all recorded clips)"
    return Section(title, ["gain", "clips", "rank correlation"], rows, picture="distance")


def ablations(entries: list[dict[str, Any]]) -> Section:
    """Arms minus their base, ESTOI; seeds paired."""
    rows = []
    for e in entries:
        what = ", ".join(f"{name} = {value}" for name, value in e["values"].items())
        if e["same_as"]:
            rows.append((e["arm"], [what, f"is {e['same_as']}", "", "", ""]))
            continue
        count = len(e["seeds"])
        compared = f"minus {e['base']}, {count} training{'s' if count > 1 else ''}"
        cells = [with_interval(e[name]["estoi"], 3) for name in ("disjoint", "none", "gain")]
        rows.append((e["arm"], [what, compared, *cells]))
    columns = [
        "changed",
        "compared",
        "ESTOI with the right clip",
        "ESTOI without a clip",
        "disjoint minus none of its own",
    ]
    return Section("Ablations (exploratory)", columns, rows)


def peers(entries: list[dict[str, Any]]) -> Section:
    """Other enhancers on the same files."""
    names = [Setting(e["system"], e["mode"], 0.0, 0).words() for e in entries]
    rows = [(name, each(e["over_noisy"]) + each(e["ours_minus"])) for name, e in zip(names, entries, strict=True)]
    columns = [f"{heading} {what}" for what in ("over noisy", "ours minus it") for heading in headings()]
    return Section("Peers on the same files", columns, rows)


def rests_on(found: dict[str, Any]) -> Section:
    """Budget, weights, data, the negative controls."""
    facts = found["facts"]
    lines = [
        "proposed: " + ", ".join(f"{name} {value}" for name, value in facts["budget"].items()),
        "every other arm differs from its base in what is named as changed, in nothing else (checked)",
        f"trainings with seeds {', '.join(map(str, facts['seeds']))}; of each the last weights",
        "weights: " + ", ".join(f"{name} {digest}" for name, digest in facts["models"].items()),
        f"training data {facts['training_data'][:12]}; evaluation data {facts['evaluation_data'][:12]}, "
        f"{facts['files']} files",
        "intervals: 95 %, by environment and speaker, over the mean of the trainings; they speak of these trainings",
    ]
    if clean := found["controls"].get("clean_input"):
        lines.append(f"clean speech in: SI-SDR {with_interval(clean['si_sdr'], 1, sign=False)} dB against itself")
    if noise := found["controls"].get("noise_alone"):
        lines.append(f"noise alone in: {noise['left_db']:+.1f} dB of it are left")
    return Section("What this rests on", lines=lines)
