"""Samples on which two conditions disagree: an exact test, and the difference they would show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.measurement import escaped_share, index_clusters
from holdback.statistics.paired import mcnemar_exact

_TOLERANCE = 1e-3


def flip_p_value(differences: ArrayLike, clusters: Sequence[str]) -> float:
    """Two-sided exact p-value that neither condition is the better one, clusters allowed.

    Under the null hypothesis the two conditions could change names in any cluster, so the sum of a
    cluster's differences is as likely with either sign. The p-value is the share of all 2^G
    assignments of signs whose total is at least as far from 0 as the one observed. Where every
    cluster has one sample it is McNemar's exact test.

    Args:
        differences: Shape (n,): -1, 0 or 1, the difference of two 0/1 scores of one sample.
        clusters: Cluster of each sample, length n.

    Raises:
        ValueError: for differences of other scores than 0 and 1.

    Source: Fisher (1935), §21, for the randomisation test; McNemar (1947).
    """
    data = np.asarray(differences, dtype=float)
    if not np.isin(data, (-1.0, 0.0, 1.0)).all():
        raise ValueError("expected differences of 0/1 scores, -1, 0 or 1; use a clustered mean")
    sums = _sum_clusters(data, clusters).astype(int)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    total = abs(int(sums.sum()))
    if len(sizes) < 2:
        size, flips = (int(sizes[0]), int(counts[0])) if len(sizes) else (1, 0)
        ups = (flips + total // size) // 2
        return mcnemar_exact(ups, flips - ups)
    return _count_signs(sizes, counts, total)


def detectable_by_flips(
    differences: ArrayLike, clusters: Sequence[str], *, power: float = 0.8, level: float = 0.95
) -> float | None:
    """Smallest true difference of two 0/1 scores that `flip_p_value` finds with `power`.

    Of N samples each flips with probability d, the share that did; where the difference δ is
    greater, as many have to, so with probability max(d, δ), and up with probability
    (max(d, δ) + δ)/2. The power is then summed over the number of flips and, given it, over how
    many of them go up; nothing is approximated. With clusters N is the number of independent
    samples that would spread as widely, and fewer where few clusters tell that spread.

    Args:
        differences: Shape (n,): -1, 0 or 1, the difference of two 0/1 scores of one sample.
        clusters: Cluster of each sample, length n.
        power: Probability of finding the difference.
        level: 1 - α of the two-sided test.

    Returns:
        A difference above 0 and up to 1; None where even a difference of 1 would not be found.
    """
    data = np.asarray(differences, dtype=float)
    sums = _sum_clusters(data, clusters)
    flips = float(np.mean(data * data)) if len(data) else 0.0
    spread = float(sums @ sums)
    samples = round(flips * len(data) ** 2 / spread) if spread else len(sums)
    if spread and len(sums) < len(data):
        few, many = _add_quantiles(len(sums), power, level), _add_quantiles(math.inf, power, level)
        samples = round(samples * (many / few) ** 2)
    # A difference of 1 puts all clusters on one side: the least p-value that there can be.
    if 2 * 0.5 ** len(sums) >= 1 - level:
        return None
    unmet, met = 0.0, 1.0
    while met - unmet > _TOLERANCE * met:
        middle = (unmet + met) / 2
        if _find_power(samples, flips, middle, level) < power:
            unmet = middle
        else:
            met = middle
    return met


def detectable_difference(
    differences: ArrayLike, clusters: Sequence[str], *, power: float = 0.8, level: float = 0.95
) -> float:
    """Smallest true difference of scores of any kind that a clustered t test shows with `power`.

    The δ that solves N = (t_{α/2} + t_β)² (d - δ²)/δ², d being the mean square of the
    differences; clusters that move together count as fewer samples. Where nothing differs, d is
    the share that could have escaped so many clusters.

    Args:
        differences: Shape (n,), in the unit of the scores.
        clusters: Cluster of each sample, length n.
        power: Probability of finding the difference.
        level: 1 - α of the two-sided test.

    Returns:
        A difference above 0, in the unit of the scores.

    Raises:
        InsufficientDataError: with fewer than two clusters.

    Source: Connor (1987) for the paired design.
    """
    data = np.asarray(differences, dtype=float)
    sums = _sum_clusters(data, clusters)
    if len(sums) < 2:
        raise InsufficientDataError(
            f"need at least 2 clusters for a detectable difference, got {len(sums)}; run more"
            " samples, or cluster by something finer"
        )
    square = float(np.mean(data * data))
    if square > 0:
        # Squares about 0, not about the mean: the spread if there were no difference.
        variance = float(sums @ sums) / len(data) ** 2 * len(sums) / (len(sums) - 1)
        samples = square / variance if variance > 0 else float(len(sums))
    else:
        square, samples = escaped_share(len(sums), level), float(len(sums))
    t = _add_quantiles(len(sums), power, level)
    return t * math.sqrt(square / (samples + t * t))


def _add_quantiles(clusters: float, power: float, level: float) -> float:
    """Standard errors that a difference needs: t_{α/2} + t_β at so many clusters."""
    degrees = max(1, clusters - 1)
    return float(special.stdtrit(degrees, 0.5 + level / 2) + special.stdtrit(degrees, power))


def _find_power(samples: int, flips: float, difference: float, level: float) -> float:
    """Probability that McNemar's exact test on so many samples finds a difference."""
    share = max(flips, difference)
    # Numbers of flips farther from the expected one do not come about.
    reach = 6 * math.sqrt(samples * share * (1 - share)) + 20
    least, greatest = max(0, int(samples * share - reach)), int(samples * share + reach)
    count = np.arange(least, min(samples, greatest) + 1)
    up_to = special.bdtr(np.arange(least - 1, count[-1] + 1), samples, share)
    chance = np.diff(np.nan_to_num(up_to))
    most = _find_most(count, 1 - level)
    up = (share + difference) / (2 * share)
    reached = special.bdtr(most, count, up) + special.bdtr(most, count, 1 - up)
    return float(chance @ np.where(most >= 0, reached, 0.0))


