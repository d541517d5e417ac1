"""From rows to verdicts: the declared contrast, four criteria, doses, ablations. Pure functions, plain data out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import Calls, Files, Row
from nrmodel.evaluation.statistics import holm
from nrmodel.evaluation.summary import PRIMARY_SNR_DB, TOO_SHORT, finite, snr_level
from nrmodel.experiment.contrasts import (
    PRIMARY,
    ArmRows,
    BySeed,
    Contrast,
    Keep,
    bootstrap,
    contrast,
    harm,
    keys_with_whole_clip,
    of_split,
    select,
)

LENGTHS = (2.0, 1.0, 0.5, 0.25)
MET, NOT_MET, UNDECIDED = "met", "not met", "undecided"


# The declared contrast ----------------------------------------------------------------------------------------------


def at_low_snr(row: Row) -> bool:
    """-5 and 0 dB, as measured."""
    return row.snr_db is not None and PRIMARY_SNR_DB[0] <= row.snr_db < PRIMARY_SNR_DB[1]


def primary(right_clip: BySeed, none: BySeed, baseline: BySeed, ref_seconds: float) -> dict[str, Any]:
    """ESTOI, `disjoint` minus `none`, the same weights, -5 and 0 dB; the null's handicap beside it (`none` minus the
    baseline trained without reference). What may be quoted is the smaller of `disjoint - none` and `disjoint -
    baseline`, if both lower bounds are above 0."""
    gains = {
        "over_none": contrast(right_clip, none, keep=at_low_snr),
        "over_baseline": contrast(right_clip, baseline, keep=at_low_snr),
    }
    quoted = min(gains, key=lambda name: known(gains[name]["mean"], math.inf))
    conclusive = all(gain["conclusive"] for gain in gains.values())
    shown = conclusive and all(known(gain["low"], -math.inf) > 0 for gain in gains.values())
    return {
        **gains,
        "null_handicap": contrast(none, baseline, keep=at_low_snr),
        "bootstrap": bootstrap(right_clip, none, at_low_snr),
        "quoted": quoted,
        "conclusive": conclusive,
        "shown": shown,
        "sentence": sentence(gains, quoted, shown, conclusive, ref_seconds),
    }


def known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def sentence(gains: dict[str, Contrast], quoted: str, shown: bool, conclusive: bool, ref_seconds: float) -> str:
    """What a reader may quote, and what not."""
    if not gains["over_baseline"]["files"]:
        return within(gains["over_none"], ref_seconds)
    if not conclusive:
        return f"Nothing may be quoted: {TOO_SHORT} ({gains[quoted]['files']} files at -5 and 0 dB)."
    gain = gains[quoted]
    other = {"over_none": "the same network without a clip", "over_baseline": "a network trained without references"}
    numbers = f"{gain['mean']:+.4f} ESTOI [{gain['low']:.4f}, {gain['high']:.4f}]"
    trained = f"{len(gain['seeds'])} training{'s' if len(gain['seeds']) > 1 else ''}"
    basis = (
        f"{gain['files']} files, {gain['environments']} environments, {gain['speakers']} speakers, {trained}, 95 % "
        f"interval over environments and speakers, against {other[quoted]}"
    )
    if not shown:
        return (
            f"No gain from a reference is shown: a {ref_seconds:g} s clip of the same place at another time changed "
            f"intelligibility at -5 and 0 dB by {numbers} ({basis}); both lower bounds would have to lie above 0."
        )
    margin = METRICS[PRIMARY].margin
    small = f", which is under the {margin:g} that would matter" if known(gain["mean"], math.inf) < margin else ""
    return (
        f"A {ref_seconds:g} s clip of the noise, recorded in the same place at another time, raised intelligibility at "
        f"-5 and 0 dB by {numbers} ({basis}){small}."
    )


def within(gain: Contrast, ref_seconds: float) -> str:
    """What stands without a baseline."""
    if not gain["conclusive"]:
        return f"Nothing may be quoted: {TOO_SHORT}, and there is no baseline trained without references."
    return (
        f"Within one network a {ref_seconds:g} s clip of the same place at another time changed intelligibility at -5 "
        f"and 0 dB by {gain['mean']:+.4f} ESTOI [{gain['low']:.4f}, {gain['high']:.4f}] ({gain['files']} files). That "
        "is no gain over a network without references: there is no baseline trained without them."
    )


# Criteria of seed 8.4 -----------------------------------------------------------------------------------------------


def bounds(change: Contrast, better: int) -> tuple[float, float] | None:
    """The interval turned so that more is better; None where nothing can be concluded."""
    low, high = change["low"], change["high"]
    if not change["conclusive"] or low is None or high is None:
        return None
    return (low, high) if better > 0 else (-high, -low)


def judge_gain(gain: Contrast, margin: float, better: int = 1) -> str:
    """Met if the lower bound is above 0, not met if the upper bound is under the margin, else undecided."""
    if (interval := bounds(gain, better)) is None:
        return UNDECIDED
    return MET if interval[0] > 0 else NOT_MET if interval[1] < margin else UNDECIDED


def judge_loss(change: Contrast, allowed: float, better: int = 1) -> str:
    """Met if the lower bound of a change is above `-allowed`, not met if the upper bound is under it."""
    if (interval := bounds(change, better)) is None:
        return UNDECIDED
    return MET if interval[0] > -allowed else NOT_MET if interval[1] < -allowed else UNDECIDED


def judge_all(words: Sequence[str]) -> str:
    """Met if all are, not met if one is not."""
    if NOT_MET in words:
        return NOT_MET
    return MET if words and all(word == MET for word in words) else UNDECIDED


def is_seen(row: Row) -> bool:
    """Noise of an environment that training saw."""
    return row.seen in ("recording", "environment")


def is_unseen(row: Row) -> bool:
    return row.seen == "unseen"


def criteria(proposed: ArmRows, baseline: BySeed, ref_seconds: float, calls: Calls) -> list[dict[str, Any]]:
    """The four criteria; the word is by ESTOI, the other metrics stand beside it."""
    right, wrong = (select(proposed, mode, ref_seconds, calls) for mode in ("disjoint", "mismatch"))
    found = []
    for number, title, files, keep, judge in (
        (1, "Better than the baseline on seen noise", right, is_seen, judge_gain),
        (2, "Better with the right reference on unseen noise", right, is_unseen, judge_gain),
        (3, "No catastrophe under a mismatched reference", wrong, None, judge_loss),
    ):
        metrics = {}
        for name, metric in METRICS.items():
            estimate, margin = contrast(files, baseline, name, keep), metric.margin
            metrics[name] = {**estimate, "margin": margin, "verdict": judge(estimate, margin, metric.better)}
        against = ("disjoint" if number < 3 else "mismatch") + " minus baseline"
        found.append(criterion(number, title, against, metrics))
    steps = halvings(proposed, calls)
    metrics = {}
    for name, metric in METRICS.items():
        changes = [step["metrics"][name] for step in steps]
        words = [judge_loss(change, 2 * metric.margin, metric.better) for change in changes]
        worst = min(changes, key=partial(worst_bound, better=metric.better), default=no_contrast())
        word = judge_all(words) if len(steps) == len(LENGTHS) - 1 else UNDECIDED
        metrics[name] = {**worst, "margin": 2 * metric.margin, "verdict": word}
    last = criterion(4, "Graceful as the reference gets shorter", "the worst halving from 2 to 0.25 s", metrics)
    return [*found, last | {"steps": steps}]


def criterion(number: int, title: str, what: str, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    chosen = metrics[PRIMARY]
    why = ""
    if chosen["verdict"] == UNDECIDED:
        if not chosen["files"]:
            why = "there are no files with both sides"
        elif not chosen["conclusive"]:
            why = TOO_SHORT
        else:
            why = "the interval reaches from one side of the bound to the other"
    elif number < 3 and chosen["verdict"] == MET and chosen["mean"] < chosen["margin"]:
        why = "though under the margin that would matter"
    return {"criterion": number, "title": title, "what": what, "verdict": chosen["verdict"], "why": why,
            "metrics": metrics}  # fmt: skip


def worst_bound(change: Contrast, better: int) -> float:
    """What a change may be at its worst, more being better; the greatest of all where nothing is known."""
    return better * known(change["low"] if better > 0 else change["high"], better * math.inf)


def no_contrast() -> Contrast:
    return contrast({}, {})


def halvings(proposed: ArmRows, calls: Calls) -> list[dict[str, Any]]:
    """Score at half the length minus score at the length, on the files whose longest clip is whole."""
    whole = keys_with_whole_clip(proposed, "disjoint", calls)
    steps = []
    for longer, shorter in itertools.pairwise(LENGTHS):
        left, right = select(proposed, "disjoint", shorter, calls), select(proposed, "disjoint", longer, calls)
        if left and right:
            metrics = {m: contrast(left, right, m, lambda row: row.key in whole) for m in METRICS}
            steps.append({"from_seconds": longer, "to_seconds": shorter, "metrics": metrics})
    return steps


# Doses, harm, the ladder --------------------------------------------------------------------------------------------


def dose_curves(arm: ArmRows, calls: Calls, ref_seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Gain over `none` by length of the clip and by speech leaking into it (speech-to-noise ratio in dB; None: the
    clip without speech); the same files at every dose."""
    settings = sorted(
        {setting for per_seed in arm.values() for setting in per_seed if setting.calls == calls},
        key=lambda s: (s.mode, s.ref_seconds),
    )
    none, whole = select(arm, "none", 0.0, calls), keys_with_whole_clip(arm, "disjoint", calls)
    lengths = [s.ref_seconds for s in settings if s.mode == "disjoint"]
    leaks: list[tuple[float | None, str]] = sorted(
        (float(s.mode[5:]), s.mode) for s in settings if s.mode.startswith("leak:") and s.ref_seconds == ref_seconds
    )
    leaked: set[str] = set()
    if leaks:
        leaks = [(None, "disjoint"), *leaks]
        served = [set(f) for _, mode in leaks for f in select(arm, mode, ref_seconds, calls).values()]
        leaked = set.intersection(*served) if served else set()

    def gains(mode: str, seconds: float, keep: Keep) -> dict[str, Any]:
        return {m: contrast(select(arm, mode, seconds, calls), none, m, keep) for m in METRICS}

    return {
        "ref_seconds": [
            {"ref_seconds": s, "metrics": gains("disjoint", s, lambda row: row.key in whole)}
            for s in (lengths if len(lengths) > 1 else [])
        ],
        "leak_db": [
            {"leak_db": db, "metrics": gains(mode, ref_seconds, lambda row: row.key in leaked)} for db, mode in leaks
        ],
    }


