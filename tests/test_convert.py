"""Published checkpoints: the table of names both ways, what is read and refused, and every number of the parity data."""

from __future__ import annotations

import numpy as np
import parity
import pytest


@parity.needed
@pytest.mark.parametrize("file, array", parity.array_names(), ids=lambda v: str(v))
def test_every_array_of_the_parity_data(file, array):
    theirs, ours = parity.arrays(file)[array], parity.replay(file).ours(array)
    assert ours.shape == theirs.shape
    if array == "grad_norm":
        _compare_gradients(file, ours, theirs)
        return
    if array.startswith("trace") or array == "enh_steps_norm" or array.startswith("variant") or array == "resume_losses":
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
