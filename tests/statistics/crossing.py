"""How often boundaries are crossed: what those of the package are held against."""

from __future__ import annotations

from collections.abc import Sequence

from holdback.statistics.sequential import _START, _check_fractions


def crossing_probability(
    fractions: Sequence[float], boundary: Sequence[float], *, sides: int = 2, drift: float = 0.0
) -> tuple[float, ...]:
    """Probability of crossing a boundary first at each look.

    Args:
        fractions: Share of the final information at each look, growing, the last at most 1.
        boundary: Standardised values c_k that are to be exceeded, one a look.
        sides: 2 for |Z_k| > c_k, 1 for Z_k > c_k.
        drift: Mean of Z at information 1; 0 under the null hypothesis.

    Returns:
        One probability a look; they sum to the type I error, or with a drift to the power.
    """
    times = _check_fractions(fractions)
    if len(boundary) != len(times):
        raise ValueError(
            f"boundary must have one value a look, got {len(boundary)} for {len(times)}"
        )
    alive, crossed = _START, []
    for time, z in zip(times, boundary, strict=True):
        crossed.append(alive.cross(time, z, sides=sides, drift=drift))
        alive = alive.go_on(time, z, sides=sides, drift=drift)
    return tuple(crossed)