def ladder(arm: ArmRows, baseline: BySeed, noisy: Files, calls: Calls, ref_seconds: float) -> list[dict[str, Any]]:
    """Every rung minus `none` of the same weights and minus the baseline, with harm rates; exploratory, so Holm's
    p-values over the rungs stand beside."""
    none = select(arm, "none", 0.0, calls)
    own = [s for per_seed in arm.values() for s in per_seed if s.calls == calls and s.ref_seconds in (0.0, ref_seconds)]
    modes = dict.fromkeys(s.mode for s in own)
    found = []
    for mode in modes:
        files = select(arm, mode, ref_seconds, calls)
        entry: dict[str, Any] = {
            "mode": mode,
            "over_none": {} if mode == "none" else {m: contrast(files, none, m) for m in METRICS},
            "over_baseline": {m: contrast(files, baseline, m) for m in METRICS},
            "over_noisy": {m: contrast(files, dict.fromkeys(files, noisy), m) for m in METRICS},
            "harm_over_none": None if mode == "none" else harm(files, none),
            "harm_over_noisy": harm(files, dict.fromkeys(files, noisy)),
        }
        found.append(entry)
    for metric in METRICS:
        tested = [e["over_none"][metric] for e in found if e["over_none"]]
        tested = [e for e in tested if e["p_value"] is not None]
        for estimate, adjusted in zip(tested, holm([e["p_value"] for e in tested]), strict=True):
            estimate["p_holm"] = finite(adjusted)
    return found


