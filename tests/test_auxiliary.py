"""The auxiliary losses on the reference's embedding: what they measure, and whom they train."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nrdata
import nrmodel
from nrdata.errors import UserError
from nrmodel import config as presets
from nrmodel.model import Model
from nrmodel.training import train
from nrmodel.training.auxiliary import Pairs, consistency, environment_contrast, pairs_of
from nrmodel.training.config import TrainConfig
from nrmodel.training.step import batch_loss, draw

CPU = torch.device("cpu")


def config(data, out, **more):
    given = {"max_steps": 2, "batch_size": 4, "crop_frames": 32, "validate_every": 100, "warmup_steps": 0}
    return TrainConfig(shards=(str(data),), out=str(out), precision="float32", device="cpu", **(given | more))


def test_the_consistency_loss_trains_the_network_and_not_the_encoder(tiny_dataset, tmp_path):
    """Seed 6: it is zero where what was removed is the clip itself, larger for other noise, and reaches the network."""
    torch.manual_seed(0)
    model = Model(presets.preset("nano", z_dim=8))
    generator = torch.Generator().manual_seed(0)
    speech, noise = (0.05 * torch.randn(2, 8192, generator=generator) for _ in range(2))
    speech[:, :4096] = 0
    y, x0 = model.spectrogram.forward(speech + noise), model.spectrogram.forward(speech).requires_grad_(True)
    n, t = torch.tensor([8192, 8192]), torch.tensor([0.1, 0.1])
    z_r = model.embed_batch(noise, n)
    right = consistency(model, x0, y, t, z_r, n, n > 0)
    wrong = consistency(model, x0, y, t, model.embed_batch(noise.cumsum(-1) * 0.02, n), n, n > 0)
    assert right.item() < 0.2 * wrong.item()
    wrong.backward()
    assert x0.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.reference.parameters())
    train.train(config(tiny_dataset, tmp_path / "run", ref_mode="disjoint", lambda_ref=0.5))
    assert "consistency" in (tmp_path / "run" / "log.jsonl").read_text()


def pairs(same, apart=None, anchor=None):
    same = torch.tensor(same).bool()
    apart = ~same if apart is None else torch.tensor(apart).bool()
    return Pairs(same, apart, torch.ones(len(same), dtype=torch.bool) if anchor is None else torch.tensor(anchor))


@pytest.mark.parametrize("bf16", [False, True])
def test_environment_contrast_by_hand(bf16):
    """Orthogonal embeddings of two environments: log(1 + e^(-1/tau)) where clips lie at their own, 1/tau more where
    they lie at the other's; the mean over positives; what is neither of one place nor of another does not count."""
    e = torch.eye(4)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        right = environment_contrast(e[:2], 3 * e[:2], pairs([[1, 0], [0, 1]])).item()  # lengths do not count
        wrong = environment_contrast(e[:2].flip(0), e[:2], pairs([[1, 0], [0, 1]])).item()
        twice = environment_contrast(e[:1], e[[0, 1, 2]], pairs([[1, 1, 0]], anchor=[True])).item()
        less = environment_contrast(e[:1], e[[0, 1, 2]], pairs([[1, 0, 0]], [[0, 0, 1]], [True])).item()
    assert right == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    assert wrong - right == pytest.approx(10, rel=1e-5)
    total = math.log(math.exp(10) + 2)
    assert twice == pytest.approx((total - 10 + total) / 2, rel=1e-5)
    assert less == pytest.approx(right, abs=1e-6)


def test_who_is_compared_with_whom():
    """One env_id is one environment; a variant of a place, an invented environment and an unknown one are only their
    own, and no examples of another place where the place is the same."""
    env = ["kitchen", "kitchen", "kitchen~1", "rain", "local/unknown", "local/unknown", "kitchen"]
    relations = ["same-recording", "other-environment", "none", "same-environment", "overlap", "overlap", "overlap"]
    batch = SimpleNamespace(env_id=env, relation=relations, invented=[False] * 6 + [True])
    same, apart, anchor = pairs_of(batch, CPU)
    assert anchor.tolist() == [True, False, False, True, True, True, True]
    expected = torch.eye(7).bool()
    expected[0, 1] = expected[1, 0] = True
    assert torch.equal(same, expected)
    kitchens = torch.tensor([name.startswith("kitchen") for name in env])
    assert not apart[kitchens][:, kitchens].any() and apart[kitchens][:, ~kitchens].all()
    assert apart[4, 5] and not apart.diagonal().any()


