"""FIR resampling: the literal filter, adjointness, what it keeps and what fades."""

from __future__ import annotations

import longhand
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.network.resample import fir_down, fir_up


def maps(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_both_are_the_literal_filter(channels, rows, frames, channels_last):
    x = maps(2, channels, rows, frames)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for ours, theirs in ((fir_down, longhand.down), (fir_up, longhand.up)):
        got = ours(x).numpy()
        for item in range(2):
            expected = theirs(x[item].numpy())
            if ours is fir_down:
                expected = expected[:, : rows // 2, : frames // 2]
            np.testing.assert_allclose(got[item], expected, atol=1e-14)


def test_constants_keep_their_value_inside_and_fade_at_the_border():
    one = torch.ones(1, 1, 8, 8)
    for resampled in (fir_down(one), fir_up(one)):
        assert torch.equal(resampled[..., 1:-1, 1:-1], torch.ones_like(resampled[..., 1:-1, 1:-1]))
        assert resampled[0, 0, 0, 0] < 1 and resampled[0, 0, -1, -1] < 1


def test_up_is_four_times_the_adjoint_of_down():
    """<down x, y> = <x, up y> / 4: the two are one filter."""
    x, y = maps(1, 2, 12, 8), maps(1, 2, 6, 4, seed=1)
    assert (fir_down(x) * y).sum().item() == pytest.approx((x * fir_up(y)).sum().item() / 4)


def test_odd_sizes_go_down_to_the_floor():
    assert fir_down(maps(1, 1, 7, 9)).shape == (1, 1, 3, 4)
