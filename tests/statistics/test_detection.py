"""Rates, AUROC and quantiles of a detector: published figures, brute force, coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdback.errors import InsufficientDataError
from holdback.statistics.detection import (
    auroc,
    clustered_rate,
    measure_auroc,
    quantile,
    rate,
    roc_curve,
)

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)

# Hanley and McNeil (1982), table 1: one reader's ratings 1 … 5 of CT images.
NORMAL = np.repeat([1, 2, 3, 4, 5], [33, 6, 6, 11, 2])
ABNORMAL = np.repeat([1, 2, 3, 4, 5], [3, 2, 2, 11, 33])


def families(count, size, side=""):
    return [f"{side}{i // size}" for i in range(count * size)]


def draw_families(rng, mean, count, size, correlation):
    """Normal scores of `count` families of `size`, sisters correlated."""
    shared = rng.normal(size=(count, 1)) * np.sqrt(correlation)
    return (mean + shared + rng.normal(size=(count, size)) * np.sqrt(1 - correlation)).ravel()


def covers(estimate, truth):
    return estimate.low <= truth <= estimate.high


def test_hanley_and_mcneil_readings():
    """Area 0.893; DeLong's standard error is 0.0307 (Stata's `roctab` on the same table)."""
    measured = measure_auroc(ABNORMAL, NORMAL)
    found = auroc(ABNORMAL, NORMAL)

    assert measured.value == pytest.approx(0.8932, abs=5e-5)
    assert measured.standard_error == pytest.approx(0.0307, abs=2e-4)
    assert (found.n, found.n_clusters) == (109, 109)
    # Wald's 0.833 … 0.953, drawn towards one half as a score interval is.
    assert found.low == pytest.approx(0.82, abs=0.015)
    assert found.high == pytest.approx(0.94, abs=0.015)


@settings(deadline=None)
@given(scores, scores)
def test_area_counts_pairs(positive, negative):
    """The share of pairs in the right order, ties a half; SciPy's U; the area below the points."""
    pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(positive, negative)]
    area = auroc(positive, negative).value

    assert area == pytest.approx(np.mean(pairs))
    u = stats.mannwhitneyu(positive, negative).statistic
    assert area == pytest.approx(u / len(positive) / len(negative))
    if min(len(positive), len(negative)) > 1:
        points = roc_curve(positive, negative)
        x = [point.false_alarms.value for point in points]
        y = [point.detections.value for point in points]
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert area == pytest.approx(np.trapezoid(y, x))


@settings(deadline=None)
@given(scores, scores)
def test_area_turns_with_the_sign(positive, negative):
    """Calling negatives what were positives mirrors the area and its interval."""
    there, back = auroc(positive, negative), auroc(negative, positive)

    assert there.value == pytest.approx(1 - back.value)
    assert there.low == pytest.approx(1 - back.high, abs=1e-6)


def test_perfect_separation_has_a_width():
    """At 1 the interval still says how few cases it rests on; more narrow it."""
    few, many = auroc([1.0] * 5, [0.0] * 5), auroc([1.0] * 50, [0.0] * 50)

    assert few.high == many.high == 1.0
    assert 0.5 < few.low < 0.8 < many.low < 1


def test_perfect_separation_in_families_counts_families():
    """Three copies of each organism say no more than one does."""
    single = auroc([1.0] * 4, [0.0] * 6)
    triple = auroc(
        [1.0] * 12,
        [0.0] * 18,
        positive_clusters=families(4, 3, "p"),
        negative_clusters=families(6, 3, "n"),
    )

    assert triple.low == pytest.approx(single.low)
    assert (triple.n, triple.n_clusters) == (30, 10)


@pytest.mark.parametrize(("m", "n", "distance"), [(10, 10, 1.0), (30, 30, 2.0), (50, 20, 0.5)])
def test_area_is_covered(m, n, distance):
    """Binormal scores: the 95% interval covers the true area in 93% or more of draws."""
    rng, truth = np.random.default_rng(m), stats.norm.cdf(distance / np.sqrt(2))
    covered = [
        covers(auroc(rng.normal(distance, 1, m), rng.normal(0, 1, n)), truth) for _ in range(800)
    ]
    assert np.mean(covered) > 0.93


