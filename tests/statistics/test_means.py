"""Clustered means and slopes: gold variances and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holdback.errors import InsufficientDataError
from holdback.statistics.intervals import clopper_pearson
from holdback.statistics.means import clustered_mean, clustered_slope

UNIT = (0.0, 1.0)
DRAWS = 10_000


def names(clusters, size=1):
    return np.repeat([str(i) for i in range(clusters)], size).tolist()


def covered(data, clusters, truth, support=(-500.0, 500.0)):
    hits = 0
    for row in data:
        estimate = clustered_mean(row, clusters, support=support).estimate()
        hits += estimate.low <= truth <= estimate.high
    return hits / len(data)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=40))
def test_pairs_have_the_pentanomial_variance(pairs):
    """Clusters of two games give Fishtest's pentanomial variance, counted from pair scores."""
    pairs = np.array(pairs)
    games = np.column_stack([np.minimum(1, 2 * pairs), np.maximum(0, 2 * pairs - 1)]).ravel()
    counts = np.array([(pairs == score).sum() for score in (0, 0.25, 0.5, 0.75, 1)])
    n = counts.sum()
    average = counts @ [0, 0.25, 0.5, 0.75, 1] / n
    pentanomial = counts @ (np.array([0, 0.25, 0.5, 0.75, 1]) - average) ** 2 / (n - 1) / n

    measured = clustered_mean(games, names(n, 2), support=UNIT)

    assert measured.value == pytest.approx(average)
    if np.ptp(pairs) > 0:
        assert measured.standard_error**2 == pytest.approx(pentanomial)
    else:
        assert measured.standard_error > 0


def test_independent_values_have_the_t_interval():
    """With clusters of one, far from the ends of the range, scipy's Student interval."""
    values = np.random.default_rng(0).normal(size=12)
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))

    estimate = clustered_mean(values, names(12), support=(-900, 900)).estimate()

    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=6, max_size=20),
    st.randoms(use_true_random=False),
)
def test_order_of_records_does_not_matter(records, random):
    """Records may arrive in any order."""

    def measure(rows):
        return clustered_mean([v for _, v in rows], [str(c) for c, _ in rows], support=UNIT)

    shuffled = random.sample(records, len(records))
    one, two = measure(records), measure(shuffled)
    assert one.value == pytest.approx(two.value)
    assert dict(one.influence) == pytest.approx(dict(two.influence))


@pytest.mark.parametrize("clusters", [10, 100, 500])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_equal_reaches_as_far_as_clopper_pearson(value, clusters):
    """100 of 100 correct has the exact binomial's interval, not a standard error of 0."""
    exact = clopper_pearson(int(value) * clusters, clusters)

    estimate = clustered_mean([value] * clusters, names(clusters), support=UNIT).estimate()

    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_clusters_not_samples_count_where_nothing_varies():
    """Ten clusters of ten equal answers are ten observations, not a hundred."""
    estimate = clustered_mean([1.0] * 100, names(10, 10), support=UNIT).estimate()

    assert estimate.low == pytest.approx(clopper_pearson(10, 10).low)


@pytest.mark.parametrize("clusters", [6, 20, 80])
def test_coverage_of_normal_samples(clusters):
    """Nominal 95% covers 94 to 96% over 10^4 draws, from six samples up."""
    data = np.random.default_rng(clusters).normal(size=(DRAWS, clusters))

    assert 0.94 <= covered(data, names(clusters), 0.0) <= 0.96


def test_coverage_of_clustered_samples():
    """Fifteen clusters of four that share most of their noise: still 94 to 96%."""
    rng = np.random.default_rng(7)
    shared = np.repeat(rng.normal(size=(DRAWS, 15)), 4, axis=1)
    data = shared + 0.5 * rng.normal(size=(DRAWS, 60))

    assert 0.94 <= covered(data, names(15, 4), 0.0) <= 0.96
    assert covered(data[:1000], names(60), 0.0) < 0.80  # what ignoring the clusters would cost


@pytest.mark.parametrize(("share", "samples"), [(0.5, 100), (0.8, 100), (0.3, 200)])
def test_coverage_of_success_rates(share, samples):
    """Shares away from the boundary: 94 to 96%."""
    data = np.random.default_rng(samples).random((DRAWS, samples)) < share

    assert 0.94 <= covered(data, names(samples), share, UNIT) <= 0.96


@pytest.mark.parametrize(("share", "samples"), [(0.98, 100), (0.02, 50), (0.995, 100)])
def test_coverage_near_the_boundary_errs_on_the_safe_side(share, samples):
    """Where counts are too few for 95% exactly, the interval is wide, not short."""
    data = np.random.default_rng(samples).random((2000, samples)) < share

    assert covered(data, names(samples), share, UNIT) >= 0.94


def test_coverage_of_paired_differences():
    """A planted difference of paired, clustered 0/1 outcomes is covered 94 to 96% of the time."""
    rng = np.random.default_rng(3)
    clusters = names(40, 2)
    skill = rng.beta(2, 2, size=(5000, 40)).repeat(2, axis=1)
    first, second = rng.random((2, 5000, 80)) < np.stack([skill, skill * 0.7])
    hits = 0
    for one, two in zip(first, second, strict=True):
        difference = clustered_mean(one, clusters, support=UNIT).minus(
            clustered_mean(two, clusters, support=UNIT)
        )
        estimate = difference.estimate()
        hits += estimate.low <= 0.5 * 0.3 <= estimate.high

    assert 0.94 <= hits / 5000 <= 0.96


def test_slope_agrees_with_least_squares():
    """The slope is scipy's; with clusters of one its error is near the classical one."""
    rng = np.random.default_rng(4)
    x = rng.random(400)
    y = 2 * x + rng.normal(size=400)
    expected = stats.linregress(x, y)

    slope = clustered_slope(x, y, names(400))

    assert slope.value == pytest.approx(expected.slope)
    assert slope.standard_error == pytest.approx(expected.stderr, rel=0.1)


def test_says_what_is_wrong():
    """No values, values out of range, an x that does not vary: each is named."""
    with pytest.raises(InsufficientDataError, match="got none"):
        clustered_mean([], [], support=UNIT)
    with pytest.raises(ValueError, match=r"got 1\.5 at index 1"):
        clustered_mean([0, 1.5], ["a", "b"], support=UNIT)
    with pytest.raises(ValueError, match="got nan"):
        clustered_mean([0, np.nan], ["a", "b"], support=UNIT)
    with pytest.raises(InsufficientDataError, match="at 1;"):
        clustered_slope([1, 1, 1], [0, 1, 0], names(3))
