"""Cutting recordings into [mixture | gap | reserve]."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata.builders.units import Levels, audible_start, cut, pieces, usable

RATE = 16000


def levels(x: np.ndarray, rate: int = RATE) -> Levels:
    return Levels.of([x.astype(np.float32)], rate)


def white(frames: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(frames)


def test_five_seconds_give_three_one_one_without_slack():
    (unit,), refused = cut(levels(white(80000)), RATE)
    assert not refused
    assert unit.frames == 48000 and unit.reserve is not None and unit.reserve[1] - unit.reserve[0] == 16000
    assert {*unit.mixture, *unit.reserve} in ({0, 48000, 64000, 80000}, {0, 16000, 32000, 80000})


@pytest.mark.parametrize(("frames", "reserve"), [(95999, 16000), (96000, 32000), (160000, 32000)])
def test_six_seconds_and_more_reserve_two(frames, reserve):
    (unit,), _ = cut(levels(white(frames)), RATE)
    assert unit.reserve is not None and unit.reserve[1] - unit.reserve[0] == reserve
    assert unit.frames == frames - 16000 - reserve


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 45 * 800), rate=st.sampled_from([800, 441]), reserve=st.sampled_from([None, 0.0, 0.5, 1.5])
)
def test_units_never_touch_their_reserve_nor_each_other(frames, rate, reserve):
    """A second of gap, a second of mixture at least, all inside the recording, at rates that divide nothing."""
    units, refused = cut(levels(white(frames), rate), rate, reserve)
    assert len(units) + len(refused) == len(pieces(frames, rate))
    taken: list[tuple[int, int]] = []
    for unit in units:
        start, stop = unit.mixture
        assert stop - start >= int(1.0 * rate)
        taken.append((start, stop))
        if reserve == 0:
            assert unit.reserve is None
            continue
        clip = unit.reserve
        gap = clip[0] - stop if clip[0] >= stop else start - clip[1]
        assert gap == int(1.0 * rate)
        if reserve is None:
            long = frames // len(pieces(frames, rate)) >= 6 * rate
            assert clip[1] - clip[0] == (2 if long else 1) * rate
        else:
            assert clip[1] - clip[0] == int(reserve * rate)
        taken.append(clip)
    taken.sort()
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(taken))
    assert not taken or (taken[0][0] >= 0 and taken[-1][1] <= frames)


@given(frames=st.integers(1, 2000))
def test_pieces_are_whole_under_ten_seconds_and_of_five_to_ten_above(frames):
    rate = 10
    found = pieces(frames, rate)
    if frames < 10 * rate:
        assert found == [(0, frames)]
    else:
        assert all(5 * rate <= stop - start <= 10 * rate for start, stop in found)


@pytest.mark.parametrize("loud_end", ["start", "stop"])
def test_the_reserve_lies_where_there_is_more_sound(loud_end):
    x = white(80000)
    x[16000:64000] *= 0.5
    x[64000:] *= 0.4
    if loud_end == "start":
        (unit,), _ = cut(levels(x), RATE)
        assert unit.reserve == (0, 16000) and unit.mixture == (32000, 80000)
    else:
        (unit,), _ = cut(levels(x[::-1]), RATE)
        assert unit.reserve == (64000, 80000) and unit.mixture == (0, 48000)


def test_a_unit_with_silent_ends_is_refused_by_name():
    x = white(80000)
    x[:20000] *= 0.01
    x[60000:] *= 0.01
    units, refused = cut(levels(x), RATE)
    assert not units and (refused[0].number, refused[0].kind) == (0, "quiet")
    assert "no sound at either end" in refused[0].reason


def test_too_short_is_refused_with_both_numbers():
    units, refused = cut(levels(white(2 * RATE)), RATE)
    assert not units and "2.00 s long, 3 s needed" in refused[0].reason and refused[0].kind == "too_short"


def test_a_loop_is_no_unit():
    """The reference would hold the very noise of the mixture."""
    loop, bed = np.tile(white(20000), 4), white(80000)
    units, refused = usable(levels(loop), lambda start, stop: loop[start:stop], RATE)
    assert not units and "its reserve is heard again" in refused[0].reason and refused[0].kind == "loop"
    units, refused = usable(levels(bed), lambda start, stop: bed[start:stop], RATE)
    assert len(units) == 1 and not refused
    assert len(usable(levels(loop), lambda start, stop: loop[start:stop], RATE, reserve_seconds=0)[0]) == 1


@given(cuts=st.lists(st.integers(0, 16000), max_size=6))
def test_levels_do_not_depend_on_the_blocks(cuts):
    x = white(16000)
    parts = Levels.of(np.split(x, sorted(cuts)), RATE)
    assert parts.frames == 16000 and np.allclose(parts.energy, levels(x).energy)


@given(start=st.integers(0, 9000), length=st.integers(200, 6000))
def test_level_of_a_stretch_is_its_mean_power(start, length):
    x = white(16000) * np.linspace(0.2, 1, 16000)
    stop = min(16000, start + length)
    expected = 10 * np.log10(np.mean(x[start:stop] ** 2))
    assert levels(x).level_db(start, stop) == pytest.approx(expected, abs=2.5)
    assert levels(x).level_db() == pytest.approx(10 * np.log10(np.mean(x**2)), abs=1e-4)


def test_a_stretch_is_drawn_where_the_dog_barks():
    """Sound in a tenth of the mixture part: a stretch almost always holds it, and always lies inside."""
    x = 1e-3 * white(80000)
    x[20000:24000] = white(4000)
    x[70000:] = white(10000, 1) * 0.5
    (unit,), _ = cut(levels(x), RATE)
    assert unit.mixture == (0, 48000)
    starts = [audible_start(levels(x), unit.mixture, 8000, np.random.default_rng(seed)) for seed in range(40)]
    assert all(0 <= s <= 40000 for s in starts)
    assert all(s < 24000 and s + 8000 > 20000 for s in starts)
    assert len(set(starts)) > 20
