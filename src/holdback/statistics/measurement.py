"""A measured capability that can be subtracted from another, sample by sample.

Every capability here is an M-estimate (a mean, a maximum-likelihood rating). To first order it is
its true value plus a sum of independent contributions, one a cluster: the empirical influence
function. Keeping those contributions, and not just a standard error, makes a difference of two
measurements on the same samples *paired*, and a difference of such differences as well.

Four places where the textbook interval would lie, and what stands there instead:

*Few or unequal clusters.* Student's t with the Satterthwaite degrees of freedom that the
contributions themselves show, at most one less than there are clusters. One cluster in a hundred
that does not agree with the rest leaves 2 degrees of freedom, not 99.

*Shares near 0 or 1.* A mean of values in a known range has the Jeffreys interval (Brown, Cai and
DasGupta 2001) at its effective sample size p(1 - p)/SE² (as Korn and Graubard 1998 do with
Clopper–Pearson's), shrunk for few clusters. Differences have the t interval.

*No spread* (100 of 100 correct, every pair drawn). The contributions are all 0, the uncertainty is
not: up to a share u = 1 - 0.025^(1/G) of clusters that behave otherwise would have escaped G
clusters that agree (Clopper–Pearson). `unseen_error` is the standard error whose 95% interval
reaches as far as that share can move the value.

*No finite value* (every game lost). `bound` is the one-sided 95% bound; bounds at other levels
follow by `bound_scale`. In a difference the one-sided bounds are added as they stand, which is
exact if the errors are comonotone and wide otherwise (adding in quadrature, the MOVER of Zou and
Donner 2008, would need the independence that a shared opening takes away).

Sources: Huber and Ronchetti, «Robust Statistics», 2nd ed., §1.3; the clustered variance is the CR1
«sandwich» of Liang and Zeger (1986); degrees of freedom after Bell and McCaffrey (2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate

_BOUND_LEVEL = 0.95
SMALLEST_INFINITE_P = 1e-4
"""p-values of infinite values are not followed below this: `bound_scale` was fitted down to it."""


def index_clusters(clusters: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Number the clusters.

    Args:
        clusters: Cluster of each observation, length n.

    Returns:
        Distinct names in sorted order, and the index of each observation's cluster, shape (n,).
    """
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return [str(name) for name in names], index.reshape(-1)


def escaped_share(clusters: int, level: float = 0.95) -> float:
    """Share of clusters that could behave otherwise and never have shown among `clusters`.

    Source: Clopper and Pearson (1934), upper end at 0 successes.
    """
    return float(1 - ((1 - level) / 2) ** (1 / clusters))


