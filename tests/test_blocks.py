"""Each block of NCSN++ against its literal evaluation in double precision."""

from __future__ import annotations

import longhand
import numpy as np
import pytest
import torch

from nrmodel.network import blocks


def filled(module: torch.nn.Module, seed: int = 0) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The module in double precision with every weight drawn, and its weights under the name `block`."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module, {f"block.{name}": p.detach().numpy() for name, p in module.named_parameters()}


def maps(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("resample", ["none", "down", "up"])
@pytest.mark.parametrize("channels, out", [(8, 8), (8, 12)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_res_block(resample, channels, out, channels_last):
    block, weights = filled(blocks.ResBlock(channels, out, 6, resample))
    x, embedding = maps(2, channels, 6, 4), maps(2, 6)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    got = block(x, torch.nn.functional.silu(embedding)).detach().numpy()
    how = {"none": None, "down": longhand.down, "up": longhand.up}[resample]
    for i in range(2):
        expected = longhand.res_block(x[i].numpy(), embedding[i].numpy(), weights, "block", how)
        np.testing.assert_allclose(got[i], expected, atol=1e-12)


def test_film_scales_and_shifts_after_the_second_norm():
    block, _ = filled(blocks.ResBlock(8, 8, 6))
    block.add_film(blocks.zero, 5)
    block, weights = filled(block)
    x, embedding, z_r = maps(2, 8, 4, 4), maps(2, 6), maps(2, 5)
    got = block(x, torch.nn.functional.silu(embedding), z_r).detach().numpy()
    for i in range(2):
        film = longhand.dense(z_r[i].numpy(), weights["block.film.weight"], weights["block.film.bias"])
        expected = longhand.res_block(x[i].numpy(), embedding[i].numpy(), weights, "block", film=film)
        np.testing.assert_allclose(got[i], expected, atol=1e-12)


def test_film_under_bf16_is_computed_in_float32():
    torch.manual_seed(0)
    norm, x, film = blocks.NormSiLU(8), torch.randn(3, 8, 6, 5), torch.randn(3, 16)
    exact = norm(x.bfloat16().float(), film)
    with torch.autocast("cpu", torch.bfloat16):
        rough = norm(x.bfloat16(), film)
    assert rough.dtype == torch.bfloat16 and torch.equal(rough, exact.bfloat16())


def test_film_starts_as_the_identity_and_draws_nothing():
    block, _ = filled(blocks.ResBlock(8, 8, 6))
    x, time, z_r = maps(1, 8, 4, 4), maps(1, 6), maps(1, 5).float()
    before = block(x, time)
    state = torch.get_rng_state()
    block.add_film(blocks.zero, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(block.double()(x, time, z_r.double()), before)


@pytest.mark.parametrize("size", [(4, 4), (6, 2), (1, 1)])
def test_attention(size):
    block, weights = filled(blocks.Attention(8))
    x = maps(2, 8, *size)
    got = block(x).detach().numpy()
    for i in range(2):
        np.testing.assert_allclose(got[i], longhand.attention(x[i].numpy(), weights, "block"), atol=1e-12)


def test_time_embedding():
    block, weights = filled(blocks.TimeEmbedding(4))
    t = torch.tensor([0.03, 0.4, 1.0], dtype=torch.float64)
    got = block(t).detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(got[i], longhand.time_embedding(t[i].item(), weights, "block"), atol=1e-12)


@pytest.mark.parametrize("channels", [4, 8, 40, 256])
def test_norm_has_groups_of_four_and_at_most_32(channels):
    block, weights = filled(blocks.Norm(channels))
    x = 3 + maps(1, channels, 3, 5)
    assert block.num_groups == min(channels // 4, 32)
    expected = longhand.norm(x[0].numpy(), weights["block.weight"], weights["block.bias"])
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=1e-12)


def test_combine_and_head():
    combine, weights = filled(blocks.Combine(4, 8))
    h, pyramid = maps(1, 8, 4, 4), maps(1, 4, 4, 4, seed=2)
    expected = h[0].numpy() + longhand.conv(pyramid[0].numpy(), *longhand.part(weights, "block.conv"))
    np.testing.assert_allclose(combine(h, pyramid)[0].detach().numpy(), expected, atol=1e-12)
    head, weights = filled(blocks.Head(8, 4))
    expected = longhand.silu(longhand.norm(h[0].numpy(), *longhand.part(weights, "block.norm")))
    expected = longhand.conv(expected, *longhand.part(weights, "block.conv"))
    np.testing.assert_allclose(head(h)[0].detach().numpy(), expected, atol=1e-12)


def test_initial_scales():
    """Variance scale x 2 / (fan_in + fan_out), uniform; the last layer of a block a hundred-thousandth of that."""
    torch.manual_seed(0)
    block = blocks.ResBlock(32, 32, 64)
    fan = 9 * 64
    assert block.conv_1.weight.var().item() == pytest.approx(2 / fan, rel=0.1)
    assert block.conv_1.weight.abs().max().item() <= (6 / fan) ** 0.5
    assert block.conv_2.weight.std().item() == pytest.approx(1e-5 * (2 / fan) ** 0.5, rel=0.1)
    assert not block.conv_1.bias.any() and not block.time.bias.any()
