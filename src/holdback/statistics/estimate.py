"""The one shape in which a measured number travels: with its interval and its sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with a confidence interval.

    `low` or `high` may be infinite: a player who lost every game has no finite rating, only an
    upper bound. `value` is then infinite as well and the interval is one-sided. The difference of
    two such ratings is not determined at all: `value` is then NaN and the interval the whole line.
    """

    value: float
    low: float
    high: float
    n: int
    """Observations: samples or games."""
    n_clusters: int
    """Independent units among them: opening pairs, source games, questions."""
    method: str
    """How the interval was made, as printed in the report."""
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level} ({self.method})")
        if math.isnan(self.value) and (self.low, self.high) == (-math.inf, math.inf):
            return
        if math.isnan(self.value) or not self.low <= self.value <= self.high:
            raise ValueError(
                f"estimate must satisfy low <= value <= high, got {self.low} <= {self.value}"
                f" <= {self.high} ({self.method})"
            )

    @property
    def determined(self) -> bool:
        """Whether the data say anything about the value."""
        return not math.isnan(self.value)
