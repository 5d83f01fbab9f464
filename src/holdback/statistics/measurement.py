"""A measured capability that can be subtracted from another, sample by sample.

Every capability here is an M-estimate (a mean, a maximum-likelihood rating). To first order it is
its true value plus a sum of independent contributions, one a cluster: the empirical influence
function. Keeping those contributions, and not just a standard error, makes a difference of two
measurements on the same samples *paired*, and a difference of such differences as well.

Source: Huber and Ronchetti, «Robust Statistics», 2nd ed., §1.3; the clustered variance is the
CR1 «sandwich» estimator of Liang and Zeger (1986).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A capability with the contribution of every cluster to its error.

    `influence` maps a cluster to its contribution, in the unit of `value`; contributions sum to
    about 0, and the sum of their squares is the variance of `value`. An infinite `value` carries
    its one-sided bound in `bound`.
    """

    value: float
    influence: Mapping[str, float]
    n: int
    method: str
    bound: float | None = None

    @property
    def standard_error(self) -> float:
        """Clustered standard error, in the unit of `value`.

        Raises:
            InsufficientDataError: with fewer than two clusters: one cluster has no spread, and
                0 would be a lie.
        """
        clusters = len(self.influence)
        if clusters < 2:
            raise InsufficientDataError(
                f"need at least 2 clusters for a standard error, got {clusters} ({self.method})"
            )
        return math.sqrt(
            sum(part * part for part in self.influence.values()) * clusters / (clusters - 1)
        )

    def minus(self, other: Measurement) -> Measurement:
        """Subtract, pairing what the two share; clusters of only one side stand alone."""
        names = list(dict.fromkeys([*self.influence, *other.influence]))
        return Measurement(
            value=self.value - other.value,
            influence={
                name: self.influence.get(name, 0.0) - other.influence.get(name, 0.0)
                for name in names
            },
            n=min(self.n, other.n),
            method=f"difference, paired by cluster; {self.method}",
        )

    def estimate(self, level: float = 0.95) -> Estimate:
        """Give the value its interval: Student's t with one degree less than there are clusters."""
        clusters = len(self.influence)
        if math.isinf(self.value):
            bound = self.bound if self.bound is not None else -self.value
            return Estimate(
                value=self.value,
                low=min(self.value, bound),
                high=max(self.value, bound),
                n=self.n,
                n_clusters=clusters,
                method=f"one-sided bound; {self.method}",
                level=level,
            )
        half = float(stats.t.ppf(0.5 + level / 2, clusters - 1)) * self.standard_error
        return Estimate(
            value=self.value,
            low=self.value - half,
            high=self.value + half,
            n=self.n,
            n_clusters=clusters,
            method=self.method,
            level=level,
        )
