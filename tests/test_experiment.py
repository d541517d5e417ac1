"""Experiments: probes, and a whole one on a small data set, killed and started again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from test_experiment_plan import config
from test_verdicts import row

import nrdata
import nrmodel
from cli.main import run
from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel import config as presets
from nrmodel.experiment import run as running
from nrmodel.experiment.collect import collect
from nrmodel.experiment.listening import choose_files
from nrmodel.experiment.plan import plan_of, read_plan
from nrmodel.experiment.probes import cosine, knowledge, linear_accuracy, probe, shuffled, standardised
from nrmodel.network.compact import CompactConfig

TINY = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)


@pytest.fixture(autouse=True, scope="module")
def tiny_nano():
    """The preset with a network of toy size, one thread."""
    init, threads = presets.ModelConfig.__init__, torch.get_num_threads()

    def tiny(self, *args, **kwargs):
        kwargs.setdefault("network", TINY)
        init(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets.ModelConfig, "__init__", tiny)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


# Probes -------------------------------------------------------------------------------------------------------------


def test_shuffled_gives_every_item_a_clip_of_another_place():
    places = ["a/x", "a/x~1", "a/x", "a/y", "a/z", "a/y"]
    chosen = shuffled(places)
    assert all(places[j].split("~")[0] != places[i].split("~")[0] for i, j in enumerate(chosen))
    assert list(shuffled(["a/x"] * 3)) == [1, 2, 0]


def clips(places: int, recordings: int, per: int, of_place: float, of_recording: float):
    """Features of two clips a sample: a vector of the place, one of the recording, noise."""
    rng = np.random.default_rng(0)
    place = np.repeat([f"p{k}" for k in range(places)], recordings * per)
    recording = np.repeat([f"r{k}" for k in range(places * recordings)], per)
    p, r = rng.standard_normal((places, 16)), rng.standard_normal((places * recordings, 16))
    base = of_place * np.repeat(p, recordings * per, 0) + of_recording * np.repeat(r, per, 0)
    return standardised(base[:, None] + rng.standard_normal((len(place), 2, 16))), place, recording


def test_features_that_know_are_told_from_features_that_do_not():
    knows = knowledge(*clips(6, 4, 3, of_place=4.0, of_recording=2.0))
    assert knows["recording"] > 0.7 and knows["recording_probe"] > 0.7
    assert knows["environment"] > 0.7 and knows["environment_probe"] > 0.7
    blind = knowledge(*clips(6, 4, 3, of_place=0.0, of_recording=0.0))
    assert abs(blind["recording"] - blind["recording_chance"]) < 0.15
    assert abs(blind["environment"] - blind["environment_chance"]) < 0.15
    assert blind["environment_probe"] < 0.45  # chance is 1/6


def test_the_environment_is_asked_of_recordings_that_were_not_seen():
    """Features of the recording alone: perfect for it, by chance for its environment."""
    found = knowledge(*clips(6, 4, 3, of_place=0.0, of_recording=4.0))
    assert found["recording"] > 0.9
    assert found["environment"] < 0.45 and found["environment_probe"] < 0.45


def test_a_linear_probe_does_not_depend_on_an_offset_and_cosines_not_on_length():
    x, place, _ = clips(4, 2, 4, of_place=2.0, of_recording=0.0)
    a, b = x[:, 0], x[:, 1]
    assert linear_accuracy(a, place, b, place) == linear_accuracy(a + 7, place, b + 7, place)
    assert np.allclose(cosine(a, b), cosine(3 * a, 0.5 * b))


def test_a_network_that_ignores_its_clip_shows_no_difference(tiny_dataset):
    """At step 0 conditioning is the identity, exactly; given weights it is not."""
    from nrmodel.model import Model

    data = nrdata.open(tiny_dataset)
    model = Model(presets.preset("nano")).eval().requires_grad_(False)
    found = probe(model, data, "test", batches=2, rows=6, ref_seconds=0.5)
    assert found["loss"]["right"] == found["loss"]["wrong"] == found["loss"]["none"]
    assert found["sensitivity"]["disjoint_none"]["median_db"] < -150
    generator = torch.Generator().manual_seed(0)
    for parameter in model.network.parameters():
        if not parameter.any():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    found = probe(model, data, "test", batches=2, rows=6, ref_seconds=0.5)
    assert found["loss"]["right"] != found["loss"]["none"] and found["loss"]["right"] != found["loss"]["wrong"]
    assert found["sensitivity"]["disjoint_mismatch"]["median_db"] > -80
    known = found["embedding"]
    assert known["clips"] == 12 and len(known["map"]["points"]) == 6 and set(known["features"]) >= {"z_r"}
    json.dumps(found, allow_nan=False)


def test_training_works_after_an_enhancement_in_the_same_process(tiny_dataset, tmp_path):
    """What is kept between calls must not be of the kind that inference makes: no gradient passes it."""
    from nrmodel.diffusion.spectrogram import _window
    from nrmodel.training.train import train

    _window.cache_clear()
    model = nrmodel.model.Model(presets.preset("nano"))
    model.enhance(np.ones(8000, np.float32) * 0.1, 16000, model.embed(np.ones(8000, np.float32), 16000))
    train(config(shards=(str(tiny_dataset),), out=str(tmp_path / "run"), max_steps=1, validate_every=9))


def test_files_to_listen_to_are_not_the_best_ones():
    none = {f"k{i}": row(i, 0.5, key=f"k{i}") for i in range(9)}
    right = {f"k{i}": row(i, 0.5 + 0.01 * i, key=f"k{i}") for i in range(9)}
    chosen = choose_files(right, none, 3)
    assert [key for key, _ in chosen] == ["k8", "k4", "k0"]
    assert len({key for key, _ in choose_files(right, none, 100)}) == 9


# A whole experiment -------------------------------------------------------------------------------------------------

PLAN = """
name = "small"
shards = ["{shards}"]
seeds = [0, 1]
[train]
max_steps = 2
batch_size = 4
crop_frames = 32
warmup_steps = 1
precision = "float32"
device = "cpu"
ref_mode = "disjoint:0.7,none:0.3"
[evaluate]
limit = 2
ref_seconds = [0.5]
[[ablation]]
name = "conditioning"
arms.film = {{ conditioning = "film" }}
arms.spectrum = {{ conditioning = "spectrum" }}
evaluate = {{ limit = 1 }}
[report]
files = 2
probe_batches = 1
probe_rows = 4
"""


@pytest.fixture(scope="module")
def small(tiny_dataset, tmp_path_factory):
    """The plan file and the folder of its answer, done."""
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "small.toml"
    path.write_text(PLAN.format(shards=tiny_dataset))
    out = folder / "answer"
    assert run(["experiment", str(path), "--out", str(out)]) == 0
    return path, out


def test_an_experiment_answers_with_verdicts_and_a_report(small):
    _, out = small
    found = json.loads((out / "verdicts.json").read_text())
    assert [e["verdict"] for e in found["criteria"]] == ["undecided"] * 4  # 2 files conclude nothing
    assert found["primary"]["over_none"]["seeds"] == [0, 1]
    assert "too short to conclude" in found["primary"]["sentence"]
    arms = {e["arm"]: e for e in found["ablations"]}
    assert arms["conditioning-spectrum"]["same_as"] == "proposed"
    assert arms["conditioning-film"]["disjoint"]["estoi"]["files"] == 1
    assert set(found["probes"]) == {"proposed seed 0", "proposed seed 1"}
    assert (out / "report.html").stat().st_size > 50_000 and (out / "ladder.png").exists()


def test_the_same_command_again_repeats_nothing(small, capsys):
    path, out = small
    before = {p: p.stat().st_mtime_ns for folder in ("cells", "runs", "evaluations") for p in (out / folder).rglob("*")}
    assert run(["experiment", str(path), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["name"] == "small"
    cells = len(read_plan(path, out).cells)
    assert captured.err.count("done before") == cells
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_dry_run_lists_cells_and_runs_nothing(small, tmp_path, capsys):
    path, out = small
    assert run(["experiment", str(path), "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "train conditioning-film seed 0" in text and "conditioning-spectrum is proposed" in text
    assert not (tmp_path / "new").exists()
    assert run(["experiment", str(path), "--out", str(out), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(cell["done"] for cell in told["cells"]) and told["seconds"] == 0


def copied(small, tmp_path):
    path, out = small
    shutil.copytree(out, tmp_path / "answer")
    shutil.copyfile(path, tmp_path / "small.toml")
    return tmp_path / "small.toml", tmp_path / "answer"


def test_killed_in_a_training_it_goes_on_without_repeating(small, tmp_path, monkeypatch, capsys):
    """What is done stays; the run that was cut goes on and ends with the weights of one that was not."""
    import nrmodel.training.train as training

    path, new = copied(small, tmp_path)
    plan_text = path.read_text()
    path.write_text(plan_text.replace("[train]", f'runs = "{new}/runs"\n[train]'))
    for part in ("cells/*film*", "cells/listen.json", "runs/*film*", "evaluations/*film*", "verdicts.json"):
        for found in new.glob(part):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    real = training.Trainer._step

    class Killed(BaseException):
        pass

    def step(self, batches):
        if self.step == 1:
            raise Killed
        return real(self, batches)

    monkeypatch.setattr(training.Trainer, "_step", step)
    with pytest.raises(Killed):
        run(["experiment", str(path), "--out", str(new)])
    assert not (new / "verdicts.json").exists()
    monkeypatch.undo()
    capsys.readouterr()
    assert run(["experiment", str(path), "--out", str(new)]) == 0
    done = capsys.readouterr().err
    assert "train proposed seed 0: done before" in done and "train conditioning-film seed 0: done" not in done
    one, other = (checkpoint.read_model(o / "runs" / "conditioning-film-s0" / "model.safetensors")[2]["sha256"]
                  for o in (small[1], new))  # fmt: skip
    assert one == other
    assert (new / "verdicts.json").read_text() == (small[1] / "verdicts.json").read_text()


def test_a_cell_alone_says_what_it_needs_first(small, tmp_path, capsys):
    path, _ = small
    assert run(["experiment", str(path), "--out", str(tmp_path / "o"), "--cell", "2"]) == 2
    assert "needs cell 1 (train proposed seed 0): run it first" in capsys.readouterr().err
    assert run(["experiment", str(path), "--out", str(tmp_path / "o"), "--cell", "99"]) == 2
    assert run(["experiment", str(path), "--cell", "1", "--engine", "ray"]) == 2
    assert "not both" in capsys.readouterr().err
    assert run(["experiment", str(path), "--out", str(tmp_path / "o"), "--cell", "1"]) == 0
    assert "cell done" in capsys.readouterr().out
    assert not (tmp_path / "o" / "verdicts.json").exists()


def test_a_finished_run_of_something_else_is_not_taken_for_a_cell(small, tmp_path, capsys):
    path, out = copied(small, tmp_path)
    path.write_text(path.read_text().replace("batch_size = 4", "batch_size = 2"))
    assert run(["experiment", str(path), "--out", str(out)]) == 2
    assert "another batch_size" in capsys.readouterr().err
    (out / "cells" / "train-proposed-seed-0.json").unlink()
    assert run(["experiment", str(path), "--out", str(out)]) == 2
    assert "finished run of something else (batch_size = 4)" in capsys.readouterr().err


def test_records_older_than_an_entry_of_the_configuration_are_what_they_were(small, tmp_path):
    """A cell and a training state that know nothing of `lambda_env` were made without it."""
    path, out = copied(small, tmp_path)
    for cell in (out / "cells").glob("train-*.json"):
        record = json.loads(cell.read_text())
        for known in (record["asked"], record["config"]):
            del known["lambda_env"]
        cell.write_text(json.dumps(record))
    assert run(["experiment", str(path), "--out", str(out)]) == 0
    path.write_text(path.read_text().replace("[train]", "[train]\nlambda_env = 0.5"))
    assert run(["experiment", str(path), "--out", str(out)]) == 2  # but not with another value


def test_rows_of_other_weights_are_not_read(small, tmp_path):
    path, out = copied(small, tmp_path)
    cell = out / "cells" / "train-baseline-seed-1.json"
    record = json.loads(cell.read_text())
    cell.write_text(json.dumps(record | {"digest": "0" * 64}))
    assert run(["experiment", str(path), "--out", str(out)]) == 2


def test_results_are_read_without_weights_or_data_and_checked_again(small, tmp_path):
    path, out = copied(small, tmp_path)
    shutil.rmtree(out / "runs")
    made = read_plan(path, out)
    assert collect(made, out) == json.loads((out / "verdicts.json").read_text())
    cell = out / "cells" / "train-baseline-seed-0.json"
    record = json.loads(cell.read_text())
    record["config"]["max_steps"] = 3
    cell.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"baseline and proposed are not compared: beside ref_mode .* max_steps"):
        collect(made, out)


def test_embedded_data_are_made_by_a_cell(tmp_path, monkeypatch):
    made = plan_of({"name": "x", "source": "synthetic"}, tmp_path)
    assert made.cells[0].kind == "data" and all("data" in c.needs for c in made.cells[1:])
    assert made.shards == (f"{tmp_path}/runs/shards",)
    assert running.cell_file(tmp_path, "train a seed 0").name == "train-a-seed-0.json"


def test_what_is_listened_to_comes_from_the_sampler_that_was_scored(small, tmp_path):
    path, out = copied(small, tmp_path)
    text = path.read_text().replace("[train]", f'runs = "{small[1]}/runs"\n[train]')
    for evaluate, expected in (("", "budget"), ('nfe = [2]\nsampler = "published"\n', "published")):
        path.write_text(text.replace("[evaluate]\n", f"[evaluate]\n{evaluate}"))
        made = read_plan(path, out)
        cells = [cell for cell in made.cells if cell.kind in ("listen", "probe", "evaluate") and cell.seed == 0]
        assert {running.sampler_of(made, cell) for cell in cells} == {expected}


def test_the_last_weights_are_evaluated_not_the_best(small):
    """Equal budgets: what a run validated best is a selection that the baseline makes on other grounds."""
    path, out = small
    made = read_plan(path, out)
    (cell,) = [c for c in made.cells if c.name == "evaluate main proposed seed 0"]
    model = running.loaded(made, out, cell)
    assert model.digest == nrmodel.load(made.run_folder("proposed", 0) / "model.safetensors").digest
    assert model.training_data is not None
