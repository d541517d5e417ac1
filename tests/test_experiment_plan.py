"""What a plan becomes, what it refuses, and which runs are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from nrdata.errors import UserError
from nrmodel.experiment.compared import check_comparable, comparable, differing
from nrmodel.experiment.plan import plan_of, read_plan
from nrmodel.training.config import TrainConfig

REPOSITORY = Path(__file__).parents[1]

TRAIN = {"max_steps": 2, "batch_size": 4, "crop_frames": 32, "warmup_steps": 1, "precision": "float32", "device": "cpu",
         "ref_mode": "disjoint:0.7,none:0.3"}  # fmt: skip


def plan(**values):
    given = {"name": "x", "shards": ["data"], "train": dict(TRAIN), **values}
    return plan_of(given, Path("out"))


def ablation(name="a", **more):
    return {"ablation": [{"name": name, **more}]}


def test_a_plan_becomes_cells_in_an_order_that_can_be_run():
    made = plan(seeds=[0, 1], **ablation("conditioning", arms={"film": {"conditioning": "film"}}),
                evaluation=[{"name": "long", "ref_seconds": [0.5, 1.0]}])  # fmt: skip
    names = [cell.name for cell in made.cells]
    assert len(set(names)) == len(names)
    for k, cell in enumerate(made.cells):
        assert all(names.index(needed) < k for needed in cell.needs)
    assert names.count("train baseline seed 1") == 1
    assert "train conditioning-film seed 0" in names and "train conditioning-film seed 1" not in names
    assert "evaluate long proposed seed 1" in names and "evaluate long baseline seed 0" not in names
    (main,) = [cell for cell in made.cells if cell.name == "evaluate main baseline seed 0"]
    assert main.request["modes"] == ["none"]  # it takes no clip
    configs = [made.train_config(c.arm, c.seed) for c in made.cells if c.kind == "train"]
    assert len({c.out for c in configs}) == len(configs)


def test_an_arm_equal_to_its_base_is_trained_once():
    made = plan(**ablation(arms={"one": {"ref_seconds": "1"}, "spectrum": {"conditioning": "spectrum"}}))
    assert [made.arms[name].same_as for name in ("a-one", "a-spectrum")] == ["proposed", "proposed"]
    assert sum(cell.kind == "train" for cell in made.cells) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (ablation(arms={"x": {"ref_dropout": 0.5}}), "without effect"),
        (ablation(of="baseline", arms={"x": {"conditioning": "film"}}), "without effect"),
        (ablation(arms={"x": {"ref_mode": "disjoint"}}), "differs from proposed in ref_dropout too"),
        ({"baseline": {"max_steps": 3}}, "differs from proposed in max_steps too"),
        (ablation(arms={"x": {"width": 3}}), "unknown entry 'width'"),
        (ablation(of="nobody", arms={}), "'nobody'"),
        (ablation(seeds=[7], arms={}), "seed 7"),
        (ablation("Bad Name", arms={}), "small letters"),
        ({"evaluation": [{"name": "e", "of": ["nobody"]}]}, "'nobody'"),
        ({"evaluation": [{"name": "main"}]}, "two evaluations"),
        ({"evaluation": [{"name": "e", "mode": ["none"]}]}, "unknown entry 'mode'"),
        ({"proposed": {"run": "runs/x"}}, "{seed}"),
        ({"seeds": [0, 0]}, "different"),
        ({"shards": []}, "either"),
        ({"surprise": 1}, "unknown entry 'surprise'"),
        ({"proposed": {"objective": "nonsense"}}, "nonsense"),
    ],
)
def test_a_plan_that_cannot_answer_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        plan(**values)


def test_a_law_without_null_is_compared_when_both_fields_are_named():
    made = plan(**ablation(arms={"x": {"ref_mode": "disjoint", "ref_dropout": 0.3}}))
    assert made.arms["a-x"].same_as == ""


def test_an_encoder_of_another_arm_is_the_run_of_the_same_seed_and_waits_for_it():
    made = plan(**ablation(arms={"f": {"freeze_encoder": True, "encoder_from": "proposed"}}))
    assert made.train_config("a-f", 0).encoder_from == str(made.run_folder("proposed", 0))
    (cell,) = [c for c in made.cells if c.name == "train a-f seed 0"]
    assert "train proposed seed 0" in cell.needs


def test_samplers_that_cannot_be_had_are_refused_before_anything_is_trained():
    def evaluations(*given):
        return {"evaluation": [{"name": f"e{k}", **asked} for k, asked in enumerate(given)]}

    published = {"nfe": [60], "sampler": "published"}
    assert plan(**evaluations(published, {"nfe": [1, 60]})).cells  # two samplers of one number of calls
    for given, said in (
        (evaluations({"sampler": "published"}), "needs 2 calls"),  # the preset's own number is one
        (evaluations({"sampler": "fast", "nfe": [1]}), "'fast' is unknown"),
        (evaluations({"sampler": "bridge-ode", "nfe": [5]}), "trained on no bridge"),
    ):
        with pytest.raises(UserError, match=said):
            plan(**given)


def test_a_plan_may_do_without_a_baseline():
    made = plan(baseline=False)
    assert set(made.arms) == {"proposed"} and sum(cell.kind == "train" for cell in made.cells) == 1


def config(**changes):
    return TrainConfig(**{"shards": ("s",), "out": "o", **TRAIN, **changes})


def test_defaults_spelt_out_are_no_difference_and_the_machine_does_not_count():
    spelt = config(preset="nano", learning_rate=1.5e-3, cooldown_steps=0, loader_workers=2, out="p", seed=5, threads=2)
    assert differing(comparable(config()), comparable(spelt)) == set()
    assert differing(comparable(config()), comparable(config(learning_rate=1e-3))) == {"learning_rate"}
    none, film = comparable(config(ref_mode="none")), comparable(config(conditioning="film", encoder="stats"))
    assert differing(none, film) == {"ref_mode"}  # the baseline has no encoder to differ in


def test_finished_runs_that_differ_in_more_are_not_compared():
    run = {"config": comparable(config()), "fingerprint": "f", "seed": 0}
    check_comparable("a", run, "b", run | {"config": comparable(config(conditioning="film"))}, ("conditioning",))
    for other, said in (
        ({"config": comparable(config(conditioning="film", batch_size=8))}, "batch_size"),
        ({"fingerprint": "g"}, "training data"),
        ({"seed": 1}, "seed"),
    ):
        with pytest.raises(UserError, match=said):
            check_comparable("a", run, "b", run | other, ("conditioning",))


def test_the_committed_plans_can_be_read_and_cover_the_seed():
    smoke = read_plan(REPOSITORY / "experiments" / "smoke.toml", Path("out"))
    seed = read_plan(REPOSITORY / "experiments" / "seed.toml", Path("out"))
    for made in (smoke, seed):
        modes = {mode for cell in made.cells for mode in cell.request.get("modes", [])}
        ladder = {"none", "zeros", "white", "spectrum", "mismatch", "env", "disjoint", "oracle", "leak:-5",
                  "disjoint+eq", "disjoint+mp3"}  # fmt: skip
        assert ladder <= modes
        studied = {f for arm in made.arms.values() for f in arm.fields}
        fields = {"ref_seconds", "conditioning", "lambda_ref", "lambda_env", "freeze_encoder", "encoder",
                  "ref_dropout", "ref_mode"}  # fmt: skip
        assert fields <= studied
        assert any(c.request.get("ref_seconds") == [0.25, 0.5, 1.0, 2.0] for c in made.cells)
    assert seed.seeds == (0, 1, 2)
