"""The model: conditioning at step 0, levels, framing, loading."""

import numpy as np
import pytest
import torch

import nrmodel
from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel.config import from_dict, preset, to_dict
from nrmodel.model import Model, loudness, pad_frames
from nrmodel.network.compact import CompactConfig

TINY = CompactConfig(widths=(8, 16), blocks=(1, 1), recurrent=8, time_dim=16)


def tiny(conditioning="spectrum", seed=0, **more):
    return Model(preset("nano", network=TINY, conditioning=conditioning, z_dim=8, **more), seed).eval()


def spectrograms(seed=0, frames=16):
    return 0.1 * torch.randn(2, 1, 256, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.cfloat)


def wake(model):
    """Weights as after some training: the zero-initialised heads speak."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.abs().max() == 0 and not any(k in name for k in ("embed", "row_map", "spectrum_stem", "film", "null")):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("conditioning", ["additive", "film", "spectrum"])
@pytest.mark.parametrize("encoder", ["conv", "stats"])
@torch.no_grad()
def test_conditioning_at_step_0_is_the_identity_exactly(conditioning, encoder):
    plain, conditioned = wake(tiny("none")), wake(tiny(conditioning, encoder=encoder))
    x, y, t = spectrograms(1), spectrograms(2), torch.tensor([0.2, 1.0])
    z_r = conditioned.embed_batch(torch.randn(2, 8000), torch.tensor([8000, 0]))
    assert torch.equal(conditioned.denoised(x, y, t, z_r), plain.denoised(x, y, t))
    assert plain.denoised(x, y, t).abs().max() > 0


@pytest.mark.parametrize("conditioning", ["additive", "film", "spectrum"])
def test_every_conditioning_weight_gets_a_gradient(conditioning):
    model = wake(tiny(conditioning)).train()
    x, y, t = spectrograms(1), spectrograms(2), torch.tensor([0.2, 1.0])
    z_r = model.embed_batch(torch.randn(2, 8000), torch.tensor([8000, 8000]))
    model.denoised(x, y, t, z_r).abs().square().sum().backward()
    parts = ("embed", "row_map", "spectrum", "film")
    new = [n for n, _ in model.network.named_parameters() if any(part in n for part in parts)]
    assert new
    for name in new:
        assert model.network.get_parameter(name).grad.abs().sum() > 0, name


@torch.no_grad()
def test_batch_equals_singles():
    model = wake(tiny())
    x, y, t = spectrograms(1), spectrograms(2), torch.tensor([0.2, 1.0])
    z_r = model.embed_batch(torch.randn(2, 8000), torch.tensor([8000, 0]))
    both = model.denoised(x, y, t, z_r)
    for i in range(2):
        alone = model.denoised(x[i : i + 1], y[i : i + 1], t[i : i + 1], z_r[i : i + 1])
        assert torch.allclose(both[i], alone[0], atol=1e-5)


def test_backbone_is_the_same_with_any_conditioning():
    a, b = tiny("none", seed=3).state_dict(), tiny("film", seed=3).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_loudness_ignores_one_loud_instant_and_pauses():
    wave = 0.01 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    level = loudness(wave)
    clicked = wave.clone()
    clicked[:, :80] = 1.0
    paused = torch.cat([wave, torch.zeros(1, 24000)], 1)
    assert abs(20 * torch.log10(loudness(clicked) / level)) < 0.2
    assert abs(20 * torch.log10(loudness(paused) / level)) < 0.3
    assert torch.allclose(loudness(0.003 * wave), 0.003 * level, rtol=1e-4)
    assert loudness(torch.zeros(1, 1000)) == 0


def test_loudness_of_padded_items_counts_only_what_is_heard():
    wave = 0.02 * torch.randn(1, 20480, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(wave, (0, 30000))
    assert torch.allclose(loudness(padded, torch.tensor([20480])), loudness(wave))


def test_pad_frames():
    spec = torch.arange(6.0)[None, None, None].expand(1, 1, 2, 6).to(torch.cfloat)
    assert pad_frames(spec, 4, "zeros")[0, 0, 0].real.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert pad_frames(spec, 4, "reflection")[0, 0, 0].real.tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    assert pad_frames(spec, 3, "zeros").shape[-1] == 6


def test_configuration_survives_and_refuses_what_it_does_not_know():
    for name in ("nano", "small", "base"):
        assert from_dict(to_dict(preset(name))) == preset(name)
    data = to_dict(preset("nano"))
    with pytest.raises(UserError, match="unknown entry 'colour'"):
        from_dict({**data, "colour": 1})
    with pytest.raises(UserError, match="unknown part 'Nothing'"):
        from_dict({**data, "process": {"type": "Nothing"}})


def test_save_load_enhance(tmp_path):
    model = wake(tiny())
    sha = checkpoint.save_model(tmp_path / "model.safetensors", model.state_dict(), model.config)
    loaded = nrmodel.load(tmp_path)
    assert loaded.digest == sha and loaded.config == model.config
    noisy = 0.1 * np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    out = loaded.enhance(noisy, 16000, noisy[:4800], 16000)
    assert out.shape == noisy.shape and np.isfinite(out).all()
    assert np.array_equal(out, loaded.enhance(noisy, 16000, noisy[:4800], 16000))


def test_damaged_weights_are_told_apart(tmp_path):
    model = tiny()
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model.state_dict(), model.config)
    good = path.read_bytes()

    def refused(data, match):
        path.write_bytes(data)
        with pytest.raises(UserError, match=match):
            nrmodel.load(path)

    flipped = bytearray(good)
    flipped[-5] ^= 1
    refused(bytes(flipped), "do not match their SHA-256")
    refused(good[: len(good) // 2], "truncated")
    refused(b"", "is empty")
    refused(b"\x80\x04not a model" * 10, "truncated or no safetensors")
    state = model.state_dict()
    state["network.stem.bias"] = torch.full_like(state["network.stem.bias"], float("nan"))
    checkpoint.save_model(path, state, model.config)
    refused(path.read_bytes(), "non-finite weights in 'network.stem.bias'")
    checkpoint.save_model(path, model.state_dict(), preset("nano", z_dim=8))
    refused(path.read_bytes(), "another configuration")
    state = model.state_dict()
    del state["network.stem.bias"]
    checkpoint.save_model(path, state, model.config)
    refused(path.read_bytes(), "lacks 'network.stem.bias'")


def test_hostile_state_is_not_executed(tmp_path, monkeypatch):
    import os
    import pickle

    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    path = tmp_path / "train-state.pt"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError):
        checkpoint.read_state(path)
    torch.save({"model": Evil()}, path)
    with pytest.raises(UserError, match=r"not a plain checkpoint \(it asks for \S*system\)"):
        checkpoint.read_state(path)
    assert not marker.exists()


def test_the_same_weights_are_the_same_bytes(tmp_path):
    model = tiny()
    for name in "abcd":
        checkpoint.save_model(tmp_path / name, model.state_dict(), model.config, step="1", ref_mode="env", more="x")
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1
