"""How well a detector tells positives from negatives: what a calibration prints.

Model organisms come in families (three seeds of one recipe), and what is true of one is mostly true
of its sisters. `clusters` names the family; the interval then counts *effective* samples:
p(1 - p)/SE² with the clustered standard error (Korn and Graubard 1998), shrunk for few clusters by
(z/t)², and never fewer than there are clusters, which is what full correlation would leave. Where
nothing varies (no false alarm at all) the correlation cannot be seen, and each cluster counts once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate
from holdback.statistics.intervals import clopper_pearson
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement, index_clusters, quantile_t

Floats = NDArray[np.float64]


def rate(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Share of independent cases, with the exact interval.

    Raises:
        InsufficientDataError: if n is 0.
        ValueError: if `successes` is not within 0 … n.

    Source: Clopper and Pearson (1934).
    """
    return clopper_pearson(successes, n, level=level)


def clustered_rate(hits: ArrayLike, clusters: Sequence[str], *, level: float = 0.95) -> Estimate:
    """Share of cases that come in clusters: Clopper–Pearson at the effective number of cases.

    Args:
        hits: Shape (n,), 0 or 1.
        clusters: Family of each case, length n. If all differ this is `rate`.
        level: Level of the interval.

    Raises:
        InsufficientDataError: with fewer than two clusters.

    Source: Korn and Graubard (1998).
    """
    data = _check_hits(hits)
    share, samples = float(data.mean()), _count_effective(data, clusters, level)
    tail, successes = (1 - level) / 2, share * samples
    low = float(special.betaincinv(successes, samples - successes + 1, tail)) if share else 0.0
    high = (
        float(special.betaincinv(successes + 1, samples - successes, 1 - tail))
        if share < 1
        else 1.0
    )
    return Estimate(
        value=share,
        low=min(low, share),
        high=max(high, share),
        n=len(data),
        n_clusters=len(set(clusters)),
        method=f"Clopper–Pearson at {samples:.3g} effective samples",
        level=level,
    )


def measure_auroc(
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    positive_clusters: Sequence[str] | None = None,
    negative_clusters: Sequence[str] | None = None,
) -> Measurement:
    """Probability that a positive scores above a negative, ties counting half, with its influences.

    For differences of two detectors on the same cases; for its own interval use `auroc`.

    Args:
        positive: Scores of the positives, shape (m,).
        negative: Scores of the negatives, shape (n,).
        positive_clusters: Family of each positive; each its own if unsaid.
        negative_clusters: Family of each negative; a name of both sides is one family.

    Raises:
        InsufficientDataError: without positives or without negatives.
        ValueError: for scores that are NaN, or lengths that differ.

    Source: DeLong, DeLong and Clarke-Pearson (1988); in clusters Obuchowski (1997).
    """
    above, below = _check_scores(positive, "positive"), _check_scores(negative, "negative")
    groups = [
        *_name_clusters(positive_clusters, len(above), "positive"),
        *_name_clusters(negative_clusters, len(below), "negative"),
    ]
    placements = _place(above, below)
    area = float(placements[: len(above)].mean())
    parts = (placements - area) / np.repeat([len(above), len(below)], [len(above), len(below)])
    names, index = index_clusters(groups)
    return Measurement(
        value=area,
        influence=dict(zip(names, np.bincount(index, weights=parts).tolist(), strict=True)),
        n=len(parts),
        method=f"AUROC, DeLong; {len(names)} clusters",
    )


