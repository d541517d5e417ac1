"""Published checkpoints: the table of names both ways, what is read and refused, every number of the parity data."""

from __future__ import annotations

import os

import numpy as np
import parity
import pytest
import torch

from cli.main import run
from nrmodel.diffusion import bridge
from nrmodel.diffusion.objective import Preconditioning
from nrmodel.diffusion.process import OUVE, SBVE
from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.model import load, pad_frames
from nrmodel.network.ncsnpp import NCSNpp, NCSNppConfig
from nrmodel.published.convert import to_ours, to_published
from nrmodel.published.hyperparameters import configuration


@parity.needed
@pytest.mark.parametrize("file, array", parity.array_names(), ids=lambda v: str(v))
def test_every_array_of_the_parity_data(file, array):
    theirs, ours = parity.arrays(file)[array], parity.replay(file).ours(array)
    assert ours.shape == theirs.shape
    if array == "grad_norm":
        _compare_gradients(file, ours, theirs)
        return
    if (
        array.startswith("trace")
        or array == "enh_steps_norm"
        or array.startswith("variant")
        or array == "resume_losses"
    ):
        scale = np.abs(theirs).reshape(len(theirs), -1).max(axis=1).reshape(-1, *[1] * (theirs.ndim - 1))
        scale = np.maximum(scale, 1e-3 * np.abs(theirs).max())
    else:
        scale = np.abs(theirs).max(initial=1e-30)
    error = (np.abs(ours - theirs) / scale).max(initial=0.0)
    assert error <= parity.limit(file, array), f"{file}:{array} differs by {error:.1e}"


def _compare_gradients(file, ours, theirs):
    """A key's bias does not change a softmax: its gradient is rounding noise, no number to compare."""
    names = parity.arrays(file)["grad_names"]
    of_keys = np.char.endswith(names, "NIN_1.b")
    assert of_keys.any() and ours[of_keys].max() < 1e-6 * ours.max()
    np.testing.assert_allclose(ours[~of_keys], theirs[~of_keys], rtol=1e-3)


@parity.needed
@pytest.mark.parametrize("file", parity.NAMES)
def test_no_array_is_left_out(file):
    compared = {array for name, array in parity.array_names() if name == file}
    assert compared | (parity.GIVEN & set(parity.arrays(file))) == set(parity.arrays(file))


# --- checkpoints made here --------------------------------------------------------------------------------------------

HYPER = {
    **{
        "backbone": "ncsnpp_v2",
        "sde": "ouve",
        "theta": 1.2,
        "sigma_min": 0.04,
        "sigma_max": 0.6,
        "N": 25,
        "t_eps": 0.02,
    },
    **{"n_fft": 510, "hop_length": 128, "spec_factor": 0.2, "spec_abs_exponent": 0.6, "window": "sqrthann"},
    **{"nf": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [128], "sr": 16000, "lr": 1e-4},
    **{"loss_type": "score_matching", "network_scaling": "1/t", "c_in": "edm", "c_out": "sigma", "c_skip": "0"},
    **{"sigma_data": 0.2, "l1_weight": 0.5, "normalize": "noisy", "transform_type": "exponent", "base_dir": "x"},
}


