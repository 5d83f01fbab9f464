"""Intervals for a share of independent samples.

For clustered samples, and for anything that is to be subtracted, use `means.clustered_mean`.
"""

from __future__ import annotations

from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Exact interval: covers with at least `level` for every share and every n.

    Raises:
        InsufficientDataError: if n is 0.
        ValueError: if `successes` is not within 0 … n.

    Source: Clopper and Pearson (1934).
    """
    _check_counts(successes, n)
    tail = (1 - level) / 2
    low = special.betaincinv(successes, n - successes + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
    return Estimate(
        value=successes / n,
        low=float(low),
        high=float(high),
        n=n,
        n_clusters=n,
        method="Clopper–Pearson",
        level=level,
    )


def _check_counts(successes: int, n: int) -> None:
    if n < 1:
        raise InsufficientDataError(f"need at least 1 sample for a share, got {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie within 0 and n = {n}, got {successes}")
