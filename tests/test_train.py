"""Training through the front door: exact resume, workers, modes, refusals, bad batches, signals."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_dataset

import nrdata
import nrmodel
from cli.main import run
from nrdata import locks
from nrdata.errors import Failure, UserError
from nrmodel import checkpoint
from nrmodel import config as presets
from nrmodel.network.compact import CompactConfig
from nrmodel.training import train
from nrmodel.training.config import TrainConfig
from nrmodel.training.validation import Validation, _paired

TINY = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)


@pytest.fixture(autouse=True)
def tiny_nano(monkeypatch):
    """The preset with a network of toy size; one thread, as bit-exactness is promised for one machine and count."""
    monkeypatch.setattr(presets.ModelConfig, "__init__", _with_tiny(presets.ModelConfig.__init__))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _with_tiny(init):
    def wrapped(self, *args, **kwargs):
        kwargs.setdefault("network", TINY)
        init(self, *args, **kwargs)

    return wrapped


def config(data, out, **more):
    given = {"max_steps": 6, "batch_size": 4, "crop_frames": 32, "checkpoint_every": 2, "validate_every": 100}
    given |= {"precision": "float32", "device": "cpu", "warmup_steps": 2}
    return TrainConfig(**{"shards": (str(data),), "out": str(out), **given, **more})


def weights(folder, name="model.safetensors"):
    return checkpoint.read_model(Path(folder) / name)[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(folder):
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


class Stop(Exception):
    pass


def stop_at(step):
    def report(trainer):
        if trainer.step == step:
            raise Stop

    return report


@pytest.mark.parametrize("stopped", [1, 2, 3, 5])
def test_stopped_anywhere_and_started_again_is_as_if_never_stopped(tiny_dataset, tmp_path, stopped):
    train.train(config(tiny_dataset, tmp_path / "whole"))
    with pytest.raises(Stop):  # dies without a last checkpoint, as a killed process does
        train.train(config(tiny_dataset, tmp_path / "parts"), report=stop_at(stopped))
    train.train(config(tiny_dataset, tmp_path / "parts"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    states = [checkpoint.read_state(tmp_path / name / "train-state.pt") for name in ("whole", "parts")]
    assert same(states[0]["model"], states[1]["model"]) and states[0]["ema_updates"] == states[1]["ema_updates"] == 6


def test_workers_do_not_change_the_weights(tiny_dataset, tmp_path):
    for workers in (0, 1, 2):
        train.train(config(tiny_dataset, tmp_path / str(workers), loader_workers=workers, max_steps=3))
    for workers in ("1", "2"):
        assert same(weights(tmp_path / "0"), weights(tmp_path / workers))


def test_harder_items_do_not_depend_on_workers_or_on_being_killed(tiny_dataset, tmp_path):
    """20 steps, every item through a channel, some with two noises, a talker or a shorter crop."""
    harder = {"remix": True, "channel": 1.0, "two_noises": 0.5, "talker": 0.2, "keep": 0.5, "shortest_crop": 24}
    harder |= {"max_steps": 20, "batch_size": 2, "checkpoint_every": 10}
    for workers in (0, 1, 2):
        train.train(config(tiny_dataset, tmp_path / str(workers), loader_workers=workers, **harder))
    with pytest.raises(Stop):
        train.train(config(tiny_dataset, tmp_path / "killed", **harder), report=stop_at(13))
    train.train(config(tiny_dataset, tmp_path / "killed", **harder))
    for name in ("1", "2", "killed"):
        assert same(weights(tmp_path / "0"), weights(tmp_path / name))
    losses_of = losses(tmp_path / "0")
    train.train(config(tiny_dataset, tmp_path / "straight", **{**harder, "channel": 0.0}))
    assert losses(tmp_path / "straight") != losses_of


def test_a_larger_budget_goes_on_and_a_finished_run_says_so(tiny_dataset, tmp_path, capsys):
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=2))
    before = weights(tmp_path / "run")
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=2))
    assert same(before, weights(tmp_path / "run"))
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=4))
    assert checkpoint.read_state(tmp_path / "run" / "train-state.pt")["step"] == 4
    assert "from step 2 of 4" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert [line["own_from"] for line in lines if "loss" in line] == [1, 1]  # a budget that grows does not take it back


@pytest.mark.parametrize("mode", ["none", "oracle", "disjoint", "env", "mismatch", "disjoint:0.5,none:0.5"])
def test_every_mode_trains_through_the_command(tiny_dataset, tmp_path, mode):
    out = tmp_path / "run"
    argv = f"train --ref-mode {mode} --shards {tiny_dataset} --out {out} --max-steps 3 --batch-size 4 --crop-frames 32"
    assert run([*argv.split(), "--validate-every", "3", "--threads", "1"]) == 0
    for name in ("config.toml", "log.jsonl", "train-state.pt", "model.safetensors", "best.safetensors", "run.json"):
        assert (out / name).is_file(), name
    assert not list(out.glob("*.partial")) and not (out / "lock").exists()
    model = nrmodel.load(out)
    assert (model.reference is None) == (mode == "none")
    assert len(model.training_data["env_ids"]) == 3
    validation = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "validation" in line][-1]
    assert {"estoi_none", "estoi_ref"} <= validation["validation"].keys()


def test_validation_compares_over_the_same_files_and_says_how_many():
    """Three files, of which the middle one has no such clip and the last no number without one."""
    found = {"score": 0.5, "loss": {"none": 1.0}, "none_and_noisy": _paired([0.9, 0.5, None], [0.7, 0.4, 0.1])}
    found["ref_and_none"] = _paired([0.93, None, 0.2], [0.9, 0.5, None])
    assert found["none_and_noisy"] == [2, pytest.approx(0.7), pytest.approx(0.55)]
    validation = Validation.__new__(Validation)
    validation.mode = "env"
    assert validation.line(5, found) == (
        "step 5: validation ESTOI without reference 0.700, noisy 0.550 (2 files); "
        "with (env) 0.930, without 0.900 (1 file); loss none 1.0000"
    )
    assert "with (" not in validation.line(5, found | {"ref_and_none": [0, None, None]})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--preset tiny", "preset 'tiny' is unknown"),
        ("--ref-mode best", "reference mode 'best'"),
        ("--ref-seconds long", "neither a number nor a range"),
        ("--ref-seconds 0.1", "ref_seconds"),
        ("--preset nano --objective denoiser", "belongs to base"),
        ("--device tpu", "tpu"),
        ("--init-from nowhere", "nowhere"),
    ],
)
@pytest.mark.parametrize("shards", ["--shards missing", ""])
def test_a_bad_value_is_noticed_before_data_is_looked_for(tmp_path, monkeypatch, capsys, option, sentence, shards):
    monkeypatch.chdir(tmp_path)
    if "--device" in option or "--init-from" in option or "--objective" in option or "0.1" in option:
        shards = "--shards missing"  # told by what the values mean together: the data's name is settled by then
    assert run(["train", *option.split(), *shards.split()]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "no such folder of shards" not in error


def test_runs_that_are_compared_share_all_draws(tiny_dataset, tmp_path):
    """Before the conditioning has learnt anything the loss of a step is the same under every law and encoder."""
    first = {}
    for mode, conditioning in (("none", None), ("disjoint", "spectrum"), ("env", "film")):
        out = tmp_path / mode
        train.train(config(tiny_dataset, out, ref_mode=mode, conditioning=conditioning, max_steps=1))
        first[mode] = losses(out)[0]
    assert first["none"] == first["disjoint"] == first["env"]


def test_another_configuration_or_other_data_is_refused(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=2))
    with pytest.raises(UserError, match="batch_size = 4, not 2"):
        train.train(config(tiny_dataset, tmp_path / "run", batch_size=2))
    state = checkpoint.read_state(tmp_path / "run" / "train-state.pt")
    del state["sha256"]
    checkpoint.save_state(tmp_path / "run" / "train-state.pt", {**state, "fingerprint": "other"})
    (tmp_path / "run" / "training-data.json").write_text("{}")
    with pytest.raises(UserError, match="other data"):
        train.train(config(tiny_dataset, tmp_path / "run"))
    assert (tmp_path / "run" / "training-data.json").read_text() == "{}"  # a refused command changes nothing


def test_weights_without_a_state_are_not_overwritten(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=1))
    for name in ("train-state.pt", "train-state.prev.pt"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    before = weights(tmp_path / "run")
    with pytest.raises(UserError, match="no training state"):
        train.train(config(tiny_dataset, tmp_path / "run"))
    assert same(before, weights(tmp_path / "run"))


def test_own_estimates_that_began_go_on_under_a_larger_budget(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "run", max_steps=4))
    assert checkpoint.read_state(tmp_path / "run" / "train-state.pt")["own_from"] == 2
    seen = []
    with pytest.raises(Stop):
        train.train(
            config(tiny_dataset, tmp_path / "run", max_steps=40),
            report=lambda t: (seen.append(t._own_share()), stop_at(5)(t)),
        )
    assert seen == [0.5]


def test_a_state_older_than_an_entry_of_the_configuration_goes_on(tiny_dataset, tmp_path):
    with pytest.raises(Stop):
        train.train(config(tiny_dataset, tmp_path / "run"), report=stop_at(2))
    for path in (tmp_path / "run").glob("train-state*.pt"):
        state = checkpoint.read_state(path)
        del state["config"]["lambda_env"]
        torch.save(state, path)
    with pytest.raises(UserError, match=r"lambda_env = 0\.0, not 0\.5"):
        train.train(config(tiny_dataset, tmp_path / "run", lambda_env=0.5))
    train.train(config(tiny_dataset, tmp_path / "run"))


def test_a_run_from_another_model_goes_on_without_it(tiny_dataset, tmp_path, capsys):
    import shutil

    train.train(config(tiny_dataset, tmp_path / "a", max_steps=1))
    start = config(tiny_dataset, tmp_path / "b", init_from=str(tmp_path / "a"), max_steps=4)
    with pytest.raises(Stop):
        train.train(start, report=stop_at(3))
    shutil.rmtree(tmp_path / "a")
    capsys.readouterr()
    train.train(start)
    assert "new EMA" not in capsys.readouterr().err


@pytest.mark.parametrize("entry", checkpoint.STATE_ENTRIES)
def test_a_state_that_lacks_an_entry_is_refused(tiny_dataset, tmp_path, entry):
    path = tmp_path / "train-state.pt"
    full = {name: {} for name in checkpoint.STATE_ENTRIES}
    torch.save({name: value for name, value in full.items() if name != entry}, path)
    with pytest.raises(UserError, match=f"lacks '{entry}'"):
        checkpoint.read_state(path)


def test_a_damaged_state_falls_back_to_the_one_before(tiny_dataset, tmp_path, capsys):
    train.train(config(tiny_dataset, tmp_path / "whole"))
    with pytest.raises(Stop):
        train.train(config(tiny_dataset, tmp_path / "run"), report=stop_at(5))
    path = tmp_path / "run" / "train-state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    train.train(config(tiny_dataset, tmp_path / "run"))
    assert "going on from train-state.prev.pt" in capsys.readouterr().err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_non_finite_batch_leaves_weights_and_ema_alone(tiny_dataset, tmp_path, monkeypatch):
    original = train.batch_loss
    calls = []

    def poisoned(model, batch, *rest, **more):
        calls.append(batch.key)
        if len(calls) == 2:
            batch.noisy[0, 100] = np.inf
        return original(model, batch, *rest, **more)

    monkeypatch.setattr(train, "batch_loss", poisoned)
    seen = []
    train.train(
        config(tiny_dataset, tmp_path / "run", max_steps=3),
        report=lambda t: seen.append(({n: p.clone() for n, p in t.ema.state_dict().items()}, t.ema_updates)),
    )
    assert same(seen[0][0], seen[1][0]) and not same(seen[1][0], seen[2][0])
    assert [updates for _, updates in seen] == [1, 1, 2]
    assert all(torch.isfinite(p).all() for p in weights(tmp_path / "run").values() if p.is_floating_point())
    skipped = [line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if "skipped" in line]
    assert json.loads(skipped[0])["keys"] == calls[1]


def test_a_run_from_weights_names_what_they_heard_too_and_still_after_going_on(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "first", max_steps=1))
    heard = json.loads((tmp_path / "first" / "training-data.json").read_text())
    other = make_dataset(tmp_path / "other", {"train": 4}, environments=4, recordings=1)
    start = {"init_from": str(tmp_path / "first" / "model.safetensors"), "ref_mode": "disjoint", "remix": True}
    for steps in (1, 2):
        train.train(config(other, tmp_path / "next", max_steps=steps, **start))
        told = nrmodel.load(tmp_path / "next" / "model.safetensors").training_data
        assert set(heard["recordings"]) < set(told["recordings"]) and "local/env3" in told["env_ids"]


def test_ten_bad_batches_in_a_row_end_the_run(tiny_dataset, tmp_path, monkeypatch, capsys):
    original = train.batch_loss

    def poisoned(model, batch, *rest, **more):
        batch.noisy[:] = np.nan
        return original(model, batch, *rest, **more)

    monkeypatch.setattr(train, "batch_loss", poisoned)
    with pytest.raises(Failure, match="ten batches in a row"):
        train.train(config(tiny_dataset, tmp_path / "run", max_steps=20))
    argv = f"train --shards {tiny_dataset} --out {tmp_path / 'other'} --batch-size 4 --crop-frames 32 --threads 1"
    assert run(argv.split()) == 1
    assert "nr: ten batches in a row" in capsys.readouterr().err


def test_init_from_starts_a_new_ema_and_conditioning_as_the_identity(tiny_dataset, tmp_path, capsys):
    train.train(config(tiny_dataset, tmp_path / "base", ref_mode="none", max_steps=2))
    base = nrmodel.load(tmp_path / "base")
    outputs = {}

    def look(trainer):
        outputs.setdefault("updates", trainer.ema_updates)

    start = config(tiny_dataset, tmp_path / "next", ref_mode="disjoint", init_from=str(tmp_path / "base"), max_steps=1)
    train.train(start, report=look)
    assert outputs["updates"] == 1 and "a new EMA" in capsys.readouterr().err
    with pytest.raises(UserError, match="gone"):
        train.train(config(tiny_dataset, tmp_path / "x", init_from=str(tmp_path / "gone")))
    assert base.reference is None


def test_encoder_taken_over_and_frozen_stays(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "a", ref_mode="disjoint", max_steps=2))
    given = nrmodel.load(tmp_path / "a").reference.encoder.state_dict()
    frozen = config(
        tiny_dataset, tmp_path / "b", ref_mode="disjoint", max_steps=2, seed=3,
        encoder_from=str(tmp_path / "a"), freeze_encoder=True,
    )  # fmt: skip
    train.train(frozen)
    assert same(given, nrmodel.load(tmp_path / "b").reference.encoder.state_dict())


def test_a_run_folder_is_used_by_one(tiny_dataset, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    with locks.held(folder / "lock", ""), pytest.raises(UserError, match=r"in use \(process"):
        train.train(config(tiny_dataset, folder))
    code = (
        "import sys, os; from pathlib import Path; from nrdata import locks\nwith locks.held(Path(sys.argv[1]), ''): "
    )
    subprocess.run([sys.executable, "-c", code + "os.kill(os.getpid(), 9)", str(folder / "lock")], check=False)
    train.train(config(tiny_dataset, folder, max_steps=1))
    assert "taking over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--preset huge", "preset 'huge' is unknown"),
        ("--ref-mode sideways", "unknown"),
        ("--conditioning warp", "conditioning 'warp' is unknown"),
        ("--objective sing", "objective 'sing' is unknown"),
        ("--encoder ear", "encoder 'ear' is unknown"),
        ("--precision half", "precision 'half' is unknown"),
        ("--ref-seconds abc", "ref-seconds"),
        ("--batch-size 0", "batch_size"),
        ("--max-steps -3", "max_steps"),
        ("--learning-rate nan", "learning_rate"),
        ("--ref-dropout 2", "ref_dropout"),
        ("--lambda-ref -1", "lambda_ref"),
        ("--objective denoiser", "denoiser belongs to base"),
        ("--init-from nowhere", "nowhere"),
        ("--config nowhere.toml", "nowhere.toml"),
    ],
)
def test_bad_options_end_in_a_sentence(tiny_dataset, tmp_path, capsys, argv, sentence):
    code = run(["train", "--shards", str(tiny_dataset), "--out", str(tmp_path / "run"), *argv.split()])
    error = capsys.readouterr().err
    assert code == 2 and sentence in error and "Traceback" not in error


def test_configuration_file_flags_and_dry_run(tiny_dataset, tmp_path, capsys):
    (tmp_path / "c.toml").write_text('ref_mode = "env"\nmax_steps = 7\n')
    argv = ["train", "--config", str(tmp_path / "c.toml"), "--shards", str(tiny_dataset), "--dry-run"]
    assert run([*argv, "--max-steps", "9"]) == 0
    text = capsys.readouterr().out
    assert 'ref_mode = "env"' in text and "max_steps = 9" in text
    assert "learning_rate = 0.0015" in text and 'objective = "data"' in text and "crop_frames = 128" in text
    for wrong, sentence in (("colour = 1", "unknown entry 'colour'"), ('batch_size = "8"', "type int")):
        (tmp_path / "c.toml").write_text(wrong)
        assert run(argv) == 2
        assert sentence in capsys.readouterr().err


def test_sigterm_writes_a_state_and_exits_143(tiny_dataset, tmp_path):
    out = tmp_path / "run"
    argv = [sys.executable, "-m", "cli.main", "train", "--shards", str(tiny_dataset), "--out", str(out)]
    more = "--max-steps 100000 --batch-size 4 --crop-frames 16 --threads 1 --checkpoint-every 100000"
    process = subprocess.Popen([*argv, *more.split()], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert checkpoint.read_state(out / "train-state.pt")["step"] > 0 and not (out / "lock").exists()


def test_a_model_refuses_data_of_another_rate(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "a", max_steps=1))
    tensors, settings, _ = checkpoint.read_model(tmp_path / "a" / "model.safetensors")
    import dataclasses

    other = tmp_path / "other.safetensors"
    checkpoint.save_model(other, tensors, dataclasses.replace(settings, sample_rate=48000))
    with pytest.raises(UserError, match=r"48000.*16000"):
        train.train(config(tiny_dataset, tmp_path / "b", init_from=str(other)))
    assert nrdata.open(tiny_dataset).sample_rate == 16000


def test_only_torchruns_own_variable_starts_a_group(monkeypatch):
    from nrmodel.training import distributed

    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with distributed.group(torch.device("cpu")) as shares:
        assert shares == (0, 1)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tiny_dataset, tmp_path):
    common = f"train --shards {tiny_dataset} --max-steps 4 --batch-size 4 --crop-frames 32 --precision float32"
    common += " --validate-every 100 --threads 1 --ref-mode disjoint:0.5,none:0.5"
    root = Path(__file__).parents[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", launch)):
        argv = [*start, "-m", "cli.main", *common.split(), "--out", str(tmp_path / name)]
        subprocess.run(argv, cwd=root, check=True, timeout=300)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert np.allclose(one, two, rtol=1e-4)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
