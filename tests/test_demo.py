"""`make demo` is bounded by what the machine does."""

from __future__ import annotations

import pytest

from cli import demo


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 20), (0.2, 36), (1.0, 100), (100.0, 400)])
def test_a_slow_machine_trains_fewer_steps(rate, steps):
    assert demo.affordable(rate) == steps
