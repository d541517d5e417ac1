"""`--engine ray`: the same shards from a Ray cluster. The cluster's own test is slow: a real one, on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import build, digests, indexed

from nrdata.builders import build as engine
from nrdata.builders import cluster
from nrdata.builders import plan as planning
from nrdata.builders.plan import Options
from nrdata.checks.verify import verify
from nrdata.errors import UserError


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> tuple[str, ...]:
    monkeypatch.setattr(planning, "SAMPLES_PER_SHARD", 6)
    speech, noise = indexed(tmp_path / "corpus")
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", noise, "--per-cell", 1, "--hours", 0.02)
    return tuple(map(str, argv))


def test_without_ray_one_sentence_names_the_extra(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert build(*corpus, "--out", tmp_path / "out", "--engine", "ray") == 2
    err = capsys.readouterr().err
    assert "pip install 'nr[ray]'" in err and "Traceback" not in err
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_nodes_get_absolute_paths_and_all_else_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Options(
        "folders", root=Path("data"), speech=(("a", Path("x")), ("b", Path("y"))), unseen=("rain",), rooms=2
    )
    found = cluster._absolute(options)
    assert found.root == tmp_path / "data" and found.speech == (("a", tmp_path / "x"), ("b", tmp_path / "y"))
    assert (found.unseen, found.rooms, found.snr_db, found.clean) == (("rain",), 2, options.snr_db, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_real_cluster_gives_the_bytes_of_local_processes(corpus, tmp_path, capsys):
    ray = pytest.importorskip("ray")
    argv = (*corpus, "--rooms", 1, "--t60", "0.2:0.25", "--augment", 1)
    assert build(*argv, "--out", tmp_path / "local", "--workers", 1) == 0
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert build(*argv, "--out", tmp_path / "ray", "--engine", "ray") == 0
        assert digests(tmp_path / "ray") == digests(tmp_path / "local") and not verify(tmp_path / "ray").faults
        assert (tmp_path / "ray" / "plan.jsonl").read_text() == (tmp_path / "local" / "plan.jsonl").read_text()

        capsys.readouterr()
        (tmp_path / "ray" / "train-000001.tar").unlink()
        assert build(*argv, "--out", tmp_path / "ray", "--engine", "ray") == 0
        assert "1 shards built" in capsys.readouterr().out
        assert digests(tmp_path / "ray") == digests(tmp_path / "local")

        def outcome(make: Callable, out: Path) -> list:
            return list(cluster.results(make, some, Options("folders"), out, True))

        def dies(*_: object) -> None:
            os._exit(9)

        some = planning.shards(planning.read_plan(tmp_path / "ray" / "plan.jsonl"))[:2]
        with pytest.raises(OSError, match="No such file"):  # what a shard raises there is raised here
            outcome(engine.make_shard, tmp_path / "no")
        with pytest.raises(UserError, match="worker was lost"):
            outcome(dies, tmp_path / "ray")
        with pytest.raises(UserError, match="cannot import nr"):  # a module that no node has
            outcome(_only_here, tmp_path / "ray")
        assert ray.is_initialized()  # who started it ends it
    finally:
        ray.shutdown()


def _only_here(*_: object) -> None:
    """Lives in a test module, which is not installed on the nodes."""