def drawn_network(hyper):
    network = NCSNpp(configuration(hyper, "x").network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return network


def published(path, hyper=HYPER, prefix="dnn.", network=None, **changes):
    """A Lightning checkpoint as the reference project writes it, with random weights."""
    network = network or drawn_network(HYPER)
    state = to_published(network.state_dict(), network)
    content = {
        "epoch": 3,
        "state_dict": {prefix + name: torch.zeros_like(t) for name, t in state.items()},
        "hyper_parameters": dict(hyper),
        "ema": {"decay": 0.999, "num_updates": 2, "shadow_params": list(state.values()), "collected_params": []},
        **changes,
    }
    torch.save(content, path)
    return network


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    published(path)
    return path


def run_convert(path, out, *more, capsys=None):
    code = run(["convert", str(path), "--out", str(out), *more])
    return (code, capsys.readouterr()) if capsys else code


NETWORKS = [
    NCSNppConfig("v1", 4, (1, 2, 2), 2, (128, 64)),
    NCSNppConfig("v2", 8, (1, 1), 1, ()),
    NCSNppConfig("48k", 4, (1, 2), 1, (), False, False),
    NCSNppConfig("v1", 4, (1,), 1, (256,), True, False),
]


@pytest.mark.parametrize("config", NETWORKS)
def test_names_go_both_ways(config):
    network = NCSNpp(config)
    state = network.state_dict()
    there = to_published(state, network)
    assert len(there) == len(state)
    back = to_ours(there, network)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


def test_published_names_of_the_default_network():
    """The flat list of SGMSE+'s default: 77 entries, output layer first, transposed dense layers of attention."""
    with torch.device("meta"):
        network = NCSNpp(NCSNppConfig(version="v1"))
        state = to_published(network.state_dict(), network)
    names = list(state)
    assert names[:3] == ["output_layer.weight", "output_layer.bias", "all_modules.0.W"]
    assert {int(n.split(".")[1]) for n in names[2:]} == set(range(77))
    for index, inside in ((50, "NIN_3.W"), (33, "NIN_0.b"), (7, "Conv_0.weight"), (62, "Conv_2.weight"), (76, "bias")):
        assert f"all_modules.{index}.{inside}" in names
    assert state["all_modules.62.Conv_0.weight"].shape == (256, 384, 3, 3)
    assert state["all_modules.66.Conv_0.weight"].shape == (128, 384, 3, 3)
    assert [n.split(".", 2)[2] for n in names if n.startswith("all_modules.6.")][::2] == [
        f"{layer}.weight" for layer in ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2")
    ]


def test_every_hyperparameter_arrives(checkpoint, tmp_path, capsys):
    code, said = run_convert(checkpoint, tmp_path / "out", capsys=capsys)
    assert code == 0 and "16000 Hz" in said.out and "v2" in said.out
    config = load(tmp_path / "out").config
    assert config.spectrogram == Spectrogram(window="sqrthann", exponent=0.6, factor=0.2)
    assert config.process == OUVE(theta=1.2, sigma_min=0.04, sigma_max=0.6, t_eps=0.02)
    assert config.network == NCSNppConfig("v2", 4, (1, 2), 1, (128,))
    assert config.precondition == Preconditioning("v2", "score", "1/t", "edm", "sigma", "0", 0.2)
    assert config.objective.l1_weight == 0.5 and config.objective.kind == "score"
    assert (config.nfe, config.conditioning, config.level, config.pad) == (50, "none", "max", "reflection")


def test_the_averaged_weights_are_taken(checkpoint, tmp_path):
    network = drawn_network(HYPER)
    assert run_convert(checkpoint, tmp_path / "out") == 0
    loaded = load(tmp_path / "out").network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.dnn.", "_orig_mod.dnn.", "module._orig_mod.dnn.", "dnn._orig_mod.module."])
def test_prefixes_of_compiled_and_distributed_models_are_stripped(checkpoint, tmp_path, prefix):
    published(tmp_path / "prefixed.ckpt", prefix=prefix)
    assert run_convert(tmp_path / "prefixed.ckpt", tmp_path / "prefixed") == 0
    assert run_convert(checkpoint, tmp_path / "plain") == 0
    assert load(tmp_path / "prefixed").digest == load(tmp_path / "plain").digest


def test_weights_of_a_loss_are_no_part_of_the_network(tmp_path):
    state = {f"dnn.{k}": v for k, v in to_published(drawn_network(HYPER).state_dict(), drawn_network(HYPER)).items()}
    published(tmp_path / "x.ckpt", state_dict={**state, "pesq_loss.mean": torch.zeros(1)})
    assert run_convert(tmp_path / "x.ckpt", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "changes, rate",
    [
        ({"n_fft": 1534, "hop_length": 384, "spec_factor": 0.065, "spec_abs_exponent": 0.667}, 48000),
        ({"sr": 24000}, 24000),
        ({"sr": None}, 16000),
    ],
)
def test_the_rate_and_the_transform_come_from_the_file(tmp_path, changes, rate):
    hyper = {k: v for k, v in {**HYPER, **changes}.items() if v is not None}
    published(tmp_path / "x.ckpt", hyper)
    assert run_convert(tmp_path / "x.ckpt", tmp_path / "out") == 0
    model = load(tmp_path / "out")
    assert model.sample_rate == rate
    assert (model.spectrogram.n_fft, model.spectrogram.factor) == (hyper["n_fft"], hyper["spec_factor"])


def test_a_rate_that_cannot_be_known_is_asked_for(tmp_path, capsys):
    hyper = {k: v for k, v in {**HYPER, "n_fft": 766, "hop_length": 192}.items() if k != "sr"}
    published(tmp_path / "x.ckpt", hyper)
    code, said = run_convert(tmp_path / "x.ckpt", tmp_path / "out", capsys=capsys)
    assert code == 2 and "--sample-rate" in said.err
    assert run_convert(tmp_path / "x.ckpt", tmp_path / "out", "--sample-rate", "24000") == 0
    assert load(tmp_path / "out").sample_rate == 24000


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"mystery": 1}, "'mystery'"),
        ({"loss_type": "mae"}, "mae"),
        ({"loss_type": "data_prediction"}, "data_prediction"),
        ({"sde": "ouvp"}, "ouvp"),
        ({"backbone": "dcunet"}, "dcunet"),
        ({"c_in": "2"}, "c_in = 2"),
        ({"dropout": 0.1}, "dropout"),
        ({"n_fft": "many"}, "wrong kind"),
        ({"progressive": "residual"}, "residual"),
        ({"nf": 8}, "shape"),
        ({"ch_mult": [1, 2, 2]}, "lacks 'all_modules"),
        ({"n_fft": None}, "'n_fft'"),
    ],
)
def test_what_nr_does_not_know_is_refused_by_name(tmp_path, capsys, changes, said):
    hyper = {k: v for k, v in {**HYPER, **changes}.items() if v is not None}
    published(tmp_path / "x.ckpt", hyper)
    code, out = run_convert(tmp_path / "x.ckpt", tmp_path / "out", capsys=capsys)
    assert code == 2 and said in out.err and "x.ckpt" in out.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "mse", "sde_n": 1000, "N": 1000, "eval_start": 1, "nolog": True, "gpus": 4, "dummy": False},
        {"fir_kernel": [1, 3, 3, 1], "embedding_type": "fourier", "dropout": 0.0, "progressive": "output_skip"},
    ],
)
def test_options_of_older_files_are_known(tmp_path, changes):
    published(tmp_path / "x.ckpt", {**HYPER, **changes})
    assert run_convert(tmp_path / "x.ckpt", tmp_path / "out") == 0
    config = load(tmp_path / "out").config
    assert config.objective.kind == "score" and config.nfe == (60 if "sde_n" in changes else 50)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("forced", [False, True])
