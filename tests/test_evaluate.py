"""Evaluation runs: every row once, whatever happens in between; folders of any rate; hostile names."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, make_dataset
from toys import TOY_METRIC, TOY_PEER, TOY_SAMPLER, rms_error

import nrdata
from cli.main import run
from nrdata.errors import UserError
from nrdata.keyed import noise_seed
from nrmodel import checkpoint
from nrmodel.config import preset
from nrmodel.diffusion.choice import SAMPLERS
from nrmodel.evaluation.evaluate import ShardFiles, evaluate, evenly, seen, speaker_seen
from nrmodel.evaluation.folders import FolderFiles
from nrmodel.evaluation.metrics import METRICS
from nrmodel.evaluation.peers import PEERS, load
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.evaluation.schema import IDENTITY
from nrmodel.evaluation.speed import read_speed
from nrmodel.model import Model

SHARED = Path(__file__).parents[1].parent / "shared"


class StandIn:
    """The interface of a model around spectral subtraction: a right clip helps, a wrong one hurts. Notes its calls."""

    sample_rate, nfe, digest, training_data, takes_reference = RATE, 1, "0123456789abcdef", None, True

    def __init__(self, stop_after: int | None = None):
        self.calls: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def sampler(self, nfe, sampler):
        return "one-call" if nfe == 1 else "average", None

    def embed(self, ref, sample_rate):
        return ref

    def enhance(self, noisy, sample_rate, ref=None, ref_sample_rate=None, nfe=None, seed=0, sampler="budget"):
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((nfe, seed))
        if ref is None:
            return noisy
        spectrum = np.fft.rfft(noisy)
        of_noise = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 65), smooth(ref))
        of_noisy = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 65), smooth(noisy))
        gain = np.sqrt(np.clip(1 - of_noise / (of_noisy + 1e-9), 0.05, 1))
        return np.fft.irfft(spectrum * gain, len(noisy)).astype(np.float32)


def smooth(x: np.ndarray) -> np.ndarray:
    return np.square(np.abs(np.fft.rfft(x[: len(x) // 128 * 128].reshape(-1, 128), axis=1))).mean(axis=0)


@pytest.fixture(scope="module")
def dataset(tiny_dataset):
    return nrdata.open(tiny_dataset)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


OPTIONS = {"modes": ("none", "disjoint", "mismatch"), "workers": 1}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "whole"
    evaluate(StandIn(), dataset, EvaluationRequest(**OPTIONS), out)
    return out


def test_every_row_once_with_its_facts(whole, dataset):
    rows = rows_of(whole)
    systems = [(row["system"], row["mode"]) for row in rows]
    ours = [("nr:01234567", mode) for mode in OPTIONS["modes"]]
    for setting in [("noisy", "none"), *ours, ("clean", "none"), ("noise", "none")]:
        assert systems.count(setting) == 6
    assert len(rows) == 36
    assert len({tuple(row[name] for name in IDENTITY) for row in rows}) == 36
    row = next(r for r in rows if r["mode"] == "disjoint" and r["key"] == "test-0000002")
    assert row["relation"] == "same-recording" and row["ref_source"] == "test-0000002.ref"
    assert row["ref_span"] == [0, 16000] and row["ref_distance_db"] < 3
    assert row["sampler"] == "one-call" and row["nfe"] == 1
    assert row["snr_db"] == pytest.approx(dataset.sample("test-0000002").snr_db, abs=1e-3)
    assert {p.name for p in whole.iterdir()} == {
        "rows.jsonl", "speed.json", "summary.json", "table.csv", "table.md", "config.json", "run.json",
    }  # fmt: skip
    run_json = json.loads((whole / "run.json").read_text())
    assert run_json["fingerprint"] == dataset.fingerprint and run_json["model_sha256"] == StandIn.digest


def test_every_setting_tells_how_long_it_took(whole, dataset, tmp_path):
    """Wall time over seconds of sound, by system and calls; rows hold no time, the tables beside them do."""

    class Slow(StandIn):
        def enhance(self, noisy, sample_rate, ref=None, ref_sample_rate=None, nfe=None, seed=0, sampler="budget"):
            time.sleep(0.05 * nfe)
            return super().enhance(noisy, sample_rate, ref, ref_sample_rate, nfe, seed, sampler)

    summary = evaluate(Slow(), dataset, EvaluationRequest(modes=("none",), nfe=(1, 3), limit=2), tmp_path)
    factor = {(e["system"], e["nfe"]): e["real_time_factor"] for e in summary["means"]}
    seconds = sum(len(dataset.sample(key).noisy) for key in {r["key"] for r in rows_of(tmp_path)}) / dataset.sample_rate
    assert factor["nr:01234567", 1] > 2 * 0.0499 / seconds and factor["nr:01234567", 3] > 2 * 0.1499 / seconds
    assert "real-time factor" in (tmp_path / "table.md").read_text()
    assert not any("seconds" in name and name != "ref_seconds" for name in rows_of(tmp_path)[0])
    again = evaluate(Slow(), dataset, EvaluationRequest(modes=("none",), nfe=(1, 3), limit=2), tmp_path)
    assert again == summary


def test_a_right_clip_helps_and_a_wrong_one_does_less(whole):
    gain = {}
    for mode in ("none", "disjoint", "mismatch"):
        gain[mode] = np.mean([r["si_sdr"] for r in rows_of(whole) if r["mode"] == mode and r["system"][:2] == "nr"])
    assert gain["disjoint"] > gain["none"] + 3 and gain["disjoint"] > gain["mismatch"] + 3


def test_negative_controls_have_their_say(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["controls"]["noise_alone"]["left_db"] == pytest.approx(0)  # the stand-in leaves it alone
    clean = [row for row in rows_of(whole) if row["system"] == "clean"]
    assert all(row["failures"] == {"si_sdr": "identical"} and row["pesq_wb"] > 4.4 for row in clean)


def test_interrupted_and_torn_it_goes_on_to_the_same_rows(whole, dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(StandIn(stop_after=13), dataset, EvaluationRequest(**OPTIONS), tmp_path)
    partial = tmp_path / "rows.partial"
    before = len(partial.read_text().splitlines())
    assert 5 < before < 20 and not (tmp_path / "rows.jsonl").exists()
    with partial.open("a") as file:
        file.write('{"key": "test-0000003", "sys')
    model = StandIn()
    evaluate(model, dataset, EvaluationRequest(**OPTIONS), tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    spent, of_all = (sum(e["sound_seconds"] for e in read_speed(folder)) for folder in (tmp_path, whole))
    assert of_all <= spent < 1.5 * of_all  # the time before counts too; what was lost was enhanced again
    assert len(model.calls) < 30 - 13 + 3  # only what was missing
    assert not partial.exists()


def test_workers_and_order_do_not_matter(whole, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardFiles, "__init__", reversed_rows(ShardFiles.__init__))
    evaluate(StandIn(), dataset, EvaluationRequest(**(OPTIONS | {"workers": 2})), tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()


def reversed_rows(init):
    def made(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.rows = list(self.rows)[::-1]

    return made


def test_killed_between_the_rows_and_the_end_it_leaves_nothing(whole, dataset, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.copyfile(out / "rows.jsonl", out / "rows.partial")
    evaluate(StandIn(), dataset, EvaluationRequest(**OPTIONS), out)
    assert rows_of(out) == rows_of(whole) and not (out / "rows.partial").exists()


def test_finished_it_only_reads_and_another_request_is_refused(whole, dataset, tmp_path):
    shutil.copytree(whole, tmp_path / "e")
    model = StandIn()
    evaluate(model, dataset, EvaluationRequest(**OPTIONS), tmp_path / "e")
    assert not model.calls
    with pytest.raises(UserError, match="--force"):
        evaluate(model, dataset, EvaluationRequest(modes=("none",)), tmp_path / "e")
    evaluate(model, dataset, EvaluationRequest(modes=("none",), limit=1, force=True, workers=1), tmp_path / "e")
    assert len(rows_of(tmp_path / "e")) == 4


def test_sampler_noise_belongs_to_file_and_seed_and_is_shared_by_modes(dataset, tmp_path):
    model = StandIn()
    request = EvaluationRequest(modes=("none", "disjoint"), seeds=(0, 1), nfe=(2, 1), limit=2, workers=1)
    evaluate(model, dataset, request, tmp_path)
    seeds = [seed for _, seed in model.calls]
    assert len(set(seeds)) == 4  # two files, two seeds
    assert noise_seed("a", 0) != noise_seed("a", 1) != noise_seed("b", 1)
    assert {nfe for nfe, _ in model.calls} == {1, 2}
    controls = {row["nfe"] for row in rows_of(tmp_path) if row["system"] in ("clean", "noise")}
    assert controls == {1}  # the fewest calls that were asked for
    samplers = {row["nfe"]: row["sampler"] for row in rows_of(tmp_path) if row["system"][:2] == "nr"}
    assert samplers == {1: "one-call", 2: "average"}


def test_another_checkpoint_is_another_evaluation(dataset, tmp_path):
    request = EvaluationRequest(modes=("none",), limit=1, workers=1)
    evaluate(StandIn(), dataset, request, tmp_path)
    other = StandIn()
    other.digest = "fedcba9876543210"
    with pytest.raises(UserError, match="another systems"):
        evaluate(other, dataset, request, tmp_path)


def test_what_the_data_cannot_serve_is_named(tmp_path):
    data = nrdata.open(make_dataset(tmp_path / "d", {"test": 2}, ref_seconds=0))
    summary = evaluate(StandIn(), data, EvaluationRequest(modes=("none", "disjoint"), workers=1), tmp_path / "e")
    assert {
        "system": "nr:01234567",
        "mode": "disjoint",
        "metric": "estoi",
        "kind": "no_reference",
        "rows": 2,
    } in summary["failures"]


def test_a_smaller_limit_is_part_of_a_larger(dataset):
    few, more = (set(ShardFiles(dataset, "test", n).rows) for n in (2, 4))
    assert few < more and len(more) == 4
    assert list(ShardFiles(dataset, "test", 99).rows) == list(range(6))


@pytest.mark.parametrize(("count", "wanted"), [(384, 48), (7, 3), (5, 48)])
def test_controls_are_spread(count, wanted):
    places = [place for place in range(count) if evenly(place, count, wanted)]
    assert len(places) == min(count, wanted)
    assert max(np.diff(places)) <= count / wanted + 1


def test_seen_in_training():
    data = {"env_ids": ["a/cafe", "a/road~1"], "recordings": ["a/cafe/1"], "speakers": []}
    facts = {"env_id": "a/cafe", "recording": "a/cafe/2"}
    assert seen(facts, data) == "environment"
    assert seen(facts | {"recording": "a/cafe/1"}, data) == "recording"
    assert seen({"env_id": "a/road", "recording": "a/road/1"}, data) == "environment"
    assert seen({"env_id": "a/cafe~2", "recording": "a/cafe/2"}, data) == "environment"
    assert seen({"env_id": "a/sea~1", "recording": "a/sea/1"}, data) == "unseen"
    assert seen(facts, None) is None
    assert seen({"env_id": "local/unknown", "recording": "local/unknown/1"}, data) is None


def test_speakers_of_the_training_are_told(dataset, tmp_path):
    model = StandIn()
    model.training_data = {"env_ids": [], "recordings": [], "speakers": ["local/s20"]}
    with pytest.warns(UserWarning, match="1 of the 2 speakers and on 0 of the"):
        summary = evaluate(model, dataset, EvaluationRequest(modes=("none",), workers=1), tmp_path)
    assert summary["in_training"]["speakers"] == 1
    assert speaker_seen({"speaker": "local/unknown"}, model.training_data) is None


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.partial", "table.md"])
def test_rows_of_who_knows_what_are_not_deleted(dataset, tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(UserError, match=f"{name} is there.*--force"):
        evaluate(StandIn(), dataset, EvaluationRequest(modes=("none",), limit=1), tmp_path)
    assert (tmp_path / name).read_text() == "{}\n"


def test_a_limit_on_folders_draws_from_all_of_them(tmp_path):
    for side in ("clean", "noisy"):
        (tmp_path / side).mkdir()
        for i in range(30):
            (tmp_path / side / f"{i:02d}.wav").touch()
    few, more = (FolderFiles(tmp_path / "clean", tmp_path / "noisy", limit=n).names for n in (5, 10))
    assert len(few) == 5 and set(few) < set(more) and more == sorted(more) and max(few) > "14"


def test_a_model_of_another_rate_is_refused_with_both_numbers(dataset, tmp_path):
    model = StandIn()
    model.sample_rate = 48000
    with pytest.raises(UserError, match=r"48000 Hz.*16000 Hz"):
        evaluate(model, dataset, EvaluationRequest(), tmp_path)


def test_a_model_without_conditioning_is_evaluated_with_none(dataset, tmp_path):
    model = StandIn()
    model.takes_reference = False
    evaluate(model, dataset, EvaluationRequest(limit=1, workers=1, modes=("none", "env")), tmp_path)
    assert {row["mode"] for row in rows_of(tmp_path)} == {"none"}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--clean", "a"], "belong together"),
        (["--clean", "a", "--noisy", "b", "--shards", "c"], "not both"),
        (["--nfe", "one"], "no list of numbers"),
        (["--nfe", "0"], "1 or more"),
        (["--ref-seconds", "0.1"], "0.25 or more"),
        (["--ref-seconds", "1,inf"], "0.25 or more, not inf"),
        (["--ref-seconds", "nan"], "0.25 or more, not nan"),
        (["--ref", "x"], "their own references"),
        (["--sampler", "published", "--peer", "rnnoise"], "give its --checkpoint"),
        (["--modes", "best", "--shards", "missing"], "choose from"),
        (["--modes", "leak:nan", "--shards", "missing"], "choose from"),
        (["--peer", "nobody", "--shards", "missing"], "peer 'nobody' is unknown"),
        (["--sampler", "fast", "--shards", "missing"], "'fast' is unknown"),
    ],
)
def test_wrong_usage_exits_2(argv, sentence, capsys):
    assert run(["evaluate", *argv]) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_with_a_real_network(tiny_dataset, tmp_path, capsys):
    model = Model(preset("nano", conditioning="spectrum"))
    checkpoint.save_model(tmp_path / "model.safetensors", model.state_dict(), model.config)
    argv = f"evaluate --checkpoint {tmp_path}/model.safetensors --shards {tiny_dataset} --limit 1 --out {tmp_path}/out"
    assert run([*argv.split(), "--modes", "none,disjoint,env+mp3", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [e["mode"] for e in summary["means"]] == ["none", "none", "disjoint", "env+mp3"]
    assert run(argv.split()) == 2  # another request
    published = [*argv.replace("/out", "/published").split(), "--modes", "none", "--sampler", "published"]
    assert run(published) == 2 and not (tmp_path / "published").exists()  # one call is no step
    assert run([*published, "--nfe", "4"]) == 0
    assert {row["sampler"] for row in rows_of(tmp_path / "published")} == {"", "predictor-corrector"}
    assert run([*argv.replace("/out", "/published").split(), "--modes", "none", "--nfe", "4"]) == 2  # another sampler
    assert "--force" in capsys.readouterr().err
    assert run([*argv.split(), "--modes", "best", "--force"]) == 2
    assert "choose from" in capsys.readouterr().err
    assert run([*argv.replace("/out", "/fast").split(), "--sampler", "fast"]) == 2
    assert "'fast' is unknown: choose from budget, published, one-call" in capsys.readouterr().err


def test_a_toy_metric_sampler_and_peer_are_known_by_a_row_of_their_table(tiny_dataset, tmp_path, monkeypatch):
    """Nothing but the tables is told of them; the metric is scored in another process."""
    model = Model(preset("nano", conditioning="spectrum"))
    checkpoint.save_model(tmp_path / "model.safetensors", model.state_dict(), model.config)
    for table, entry in ((METRICS, TOY_METRIC), (SAMPLERS, TOY_SAMPLER), (PEERS, TOY_PEER)):
        monkeypatch.setitem(table, *entry)
    load.cache_clear()
    argv = f"evaluate --checkpoint {tmp_path}/model.safetensors --shards {tiny_dataset} --limit 2 --modes none,disjoint"
    assert run([*argv.split(), "--out", f"{tmp_path}/out", "--sampler", "toy", "--peer", "toy", "--workers", "1"]) == 0
    rows = {(row["key"], row["system"], row["mode"]): row for row in rows_of(tmp_path / "out")}
    ours = [row for row in rows.values() if row["system"].startswith("nr:")]
    assert {row["sampler"] for row in ours} == {"toy"}
    for row in ours:  # the toy sampler gives back what it was given
        assert row["si_sdr"] == pytest.approx(rows[row["key"], "noisy", "none"]["si_sdr"], abs=0.05)
    sample = nrdata.open(tiny_dataset).sample(ours[0]["key"])
    peer = rows[ours[0]["key"], "peer:toy", "none"]
    assert peer["rms_error"] == pytest.approx(rms_error(sample.clean, 0.5 * sample.noisy), abs=2e-6)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert all("rms_error" in e["metrics"] for e in summary["means"] + summary["differences"])
    for name, words in (("table.md", "Toy error FS"), ("table.csv", ",rms_error,")):
        assert words in (tmp_path / "out" / name).read_text()


@pytest.mark.slow
def test_killed_at_half_every_row_stands_once(tiny_dataset, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    argv = ["evaluate", "--shards", str(tiny_dataset), "--peer", "mmse-lsa", "--modes", "none,disjoint,oracle,env"]
    argv += ["--ref-seconds", "0.5", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "cli.main", *argv], cwd=Path(__file__).parents[1])
    partial = tmp_path / "killed" / "rows.partial"
    while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(argv) == 0
    assert run([*argv[:-1], str(tmp_path / "whole")]) == 0
    assert (tmp_path / "killed" / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
