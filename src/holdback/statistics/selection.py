"""Choosing the best of several rungs; tests of several findings at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

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
