"""Looking at the data while they come in: levels at which an audit may stop.

An audit that looks several times and stops at the first «significant» interval errs more often than
its level says. Here every look k has a nominal α_k, such that intervals at levels 1 - α_k err
anywhere with probability at most α. How much of α has been spent by a share t of the data is

    O'Brien–Fleming-like   2 - 2 Φ(z_{α/2}/√t)          next to nothing early, nearly all at the end
    Pocock-like            α log(1 + (e - 1) t)         about the same at each look

on each side at α/2, as Lan and DeMets do. Looks need not be equally spaced, and those to come may
be moved, but not because of what the data show.

The boundaries are those of standardised sums with independent increments, found by integrating the
density of the sums that have not crossed yet, look by look. Means of independent clusters have
such increments, and so have differences and maximum-likelihood ratings as far as they are linear.

Sources: Lan and DeMets (1983); Armitage, McPherson and Rowe (1969) for the recursion; Jennison and
Turnbull (2000), «Group Sequential Methods», ch. 7 and 19; Reboussin et al. (2000) for the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

_FARTHEST_Z = 38.0
"""P(|Z| > 38) is the smallest that a float holds."""
_LEAST_NOMINAL = 1e-12
"""Levels nearer to 1 are not told from it by intervals; added to α, it is beyond all measuring."""
_FINEST_STEP = 1e-4
"""Looks that lie closer together, as a share of the data, would need too fine a grid."""


class Spending(StrEnum):
    """How fast α is spent."""

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"

    def spend(self, fraction: float, alpha: float) -> float:
        """One-sided α spent by a share of the data, in [0, alpha]."""
        if self is Spending.POCOCK:
            return alpha * math.log1p((math.e - 1) * fraction)
        return 2 * float(special.ndtr(special.ndtri(alpha / 2) / math.sqrt(fraction)))


def look_levels(
    looks: Sequence[int],
    level: float = 0.95,
    *,
    spending: Spending = Spending.OBRIEN_FLEMING,
    family: int = 1,
) -> tuple[float, ...]:
    """Levels of the intervals and tests at each look, for an overall `level`.

    At look k, when `looks[k]` samples are in, conclude at `levels[k]`:
    `reach_findings(cases, level=levels[k])`; stop if that is conclusive, else run more. Whoever
    stops early reports the interval at the level of that look: all of them hold at once with
    probability `level` (repeated confidence intervals, Jennison and Turnbull 1989).

    One-sided bounds at the same levels («none found») hold at once with probability `level`, too,
    and one-sided p-values that Holm adjusted over up to `family` findings, held against α_k, err
    anywhere at any look with probability at most α. For that α_k is the smallest of the two-sided
    nominal level of α and j times the one-sided one of α/j, j = 1 … `family` (a Holm step with j
    hypotheses left asks for p < α_k/j; Maurer and Bretz 2013 let each hypothesis have the boundary
    of its own share of α).

    Args:
        looks: Samples (better: clusters) at each look, growing; the last is where it ends anyhow.
        level: 1 - α, over all looks.
        spending: How fast α is spent.
        family: Most findings that are adjusted together at a look.

    Returns:
        As many levels as looks, each at least `level`.

    Raises:
        ValueError: for looks that do not grow, or a level outside 0 … 1.
    """
    if not looks or looks[0] < 1:
        raise ValueError(f"looks must be counts of at least 1, got {list(looks)!r}")
    fractions = [count / looks[-1] for count in looks]
    alpha = 1 - level
    nominal = np.array(nominal_levels(fractions, alpha, spending))
    for left in range(1, family + 1):
        boundary = _solve_boundary(fractions, alpha / left, spending, sides=1)
        nominal = np.minimum(nominal, left * special.ndtr(-np.array(boundary)))
    return tuple(max(level, float(1 - max(each, _LEAST_NOMINAL))) for each in nominal)


def nominal_levels(
    fractions: Sequence[float], alpha: float, spending: Spending = Spending.OBRIEN_FLEMING
) -> tuple[float, ...]:
    """Two-sided nominal α at each look: P(|Z_k| > c_k) of a single look, c_k being the boundary.

    Args:
        fractions: Share of the final information at each look, growing, the last at most 1.
        alpha: Probability of crossing anywhere under the null hypothesis.
        spending: How fast α is spent.

    Returns:
        One α a look. Five equal looks at 0.05, O'Brien–Fleming-like: boundaries 4.877, 3.357,
        2.680, 2.290, 2.031.

    Raises:
        ValueError: for fractions that do not grow within 0 … 1, or alpha outside 0 … 1.

    Source: Lan and DeMets (1983).
    """
    boundary = _solve_boundary(fractions, alpha, spending, sides=2)
    return tuple(2 * float(special.ndtr(-z)) for z in boundary)


def _solve_boundary(
    fractions: Sequence[float], alpha: float, spending: Spending, *, sides: int
) -> tuple[float, ...]:
    times = _check_fractions(fractions)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha!r}")
    alive, spent, boundary = _START, 0.0, []
    for time in times:
        total = sides * Spending(spending).spend(time, alpha / sides)
        z = _find_boundary(alive, time, total - spent, sides)
        boundary.append(z)
        alive, spent = alive.go_on(time, z, sides=sides, drift=0.0), total
    return tuple(boundary)


def _find_boundary(alive: _Alive, time: float, spend: float, sides: int) -> float:
    def excess(z: float) -> float:
        return alive.cross(time, z, sides=sides, drift=0.0) - spend

    # So little may be left to spend that no float is beyond it.
    if excess(_FARTHEST_Z) >= 0:
        return _FARTHEST_Z
    from scipy import optimize

    return float(optimize.brentq(excess, -_FARTHEST_Z, _FARTHEST_Z, xtol=1e-12))


@dataclass(frozen=True, slots=True)
class _Alive:
    """Density of the sum S(t) = √t Z(t) over those that have not crossed by time t."""

    time: float
    nodes: Floats
    masses: Floats
    """Probability near each node: density times quadrature weight."""

    def cross(self, time: float, z: float, *, sides: int, drift: float) -> float:
        """Probability of standing beyond ±z (or +z) at `time`, not having crossed before."""
        step = math.sqrt(time - self.time)
        middle = self.nodes + drift * (time - self.time)
        reach = z * math.sqrt(time)
        beyond = special.ndtr((middle - reach) / step)
        if sides == 2:
            beyond = beyond + special.ndtr((-reach - middle) / step)
        return float(self.masses @ beyond)

    def go_on(self, time: float, z: float, *, sides: int, drift: float) -> _Alive:
        """Density at `time` of those who do not cross there."""
        step, spread = math.sqrt(time - self.time), math.sqrt(time)
        # Nobody stands 9 standard deviations out.
        far = 9 * spread
        high = min(z * spread, drift * time + far)
        low = max(-z * spread, drift * time - far) if sides == 2 else drift * time - far
        if not low < high:
            return _Alive(time, np.array([low]), np.array([0.0]))
        # With 6 nodes to a standard deviation of the step, boundaries are exact to 1e-9.
        nodes, weights = _place_nodes(64 * math.ceil(6 * (high - low) / step / 64))
        points = low + (high - low) * (nodes + 1) / 2
        away = (points[:, None] - self.nodes - drift * (time - self.time)) / step
        density = np.exp(-(away**2) / 2) @ self.masses / (step * math.sqrt(2 * math.pi))
        return _Alive(time, points, density * weights * (high - low) / 2)


_START = _Alive(0.0, np.array([0.0]), np.array([1.0]))


@cache
def _place_nodes(n: int) -> tuple[Floats, Floats]:
    """Gauss–Legendre nodes and weights on -1 … 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes, weights


def _check_fractions(fractions: Sequence[float]) -> list[float]:
    times = [float(fraction) for fraction in fractions]
    steps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    if not times or times[-1] > 1 + 1e-12 or min(steps) < _FINEST_STEP:
        raise ValueError(
            f"fractions must grow from above 0 to at most 1, by {_FINEST_STEP} or more a look, got"
            f" {times!r}"
        )
    return times