def ablation_entry(arm: ArmRows, base: ArmRows, calls: Calls, of_base: Calls, ref_seconds: float) -> dict[str, Any]:
    """An arm against its base, seeds paired: each with the right clip, each with none, and the gain of the clip
    within the arm."""
    entry: dict[str, Any] = {}
    for mode in ("disjoint", "none"):
        left, right = select(arm, mode, ref_seconds, calls), select(base, mode, ref_seconds, of_base)
        entry[mode] = {m: contrast(left, right, m) for m in METRICS}
    left, right = select(arm, "disjoint", ref_seconds, calls), select(arm, "none", ref_seconds, calls)
    entry["gain"] = {m: contrast(left, right, m) for m in METRICS}
    return entry


def by_seen(right: BySeed, none: BySeed, baseline: BySeed) -> list[dict[str, Any]]:
    """The gain of the right clip in three steps: another time of a seen recording, another recording of a seen
    environment, an unseen environment."""
    found = []
    for level in ("recording", "environment", "unseen"):

        def inside(row: Row, level: str = level) -> bool:
            return row.seen == level

        entry: dict[str, Any] = {"seen": level, "over_none": contrast(right, none, keep=inside)}
        if entry["over_none"]["files"]:
            found.append(entry | {"over_baseline": contrast(right, baseline, keep=inside)})
    return found


