"""Intervals of a share: published values, exact coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holdback.errors import InsufficientDataError
from holdback.statistics.intervals import clopper_pearson, wilson

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_both_agree_with_scipy(count, level):
    """scipy's binomtest is the gold for both."""
    successes, n = count
    test = stats.binomtest(successes, n)
    for interval, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        expected = test.proportion_ci(level, method)
        estimate = interval(successes, n, level=level)
        assert estimate.low == pytest.approx(expected.low, abs=1e-9)
        assert estimate.high == pytest.approx(expected.high, abs=1e-9)


def test_published_example():
    """Newcombe (1998), Table I: 81 of 263 is 0.2553 to 0.3662 by Wilson, 0.2527 to 0.3676 exact."""
    assert wilson(81, 263).low == pytest.approx(0.2553, abs=5e-5)
    assert wilson(81, 263).high == pytest.approx(0.3662, abs=5e-5)
    assert clopper_pearson(81, 263).low == pytest.approx(0.2527, abs=5e-5)
    assert clopper_pearson(81, 263).high == pytest.approx(0.3676, abs=5e-5)


@pytest.mark.parametrize("n", [10, 50])
def test_exact_interval_covers_every_share(n):
    """Clopper–Pearson covers at least 95% everywhere, Wilson 94 to 96% on average (computed)."""
    shares = np.linspace(0.02, 0.98, 97)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)

    def coverage(interval):
        ends = [(interval(k, n).low, interval(k, n).high) for k in range(n + 1)]
        low, high = np.array(ends).T
        inside = (low[:, None] <= shares) & (shares <= high[:, None])
        return (chances * inside).sum(axis=0)

    assert coverage(clopper_pearson).min() >= 0.95
    assert 0.94 <= coverage(wilson).mean() <= 0.96


def test_says_what_is_wrong():
    """No samples, or more successes than samples."""
    with pytest.raises(InsufficientDataError, match="got 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="got 4"):
        clopper_pearson(4, 3)