def quantile_t(level: float, degrees_of_freedom: float) -> float:
    """One-sided quantile of Student's t (scipy.special: a hundred times as fast as stats.t)."""
    return float(special.stdtrit(degrees_of_freedom, level))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A capability with the contribution of every cluster to its error.

    `influence` maps a cluster to its contribution, in the unit of `value`; contributions sum to
    about 0, and the sum of their squares is the variance of `value`. An infinite `value` carries
    its one-sided bound in `bound`. NaN is the difference of two infinite values.
    """

    value: float
    influence: Mapping[str, float]
    n: int
    method: str
    bound: float | None = None
    """One-sided 95% bound of an infinite value."""
    bound_scale: float = 0.0
    """How far the bound moves, in the unit of `value`, for each unit of log(-log α)."""
    unseen_error: float = 0.0
    """Standard error that the contributions cannot show: see *no spread* above."""
    support: tuple[float, float] | None = None
    """Least and greatest possible value of a mean; its intervals stay inside (Jeffreys)."""
    parts: tuple[Measurement, Measurement] | None = field(default=None, repr=False)
    """Minuend and subtrahend of an infinite difference: its bounds are theirs."""

    @property
    def n_clusters(self) -> int:
        """Independent units."""
        return len(self.influence)

    @property
    def standard_error(self) -> float:
        """Clustered standard error, in the unit of `value`.

        Raises:
            InsufficientDataError: with fewer than two clusters: one cluster has no spread, and
                0 would be a lie.
        """
        clusters = self.n_clusters
        if clusters < 2:
            raise InsufficientDataError(
                f"need at least 2 clusters for a standard error, got {clusters} ({self.method});"
                " run more samples"
            )
        squares = sum(part * part for part in self.influence.values())
        return math.sqrt(squares * clusters / (clusters - 1) + self.unseen_error**2)

    @property
    def degrees_of_freedom(self) -> float:
        """Effective degrees of freedom of `standard_error`.

        Satterthwaite: 2 E(V)²/Var(V) of V = Σψ², with normal ψ, whose Σσ⁴ is estimated by Σψ⁴/3.
        Equal clusters give G - 1; clusters of which few carry all of the variance, fewer.
        """
        squares = np.fromiter(self.influence.values(), dtype=float) ** 2
        total = float(squares.sum())
        most = max(1.0, len(squares) - 1.0)
        # The Jeffreys interval allows for skewness by itself.
        if total == 0 or self.support is not None:
            return most
        # Scaled first: squares of contributions around 1e-160 are still above 0, their squares not.
        fourth = float(((squares / total) ** 2).sum())
        return min(most, max(1.0, 3 / fourth - 1))

    def lower(self, level: float = 0.95) -> float:
        """One-sided lower bound: the true value lies above it with probability `level`."""
        if math.isnan(self.value) or self.value == -math.inf:
            return -math.inf
        if self.value == math.inf:
            if self.parts is not None:
                return self.parts[0].lower(level) - self.parts[1].upper(level)
            return self._lower_bound_at(level)
        if self.support is not None:
            return self._lower_in_support(level, *self.support)
        return self.value - quantile_t(level, self.degrees_of_freedom) * self.standard_error

    def upper(self, level: float = 0.95) -> float:
        """One-sided upper bound: the true value lies below it with probability `level`."""
        return -self.times(-1).lower(level)

    def p_above(self, threshold: float = 0.0) -> float:
        """One-sided p-value of the null hypothesis that the true value is at most `threshold`."""
        if math.isnan(self.value) or self.value == -math.inf:
            return 1.0
        if self.value == math.inf:
            return self._p_of_bound(threshold)
        beta = None if self.support is None else self._fit_beta(*self.support)
        if self.support is not None and beta is not None:
            low, high = self.support
            share = min(1.0, max(0.0, (threshold - low) / (high - low)))
            return float(special.betainc(*beta, share))
        error, distance = self.standard_error, self.value - threshold
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(special.stdtr(self.degrees_of_freedom, -distance / error))

    def p_below(self, threshold: float = 0.0) -> float:
        """One-sided p-value of the null hypothesis that the true value is at least `threshold`."""
        return self.times(-1).p_above(-threshold)

    def times(self, factor: float) -> Measurement:
        """Change the unit, or the sign."""
        if factor == 0:
            raise ValueError(f"factor must not be 0 ({self.method})")
        support, parts = self.support, self.parts
        if support is not None:
            ends = sorted((factor * support[0], factor * support[1]))
            support = (ends[0], ends[1])
        if parts is not None:
            scaled = (parts[0].times(abs(factor)), parts[1].times(abs(factor)))
            parts = scaled if factor > 0 else (scaled[1], scaled[0])
        return replace(
            self,
            value=factor * self.value,
            influence={name: factor * part for name, part in self.influence.items()},
            bound=None if self.bound is None else factor * self.bound,
            bound_scale=abs(factor) * self.bound_scale,
            unseen_error=abs(factor) * self.unseen_error,
            support=support,
            parts=parts,
        )

    def minus(self, other: Measurement) -> Measurement:
        """Subtract, pairing what the two share; clusters of only one side stand alone."""
        names = list(dict.fromkeys([*self.influence, *other.influence]))
        influence = {
            name: self.influence.get(name, 0.0) - other.influence.get(name, 0.0) for name in names
        }
        value = self.value - other.value
        bound = None
        if value == math.inf:
            bound = self.lower() - other.upper()
        elif value == -math.inf:
            bound = self.upper() - other.lower()
        return Measurement(
            value=value,
            influence=influence,
            n=min(self.n, other.n),
            method=_name_difference(self.method),
            bound=bound,
            unseen_error=math.hypot(
                self.unseen_error, other.unseen_error, _floor_difference(self, other, influence)
            ),
            parts=(self, other) if math.isinf(value) else None,
        )

    def divided_by(self, other: Measurement) -> Measurement:
        """Ratio of two finite measurements, paired, by the delta method.

        Raises:
            InsufficientDataError: if `other` is not significantly different from 0 (one-sided 95%)
                or either is infinite: the ratio would then have no bounded interval (Fieller).
        """
        if not (math.isfinite(self.value) and math.isfinite(other.value)):
            raise InsufficientDataError(
                f"a ratio needs finite values, got {self.value} / {other.value} ({self.method})"
            )
        if other.lower() <= 0 <= other.upper():
            raise InsufficientDataError(
                f"a ratio needs a divisor away from 0, got {other.value:.4g} ± "
                f"{other.standard_error:.2g} ({other.method}); run more samples"
            )
        ratio = self.value / other.value
        error = self.minus(other.times(ratio)) if ratio else self
        return replace(
            error.times(1 / other.value),
            value=ratio,
            support=None,
            method=f"ratio, delta method; {_strip_difference(self.method)}",
        )

    def estimate(self, level: float = 0.95) -> Estimate:
        """Give the value its interval: two-sided where it is finite, one-sided where not."""
        finite = math.isfinite(self.value)
        each_side = 0.5 + level / 2 if finite else level
        return Estimate(
            value=self.value,
            low=self.lower(each_side),
            high=self.upper(each_side),
            n=self.n,
            n_clusters=self.n_clusters,
            method=self.method if finite else f"one-sided bound; {self.method}",
            level=level,
        )

    def _lower_in_support(self, level: float, low: float, high: float) -> float:
        """Lower end of the Jeffreys interval at the effective sample size."""
        beta = self._fit_beta(low, high)
        if beta is None:
            t = quantile_t(level, self.degrees_of_freedom)
            return max(low, self.value - t * self.standard_error)
        share = float(special.betaincinv(*beta, 1 - level))
        return min(self.value, low + (high - low) * share)

    def _fit_beta(self, low: float, high: float) -> tuple[float, float] | None:
        """Give the Beta distribution of the mean; None where there is no spread to fit it to."""
        share, error = (self.value - low) / (high - low), self.standard_error / (high - low)
        if self.unseen_error > 0 or not 0 < share < 1 or error == 0:
            return None
        # 1.96/t shrinks the sample for the few clusters that its size was estimated from.
        shrink = (1.96 / quantile_t(0.975, self.degrees_of_freedom)) ** 2
        samples = (share * (1 - share) / error**2 + 1) * shrink
        return share * samples + 0.5, (1 - share) * samples + 0.5

    def _lower_bound_at(self, level: float) -> float:
        """Give the lower bound of +inf (-inf comes here as its mirror image).

        A player rated r wins everything with probability about exp(-exp((c - r)/scale)), so that
        the bound at 1 - α is linear in log(-log α).
        """
        if self.bound is None:
            return -math.inf
        return self.bound - self.bound_scale * math.log(
            math.log(1 - level) / math.log(1 - _BOUND_LEVEL)
        )

    def _p_of_bound(self, threshold: float) -> float:
        """Find the smallest α whose lower bound is above `threshold`, by bisection on log α."""
        least, most = math.log(SMALLEST_INFINITE_P), math.log(0.5)
        if self.lower(1 - math.exp(most)) <= threshold:
            return 1.0
        if self.lower(1 - math.exp(least)) > threshold:
            return SMALLEST_INFINITE_P
        for _ in range(30):
            middle = (least + most) / 2
            if self.lower(1 - math.exp(middle)) > threshold:
                most = middle
            else:
                least = middle
        return math.exp(most)


def average(measurements: Sequence[Measurement]) -> Measurement:
    """Mean of finite measurements, pairing the clusters that they share.

    Floors are averaged as though they moved together, which is wide.

    Raises:
        ValueError: for none, or an infinite one.
    """
    if not measurements or not all(math.isfinite(one.value) for one in measurements):
        raise ValueError(f"expected finite measurements, got {[m.value for m in measurements]}")
    n = len(measurements)
    names = dict.fromkeys(name for one in measurements for name in one.influence)
    return Measurement(
        value=sum(one.value for one in measurements) / n,
        influence={
            name: sum(one.influence.get(name, 0.0) for one in measurements) / n for name in names
        },
        n=min(one.n for one in measurements),
        method=f"mean of {n}; {measurements[0].method}",
        unseen_error=sum(one.unseen_error for one in measurements) / n,
    )


def _floor_difference(
    first: Measurement, second: Measurement, influence: Mapping[str, float]
) -> float:
    """Floor of a difference whose sides agree in every cluster though each has spread."""
    clusters = len(influence)
    contributions = [*first.influence.values(), *second.influence.values(), 0.0]
    reach = max(contributions) - min(contributions)
    largest = max((abs(part) for part in influence.values()), default=0.0)
    if clusters < 2 or largest > 1e-9 * reach:
        return 0.0
    return escaped_share(clusters) * clusters * reach / quantile_t(0.975, clusters - 1)


def _strip_difference(method: str) -> str:
    return method.removeprefix("difference, paired by cluster; ")


def _name_difference(method: str) -> str:
    return f"difference, paired by cluster; {_strip_difference(method)}"
