"""A row is all it takes: a conditioning, an encoder and a preset that only a table knows train, and enhance a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import noise, speech
from torch import nn

import nrmodel
from cli.main import run
from nrdata.errors import UserError
from nrmodel import checkpoint
from nrmodel.config import preset
from nrmodel.model import Model
from nrmodel.network.blocks import zero
from nrmodel.network.conditioning import CONDITIONINGS, Conditioning, dense
from nrmodel.network.encoders import ENCODERS
from nrmodel.network.ncsnpp import NCSNppConfig
from nrmodel.presets import PRESETS


def perceptron(features: int, out: int) -> nn.Module:
    """Two layers, the second of zeros."""
    return nn.Sequential(nn.Linear(features, 7), nn.SiLU(), zero(7, out))


class Tilt(nn.Module):
    """Energy of the upper half of the bins, and of the lower: no clip's length or padding tells."""

    def __init__(self, z_dim: int):
        super().__init__()
        self.out = nn.Linear(2, z_dim)

    def forward(self, spec: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        inside = torch.arange(spec.shape[-1]) < frames[:, None]
        halves = (spec.abs()[:, 0] * inside[:, None]).sum(-1) / frames.clamp(min=1)[:, None]
        return self.out(torch.stack([half.mean(-1) for half in halves.chunk(2, dim=1)], dim=1))


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setitem(CONDITIONINGS, "toy", Conditioning(time=perceptron))
    monkeypatch.setitem(ENCODERS, "tilt", lambda z_dim, sample_rate, spectrogram: Tilt(z_dim))
    network = {"type": "CompactConfig", "widths": [8, 16], "blocks": [1, 1], "recurrent": 8, "time_dim": 16}
    monkeypatch.setitem(PRESETS, "pico", {"network": network, "z_dim": 8})


@pytest.mark.usefixtures("rows")
def test_rows_of_three_tables_train_and_enhance(tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = "--preset pico --conditioning toy --encoder tilt --ref-mode disjoint --ref-dropout 0"
    short = (
        "--max-steps 4 --batch-size 4 --crop-frames 32 --warmup-steps 0 --threads 1 --device cpu --learning-rate 0.1"
    )
    assert run(["train", "--shards", str(tiny_dataset), "--out", "run", *chosen.split(), *short.split()]) == 0
    model = nrmodel.load("run")
    assert isinstance(model.reference.encoder, Tilt)
    assert model.network.embed[2].weight.abs().max() > 0  # learned, once the layers of zeros behind it had
    assert model.network.row_map is None and not any("film" in name for name, _ in model.named_parameters())

    sf.write("talk.wav", speech(0.5) + noise(0.5, 1), 16000)
    sf.write("room.wav", noise(1.0, 1), 16000)
    capsys.readouterr()
    for out, ref in (("with", ["--ref", "room.wav"]), ("without", [])):
        assert run(["enhance", "talk.wav", "--checkpoint", "run", "--json", "--out", out, *ref]) == 0
        told = json.loads(capsys.readouterr().out)["files"][0]
        assert told["reference"] == ("room.wav, 1.00 s" if ref else "none")
    assert not np.array_equal(*(sf.read(f"{out}/talk.wav")[0] for out in ("with", "without")))


@pytest.mark.usefixtures("rows")
def test_a_toy_conditioning_starts_as_the_identity_in_both_networks():
    small = NCSNppConfig(nf=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=())
    for config in (preset("pico", conditioning="toy"), preset("base", network=small, conditioning="toy", z_dim=8)):
        model, plain = Model(config).eval(), Model(preset(config.preset, network=config.network, conditioning="none"))
        plain.eval()
        x, y = (0.1 * torch.randn(2, 1, 256, 16, dtype=torch.cfloat) for _ in range(2))
        t, z_r = torch.tensor([0.3, 1.0]), torch.randn(2, 8)
        for one in (model, plain):
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, p in one.network.named_parameters():
                    if "embed" not in name:
                        p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        with torch.no_grad():
            assert torch.equal(model.denoised(x, y, t, z_r), plain.denoised(x, y, t, plain.null(2)))
            model.network.embed[2].weight.fill_(0.5)
            assert not torch.equal(model.denoised(x, y, t, z_r), plain.denoised(x, y, t, plain.null(2)))


def test_a_network_without_the_place_refuses_the_conditioning(monkeypatch):
    monkeypatch.setitem(CONDITIONINGS, "rows", Conditioning(rows=dense))
    for name in ("rows", "spectrum"):
        with pytest.raises(UserError, match="NCSN\\+\\+ takes --conditioning additive or film"):
            Model(preset("base", conditioning=name))


@pytest.mark.parametrize(("option", "said"), [
    ({"conditioning": "smell"}, "conditioning 'smell' is unknown: none, additive, film or spectrum"),
    ({"encoder": "smell"}, "encoder 'smell' is unknown: conv or stats"),
])  # fmt: skip
def test_what_no_table_knows_is_refused_by_name(option, said):
    with pytest.raises(UserError, match=said):
        Model(preset("nano", **option))
    with pytest.raises(UserError, match="preset 'huge' is unknown: nano, small or base"):
        preset("huge")


def test_the_null_reference_and_no_conditioning_are_two_things(tmp_path):
    """Both are given to the network as what they are: a learned vector, and one of no length."""
    conditioned, plain = (Model(preset("nano", conditioning=c)).eval() for c in ("additive", "none"))
    assert conditioned.takes_reference and not plain.takes_reference
    assert conditioned.null(3).shape == (3, 64) and plain.null(3).shape == (3, 0)
    for model, size in ((conditioned, 64), (plain, 0)):
        assert model.embed(noise(1.0), 16000).shape == (1, size)
        path = tmp_path / f"{size}.safetensors"
        checkpoint.save_model(path, model.state_dict(), model.config)
        x, loaded = speech(0.2), nrmodel.load(path)
        assert np.array_equal(loaded.enhance(x, 16000), loaded.enhance(x, 16000, loaded.null(1)))


def test_without_a_path_the_shipped_model_is_loaded():
    assert nrmodel.load().config.preset == "small"