def _find_most(flips: NDArray[np.int_], alpha: float) -> NDArray[np.int_]:
    """Most flips to the rarer side with which McNemar's exact test rejects; -1 for none."""
    near = np.floor(np.nan_to_num(special.bdtrik(alpha / 2, flips, 0.5)))
    most: NDArray[np.int_] = (near - (2 * special.bdtr(near, flips, 0.5) >= alpha)).astype(int)
    return most


def _sum_clusters(data: NDArray[np.float64], clusters: Sequence[str]) -> NDArray[np.float64]:
    if data.ndim != 1 or len(data) != len(clusters):
        raise ValueError(
            f"differences must have shape (n,) and one cluster each, got {data.shape} and"
            f" {len(clusters)} clusters"
        )
    _, index = index_clusters(clusters)
    sums: NDArray[np.float64] = np.bincount(index, weights=data).astype(np.float64)
    return sums


def _count_signs(sizes: NDArray[np.int_], counts: NDArray[np.int_], total: int) -> float:
    """Share of sign assignments whose sum is at least `total` from 0, several sizes of sums.

    Of each size the number of plus signs is binomial; their weighted sum is a convolution.
    """
    shares = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        ups = np.arange(count + 1)
        log_share = (
            special.gammaln(count + 1)
            - special.gammaln(ups + 1)
            - special.gammaln(count - ups + 1)
            - count * math.log(2)
        )
        # Adding shifted copies takes as long as the shares that matter are many; those left out
        # could only be missed by p-values below 1e-25.
        longer = np.zeros(len(shares) + size * count)
        for up in np.flatnonzero(log_share > -70).tolist():
            share = math.exp(log_share[up])
            longer[up * size : up * size + len(shares)] += share * shares
        shares = longer
    reach = int(sizes @ counts)
    sums = 2 * np.arange(reach + 1) - reach
    return min(1.0, float(shares[np.abs(sums) >= total].sum()))
