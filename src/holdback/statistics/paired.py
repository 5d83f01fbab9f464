"""Two conditions on the same samples: tests, and how many samples they need."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import special

from holdback.statistics.measurement import Measurement


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two conditions succeed equally often.

    Args:
        only_first: Samples on which only the first condition succeeded.
        only_second: Samples on which only the second did. Samples where both agree say nothing.

    Source: McNemar (1947), with the exact binomial in place of χ².
    """
    flips = only_first + only_second
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    # Both tails of a fair coin are alike; importing scipy.stats would take a report 0.4 s.
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), flips, 0.5)))


def smallest_detectable_excess(
    standard_error: float,
    margin: float,
    *,
    power: float = 0.8,
    level: float = 0.95,
    tests: int = 1,
) -> float:
    """True excess that is called significant, and above `margin`, with probability `power`.

    Significant: by the lower end of a two-sided interval and by a one-sided test at α over `tests`,
    which Holm's correction asks of the clearest of them; the later ones are asked for less.
    """
    one_sided = 1 - 2 * (1 - level) / tests
    significant = _z_sum(power, max(level, one_sided)) * standard_error
    return max(significant, margin + float(special.ndtri(power)) * standard_error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Equivalence:
    """Result of two one-sided tests against a margin."""

    p_above: float
    """p-value of the null that the value is at most -margin."""
    p_below: float
    """p-value of the null that the value is at least +margin."""

    @property
    def p_value(self) -> float:
        """p-value of the null that the value lies outside the margin on either side."""
        return max(self.p_above, self.p_below)


def assess_equivalence(measurement: Measurement, margin: float) -> Equivalence:
    """Test whether a value is 0 up to a margin, by two one-sided tests (TOST).

    Args:
        measurement: A difference.
        margin: Above 0, in its unit.

    Source: Schuirmann (1987).
    """
    if margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin!r}")
    return Equivalence(p_above=measurement.p_above(-margin), p_below=measurement.p_below(margin))


def _z_sum(power: float, level: float) -> float:
    return float(special.ndtri(0.5 + level / 2) + special.ndtri(power))
