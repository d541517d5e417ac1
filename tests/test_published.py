"""A checkpoint in the published layout, committed with what `tests/flat.py` computes of it without our code."""

from __future__ import annotations

import flat
import numpy as np
import pytest
import torch

from nrmodel.diffusion import sampler
from nrmodel.model import Model, load, pad_frames
from nrmodel.published.convert import convert, read_published


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(flat.GOLDEN / "published.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    out = tmp_path_factory.mktemp("converted")
    convert(flat.GOLDEN / "published.ckpt", out)
    return load(out)


def far(ours: torch.Tensor, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    found = ours.resolve_conj().numpy()
    assert found.shape == theirs.shape
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


def test_network_and_score(golden, model):
    state, cond = (torch.from_numpy(golden[name])[None, None] for name in ("state", "cond"))
    t = torch.tensor([float(golden["t"])])
    with torch.no_grad():
        assert far(model.network(state, cond, t)[0, 0], golden["out"]) < 2e-5
        assert far(model.score(state, cond, t)[0, 0], -golden["out"]) < 2e-5


def test_transform_sampler_and_wave(golden, model):
    wave = torch.from_numpy(golden["wave"])[None]
    scale = model.level(wave)
    spec = model.spectrogram.forward(wave / scale)
    assert far(spec[0, 0], golden["spec"]) < 1e-5
    pairs = torch.from_numpy(golden["draws"]).float() / 2
    draws = iter(torch.complex(pairs[:, 0], pairs[:, 1])[:, None, None])
    y = pad_frames(spec, 64, model.config.pad)
    estimate = sampler.predictor_corrector(model, y, None, lambda shape: next(draws), steps=flat.STEPS)
    assert far(estimate[0, 0, :, : spec.shape[-1]], golden["estimate"]) < 1e-4
    assert far((model.spectrogram.inverse(estimate, wave.shape[1]) * scale)[0], golden["enhanced"]) < 1e-4


@pytest.mark.slow
def test_the_golden_file_is_what_its_maker_computes(golden):
    content = read_published(flat.GOLDEN / "published.ckpt")
    names = [name.removeprefix("dnn.") for name in content["state_dict"]]
    averaged = content["ema"]["shadow_params"]
    weights = {name: t.double().numpy() for name, t in zip(names, averaged, strict=True)}
    network = flat.Flat(content["hyper_parameters"], weights)
    out = network(golden["state"], golden["cond"], float(golden["t"]))
    assert np.abs(out - golden["out"]).max() < 1e-5 * np.abs(out).max()
