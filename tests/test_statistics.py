"""Intervals: identities, exact small cases, and the coverage they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nrmodel.evaluation.statistics import (
    cluster_variance,
    holm,
    interval,
    rank_correlation,
    sign_flip_p,
    two_way_bootstrap,
    two_way_variance,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_singletons_give_the_ordinary_variance_of_a_mean(values):
    x = np.array(values)
    each = np.arange(len(x))
    assert cluster_variance(x, each) == pytest.approx(x.var(ddof=1) / len(x), rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_two_way_with_one_factor_twice_is_one_way(seed):
    rng = np.random.default_rng(seed)
    x, factor = rng.standard_normal(60), rng.permutation(np.arange(60) % 12)
    assert two_way_variance(x, factor, factor) == pytest.approx(cluster_variance(x, factor))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_an_interval_moves_and_scales_with_its_values(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, e, s = rng.standard_normal(80), np.arange(80) % 11, rng.integers(0, 12, 80)
    a, b = interval(x, e, s), interval(scale * x + shift, e, s)
    assert (b.low, b.high) == pytest.approx((scale * a.low + shift, scale * a.high + shift), abs=1e-9)


def test_copies_of_a_file_add_no_certainty():
    rng = np.random.default_rng(0)
    x, e, s = rng.standard_normal(144), np.arange(144) // 12, np.arange(144) % 12
    once, ten = interval(x, e, s), interval(np.repeat(x, 10), np.repeat(e, 10), np.repeat(s, 10))
    assert ten.high - ten.low > 0.99 * (once.high - once.low)


def test_a_factor_of_few_levels_is_held_fixed_and_named():
    x = np.random.default_rng(1).standard_normal(40)
    e, s = np.arange(40) % 10, np.arange(40) % 2
    found = interval(x, e, s)
    assert found.fixed == ("speaker",) and found.method == "one-way"
    assert "speaker held fixed" in found.words()
    nothing = interval(x, np.arange(40) % 4, s)
    assert nothing.low is None and nothing.high is None and not nothing.conclusive
    assert nothing.fixed == ("environment", "speaker")


def test_few_clusters_take_the_t_of_cluster_means_and_exact_flips():
    e = np.repeat(np.arange(5), 8)
    means = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = interval(means[e], e, np.zeros(40))
    # t(4) at 97.5 % is 2.776; the deviation of the five means sqrt(2.5)
    assert found.method == "cluster means"
    assert found.high - found.mean == pytest.approx(2.7764451 * np.sqrt(2.5 / 5), rel=1e-6)
    assert found.p_value == 2 / 32


def test_no_values_no_interval():
    found = interval(np.array([]), np.array([]), np.array([]))
    assert found.low is None and found.files == 0 and not found.conclusive


def test_sign_flips_by_hand():
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == 2 / 8
    assert sign_flip_p(np.array([1.0, -1.0])) == 1.0
    assert sign_flip_p(np.array([3.0, 1.0])) == 0.5
    with pytest.raises(ValueError, match="20 at most"):
        sign_flip_p(np.ones(21))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_rank_correlation():
    x = np.arange(10.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(x, np.ones(10)))


def crossed(rng: np.random.Generator, environments: int, speakers: int, files: int):
    """Centred values that share effects of environment and speaker."""
    e, s = np.arange(files) % environments, rng.integers(0, speakers, files)
    x = 0.5 * rng.standard_normal(environments)[e] + 0.5 * rng.standard_normal(speakers)[s]
    return x + rng.standard_normal(files), e, s


def coverage(environments: int, speakers: int, files: int, trials: int, bootstrap: bool = False) -> tuple[float, float]:
    """How often the interval, and the naive one over files (or the bootstrap), hold the true mean 0."""
    rng = np.random.default_rng(1)
    hits = other = 0
    for _ in range(trials):
        x, e, s = crossed(rng, environments, speakers, files)
        found = interval(x, e, s)
        hits += found.low <= 0 <= found.high
        if bootstrap:
            low, high = two_way_bootstrap(x, e, s, rng, 400)
            other += low <= 0 <= high
        else:
            other += abs(x.mean()) <= 1.96 * x.std(ddof=1) / np.sqrt(files)
    return hits / trials, other / trials


def test_coverage_is_what_it_says_and_that_of_files_is_not():
    clustered, naive = coverage(24, 18, 384, trials=300)
    assert 0.92 <= clustered <= 0.985
    assert naive < 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("environments", "speakers", "files"), [(24, 18, 384), (12, 12, 96), (6, 6, 60), (6, 20, 100)])
def test_coverage_over_designs(environments, speakers, files):
    clustered, bootstrapped = coverage(environments, speakers, files, trials=1000, bootstrap=True)
    assert 0.93 <= clustered <= 0.99
    assert 0.90 <= bootstrapped <= 0.99


def test_the_bootstrap_agrees_with_the_interval():
    x, e, s = crossed(np.random.default_rng(3), 24, 18, 384)
    found = interval(x, e, s)
    low, high = two_way_bootstrap(x, e, s, np.random.default_rng(0))
    assert (high - low) == pytest.approx(found.high - found.low, rel=0.25)
    assert low < found.mean < high
