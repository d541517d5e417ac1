"""NCSN++ as a whole: published sizes, the literal evaluation, conditioning that starts as the identity, a golden."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import longhand
import numpy as np
import pytest
import torch

from nrdata.errors import UserError
from nrmodel.network.blocks import ResBlock
from nrmodel.network.conditioning import CONDITIONINGS
from nrmodel.network.ncsnpp import NCSNpp, NCSNppConfig

GOLDEN = Path(__file__).parent / "golden" / "ncsnpp.npz"
SMALL = NCSNppConfig(nf=4, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(128,))


def drawn(network: NCSNpp, seed: int = 0) -> NCSNpp:
    """Every weight redrawn at a size that keeps all paths alive (most start near zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            fan = max(1, p[0].numel())
            p.copy_(torch.randn(p.shape, generator=generator) / fan**0.5 if p.dim() > 1 else 0.3 + 0.1 * p)
    return network.eval()


def spectrograms(rows=8, frames=8, batch=2, seed=1, dtype=torch.complex64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 1, rows, frames, dtype=dtype, generator=generator) for _ in range(2))


@pytest.mark.parametrize(
    "config, parameters, tensors",
    [
        (NCSNppConfig(version="v1"), 65_590_822, 647),
        (NCSNppConfig(version="v2"), 65_590_822, 647),
        (NCSNppConfig("48k", attn_resolutions=(), output_pyramid=False, input_pyramid=False), 64_739_854, 581),
        (NCSNppConfig(nf=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1), 1_377_050, None),
    ],
)
def test_published_sizes(config, parameters, tensors):
    with torch.device("meta"):
        network = NCSNpp(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert tensors is None or len(network.state_dict()) == tensors


CONFIGS = {
    "v1": NCSNppConfig("v1", 4, (1, 2, 2), 1, (128,)),
    "v2": NCSNppConfig("v2", 4, (1, 2, 2), 1, (128,)),
    "48k": NCSNppConfig("48k", 4, (1, 2), 2, (), False, False),
    "two blocks": NCSNppConfig("v2", 4, (1, 1), 2, (256, 128)),
    "not centred": NCSNppConfig("v1", 4, (1, 2), 1, (), centered=False),
    "wider": NCSNppConfig("v1", 8, (1, 3), 1, (128,)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_is_the_literal_one(name):
    network = drawn(NCSNpp(CONFIGS[name])).double()
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    state, cond = spectrograms(dtype=torch.complex128)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    with torch.no_grad():
        out = network(state, cond, t)
    for i in range(2):
        expected = longhand.network(state[i, 0].numpy(), cond[i, 0].numpy(), t[i].item(), weights, CONFIGS[name])
        np.testing.assert_allclose(out[i, 0].numpy(), expected, atol=1e-11 * np.abs(expected).max() + 1e-12)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_memory_formats_are_all_one(monkeypatch, capability):
    """Which one is taken hangs on the processor and on training; values and gradients do not."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = drawn(NCSNpp(SMALL)).double()
    (state, cond), t = spectrograms(dtype=torch.complex128), torch.tensor([0.2, 0.9], dtype=torch.float64)
    found = []
    for training in (True, False, True):
        network.train(training).zero_grad()
        out = network(state, cond, t)
        out.abs().square().sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
        weight = network.down[0].blocks[0].conv_1.weight
        default = training and capability == "AVX2"
        assert weight.is_contiguous(memory_format=torch.contiguous_format if default else torch.channels_last)
    for one, other in zip(*found[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(found[0][0].abs().max()))
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("conditioning", ["additive", "film"])
def test_the_conditioned_network_is_the_literal_one(conditioning):
    network = NCSNpp(SMALL, 5, CONDITIONINGS[conditioning])
    drawn(network)
    network.double()
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    state, cond = spectrograms(batch=1, dtype=torch.complex128)
    t, z_r = torch.tensor([0.4], dtype=torch.float64), torch.linspace(-1, 1, 5, dtype=torch.float64)[None]
    with torch.no_grad():
        out = network(state, cond, t, z_r)[0, 0].numpy()
    about = (state[0, 0].numpy(), cond[0, 0].numpy(), 0.4, weights, SMALL)
    expected = longhand.network(*about, z_r[0].numpy(), film=conditioning == "film")
    np.testing.assert_allclose(out, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("conditioning", ["additive", "film"])
def test_conditioning_starts_as_the_identity(conditioning):
    """The same backbone from the same seed, and exactly the same output for any z_r; None is no conditioning."""
    torch.manual_seed(7)
    plain = NCSNpp(SMALL)
    torch.manual_seed(7)
    conditioned = NCSNpp(SMALL, 16, CONDITIONINGS[conditioning])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, conditioned.state_dict()[name]), name
    drawn(plain)
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    conditioned.eval()
    state, cond = spectrograms()
    t, z_r = torch.tensor([0.3, 0.8]), torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = plain(state, cond, t)
        assert torch.equal(conditioned(state, cond, t, z_r), before)
        assert torch.equal(conditioned(state, cond, t), before)


@pytest.mark.parametrize("conditioning", ["additive", "film"])
def test_conditioning_learns_from_the_first_step(conditioning):
    network = drawn(NCSNpp(SMALL))
    conditioned = NCSNpp(SMALL, 16, CONDITIONINGS[conditioning])
    conditioned.load_state_dict(network.state_dict(), strict=False)
    state, cond = spectrograms()
    z_r = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    conditioned(state, cond, torch.tensor([0.3, 0.8]), z_r).abs().square().mean().backward()
    new = [p for name, p in conditioned.named_parameters() if name not in network.state_dict()]
    assert new and all(p.grad is not None and p.grad.abs().max() > 0 for p in new)
    films = [b for b in conditioned.modules() if isinstance(b, ResBlock) and b.film is not None]
    assert len(films) == (conditioning == "film") * len([b for b in network.modules() if isinstance(b, ResBlock)])


def test_a_batch_equals_its_items():
    network = drawn(NCSNpp(SMALL, 5, CONDITIONINGS["film"]))
    state, cond = spectrograms(batch=3)
    t, z_r = torch.tensor([0.1, 0.5, 1.0]), torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = network(state, cond, t, z_r)
        for i in range(3):
            one = network(state[i : i + 1], cond[i : i + 1], t[i : i + 1], z_r[i : i + 1])
            assert (one[0] - whole[i]).abs().max() < 1e-5 * whole.abs().max()


def test_attention_belongs_to_a_level_whatever_the_number_of_bins():
    """Decided once, where the network is built: the level that has the listed size when there are 256 bins."""
    network = drawn(NCSNpp(SMALL))
    state, cond = spectrograms(rows=24, frames=12)
    with torch.no_grad():
        assert network(state, cond, torch.tensor([0.3, 0.8])).shape == (2, 1, 24, 12)
    names = [n for n, _ in network.named_parameters() if "attend" in n and "middle" not in n]
    assert {n.split(".")[0] + n.split(".")[1] for n in names} == {"down1", "up1"}


def test_frame_multiples():
    network = NCSNpp(SMALL)
    assert network.frame_multiple == 4 and network.enhancement_multiple == 64
    with torch.device("meta"):
        assert NCSNpp(NCSNppConfig()).frame_multiple == 64


def test_an_unknown_version_is_refused():
    with pytest.raises(UserError, match="v9"):
        NCSNpp(NCSNppConfig(version="v9"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_has_the_precision_of_the_state(dtype):
    network = drawn(NCSNpp(SMALL)).to(dtype)
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    state, cond = spectrograms(dtype=complex_dtype)
    with torch.no_grad():
        assert network(state, cond, torch.tensor([0.3, 0.8], dtype=dtype)).dtype == complex_dtype
        if dtype == torch.float32:
            with torch.autocast("cpu", torch.bfloat16):
                assert network(state, cond, torch.tensor([0.3, 0.8])).dtype == complex_dtype


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].centered])
def test_the_literal_operators_of_the_benchmarks_compute_the_same(name):
    """What our speed is measured against has the same output and the same gradients."""
    path = Path(__file__).parents[1] / "benchmarks" / "literal.py"
    spec = importlib.util.spec_from_file_location("benchmarks_literal", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ours = drawn(NCSNpp(CONFIGS[name])).double()
    theirs = benchmark.literal(ours)
    state, cond = spectrograms(dtype=torch.complex128)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    outs = [network(state, cond, t) for network in (ours, theirs)]
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-9)
    for out in outs:
        out.abs().square().mean().backward()
    for (weight, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if a.grad is not None and not weight.endswith("key.bias"):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9 * b.grad.abs().max().item() + 1e-12)


def fixed(network: NCSNpp) -> NCSNpp:
    """Weights and inputs of the golden: sines of their index, no generator involved."""
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(network.named_parameters())):
            wave = np.sin(0.7 * np.arange(p.numel()) * (1 + 0.01 * k) + k).reshape(p.shape)
            scale = 3.0 if name.endswith("frequencies") else 1.5 / max(1, p[0].numel()) ** 0.5 if p.dim() > 1 else 0.3
            p.copy_(torch.from_numpy(scale * wave + ("norm" in name and name.endswith("weight"))))
    return network.eval()


def golden_inputs():
    n = np.arange(64.0).reshape(1, 1, 8, 8)
    return np.sin(1.3 * n) + 1j * np.cos(0.4 * n), np.cos(2.1 * n) - 1j * np.sin(0.9 * n)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_golden(version):
    """Numbers on disk, computed by the literal evaluation in double precision: nothing may move them."""
    config = NCSNppConfig(version, 4, (1, 2, 2), 1, (64,))
    network = fixed(NCSNpp(config))
    state, cond = (torch.from_numpy(x).to(torch.complex64) for x in golden_inputs())
    with torch.no_grad():
        out = network(state, cond, torch.tensor([0.6]))[0, 0].numpy()
    with np.load(GOLDEN) as golden:
        assert np.abs(out - golden[version]).max() < 2e-5 * np.abs(golden[version]).max()