def test_area_is_covered_in_families():
    """Six families of three correlated at 0.8: counted as 18 they undercover, as families not."""
    rng, truth = np.random.default_rng(1), stats.norm.cdf(1.5 / np.sqrt(2))
    groups = {
        "positive_clusters": families(6, 3, "p"),
        "negative_clusters": families(6, 3, "n"),
    }
    naive, aware = [], []
    for _ in range(600):
        ups, downs = draw_families(rng, 1.5, 6, 3, 0.8), draw_families(rng, 0.0, 6, 3, 0.8)
        naive.append(covers(auroc(ups, downs), truth))
        aware.append(covers(auroc(ups, downs, **groups), truth))

    assert np.mean(naive) < 0.86
    assert np.mean(aware) > 0.93


def test_rate_in_families_of_one_is_exact():
    """No families: Clopper–Pearson, as SciPy has it."""
    hits = np.array([1, 1, 0, 0, 0, 0, 0, 1, 0, 0])
    gold = stats.binomtest(3, 10).proportion_ci(method="exact")

    for found in (rate(3, 10), clustered_rate(hits, families(10, 1))):
        assert (found.low, found.high) == pytest.approx((gold.low, gold.high))
        assert (found.value, found.n) == (0.3, 10)


def test_rate_of_copies_is_that_of_families():
    """Where sisters never differ, and where nothing was ever hit, families are what is counted."""
    copies = clustered_rate(np.repeat([1, 0, 0, 0, 0], 3), families(5, 3))
    none = clustered_rate(np.zeros(15), families(5, 3))

    assert none.high == pytest.approx(rate(0, 5).high)
    assert (copies.low, copies.high) == pytest.approx((rate(1, 5).low, rate(1, 5).high))
    assert (copies.n, copies.n_clusters) == (15, 5)


def test_rate_is_covered_in_families():
    """Beta-binomial hits in 20 families of three, correlation 0.5."""
    rng, truth = np.random.default_rng(2), 0.8
    naive, aware = [], []
    for _ in range(800):
        own = rng.beta(truth, 1 - truth, (20, 1))
        hits = (rng.random((20, 3)) < own).astype(int).ravel()
        naive.append(covers(rate(int(hits.sum()), 60), truth))
        aware.append(covers(clustered_rate(hits, families(20, 3)), truth))

    assert np.mean(naive) < 0.9
    assert np.mean(aware) > 0.945


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.floats(0.02, 0.98))
def test_quantile_ends_are_the_binomial_ones(n, q):
    """Ends are the innermost order statistics whose binomial tails are at most 2.5%."""
    found = quantile(np.arange(n), q)
    position = stats.binom(n, q)
    lower = [rank for rank in range(n) if position.cdf(rank) <= 0.025]
    upper = [rank for rank in range(n) if position.sf(rank) <= 0.025]

    assert found.low == min(lower[-1], found.value) if lower else found.low == -np.inf
    assert found.high == max(upper[0], found.value) if upper else found.high == np.inf


@pytest.mark.parametrize(("n", "q"), [(20, 0.5), (100, 0.95), (60, 0.1)])
def test_quantile_is_covered(n, q):
    """Whatever the distribution, here a skewed one, 95% covers at least 95%."""
    rng, truth = np.random.default_rng(n), stats.expon.ppf(q)
    covered = [covers(quantile(rng.exponential(size=n), q), truth) for _ in range(1500)]

    assert np.mean(covered) >= 0.94


def test_quantile_is_covered_in_families():
    """Families of three correlated at 0.8 undercover when counted apart."""
    rng, naive, aware = np.random.default_rng(3), [], []
    for _ in range(800):
        values = draw_families(rng, 0.0, 10, 3, 0.8)
        naive.append(covers(quantile(values, 0.5), 0.0))
        aware.append(covers(quantile(values, 0.5, clusters=families(10, 3)), 0.0))

    assert np.mean(naive) < 0.88
    assert np.mean(aware) >= 0.94


def test_what_cannot_be_counted_is_said():
    """No cases, one family, and scores that are no numbers."""
    with pytest.raises(InsufficientDataError, match="positive score"):
        auroc([], [1.0])
    with pytest.raises(InsufficientDataError, match="at least 2 clusters"):
        clustered_rate([1, 0], ["a", "a"])
    with pytest.raises(ValueError, match="without NaN"):
        quantile([1.0, np.nan], 0.5)
    with pytest.raises(ValueError, match="a cluster for each of 2 positive"):
        auroc([1, 2], [0], positive_clusters=["a"])