def by_snr(right: BySeed, none: BySeed) -> list[dict[str, Any]]:
    """The gain of the right clip at each level."""
    levels = {snr_level(row.snr_db) for files in right.values() for row in files.values()}
    found = []
    for level in sorted(level for level in levels if level is not None):

        def inside(row: Row, level: float = level) -> bool:
            return snr_level(row.snr_db) == level

        found.append({"snr_db": level, "over_none": {m: contrast(right, none, m, inside) for m in METRICS}})
    return found


def verdicts(
    proposed: ArmRows, baseline: ArmRows, noisy: Files, split: str, ref_seconds: float, calls: Calls, of_baseline: Calls
) -> dict[str, Any]:
    """All that is concluded from the rows of the two main arms. Criteria use every split, the rest `split` alone."""
    main, base = of_split(proposed, split), select(of_split(baseline, split), "none", 0.0, of_baseline)
    right, none = (select(main, mode, ref_seconds, calls) for mode in ("disjoint", "none"))
    samplers = []
    for other in sorted({setting.calls for settings in main.values() for setting in settings} - {calls}):
        with_clip, without = (select(main, mode, ref_seconds, other) for mode in ("disjoint", "none"))
        gain = contrast(with_clip, without, keep=at_low_snr)
        if gain["files"]:
            samplers.append({"nfe": other.nfe, "sampler": other.sampler, "over_none": gain})
    everywhere = select(baseline, "none", 0.0, of_baseline)
    right_anywhere, none_anywhere = (select(proposed, mode, ref_seconds, calls) for mode in ("disjoint", "none"))
    return {
        "primary": primary(right, none, base, ref_seconds),
        "samplers": samplers,
        "criteria": criteria(proposed, everywhere, ref_seconds, calls),
        "seen": by_seen(right_anywhere, none_anywhere, everywhere),
        "snr": by_snr(right, none),
        "ladder": ladder(main, base, noisy, calls, ref_seconds),
        "dose": dose_curves(main, calls, ref_seconds),
    }
