"""Means of paired differences with intervals that know about speakers and environments.

The files of a test set share speakers and environments, two crossed factors, so files are not independent. The
variance of the mean is V_environment + V_speaker - V_cell (Cameron, Gelbach and Miller 2011), with a t quantile at
the smaller number of clusters less one. Pure functions on arrays; scipy only for quantiles.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

FEW_CLUSTERS = 10  # under it: t on the means of clusters
FIXED_LEVELS = 5  # a factor with fewer levels is held fixed: no variance can be learnt from it
FEW_FILES = 30


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. `low`, `high` and `p_value` are None where nothing can be said."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None  # two-sided, of a mean of 0
    files: int
    environments: int
    speakers: int
    method: str  # "two-way", "cluster means", "one-way", "none"
    fixed: tuple[str, ...] = ()  # the factors held fixed: the interval speaks of these very levels

    @property
    def conclusive(self) -> bool:
        """Whether files and clusters suffice to conclude anything at all."""
        return self.low is not None and self.files >= FEW_FILES

    def words(self) -> str:
        """Files, clusters, and what was held fixed, for the cell of a table."""
        fixed = f", {' and '.join(self.fixed)} held fixed" if self.fixed else ""
        return f"{self.files} files, {self.environments} environments, {self.speakers} speakers{fixed}"


def interval(values: np.ndarray, environment: np.ndarray, speaker: np.ndarray, confidence: float = 0.95) -> Interval:
    """The mean of `values` (one a file) with its interval by environment and speaker (labels of any kind).

    Both factors with 10 levels or more: two-way. A factor with fewer than 5 levels is held fixed and named. With 5 to
    9 levels the t interval on that factor's cluster means, or the two-way one where that is wider.
    """
    values = np.asarray(values, dtype=np.float64)
    codes = {"environment": _codes(environment), "speaker": _codes(speaker)}
    levels = {name: int(c.max()) + 1 if len(c) else 0 for name, c in codes.items()}
    counts = (len(values), levels["environment"], levels["speaker"])
    if not len(values):
        return Interval(math.nan, None, None, None, *counts, "none", ("environment", "speaker"))
    mean = float(values.mean())
    fixed = tuple(name for name in codes if levels[name] < FIXED_LEVELS)
    free = [name for name in codes if levels[name] >= FIXED_LEVELS]
    if not free:
        return Interval(mean, None, None, None, *counts, "none", fixed)
    smallest = min(free, key=lambda name: levels[name])
    if len(free) == 2:
        variance = two_way_variance(values, codes["environment"], codes["speaker"])
        method = "two-way"
    else:
        variance = cluster_variance(values, codes[free[0]])
        method = "one-way"
    centre, deviation, df = mean, math.sqrt(variance), levels[smallest] - 1
    low, high, p_value = _t_interval(centre, deviation, df, confidence)
    if levels[smallest] < FEW_CLUSTERS:
        means = cluster_means(values, codes[smallest])
        spread = float(means.std(ddof=1)) / math.sqrt(len(means))
        half = max(high - mean, _t_interval(mean, spread, df, confidence)[1] - mean)
        low, high, method = mean - half, mean + half, "cluster means"
        p_value = sign_flip_p(means)
    return Interval(mean, low, high, p_value, *counts, method, fixed)


def cluster_variance(values: np.ndarray, cluster: np.ndarray) -> float:
    """Variance of the mean of `values` where files of one cluster depend on one another, G / (G - 1) included."""
    residual = values - values.mean()
    sums = np.bincount(cluster, weights=residual)
    groups = int(cluster.max()) + 1
    return float(groups / max(groups - 1, 1) * np.square(sums).sum()) / len(values) ** 2


def two_way_variance(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """V_first + V_second - V_cell; where that falls under the greater of the two, the greater (it is an estimate, and
    may come out negative)."""
    cell = _codes(first.astype(np.int64) * (int(second.max()) + 1) + second)
    of_first, of_second = cluster_variance(values, first), cluster_variance(values, second)
    return max(of_first + of_second - cluster_variance(values, cell), of_first, of_second)


def two_way_bootstrap(
    values: np.ndarray,
    environment: np.ndarray,
    speaker: np.ndarray,
    rng: np.random.Generator,
    draws: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """The check beside `interval`: environments and speakers drawn again independently, percentiles of the mean
    (the pigeonhole bootstrap, Owen 2007). A file counts as often as both of its levels were drawn."""
    first, second = _codes(environment), _codes(speaker)
    shape = (int(first.max()) + 1, int(second.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (first, second), values)
    np.add.at(counts, (first, second), 1)
    times_first = rng.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), draws).astype(float)
    times_second = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]), draws).astype(float)
    total = np.einsum("be,es,bs->b", times_first, sums, times_second, optimize=True)
    number = np.einsum("be,es,bs->b", times_first, counts, times_second, optimize=True)
    means = total[number > 0] / number[number > 0]
    tail = (1 - confidence) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


def cluster_means(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """The mean of each cluster, in the order of the codes."""
    return np.bincount(cluster, weights=values) / np.bincount(cluster)


def sign_flip_p(means: np.ndarray) -> float:
    """Two-sided p-value of symmetry about 0 by all 2^G flips of the signs of G cluster means (G at most 20)."""
    if len(means) > 20:
        raise ValueError(f"{len(means)} clusters: all sign flips are for 20 at most")
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(means))))
    flipped = np.abs(signs @ means)
    return float(np.mean(flipped >= abs(means.sum()) * (1 - 1e-12)))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment: the i-th smallest of m is multiplied by m - i, then made monotone."""
    order = np.argsort(p_values)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho; NaN where either does not vary."""
    from scipy.stats import rankdata

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _t_interval(mean: float, deviation: float, df: int, confidence: float) -> tuple[float, float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.5 + confidence / 2, df)) * deviation
    if deviation == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    return mean - half, mean + half, float(2 * t.sf(abs(mean) / deviation, df))


def _codes(labels: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