def auroc(
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    positive_clusters: Sequence[str] | None = None,
    negative_clusters: Sequence[str] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Area under the ROC curve, with an interval that has a width at 1 as well.

    The interval holds those θ with |A - θ| ≤ z √V(θ), V being Hanley and McNeil's variance under
    exponential scores, in which both numbers less one are replaced by their mean less one
    (Newcombe's method 5). In clusters both numbers are divided by the ratio of Obuchowski's
    variance to DeLong's, at most down to the number of clusters.

    Args:
        positive: Scores of the positives, shape (m,); higher is to mean positive.
        negative: Scores of the negatives, shape (n,).
        positive_clusters: Family of each positive; each its own if unsaid.
        negative_clusters: Family of each negative; a name of both sides is one family.
        level: Level of the interval.

    Raises:
        InsufficientDataError: without positives or without negatives.

    Source: Newcombe (2006), «Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic», part 2; Hanley and McNeil (1982).
    """
    alone = measure_auroc(positive, negative)
    together = measure_auroc(
        positive,
        negative,
        positive_clusters=positive_clusters,
        negative_clusters=negative_clusters,
    )
    m, n = np.size(positive), np.size(negative)
    inflation = _inflate(alone, together, level)
    effective = (
        max(m / inflation, _count_clusters(positive_clusters, m)),
        max(n / inflation, _count_clusters(negative_clusters, n)),
    )
    low, high = _solve_newcombe(alone.value, effective, level)
    clustered = together.n_clusters < m + n
    return Estimate(
        value=alone.value,
        low=low,
        high=high,
        n=m + n,
        n_clusters=together.n_clusters,
        method="AUROC, Newcombe 5"
        + (f" at {effective[0]:.3g} + {effective[1]:.3g} effective samples" if clustered else "")
        + f"; {m} positive, {n} negative",
        level=level,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RocPoint:
    """What is called positive from a threshold on."""

    threshold: float
    """Scores at or above it are called positive; infinite for the point that calls none so."""
    false_alarms: Estimate
    """Share of the negatives; its interval holds at this threshold, not at all of them."""
    detections: Estimate
    """Share of the positives."""


def roc_curve(
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    positive_clusters: Sequence[str] | None = None,
    negative_clusters: Sequence[str] | None = None,
    level: float = 0.95,
) -> tuple[RocPoint, ...]:
    """Trace detections against false alarms, one point a distinct score, from (0, 0) to (1, 1).

    The area below the points, joined by straight lines, is `auroc`.

    Raises:
        InsufficientDataError: without positives or without negatives.
    """
    above, below = _check_scores(positive, "positive"), _check_scores(negative, "negative")
    up = _name_clusters(positive_clusters, len(above), "positive")
    down = _name_clusters(negative_clusters, len(below), "negative")
    thresholds = [math.inf, *np.unique(np.concatenate([above, below]))[::-1].tolist()]
    return tuple(
        RocPoint(
            threshold=threshold,
            false_alarms=clustered_rate(below >= threshold, down, level=level),
            detections=clustered_rate(above >= threshold, up, level=level),
        )
        for threshold in thresholds
    )


def quantile(
    values: ArrayLike,
    q: float,
    *,
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Quantile with an interval between two of the values, whatever their distribution.

    The l-th smallest lies above the quantile with probability P(B < l), B ~ Binomial(n, q). An end
    that so few values cannot give is infinite.

    Args:
        values: Shape (n,).
        q: Share of the distribution below the quantile, within 0 and 1.
        clusters: Family of each value; n is then the effective number of them.
        level: Level of the interval, which covers with at least that for independent values.

    Raises:
        InsufficientDataError: without values, or with one cluster.
        ValueError: for NaN, or q outside 0 … 1.

    Source: David and Nagaraja (2003), «Order Statistics», §7.1; in clusters Woodruff (1952).
    """
    data = np.sort(_check_scores(values, "value"))
    if not 0 < q < 1:
        raise ValueError(f"q must lie between 0 and 1, got {q!r}")
    n = len(data)
    middle = float(np.quantile(data, q))
    samples = n
    if clusters is not None:
        hits = np.asarray(values, dtype=float) <= middle
        samples = math.floor(_count_effective(hits.astype(float), clusters, level) + 1e-9)
    # Ranks among the effective values: as many for the first of a family as for its last.
    ranks = np.ceil(np.arange(1, n + 1) * samples / n - 1e-9)
    above = special.bdtr(ranks - 1, samples, q)
    below = special.bdtrc(np.floor(np.arange(n) * samples / n + 1e-9), samples, q)
    tail = (1 - level) / 2
    lower, upper = np.flatnonzero(above <= tail), np.flatnonzero(below <= tail)
    low = float(data[lower[-1]]) if len(lower) else -math.inf
    high = float(data[upper[0]]) if len(upper) else math.inf
    return Estimate(
        value=middle,
        low=min(low, middle),
        high=max(high, middle),
        n=n,
        n_clusters=n if clusters is None else len(set(clusters)),
        method=f"{q:.3g} quantile, order statistics"
        + ("" if clusters is None else f" at {samples} effective samples"),
        level=level,
    )


def _count_effective(data: Floats, clusters: Sequence[str], level: float) -> float:
    """Independent samples that would know the share as well; see the module's head."""
    mean = clustered_mean(data, clusters, support=(0.0, 1.0))
    fewest, error = mean.n_clusters, mean.standard_error
    if mean.unseen_error > 0 or fewest == len(data):
        return float(fewest)
    samples = mean.value * (1 - mean.value) / error**2
    return min(float(len(data)), max(float(fewest), samples / _widen(fewest, level)))


def _widen(clusters: int, level: float) -> float:
    """Square of how much wider Student's interval is than the normal one."""
    each_side = 0.5 + level / 2
    return float((quantile_t(each_side, clusters - 1) / special.ndtri(each_side)) ** 2)


def _inflate(alone: Measurement, together: Measurement, level: float) -> float:
    """By how much clusters inflate the variance of an AUROC; without end where it has none."""
    if together.n_clusters == alone.n_clusters:
        return 1.0
    if together.n_clusters < 2:
        raise InsufficientDataError(
            f"need at least 2 clusters for an AUROC's interval, got {together.n_clusters}"
        )
    if alone.standard_error == 0:
        return math.inf
    ratio = (together.standard_error / alone.standard_error) ** 2
    return max(1.0, ratio * _widen(together.n_clusters, level))


def _solve_newcombe(
    area: float, effective: tuple[float, float], level: float
) -> tuple[float, float]:
    z = float(special.ndtri(0.5 + level / 2))
    m, n = effective
    mean_less_one = (m + n) / 2 - 1

    def stretch(theta: float) -> float:
        spread = 1 + mean_less_one * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return z * z * theta * (1 - theta) * spread / (m * n) - (area - theta) ** 2

    # At 0 and 1 the area itself is a root as well; the end lies away from it.
    near = 1e-12
    low = optimize.brentq(stretch, 0.0, area - near) if area > near else 0.0
    high = optimize.brentq(stretch, area + near, 1.0) if area < 1 - near else 1.0
    return float(low), float(high)


def _place(above: Floats, below: Floats) -> Floats:
    """Share of the other side that each score beats, ties counting half; shape (m + n,)."""
    ups, downs = np.sort(above), np.sort(below)
    beaten = np.searchsorted(downs, above, "left") + np.searchsorted(downs, above, "right")
    beating = np.searchsorted(ups, below, "left") + np.searchsorted(ups, below, "right")
    return np.concatenate([beaten / (2 * len(below)), 1 - beating / (2 * len(above))])


def _count_clusters(clusters: Sequence[str] | None, n: int) -> int:
    return n if clusters is None else len(set(clusters))


def _name_clusters(clusters: Sequence[str] | None, n: int, side: str) -> list[str]:
    if clusters is None:
        # A name that no family has.
        return [f"\0{side} {number}" for number in range(n)]
    if len(clusters) != n:
        raise ValueError(f"expected a cluster for each of {n} {side} scores, got {len(clusters)}")
    return list(clusters)


def _check_hits(hits: ArrayLike) -> Floats:
    data = np.asarray(hits, dtype=float)
    if not np.isin(data, (0.0, 1.0)).all():
        raise ValueError(f"expected hits of 0 or 1, got {np.unique(data)[:5].tolist()}")
    return data


def _check_scores(scores: ArrayLike, side: str) -> Floats:
    data = np.asarray(scores, dtype=float)
    if data.ndim != 1 or np.isnan(data).any():
        raise ValueError(f"expected {side} scores of shape (n,) without NaN, got {data.shape}")
    if len(data) == 0:
        raise InsufficientDataError(f"need at least 1 {side} score, got none")
    return data
