"""Mean and slope of sample values that come in clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdback.errors import InsufficientDataError
from holdback.statistics.measurement import (
    Measurement,
    escaped_share,
    index_clusters,
    quantile_t,
)


def clustered_mean(
    values: ArrayLike, clusters: Sequence[str], *, support: tuple[float, float]
) -> Measurement:
    """Mean of sample values.

    A cluster's contribution is the sum of its deviations from the mean, over n. Where every
    cluster has the same mean (100 of 100 correct) there is no spread to estimate: the standard
    error is then the one whose 95% interval reaches as far as the share of unlike clusters that
    Clopper–Pearson leaves possible could move the mean inside `support`.

    Args:
        values: Shape (n,), finite, in the task's unit.
        clusters: Cluster of each value, length n.
        support: Least and greatest possible value, in the same unit; for 0/1 scores (0, 1).

    Returns:
        The mean, in the unit of `values`; intervals stay inside `support`.

    Raises:
        InsufficientDataError: without values.
        ValueError: for values outside `support`, or not as many clusters as values.

    Source: Liang and Zeger (1986); with clusters of one the variance is the mean's, with
    pairs of games the pentanomial variance of Van den Bergh, «Fishtest mathematics».
    """
    data = _check_values(values, clusters, support)
    names, index = index_clusters(clusters)
    mean = float(data.mean())
    parts = np.bincount(index, weights=data - mean) / len(data)
    return Measurement(
        value=min(max(mean, support[0]), support[1]),
        influence=dict(zip(names, parts.tolist(), strict=True)),
        n=len(data),
        method=f"mean, clustered (CR1, Jeffreys at effective size); {len(names)} clusters",
        unseen_error=_floor_mean(mean, parts, support),
        support=support,
    )


def clustered_slope(x: ArrayLike, y: ArrayLike, clusters: Sequence[str]) -> Measurement:
    """Least-squares slope of y on x, with errors that may be shared inside a cluster.

    Args:
        x: Shape (n,).
        y: Shape (n,).
        clusters: Cluster of each point, length n.

    Returns:
        The slope, in units of y for each unit of x.

    Raises:
        InsufficientDataError: with fewer than three points, or if x does not vary.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if across.shape != up.shape or len(clusters) != len(across):
        raise ValueError(
            f"x, y and clusters must have one length, got {across.shape}, {up.shape} and"
            f" {len(clusters)}"
        )
    if len(across) < 3 or float(np.ptp(across)) < 1e-12:
        raise InsufficientDataError(
            f"a slope needs 3 points at 2 or more values of x, got {len(across)} points at"
            f" {len(np.unique(across))}; add opponents or positions of other strength"
        )
    names, index = index_clusters(clusters)
    centred = across - across.mean()
    slope = float(centred @ up / (centred @ centred))
    residuals = up - up.mean() - slope * centred
    parts = np.bincount(index, weights=centred * residuals) / float(centred @ centred)
    return Measurement(
        value=slope,
        influence=dict(zip(names, parts.tolist(), strict=True)),
        n=len(across),
        method=f"least-squares slope, clustered (CR1, t); {len(names)} clusters",
    )


def _check_values(
    values: ArrayLike, clusters: Sequence[str], support: tuple[float, float]
) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or len(data) != len(clusters):
        raise ValueError(
            f"values must have shape (n,) and one cluster each, got {data.shape} and"
            f" {len(clusters)} clusters"
        )
    if len(data) == 0:
        raise InsufficientDataError("need at least 1 value for a mean, got none")
    # Rounding in whoever computed the values is not an error of theirs.
    slack = 1e-9 * (support[1] - support[0])
    outside = ~((data >= support[0] - slack) & (data <= support[1] + slack))
    if outside.any():
        raise ValueError(
            f"values must lie in {support}, got {data[outside][0]} at index"
            f" {int(np.flatnonzero(outside)[0])}; give the task's true range as `support`"
        )
    clipped: NDArray[np.float64] = np.clip(data, *support)
    return clipped


def _floor_mean(mean: float, parts: NDArray[np.float64], support: tuple[float, float]) -> float:
    low, high = support
    if len(parts) < 2 or float(np.abs(parts).max()) > 1e-12 * (high - low):
        return 0.0
    reach = escaped_share(len(parts)) * max(mean - low, high - mean)
    return reach / quantile_t(0.975, len(parts) - 1)
