"""Paired tests, sample sizes, equivalence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holdback.statistics.means import clustered_mean
from holdback.statistics.paired import (
    assess_equivalence,
    mcnemar_exact,
)

UNIT = (0.0, 1.0)


def test_mcnemar_published_example():
    """Fagerland, Lydersen and Laake (2013): 1 and 7 discordant pairs give p = 0.0703."""
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar_exact(0, 0) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_symmetric_and_binomial(first, second):
    """Which condition is called first does not matter; the test is the doubled binomial tail."""
    p = mcnemar_exact(first, second)
    tail = stats.binom.cdf(min(first, second), first + second, 0.5)

    assert p == pytest.approx(mcnemar_exact(second, first))
    assert p == pytest.approx(min(1.0, 2 * tail))


def test_paired_difference_is_the_paired_t_test():
    """With clusters of one, scipy's paired t interval."""
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 60))
    test = stats.ttest_rel(first, second)

    clusters = [str(i) for i in range(60)]
    one, other = (clustered_mean(scores, clusters, support=UNIT) for scores in (first, second))
    difference = one.minus(other)

    interval = test.confidence_interval(0.95)
    estimate = difference.estimate()
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=0.01)
    assert difference.p_above(0.0) == pytest.approx(
        stats.ttest_rel(first, second, alternative="greater").pvalue, abs=0.005
    )


def test_equivalence_errs_as_often_as_it_says():
    """A true difference exactly at the margin is called equivalent in 5% of draws, not more."""
    rng = np.random.default_rng(2)
    clusters = [str(i) for i in range(50)]
    called = 0
    for row in rng.normal(0.1, 0.2, size=(3000, 50)):
        measured = clustered_mean(row, clusters, support=(-9, 9))
        called += assess_equivalence(measured, 0.1).p_value < 0.05

    assert called / 3000 == pytest.approx(0.05, abs=0.012)


def test_equivalence_needs_both_sides():
    """A value far below the margin's negative is not equivalent to 0."""
    measured = clustered_mean([-0.9, -0.8, -0.85], ["a", "b", "c"], support=(-1, 1))

    equivalence = assess_equivalence(measured, 0.1)

    assert equivalence.p_below < 0.05 < equivalence.p_value