def test_a_payload_is_not_executed(tmp_path, capsys, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    published(tmp_path / "x.ckpt", extra=Payload(tmp_path / "marker"))
    code, said = run_convert(tmp_path / "x.ckpt", tmp_path / "out", capsys=capsys)
    assert code == 2 and "not a plain checkpoint (it asks for " in said.err
    assert not (tmp_path / "marker").exists() and not (tmp_path / "out").exists()


def test_broken_files_are_one_sentence_each(checkpoint, tmp_path, capsys):
    whole = checkpoint.read_bytes()
    cases = {
        "cut.ckpt": (whole[: len(whole) // 2], "truncated"),
        "empty.ckpt": (b"", "truncated"),
        "text.ckpt": (b"hello, this is no checkpoint at all", "no checkpoint"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        code, out = run_convert(tmp_path / name, tmp_path / "out", capsys=capsys)
        assert code == 2 and said in out.err and name in out.err and out.err.count("\n") == 1, (name, out.err)
    code, out = run_convert(tmp_path / "absent.ckpt", tmp_path / "out", capsys=capsys)
    assert code == 2 and "no such file" in out.err


def test_incomplete_contents_are_named(tmp_path, capsys):
    network = drawn_network(HYPER)
    state = to_published(network.state_dict(), network)
    shadow = list(state.values())
    missing = {f"dnn.{k}": v for k, v in state.items() if k != "all_modules.4.Dense_0.bias"}
    broken = [torch.full_like(shadow[0], float("nan")), *shadow[1:]]
    cases = [
        ({"ema": None}, "lacks 'ema'"),
        ({"state_dict": missing}, "lacks 'all_modules.4.Dense_0.bias'"),
        ({"ema": {"shadow_params": shadow[:-1]}}, "averaged weights"),
        ({"ema": {"shadow_params": broken}}, "non-finite"),
    ]
    for changes, said in cases:
        published(tmp_path / "x.ckpt", **changes)
        code, out = run_convert(tmp_path / "x.ckpt", tmp_path / "out", capsys=capsys)
        assert code == 2 and said in out.err, out.err


def test_again_is_the_same_and_another_model_needs_force(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_convert(checkpoint, out) == run_convert(checkpoint, out) == 0
    other = tmp_path / "other.ckpt"
    network = drawn_network(HYPER)
    with torch.no_grad():
        network.output.bias += 1
    published(other, network=network)
    code, said = run_convert(other, out, capsys=capsys)
    assert code == 2 and "--force" in said.err
    assert run_convert(other, out, "--force") == 0
    assert torch.equal(load(out).network.output.bias, network.output.bias)


def test_a_converted_bridge(tmp_path):
    hyper = {**HYPER, "sde": "sbve", "k": 2.1, "c": 0.3, "eps": 1e-8, "N": 7, "loss_type": "data_prediction"}
    published(tmp_path / "x.ckpt", hyper)
    assert run_convert(tmp_path / "x.ckpt", tmp_path / "out") == 0
    model = load(tmp_path / "out")
    assert model.process == SBVE(k=2.1, c=0.3, t_eps=0.02) and model.nfe == 7
    noisy = 0.1 * np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    assert np.isfinite(model.enhance(noisy, 16000, nfe=2)).all()
    # As published: filled up to 64 frames by reflection, and the inverse takes these frames too.
    wave = torch.from_numpy(noisy)[None] / np.abs(noisy).max()
    y = pad_frames(model.spectrogram.forward(wave), 64, "reflection")
    expected = model.spectrogram.inverse(bridge.bridge_ode(model, y, None, None, steps=2), 6000)
    assert torch.equal(model.enhance_window(wave, model.null(1), 2, None), expected)
