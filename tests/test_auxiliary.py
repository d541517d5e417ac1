"""The auxiliary losses on the reference's embedding: what they measure, and whom they train."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nrmodel import train
from nrmodel.auxiliary import consistency, environment_contrast, same_environment
from nrmodel.model import Model
from nrmodel.network import presets
from nrmodel.step import batch_loss, draw
from nrmodel.train_config import TrainConfig

CPU = torch.device("cpu")


def config(data, out, **more):
    given = {"max_steps": 2, "batch_size": 4, "crop_frames": 32, "validate_every": 100, "warmup_steps": 0}
    return TrainConfig(shards=(str(data),), out=str(out), precision="float32", device="cpu", **given, **more)


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


def test_environment_contrast_by_hand():
    """Two environments, orthogonal embeddings: log(1 + e^(-1/tau)) where clips lie at their own, 1/tau more where they
    lie at the other's; the mean over positives where an environment stands twice in a batch."""
    e = torch.eye(4)
    positive, both = torch.eye(2).bool(), torch.tensor([True, True])
    right = environment_contrast(e[:2], 3 * e[:2], positive, both).item()  # lengths do not count
    wrong = environment_contrast(e[:2].flip(0), e[:2], positive, both).item()
    assert right == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    assert wrong - right == pytest.approx(10, rel=1e-5)
    twice = torch.tensor([[1, 1, 0]]).bool()
    value = environment_contrast(e[:1], e[[0, 1, 2]], twice, torch.tensor([True])).item()
    total = math.log(math.exp(10) + 2)
    assert value == pytest.approx((total - 10 + total) / 2, rel=1e-5)


def test_only_clips_of_the_mixtures_place_or_environment_are_anchors():
    relations = ["same-recording", "other-environment", "none", "same-environment", "overlap"]
    batch = SimpleNamespace(env_id=["a", "a", "b", "b", "c"], relation=relations)
    positive, anchor = same_environment(batch, CPU)
    assert anchor.tolist() == [True, False, False, True, True]
    assert positive.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0],
                                       [0, 0, 0, 0, 1]]  # fmt: skip
    z = torch.randn(5, 8, requires_grad=True)
    nothing = environment_contrast(z, z.detach(), positive, torch.zeros(5, dtype=torch.bool))
    assert nothing.item() == 0
    environment_contrast(z, z.detach(), positive, anchor).backward()
    assert (z.grad.abs().sum(1) > 0).tolist() == anchor.tolist()


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
        batch = SimpleNamespace(noisy=clean + noise, clean=clean, frames=n, ref=ref, ref_frames=n,
                                env_id=["white", "brown"], relation=["overlap", "overlap"])  # fmt: skip
        draws = draw(0, 0, 2, model.spectrogram.frames(4096), model.config, CPU)
        return batch_loss(model, batch, draws, model.config, lambda_env=lambda_env)

    plain, _ = parts(noise, 0.0)
    value, told = parts(noise, 0.5)
    assert told["contrast"].item() < parts(noise[::-1].copy(), 0.5)[1]["contrast"].item()
    assert value.item() == pytest.approx(plain.item() + 0.5 * told["contrast"].item(), rel=1e-5)
    told["contrast"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.reference.encoder.parameters())
    assert all(p.grad is None for p in model.network.parameters())


def test_environments_draw_embeddings_apart_in_training(tiny_dataset, tmp_path):
    train.train(config(tiny_dataset, tmp_path / "run", ref_mode="disjoint", lambda_env=0.1))
    assert "contrast" in (tmp_path / "run" / "log.jsonl").read_text()
