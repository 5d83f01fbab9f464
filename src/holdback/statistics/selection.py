"""Choosing the best of several, and what choosing costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import Measurement, quantile_t

Floats = NDArray[np.float64]

_PROJECTED_SHARE = 0.1
"""Share of α that the hybrid interval spends on the projection; Andrews et al. recommend it."""


def choose_rung(candidates: Mapping[str, Measurement]) -> str:
    """Name the rung with the highest capability on `select`; of equals the first, the cheapest.

    A rung that won everything counts with its lower bound: a few lucky games are no reason to
    prefer it to a higher finite rating. A rung that lost everything counts last.

    Raises:
        InsufficientDataError: without candidates.
    """
    if not candidates:
        raise InsufficientDataError("need at least 1 rung to choose from, got none")
    return max(candidates, key=lambda name: _rank(candidates[name]))


def expected_maximum_z(k: int) -> float:
    """Mean of the largest of k independent standard normal draws.

    By how many standard errors the best of k rungs that do nothing beats nothing: 0.56, 1.16,
    1.54, 1.87 for k = 2, 5, 10, 20.

    Source: Harter (1961), expected values of normal order statistics.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}")

    def integrand(z: float) -> float:
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return k * z * density * float(special.ndtr(z)) ** (k - 1)

    from scipy import integrate

    return float(integrate.quad(integrand, -10, 10)[0])


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that rejecting those below α errs anywhere with probability at most α.

    Args:
        p_values: Any number of p-values in [0, 1], in any order.

    Returns:
        Adjusted p-values in the order given.

    Source: Holm (1979), valid under any dependence.
    """
    p = np.asarray(p_values, dtype=float)
    if np.any(~((p >= 0) & (p <= 1))):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)!r}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, stepped)
    return [float(value) for value in adjusted]


def adjust_max_t(
    candidates: Mapping[str, Measurement], rng: np.random.Generator, *, draws: int = 9999
) -> dict[str, float]:
    """Adjust one-sided p-values (no gain) of rungs measured on the same samples.

    Rungs gain and lose together on the same clusters, which Holm's correction does not know. Here
    the distribution of the largest t is drawn: signs of whole clusters' contributions are flipped
    for all rungs at once and t computed anew, then stepped down from the largest. No adjusted
    p-value falls below the rung's own.

    Args:
        candidates: Finite differences from what is displayed, on shared clusters.
        rng: For the signs.
        draws: Sets of signs; the least p-value is 1/(draws + 1).

    Returns:
        Adjusted p-values, in the order given: rejecting those below α errs anywhere with
        probability α, for clusters not too few (simulated at 20).

    Raises:
        InsufficientDataError: without candidates, or with fewer than two clusters.
        ValueError: for an infinite difference.

    Source: Westfall and Young (1993), algorithm 2.8; signs of clusters after Chernozhukov,
    Chetverikov and Kato (2013) and Cameron, Gelbach and Miller (2008).
    """
    names = list(candidates)
    contributions = _align(candidates)
    clusters = contributions.shape[1]
    errors = np.array([candidates[name].standard_error for name in names])
    floors = np.array([candidates[name].floor for name in names])
    values = np.array([candidates[name].value for name in names])
    t = np.divide(values, errors, out=np.sign(values) * np.inf, where=errors > 0)
    signs = rng.choice([-1.0, 1.0], (draws, clusters))
    sums = signs @ contributions.T
    # The sum of squares stands whatever the signs; about their mean it does not.
    squares = (contributions**2).sum(axis=1) - sums**2 / clusters
    spread = np.sqrt(np.maximum(squares, 0) * clusters / (clusters - 1) + floors**2)
    # What a floor stands for did not show, and is drawn beside.
    sums = sums + floors * rng.normal(size=sums.shape)
    drawn = np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 0)
    order = np.argsort(-t, kind="stable")
    largest = np.maximum.accumulate(drawn[:, order][:, ::-1], axis=1)[:, ::-1]
    p = (1 + (largest >= t[order]).sum(axis=0)) / (1 + draws)
    own = np.array([candidates[names[index]].p_above(0.0) for index in order])
    stepped = np.maximum.accumulate(np.maximum(p, own))
    adjusted = np.empty(len(names))
    adjusted[order] = stepped
    return dict(zip(names, adjusted.tolist(), strict=True))


def winner_interval(candidates: Mapping[str, Measurement], *, level: float = 0.95) -> Estimate:
    """Estimate the rung with the highest value from the very data that it was chosen by.

    For where one split must serve for choosing and estimating; two splits are better. Given that
    it won, and by what the others stand at beside it, the winner's value is a normal truncated to
    where it still wins. The interval holds those means under which it is neither too high nor too
    low for that («hybrid»: among those within a wide simultaneous interval, which keeps it finite
    where the win was narrow); the value is the mean under which it would be at the median.
    The covariance is that of the contributions, widened by (t/z)² for few clusters.

    Args:
        candidates: Finite measurements on shared clusters.
        level: Of the interval; covers unconditionally, whatever the means.

    Raises:
        InsufficientDataError: without candidates, or with fewer than two clusters.
        ValueError: for an infinite measurement.

    Source: Andrews, Kitagawa and McCloskey (2024), «Inference on Winners», QJE 139(1), §§ 4 and 5;
    the simultaneous interval is Bonferroni's.
    """
    names = list(candidates)
    contributions = _align(candidates)
    clusters, alpha = contributions.shape[1], 1 - level
    values = np.array([candidates[name].value for name in names])
    floors = np.array([candidates[name].floor for name in names])
    covariance = contributions @ contributions.T * clusters / (clusters - 1) + np.diag(floors**2)
    best = names.index(choose_rung(candidates))
    winner = candidates[names[best]]
    each_side = 0.5 + level / 2
    widened = quantile_t(each_side, winner.degrees_of_freedom) / float(special.ndtri(each_side))
    sigma = math.sqrt(covariance[best, best]) * widened
    low, high = _where_it_wins(values, covariance, best)
    spent = alpha * _PROJECTED_SHARE
    reach = -float(special.ndtri(spent / (2 * len(names)))) * sigma
    tail = (alpha - spent) / (1 - spent) / 2

    def solve(share: float) -> float:
        """Find the mean under which it would win with less than its value so often."""

        def excess(mean: float) -> float:
            ends = np.array([max(low, mean - reach), min(high, mean + reach), values[best]])
            below, above, here = special.ndtr((ends - mean) / sigma)
            return float((here - below) / max(above - below, 1e-300) - share)

        from scipy import optimize

        return float(optimize.brentq(excess, values[best] - reach, values[best] + reach))

    ends = [values[best]] * 3 if sigma == 0 else [solve(1 - tail), solve(0.5), solve(tail)]
    return Estimate(
        value=float(ends[1]),
        low=float(ends[0]),
        high=float(ends[2]),
        n=winner.n,
        n_clusters=winner.n_clusters,
        method=f"best of {len(names)} on the same data, hybrid conditional on winning;"
        f" {winner.method}",
        level=level,
    )


def _where_it_wins(values: Floats, covariance: Floats, best: int) -> tuple[float, float]:
    """Ends between which the winner's value wins, its regression on it taken out of the others."""
    low, high = -math.inf, math.inf
    for other in range(len(values)):
        share = float(covariance[other, best] / covariance[best, best]) if other != best else 1.0
        # A rung that moves with the winner one to one is as far below it wherever it stands.
        if abs(1 - share) < 1e-12 or covariance[best, best] == 0:
            continue
        end = float(values[other] - share * values[best]) / (1 - share)
        if share < 1:
            low = max(low, end)
        else:
            high = min(high, end)
    return low, high


def _align(candidates: Mapping[str, Measurement]) -> Floats:
    """Contributions by rung and cluster; 0 where a rung lacks a cluster."""
    if not candidates:
        raise InsufficientDataError("need at least 1 rung, got none")
    infinite = [name for name, each in candidates.items() if not math.isfinite(each.value)]
    if infinite:
        raise ValueError(f"expected finite measurements, got infinite ones of {infinite}")
    names = list(dict.fromkeys(name for each in candidates.values() for name in each.influence))
    if len(names) < 2:
        raise InsufficientDataError(f"need at least 2 clusters, got {len(names)}; run more samples")
    return np.array(
        [[each.influence.get(name, 0.0) for name in names] for each in candidates.values()]
    )


def _rank(candidate: Measurement) -> float:
    if math.isnan(candidate.value):
        return -math.inf
    return candidate.lower() if candidate.value == math.inf else candidate.value
