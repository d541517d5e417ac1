"""Verdicts from rows with planted effects: the words, the pairing, what may be quoted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nrmodel.evaluation.schema import Calls, Row, Setting, row_of
from nrmodel.experiment.contrasts import OURS, contrast, harm, settings_of
from nrmodel.experiment.verdicts import (
    MET,
    NOT_MET,
    UNDECIDED,
    ablation_entry,
    by_seen,
    by_snr,
    criteria,
    dose_curves,
    judge_all,
    judge_gain,
    judge_loss,
    ladder,
    primary,
    verdicts,
)

ONE = Calls(1, "average")
SNRS = (-5.0, 0.0, 5.0, 10.0)


def row(number: int, estoi: float, **changes) -> Row:
    """A row of one file: 12 environments (4 of them unseen), 12 speakers, crossed."""
    environment = number % 12
    fields = {
        "key": f"test-{number:07d}", "env_id": f"local/e{environment}", "recording": f"local/e{environment}/r",
        "speaker": f"local/s{number // 12 % 12}", "snr_db": SNRS[number // 3 % 4] + 0.02, "estoi": estoi,
        "seen": "unseen" if environment > 7 else "environment", "pesq_wb": 1.5 + 2 * estoi, "si_sdr": 20 * estoi,
        "ref_span": [0, 32000], "relation": "same-recording", "system": "nr:00000000", "seed": 0, "sampler": "average",
        "mode": "", "ref_seconds": 0.0, "nfe": 1,
    }  # fmt: skip
    return row_of(fields | changes)


def but(row: Row, **changes) -> Row:
    """The same row with other entries."""
    return row_of(row.as_json() | changes)


def files(gain: float, seed: int = 0, count: int = 288, spread: float = 0.01, **changes) -> dict[str, Row]:
    """Files around a level of their own, moved by `gain`, each a little otherwise."""
    own = 0.5 + 0.1 * np.random.default_rng(1).standard_normal(count)
    noise = spread * np.random.default_rng((2, seed, round(1e6 * (gain + 1)))).standard_normal(count)
    return {r.key: r for r in (row(k, own[k] + gain + noise[k], **changes) for k in range(count))}


def arm(gains: dict[tuple[str, float], float], seeds=(0, 1, 2)) -> dict:
    """Rows of an arm at one call: (mode, ref_seconds) -> gain."""
    settings = [(Setting(OURS, mode, s, *ONE), gain) for (mode, s), gain in gains.items()]
    return {
        seed: {setting: files(gain, 10 * seed + k) for k, (setting, gain) in enumerate(settings)} for seed in seeds
    }


GAINS = {("none", 0.0): 0.10, ("disjoint", 1.0): 0.13, ("mismatch", 1.0): 0.095}


def by_seed(gain: float, seeds=(0, 1, 2)) -> dict:
    return {seed: files(gain, seed + 70) for seed in seeds}


# Pairing ------------------------------------------------------------------------------------------------------------


def test_a_contrast_finds_what_was_planted_in_each_training():
    found = contrast(by_seed(0.13), by_seed(0.10))
    assert found["low"] < 0.03 < found["high"] and found["high"] - found["low"] < 0.01
    assert found["seeds"] == [0, 1, 2] and all(abs(each - 0.03) < 0.005 for each in found["each"])
    assert found["mean"] == pytest.approx(np.mean(found["each"]), abs=1e-5)
    assert found["seed_sd"] == pytest.approx(np.std(found["each"], ddof=1), abs=1e-5)


def test_seeds_are_paired_not_pooled():
    """Trainings that lie far apart, each with the same small gain over its own partner: no spread is left."""
    left = {seed: files(0.2 * seed + 0.02, 5, spread=0.0) for seed in (0, 1)}
    right = {seed: files(0.2 * seed, 5, spread=0.0) for seed in (1, 0)}
    found = contrast(left, right)
    assert found["mean"] == pytest.approx(0.02, abs=1e-5) and found["seed_sd"] == pytest.approx(0, abs=1e-5)
    assert contrast({0: left[0]}, {1: right[1]})["files"] == 0  # seeds without a partner


def test_a_file_without_a_number_in_one_training_is_left_out():
    left, right = by_seed(0.13), by_seed(0.10)
    left[1]["test-0000003"] = but(left[1]["test-0000003"], estoi=None)
    del right[2]["test-0000004"]
    assert contrast(left, right)["files"] == 286


def test_more_trainings_do_not_count_as_more_files():
    one, three = contrast(by_seed(0.13, (0,)), by_seed(0.10, (0,))), contrast(by_seed(0.13), by_seed(0.10))
    assert one["files"] == three["files"] == 288
    assert one["seed_sd"] is None and one["seeds"] == [0]


@given(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3))
def test_what_is_over_the_baseline_is_the_gain_and_the_handicap(gains):
    """disjoint - baseline = (disjoint - none) + (none - baseline), on the same files."""
    right, none, baseline = ({0: files(g, k, count=48)} for k, g in enumerate(gains))
    found = primary(right, none, baseline, 1.0)
    parts = found["over_none"]["mean"] + found["null_handicap"]["mean"]
    assert found["over_baseline"]["mean"] == pytest.approx(parts, abs=3e-5)
    assert found[found["quoted"]]["mean"] == min(found["over_none"]["mean"], found["over_baseline"]["mean"])


# The sentence -------------------------------------------------------------------------------------------------------


def test_the_smaller_gain_is_quoted_when_both_are_shown():
    found = primary(by_seed(0.13), by_seed(0.08), by_seed(0.10), 1.0)
    assert found["shown"] and found["quoted"] == "over_baseline"
    assert "+0.03" in found["sentence"] and "trained without references" in found["sentence"]
    assert found["over_none"]["files"] == 144  # -5 and 0 dB alone
    low, high = found["bootstrap"]
    assert low < found["over_none"]["mean"] < high


def test_a_gain_that_is_shown_but_small_is_called_small():
    small = primary(by_seed(0.106), by_seed(0.1), by_seed(0.1), 1.0)
    assert small["shown"] and "under the 0.01 that would matter" in small["sentence"]
    assert "would matter" not in primary(by_seed(0.13), by_seed(0.10), by_seed(0.10), 1.0)["sentence"]


def test_a_poor_null_makes_no_claim():
    """The right clip beats its own null, but not the network that was trained without references."""
    found = primary(by_seed(0.10), by_seed(0.05), by_seed(0.11), 1.0)
    assert found["over_none"]["low"] > 0 and found["null_handicap"]["high"] < 0
    assert not found["shown"] and found["sentence"].startswith("No gain from a reference is shown")


def test_nothing_is_quoted_without_a_baseline_or_with_few_files():
    alone = primary(by_seed(0.13), by_seed(0.10), {}, 1.0)
    assert not alone["shown"] and alone["sentence"].startswith("Within one network")
    assert "no baseline" in alone["sentence"]
    few = {0: {k: r for k, r in files(0.13).items() if int(k[-7:]) < 20}}
    assert "too short to conclude" in primary(few, by_seed(0.10), by_seed(0.10), 1.0)["sentence"]


# Words --------------------------------------------------------------------------------------------------------------


def estimate(low: float, high: float, conclusive: bool = True) -> dict:
    return {"low": low, "high": high, "mean": (low + high) / 2, "conclusive": conclusive}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.02, MET),
        (0.001, 0.005, MET),
        (-0.01, 0.009, NOT_MET),
        (-0.03, -0.02, NOT_MET),
        (-0.001, 0.02, UNDECIDED),
        (0.0, 0.01, UNDECIDED),
    ],
)
def test_a_gain_is_met_missed_or_undecided(low, high, word):
    assert judge_gain(estimate(low, high), 0.01) == word
    assert judge_gain(estimate(low, high, conclusive=False), 0.01) == UNDECIDED


def test_of_a_metric_of_which_less_is_better_the_sides_change():
    assert judge_gain(estimate(-0.02, -0.001), 0.01, better=-1) == MET
    assert judge_gain(estimate(0.001, 0.02), 0.01, better=-1) == NOT_MET
    assert judge_loss(estimate(0.011, 0.03), 0.01, better=-1) == NOT_MET
    assert judge_loss(estimate(-0.03, 0.009), 0.01, better=-1) == MET


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.009, 0.02, MET), (-0.03, -0.011, NOT_MET), (-0.02, 0.0, UNDECIDED), (-0.01, 0.0, UNDECIDED)],
)
def test_a_loss_is_allowed_up_to_its_bound(low, high, word):
    assert judge_loss(estimate(low, high), 0.01) == word
    assert judge_loss(estimate(low, high, conclusive=False), 0.01) == UNDECIDED


def test_all_must_be_met_and_one_miss_decides():
    assert judge_all([MET, MET]) == MET
    assert judge_all([MET, UNDECIDED]) == UNDECIDED
    assert judge_all([UNDECIDED, NOT_MET]) == NOT_MET
    assert judge_all([]) == UNDECIDED


def test_four_criteria_of_a_model_that_helps():
    lengths = {("disjoint", 2.0): 0.132, ("disjoint", 0.5): 0.128, ("disjoint", 0.25): 0.125}
    found = criteria(arm(GAINS | lengths), by_seed(0.10), 1.0, ONE)
    assert [e["criterion"] for e in found] == [1, 2, 3, 4]
    assert [e["verdict"] for e in found] == [MET] * 4
    seen, unseen = (e["metrics"]["estoi"] for e in found[:2])
    assert (seen["files"], unseen["files"]) == (192, 96)  # 8 and 4 of 12 environments
    assert found[3]["metrics"]["estoi"]["margin"] == 0.02 and len(found[3]["steps"]) == 3


def test_a_halving_that_loses_too_much_is_not_graceful():
    lengths = {("disjoint", 2.0): 0.131, ("disjoint", 0.5): 0.08, ("disjoint", 0.25): 0.08}
    last = criteria(arm(GAINS | lengths), by_seed(0.10), 1.0, ONE)[3]
    assert last["verdict"] == NOT_MET
    assert last["metrics"]["estoi"]["mean"] == pytest.approx(-0.05, abs=0.005)  # the worst step, 1 to 0.5 s


def test_a_catastrophe_is_not_met_and_missing_lengths_are_undecided():
    found = criteria(arm(GAINS | {("mismatch", 1.0): 0.05}), by_seed(0.10), 1.0, ONE)
    assert found[2]["verdict"] == NOT_MET
    assert found[3]["verdict"] == UNDECIDED and found[3]["why"] == "there are no files with both sides"


# Doses, harm, ablations ---------------------------------------------------------------------------------------------


def test_lengths_are_compared_on_the_files_whose_longest_clip_is_whole():
    proposed = arm({("none", 0.0): 0.1, ("disjoint", 1.0): 0.12, ("disjoint", 2.0): 0.13}, seeds=(0,))
    longest = proposed[0][Setting(OURS, "disjoint", 2.0, *ONE)]
    for key in list(longest)[:88]:
        longest[key] = but(longest[key], ref_span=[0, 16000])
    curve = dose_curves(proposed, ONE, 1.0)["ref_seconds"]
    assert [e["ref_seconds"] for e in curve] == [1.0, 2.0]
    assert [e["metrics"]["estoi"]["files"] for e in curve] == [200, 200]


def test_the_leak_curve_begins_without_speech_and_rises_in_level():
    gains = {("none", 0.0): 0.1, ("disjoint", 1.0): 0.13, ("leak:0", 1.0): 0.0, ("leak:-10", 1.0): 0.11}
    curve = dose_curves(arm(gains, (0,)), ONE, 1.0)["leak_db"]
    assert [e["leak_db"] for e in curve] == [None, -10.0, 0.0]
    assert [e["metrics"]["estoi"]["mean"] for e in curve] == pytest.approx([0.03, 0.01, -0.1], abs=0.003)


def test_harm_counts_files_beyond_one_decibel_in_every_training():
    left, right = by_seed(0.1, (0, 1)), by_seed(0.1, (0, 1))
    for seed, lost in ((0, 30), (1, 60)):
        for key, r in left[seed].items():
            its = right[seed][key].scores["si_sdr"]
            left[seed][key] = but(r, si_sdr=its - (1.5 if int(key[-7:]) < lost else 0.9))
    found = harm(left, right)
    assert found["each"] == pytest.approx([30 / 288, 60 / 288], abs=1e-5)
    assert found["rate"] == pytest.approx(45 / 288, abs=1e-5)


def test_the_ladder_corrects_its_p_values_together():
    noisy = files(0.0)
    rungs = ladder(arm(GAINS), by_seed(0.1), noisy, ONE, 1.0)
    assert {e["mode"] for e in rungs} == {"none", "disjoint", "mismatch"}
    for e in rungs:
        assert e["over_noisy"]["estoi"]["mean"] > 0.05
        if e["mode"] != "none":
            assert e["over_none"]["estoi"]["p_holm"] >= e["over_none"]["estoi"]["p_value"]


def test_an_ablation_is_paired_with_its_base_and_has_a_gain_of_its_own():
    film = arm({("none", 0.0): 0.10, ("disjoint", 1.0): 0.15}, (0,))
    found = ablation_entry(film, arm(GAINS, (0,)), ONE, ONE, 1.0)
    assert found["disjoint"]["estoi"]["mean"] == pytest.approx(0.02, abs=0.003)
    assert found["none"]["estoi"]["mean"] == pytest.approx(0.0, abs=0.003)
    assert found["gain"]["estoi"]["mean"] == pytest.approx(0.05, abs=0.003)


def test_the_gain_at_each_level():
    right, none = by_seed(0.10, (0,)), by_seed(0.10, (0,))
    for key, r in right[0].items():
        right[0][key] = but(r, estoi=none[0][key].scores["estoi"] + (0.05 if r.snr_db < -2 else 0.01))
    found = by_snr(right, none)
    assert [e["snr_db"] for e in found] == [-5.0, 0.0, 5.0, 10.0]
    assert [e["over_none"]["estoi"]["mean"] for e in found] == pytest.approx([0.05, 0.01, 0.01, 0.01])


def test_seen_has_three_steps_and_leaves_out_what_is_not_there():
    right, none = by_seed(0.13, (0,)), by_seed(0.1, (0,))
    for key, r in right[0].items():
        right[0][key] = but(r, seen="recording" if r.seen == "environment" and int(key[-1]) < 5 else r.seen)
    assert [e["seen"] for e in by_seen(right, none, none)] == ["recording", "environment", "unseen"]
    assert [e["seen"] for e in by_seen(by_seed(0.1, (0,)), none, none)] == ["environment", "unseen"]


def test_a_row_in_two_evaluations_counts_once_and_other_systems_not_at_all():
    one = row(1, 0.5, mode="none", ref_seconds=0.0, nfe=1)
    again, other = but(one), row(2, 0.9, mode="none", ref_seconds=0.0, nfe=1, system="noisy")
    found = settings_of([one, again, other], "nr:00000000")
    setting = Setting(OURS, "none", 0.0, *ONE)
    assert list(found) == [setting] and list(found[setting]) == ["test-0000001"]


def test_the_declared_contrast_speaks_of_its_split_and_other_budgets_stand_beside_it():
    proposed, baseline = arm(GAINS, (0,)), {0: {Setting(OURS, "none", 0.0, *ONE): files(0.1, 99)}}
    for settings in (proposed[0], baseline[0]):
        for own in settings.values():  # half of the files are of the split `seen`
            for key in [k for k in own if int(k[-7:]) % 2]:
                own[key.replace("test", "seen")] = but(own.pop(key), key=key.replace("test", "seen"))
    for mode in ("none", "disjoint"):
        of = Setting(OURS, mode, 0.0 if mode == "none" else 1.0, *ONE)
        some = {k: r for k, r in proposed[0][of].items() if k < "test-0000100"}
        proposed[0] |= {replace(of, nfe=60): some, replace(of, sampler="heun"): some}
    found = verdicts(proposed, baseline, files(0.0), "test", 1.0, ONE, ONE)
    assert found["primary"]["over_none"]["files"] == 72
    assert [(e["nfe"], e["sampler"]) for e in found["samplers"]] == [(1, "heun"), (60, "average")]
    assert all(0 < e["over_none"]["files"] < 72 for e in found["samplers"])
    assert found["criteria"][0]["metrics"]["estoi"]["files"] == 192  # both splits