def test_without_anchors_there_is_nothing_to_learn():
    z = torch.randn(3, 8, requires_grad=True)
    some = Pairs(torch.eye(3).bool(), ~torch.eye(3).bool(), torch.tensor([False, True, False]))
    environment_contrast(z, z.detach(), some).backward()
    assert (z.grad.abs().sum(1) > 0).tolist() == [False, True, False]
    assert environment_contrast(z, z.detach(), some._replace(anchor=torch.zeros(3).bool())).item() == 0


def test_a_batchs_contrast_hears_the_mixtures_own_noise():
    """Clips that are the mixture's very noise give a small contrast, exchanged clips a large one, and the loss grows by
    its weighted value; the encoder learns from it."""
    torch.manual_seed(0)
    model = Model(presets.preset("nano"))
    rng = np.random.default_rng(0)
    noise = np.stack([rng.standard_normal(4096), rng.standard_normal(4096).cumsum() / 30]).astype(np.float32) * 0.05
    clean = 0.05 * rng.standard_normal((2, 4096)).astype(np.float32)
    n = np.array([4096, 4096])

    def parts(ref, lambda_env):
        labels = {"env_id": ["white", "brown"], "relation": ["overlap"] * 2, "invented": [False] * 2}
        batch = SimpleNamespace(noisy=clean + noise, clean=clean, frames=n, ref=ref, ref_frames=n, **labels)
        draws = draw(0, 0, 2, model.spectrogram.frames(4096), model.config, CPU)
        return batch_loss(model, batch, draws, model.config, lambda_env=lambda_env)

    plain, _ = parts(noise, 0.0)
    value, told = parts(noise, 0.5)
    assert told["contrast"].item() < parts(noise[::-1].copy(), 0.5)[1]["contrast"].item()
    assert value.item() == pytest.approx(plain.item() + 0.5 * told["contrast"].item(), rel=1e-5)
    told["contrast"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.reference.encoder.parameters())
    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.slow
def test_environments_draw_embeddings_apart_in_training(tiny_dataset, tmp_path):
    """Thirty steps of it: embeddings of two environments lie further apart, of one nearer, than without it."""
    data = nrdata.open(tiny_dataset)
    index = data.index("train")
    rows = [int(np.flatnonzero(index.env == e)[k]) for e in np.unique(index.env)[:2] for k in (0, 1)]

    def gap(lambda_env):
        out = tmp_path / str(lambda_env)
        train.train(config(tiny_dataset, out, ref_mode="disjoint", lambda_env=lambda_env, max_steps=30))
        model = nrmodel.load(out / "model.safetensors")
        z = torch.cat([model.embed(data.read("train", row, "noise", 0, None), 16000)[:, : model.reference.z_dim]
                       for row in rows])  # fmt: skip
        z = torch.nn.functional.normalize(z, dim=1)
        alike = z @ z.T
        return ((alike[0, 1] + alike[2, 3]) / 2 - alike[:2, 2:].mean()).item()

    assert gap(1.0) > gap(0.0) + 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"freeze_encoder": True, "ref_mode": "disjoint"}, "freeze_encoder"),
        ({"batch_size": 1, "ref_mode": "disjoint"}, "one item"),
        ({"ref_mode": "mismatch:0.5,none:0.5"}, "gives none of it"),
    ],
)
def test_where_it_could_teach_nothing_it_is_refused(more, said):
    with pytest.raises(UserError, match=said):
        TrainConfig(shards=("x",), out="y", lambda_env=0.1, **more)
