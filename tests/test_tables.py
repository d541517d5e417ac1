"""Tables made from rows with planted effects; what is shown is safe to show."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from toys import TOY_METRIC

from nrdata.errors import UserError
from nrmodel.evaluation.markdown import to_markdown
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.schema import Row, by_setting, read_rows, row_of
from nrmodel.evaluation.spreadsheet import csv_cell
from nrmodel.evaluation.summary import harm_rate, summarise, whole_clip
from nrmodel.evaluation.tables import write_tables

SNRS = (-5.0, 0.0, 5.0, 10.0)
GAIN = {"none": 0.0, "disjoint": 0.02, "mismatch": -0.03}  # of ESTOI; 100 times that of SI-SDR


def row(number: int, system: str, mode: str, **changes) -> Row:
    """One row; the metrics are a function of number and mode plus what `changes` says."""
    rng = np.random.default_rng(number)
    base = 0.6 + 0.1 * rng.standard_normal()
    gain = GAIN.get(mode, 0.0) + (0.1 if system.startswith("nr") else 0.0)
    gain += 0.01 * np.random.default_rng([number, len(mode)]).standard_normal()
    fields = {
        "key": f"test-{number:07d}", "system": system, "mode": mode, "ref_seconds": 0.0 if mode == "none" else 1.0,
        "sampler": "", "nfe": 1 if system.startswith("nr") else 0, "seed": 0, "env_id": f"local/e{number % 12}",
        "recording": "local/r", "speaker": f"local/s{number // 12 % 10}", "snr_db": SNRS[number % 4] + 0.03,
        "seen": "unseen" if number % 12 > 8 else "environment", "relation": mode, "ref_source": "", "flags": [],
        "ref_span": [0, 16000],
        "ref_distance_db": {"disjoint": 2.0, "mismatch": 10.0}.get(mode), "pesq_wb": 1.5 + gain, "estoi": base + gain,
        "si_sdr": 5.0 + 100 * gain, "failures": {},
    }  # fmt: skip
    return row_of(fields | changes)


def but(row: Row, **changes) -> Row:
    """The same row with other entries."""
    return row_of(row.as_json() | changes)


def experiment(files: int = 240) -> list[Row]:
    rows = [row(k, "noisy", "none") for k in range(files)]
    return rows + [row(k, "nr:00000000", mode) for k in range(files) for mode in GAIN]


@pytest.fixture(scope="module")
def summary() -> dict:
    return summarise(experiment())


def test_the_declared_contrast_uses_the_low_levels_only(summary):
    (contrast,) = summary["primary"]
    gain = contrast["over_none"]
    assert gain["files"] == 120 and gain["environments"] == 6 and gain["speakers"] == 10
    assert gain["low"] < 0.02 < gain["high"] and contrast["conclusive"]
    assert contrast["shown"] is None and contrast["quoted"] is None  # no baseline stands beside it
    low, high = contrast["bootstrap"]
    assert low < gain["mean"] < high


def test_means_of_fewer_files_have_the_others_means_over_the_same_beside_them(tmp_path):
    """Without: ten files from .1 to 1; with: the five best of them, none of which gains anything."""
    rows = []
    for k in range(10):
        score = 0.1 * (k + 1)
        rows += [row(k, "noisy", "none", estoi=score / 2), row(k, "nr:00000000", "none", estoi=score)]
        rows.append(row(k, "nr:00000000", "env", estoi=score if k >= 5 else None))
    summary = write_tables(rows, tmp_path)
    entry = next(e for e in summary["means"] if e["mode"] == "env")
    assert entry["same_files"]["estoi"] == {"none": pytest.approx(0.8), "noisy": pytest.approx(0.4)}
    assert "pesq_wb" not in entry["same_files"]  # all files have a number
    assert not any("same_files" in e for e in summary["means"] if e["mode"] == "none")
    text = (tmp_path / "table.md").read_text()
    assert "(n 5, none 0.800, noisy 0.400)" in text
    by_place = next(e for e in summary["by"]["seen"] if e["mode"] == "env" and e["level"] == "environment")
    assert by_place["n"] == 9 and by_place["same_files"]["estoi"]["none"] == pytest.approx(0.75)
    assert "(none over these: – / 0.750 / –)" in text


def test_leaks_stand_in_the_order_of_their_numbers():
    modes = ["leak:5", "leak:-10", "leak:0", "leak:-5+mp3", "leak:-15", "leak:-5", "disjoint", "none", "leak:2.5"]
    found = by_setting(row(0, "nr:00000000", mode) for mode in modes)
    assert [setting.mode for setting in found] == [
        "none", "disjoint", "leak:-15", "leak:-10", "leak:-5", "leak:-5+mp3", "leak:0", "leak:2.5", "leak:5",
    ]  # fmt: skip


def test_differences_are_paired_and_counted(summary):
    entry = next(e for e in summary["differences"] if e["mode"] == "mismatch" and e["minus"] == "none")
    assert entry["metrics"]["estoi"]["mean"] == pytest.approx(-0.03, abs=0.003)
    assert entry["metrics"]["estoi"]["files"] == 240
    assert entry["metrics"]["estoi"]["p_holm"] >= entry["metrics"]["estoi"]["p_value"]
    assert 0.85 < entry["harm_rate"] <= 1.0  # planted: 3 dB lost, give or take


def test_harm_counts_losses_over_a_decibel():
    before = {str(i): row(i, "a", "none", key=str(i), si_sdr=10.0) for i in range(4)}
    values = [8.9, 9.1, 12.0, None]
    after = {str(i): row(i, "a", "none", key=str(i), si_sdr=v) for i, v in enumerate(values)}
    assert harm_rate(after, before) == (1 / 3, 3)


def test_a_failed_file_is_left_out_of_its_metric_and_counted():
    rows = experiment(48)
    rows[-1] = but(rows[-1], estoi=None, failures={"estoi": "no_speech"})  # of mismatch
    found = summarise(rows)
    entry = next(e for e in found["means"] if e["mode"] == "mismatch")
    assert entry["metrics"]["estoi"]["files"] == 47 and entry["metrics"]["pesq_wb"]["files"] == 48
    assert found["failures"] == [
        {"system": "nr:00000000", "mode": "mismatch", "metric": "estoi", "kind": "no_speech", "rows": 1}
    ]
    assert "(n 47, " in to_markdown(found) and "no_speech" in to_markdown(found)


def test_seeds_of_a_file_are_one_file():
    rows = experiment(60)
    again = [but(r, seed=1, estoi=r.scores["estoi"] + 0.02 * (r.mode == "disjoint")) for r in rows]
    one, two = (summarise(r)["primary"][0]["over_none"] for r in (rows, rows + again))
    assert two["files"] == one["files"]
    assert two["mean"] == pytest.approx(one["mean"] + 0.01, abs=1e-5)
    assert two["high"] - two["low"] == pytest.approx(one["high"] - one["low"], abs=1e-4)


def test_gain_falls_with_distance(summary):
    entry = next(e for e in summary["by_distance"] if e["metric"] == "estoi")
    assert entry["rank_correlation"] < -0.7
    assert [b["from_db"] for b in entry["bins"]] == [0.0, 9.0]
    assert entry["bins"][0]["gain"]["mean"] > 0 > entry["bins"][1]["gain"]["mean"]


def test_more_calls_are_compared_with_the_next_fewer_on_the_same_files():
    rows = experiment(24)
    better = [but(r, nfe=n, estoi=r.scores["estoi"] + gain) for n, gain in ((5, 0.02), (30, 0.01)) for r in rows
              if r.system.startswith("nr")]  # fmt: skip
    summary = summarise(rows + better)
    steps = {(e["mode"], e["nfe"], e["minus_nfe"]): e["metrics"]["estoi"]["mean"] for e in summary["calls"]}
    assert {(nfe, minus) for _, nfe, minus in steps} == {(5, 1), (30, 5)}
    assert steps["none", 5, 1] == pytest.approx(0.02) and steps["none", 30, 5] == pytest.approx(-0.01)
    assert "## Network calls" in to_markdown(summary) and "## Network calls" not in to_markdown(summarise(rows))


def test_lengths_compare_the_files_with_the_full_clip():
    rows = experiment(60)
    long = [but(r, ref_seconds=2.0, ref_span=[0, 32000 if int(r.key[-2:]) % 3 else 16000],
                estoi=r.scores["estoi"] + 0.01) for r in rows if r.mode == "disjoint"]  # fmt: skip
    (entry,) = summarise(rows + long)["lengths"]
    assert (entry["ref_seconds"], entry["minus_seconds"]) == (1.0, 2.0)
    assert entry["metrics"]["estoi"]["files"] == sum(r.ref_span[1] == 32000 for r in long)
    assert entry["metrics"]["estoi"]["mean"] == pytest.approx(-0.01, abs=1e-6)
    short = [but(r, ref_span=[0, 16000]) for r in long]  # nobody had 2 s
    (entry,) = summarise(rows + short)["lengths"]
    assert entry["metrics"]["estoi"]["files"] == 0


def test_a_whole_clip_has_the_samples_that_were_asked_for():
    clip = row(0, "nr", "disjoint")
    assert [whole_clip(but(clip, ref_span=[100, 100 + n]), 0.5) for n in (8000, 7999, 24000)] == [True, False, False]
    assert whole_clip(but(clip, ref_span=[0, 24000], sample_rate=48000), 0.5)
    assert whole_clip(but(clip, ref_span=[-1, -1]), 0.5)  # white noise


def test_unknown_places_and_speakers_are_no_cluster_and_no_stratum():
    rows = [but(r, env_id="local/unknown", speaker="local/unknown~2") for r in experiment(24)]
    found = summarise(rows)
    entry = found["means"][0]["metrics"]["estoi"]
    assert entry["environments"] == entry["speakers"] == entry["files"] == 24
    assert found["by"]["environment"] == []


def test_speakers_and_recordings_of_the_training_are_counted():
    rows = [but(r, speaker_seen=r.speaker < "local/s5") for r in experiment(240)]
    rows = [but(r, seen="recording", recording=f"local/r{r.env_id}") if r.seen != "unseen" else r for r in rows]
    assert summarise(rows)["in_training"] == {"speakers": 5, "of_speakers": 10, "recordings": 9, "of_recordings": 10}
    assert summarise([but(r, seen=None) for r in experiment(8)])["in_training"] is None


def test_levels_are_those_of_the_plan(summary):
    levels = [e["level"] for e in summary["by"]["snr_db"] if e["system"] == "noisy"]
    assert levels == [-5.0, 0.0, 5.0, 10.0]
    assert {e["level"] for e in summary["by"]["seen"]} == {"environment", "unseen"}


def test_few_files_are_too_short_to_conclude(summary):
    assert "too short to conclude" in to_markdown(summarise(experiment(24)))
    assert "too short to conclude" not in to_markdown(summary)


def test_order_of_rows_does_not_matter(summary):
    rows = experiment()
    np.random.default_rng(0).shuffle(rows)
    assert summarise(rows) == summary


def test_the_declared_contrast_comes_first(summary):
    text = to_markdown(summary)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[0].startswith("## Declared contrast")
    widths = {len(line) for line in text.split("## Means")[1].split("##")[0].strip().splitlines()}
    assert len(widths) == 1  # columns line up


HOSTILE = "=1+1<script>\x1b[2J\n|\udcff"


def test_names_are_safe_in_every_table(tmp_path):
    rows = [but(r, env_id=HOSTILE) for r in experiment(24)] + [row(1, f"peer:{HOSTILE}", "none")]
    write_tables([but(r, system=HOSTILE) if r.system == "noisy" else r for r in rows], tmp_path)
    for name in ("summary.json", "table.csv", "table.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "\x1b" not in text
    text = (tmp_path / "table.md").read_text()
    assert "<script" not in text
    for table in text.split("## ")[1:]:
        borders = {line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(borders) <= 1  # no name adds a column
    cells = list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert any(line[0].startswith("'=1+1") for line in cells)
    assert all(len(line) == len(cells[0]) for line in cells)
    json.loads((tmp_path / "summary.json").read_text())


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x"])
def test_formulas_are_text(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(-1.5) == -1.5


def test_broken_rows_name_file_and_line(tmp_path):
    whole = json.dumps(row(0, "noisy", "none").as_json())
    for torn, told in (('{"a":', "line 2, is no JSON"), ('{"a": 1}', "line 2, is no row .*'key' is missing")):
        (tmp_path / "rows.jsonl").write_text(f"{whole}\n{torn}\n")
        with pytest.raises(UserError, match=rf"rows.jsonl, {told}"):
            read_rows(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="unfinished"):
        read_rows(tmp_path / "nothing.jsonl")


def test_two_samplers_of_one_number_of_calls_are_two_settings():
    rows = experiment(48)
    other = [but(r, sampler="heun", estoi=r.scores["estoi"] + 0.1) for r in rows if r.system.startswith("nr")]
    means = [e["metrics"]["estoi"]["mean"] for e in summarise(rows + other)["means"] if e["mode"] == "disjoint"]
    assert len(means) == 2 and means[1] - means[0] == pytest.approx(0.1, abs=1e-4)
    gains = [e["over_none"]["mean"] for e in summarise(rows + other)["primary"]]
    assert gains[0] == pytest.approx(gains[1], abs=1e-4)  # each against its own `none`


def test_rows_older_than_a_metric_are_read_and_told_without_it(summary, monkeypatch):
    """Committed rows know nothing of a metric that is added later; their tables stay as they are."""
    monkeypatch.setitem(METRICS, *TOY_METRIC)
    assert summarise(experiment()) == summary and TOY_METRIC[1].heading not in to_markdown(summary)
