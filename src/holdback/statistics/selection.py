"""Choosing the best of several, and what choosing costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import integrate, special

from holdback.errors import InsufficientDataError
from holdback.statistics.measurement import Measurement


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


def _rank(candidate: Measurement) -> float:
    if math.isnan(candidate.value):
        return -math.inf
    return candidate.lower() if candidate.value == math.inf else candidate.value
