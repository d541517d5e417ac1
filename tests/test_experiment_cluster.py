"""Cells of an experiment on a Ray cluster: never before what they need, side by side where they may be."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.main import run
from nrdata.errors import UserError
from nrmodel.experiment import cluster
from nrmodel.experiment.plan import plan_of

TRAIN = {"max_steps": 2, "batch_size": 4, "crop_frames": 32, "warmup_steps": 1, "device": "cpu",
         "ref_mode": "disjoint:0.7,none:0.3"}  # fmt: skip


def small_plan(**more):
    return plan_of({"name": "x", "shards": ["data"], "seeds": [0, 1], "train": TRAIN, **more}, Path("out"))


class StandIn:
    """Ray as far as it is used: a task runs when it is waited for, the one that was asked for last first."""

    exceptions = SimpleNamespace(RayTaskError=(), RayError=())

    def __init__(self):
        self.asked: list[tuple] = []
        self.most = 0
        self.resources: list[dict] = []

    def cluster_resources(self):
        return {"CPU": 4.0, "GPU": 2.0}

    def remote(self, max_retries):
        assert max_retries == 0
        return lambda function: SimpleNamespace(options=lambda **resources: self._task(function, resources))

    def _task(self, function, resources):
        self.resources.append(resources)
        return SimpleNamespace(remote=lambda *args: self._ask(function, args))

    def _ask(self, function, args):
        self.asked.append((function, args))
        return len(self.asked) - 1

    def wait(self, references):
        self.most = max(self.most, len(references))
        return [references[-1]], references[:-1]

    def get(self, reference):
        function, args = self.asked[reference]
        return function(*args)


@pytest.fixture
def ray(monkeypatch):
    stand_in = StandIn()

    @contextmanager
    def connected():
        yield stand_in

    monkeypatch.setattr(cluster, "connected", connected)
    return stand_in


def test_cells_wait_for_what_they_need_and_for_nothing_else(ray, tmp_path, monkeypatch):
    plan = small_plan()
    order = []

    def one_cell(plan, out, number, where):
        cell = plan.cells[number - 1]
        assert where == Path.cwd() and set(cell.needs) <= set(order)
        order.append(cell.name)

    monkeypatch.setattr(cluster, "one_cell", one_cell)
    cluster.run_on_ray(plan, tmp_path)
    assert sorted(order) == sorted(cell.name for cell in plan.cells)  # each once
    assert ray.most >= 4  # the four trainings at once
    gpus = [resources["num_gpus"] for resources in ray.resources]
    assert gpus.count(1) == 4 and gpus.count(0) == len(plan.cells) - 4  # trainings take one, nothing else does


def test_done_cells_are_left_and_a_failure_is_raised_when_the_others_have_ended(ray, tmp_path, monkeypatch):
    """Of the four trainings one is done; one fails, the two beside it come to their end, nothing is begun after."""
    plan = small_plan()
    done = plan.cells[0].name
    monkeypatch.setattr(cluster, "is_done", lambda plan, out, cell: cell.name == done)
    order = []

    def one_cell(plan, out, number, where):
        order.append(plan.cells[number - 1].name)
        if len(order) == 1:
            order.append(len(ray.asked))
            raise UserError("the disk is full")

    monkeypatch.setattr(cluster, "one_cell", one_cell)
    with pytest.raises(UserError, match="disk is full"):
        cluster.run_on_ray(plan, tmp_path)
    begun = order.pop(1)
    assert begun == len(ray.asked) == len(order) and done not in order
    assert sum(name.startswith("train") for name in order) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_real_cluster_answers_as_one_machine_does(tiny_dataset, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(f"""
name = "small"
shards = ["{tiny_dataset}"]
[train]
max_steps = 2
batch_size = 4
crop_frames = 32
threads = 1
precision = "float32"
device = "cpu"
ref_mode = "disjoint:0.7,none:0.3"
[evaluate]
limit = 2
[report]
files = 0
probe_batches = 1
probe_rows = 4
""")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert run(["experiment", "plan.toml", "--out", "ray", "--engine", "ray"]) == 0
    finally:
        ray.shutdown()
    assert run(["experiment", "plan.toml", "--out", "local"]) == 0
    one, other = (json.loads(Path(out, "verdicts.json").read_text()) for out in ("ray", "local"))
    assert one["primary"] == other["primary"] and one["facts"]["models"] == other["facts"]["models"]
