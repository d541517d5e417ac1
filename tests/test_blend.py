"""Weights between two models: the ends are the models, the middle is the mean, foreign weights are refused."""

from __future__ import annotations

import pytest
import torch
from stand_ins import tiny_checkpoint
from test_keep import switched

from nrdata.errors import UserError
from nrmodel import checkpoint, load
from nrmodel.blend import blend


@pytest.fixture
def ends(tmp_path):
    first = tiny_checkpoint(tmp_path)
    model = switched(0.5)
    model.load_state_dict({name: tensor + 0.25 for name, tensor in model.state_dict().items()})
    checkpoint.save_model(tmp_path / "new.safetensors", model.state_dict(), model.config)
    return first, tmp_path / "new.safetensors"


@pytest.mark.parametrize("share, keeps", [(0.0, False), (0.5, False), (1.0, True)])
def test_every_tensor_lies_at_the_share_and_the_switch_is_whole_or_gone(ends, tmp_path, share, keeps):
    blend(*ends, share, tmp_path / "out.safetensors")
    before, found = load(ends[0]).state_dict(), load(tmp_path / "out.safetensors")
    assert found.config.keep == keeps and (found.reference.keep_embedding is not None) == keeps
    for name, tensor in before.items():
        assert torch.allclose(found.state_dict()[name], tensor + 0.25 * share, atol=2e-3), name
    assert checkpoint.read_model(tmp_path / "out.safetensors")[0]["network.row_bias"].dtype == torch.float16


def test_foreign_weights_and_shares_are_refused(ends, tmp_path):
    other = tiny_checkpoint(tmp_path, "film")
    with pytest.raises(UserError, match="was not continued from it"):
        blend(other, ends[1], 0.5, tmp_path / "out.safetensors")
    with pytest.raises(UserError, match="0 to 1"):
        blend(*ends, 1.5, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
