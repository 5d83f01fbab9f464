"""Intervals of a share: published values, exact coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holdback.errors import InsufficientDataError
from holdback.statistics.intervals import clopper_pearson

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_it_agrees_with_scipy(count, level):
    """scipy's binomtest is the gold."""
    successes, n = count
    expected = stats.binomtest(successes, n).proportion_ci(level, "exact")
    estimate = clopper_pearson(successes, n, level=level)
    assert estimate.low == pytest.approx(expected.low, abs=1e-9)
    assert estimate.high == pytest.approx(expected.high, abs=1e-9)


def test_published_example():
    """Newcombe (1998), Table I: 81 of 263 is 0.2527 to 0.3676."""
    assert clopper_pearson(81, 263).low == pytest.approx(0.2527, abs=5e-5)
    assert clopper_pearson(81, 263).high == pytest.approx(0.3676, abs=5e-5)


@pytest.mark.parametrize("n", [10, 50])
def test_it_covers_every_share(n):
    """At least 95%, whatever the share is (computed)."""
    shares = np.linspace(0.02, 0.98, 97)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
    intervals = [clopper_pearson(k, n) for k in range(n + 1)]
    low, high = np.array([(each.low, each.high) for each in intervals]).T
    inside = (low[:, None] <= shares) & (shares <= high[:, None])

    assert (chances * inside).sum(axis=0).min() >= 0.95


def test_says_what_is_wrong():
    """No samples, or more successes than samples."""
    with pytest.raises(InsufficientDataError, match="got 0"):
        clopper_pearson(0, 0)
    with pytest.raises(ValueError, match="got 4"):
        clopper_pearson(4, 3)
