"""Flips between two conditions: the exact test and the detectable difference."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from holdback.errors import InsufficientDataError
from holdback.statistics.flips import (
    detectable_by_flips,
    detectable_difference,
    flip_p_value,
)
from holdback.statistics.means import clustered_mean
from holdback.statistics.paired import (
    assess_equivalence,
)

UNIT = (0.0, 1.0)


def alone(n):
    return [str(index) for index in range(n)]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (7, 1), (12, 12), (40, 70)])
def test_without_clusters_it_is_mcnemars_exact_test(gained, lost):
    """statsmodels on the same 2×2 table gives the same p."""
    differences = [1] * gained + [-1] * lost + [0] * 20

    p = flip_p_value(differences, alone(len(differences)))

    table = [[11, gained], [lost, 9]]
    assert p == pytest.approx(mcnemar(table, exact=True).pvalue)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=5), max_size=9))
def test_with_clusters_it_is_the_share_of_sign_assignments(groups):
    """Every assignment of signs to clusters, counted one by one."""
    differences = [value for group in groups for value in group]
    clusters = [str(index) for index, group in enumerate(groups) for _ in group]
    sums = [sum(group) for group in groups]
    totals = [
        abs(sum(sign * value for sign, value in zip(signs, sums, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(sums))
    ]

    p = flip_p_value(differences, clusters)

    assert p == pytest.approx(np.mean(np.array(totals) >= abs(sum(sums))))


def test_scores_other_than_0_and_1_are_refused():
    """Partial credit has no flips to count."""
    with pytest.raises(ValueError, match="0/1 scores"):
        flip_p_value([0.5, 1], alone(2))


def draw_clustered(rng, *, clusters, size, effect=0.0, agree=0.7):
    """0/1 answers of two models to `size` wordings of each question; `agree` ties them."""
    easy = rng.beta(1, 1, size=clusters)
    lean = rng.normal(effect, 0.15, size=clusters)
    first = np.clip(easy, 0, 1)
    other = np.clip(easy + lean, 0, 1)
    shared = rng.random((clusters, size)) < agree
    luck, other_luck = rng.random((2, clusters, size))
    other_luck = np.where(shared, luck, other_luck)
    names = np.repeat(np.arange(clusters), size).astype(str).tolist()
    return (
        (luck < first[:, None]).ravel().astype(float),
        (other_luck < other[:, None]).ravel().astype(float),
        names,
    )


def test_type_one_error_with_clusters_is_kept():
    """Of 600 nulls with clusters that lean, 5% are found at most; by samples far too many."""
    rng = np.random.default_rng(3)
    found, naive = 0, 0
    for _ in range(600):
        first, other, clusters = draw_clustered(rng, clusters=40, size=5)
        found += flip_p_value(other - first, clusters) < 0.05
        naive += flip_p_value(other - first, alone(len(first))) < 0.05

    assert found / 600 < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)
    assert naive > found


def subtract(first, second, clusters, *, support):
    """First minus second over the same samples."""
    one, other = (clustered_mean(s, clusters, support=support) for s in (first, second))
    return one.minus(other)


def test_the_clustered_interval_of_a_difference_covers():
    """The true difference lies in nominal 95% intervals 93 to 97.5% of the time."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(500):
        first, other, clusters = draw_clustered(rng, clusters=60, size=3)
        estimate = subtract(other, first, clusters, support=UNIT).estimate()
        covered += estimate.low <= 0 <= estimate.high

    assert 0.93 <= covered / 500 <= 0.975


def test_the_standard_error_is_the_cluster_robust_one():
    """statsmodels' OLS on a constant, CR1 by cluster, gives the same error of the difference."""
    from statsmodels.regression.linear_model import OLS

    first, other, clusters = draw_clustered(np.random.default_rng(5), clusters=30, size=4)
    fitted = OLS(other - first, np.ones(len(first))).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.array(clusters, dtype=int), "use_correction": True},
    )

    measured = subtract(other, first, clusters, support=UNIT)

    # statsmodels' correction has (n - 1)/(n - k) beside G/(G - 1): 1 for a constant alone.
    assert measured.standard_error == pytest.approx(fitted.bse[0])
    assert measured.value == pytest.approx(fitted.params[0])


def test_equivalence_is_statsmodels_tost():
    """Two one-sided t tests of the paired differences against ±margin."""
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(6)
    first = rng.normal(size=400)
    other = first + rng.normal(0.02, 0.4, size=400)
    p, _, _ = ttost_paired(other, first, -0.1, 0.1)

    measured = subtract(other, first, alone(400), support=(-9.0, 9.0))

    # The degrees of freedom here are Satterthwaite's: a little fewer.
    assert assess_equivalence(measured, 0.1).p_value == pytest.approx(p, rel=0.1)
    assert p < 0.05


def test_the_detectable_difference_is_the_inverse_of_the_required_samples():
    """N for δ = 10 points at 30% flips is 228; 228 such pairs detect 10 points."""
    n = 228
    flips = round(0.3 * n)
    differences = [1, -1] * (flips // 2) + [0] * (n - flips // 2 * 2)

    detectable = detectable_difference(differences, alone(n))

    assert detectable == pytest.approx(0.1, abs=0.002)


def test_the_detectable_difference_is_detected_four_times_in_five():
    """Planted in questions whose three wordings flip together, it is found 80% of the time."""
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(200), 3).astype(str).tolist()
    # 60 of 200 questions flip, half of them each way: no difference, only spread.
    balanced = np.repeat([1, -1, 0], [30, 30, 140])
    reach = detectable_difference(np.repeat(balanced, 3), clusters)
    up = (0.3 + reach) / 2
    found = 0
    for _ in range(500):
        flips = rng.choice([1, -1, 0], size=200, p=[up, 0.3 - up, 0.7])
        measured = clustered_mean(np.repeat(flips, 3), clusters, support=(-9.0, 9.0))
        found += 2 * min(measured.p_above(0), measured.p_below(0)) < 0.05

    assert found / 500 == pytest.approx(0.8, abs=0.06)


def power_of_mcnemar(n, flips, difference):
    """Power of McNemar's exact test on n pairs, by going through every pair of counts."""
    share = max(flips, difference)
    up, down = (share + difference) / 2, (share - difference) / 2
    rejected = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            if stats.binomtest(gained, gained + lost).pvalue < 0.05 if gained + lost else False:
                rejected += stats.multinomial.pmf(
                    [gained, lost, n - gained - lost], n, [up, down, 1 - up - down]
                )
    return rejected


@pytest.mark.parametrize(("n", "gained", "lost"), [(10, 0, 0), (20, 2, 2), (40, 1, 3), (60, 9, 6)])
def test_the_power_of_what_flips_show_is_that_of_the_exact_test(n, gained, lost):
    """Enumerating all outcomes finds 80% power at the difference, and less just below it."""
    differences = [1] * gained + [-1] * lost + [0] * (n - gained - lost)
    flips = (gained + lost) / n

    reach = detectable_by_flips(differences, alone(n))

    assert power_of_mcnemar(n, flips, reach) == pytest.approx(0.8, abs=0.005)
    assert power_of_mcnemar(n, flips, 0.98 * reach) < 0.8
    assert reach > detectable_difference(differences, alone(n))


@pytest.mark.parametrize("clusters", [alone(5), [str(at // 20) for at in range(100)]])
def test_where_the_exact_test_can_reach_nothing_nothing_would_be_found(clusters):
    """The least p-value of five pairs, or of five clusters, is 2/32, above 5%."""
    flips = np.resize([1, 0, -1, 0, 0], len(clusters))

    assert detectable_by_flips([0] * len(clusters), clusters) is None
    assert detectable_by_flips(flips, clusters) is None
    assert detectable_by_flips([0] * 6, alone(6)) > 0.9
    assert detectable_by_flips([0] * 120, np.repeat(alone(6), 20).tolist()) > 0.9


def test_many_pairs_need_what_the_formula_says():
    """With 2,000 flips the normal approximation is the exact test's power, to 2%."""
    differences = [1, -1] * 1000 + [0] * 18_000
    by_formula = detectable_difference(differences, alone(20_000))

    assert detectable_by_flips(differences, alone(20_000)) == pytest.approx(by_formula, rel=0.02)


@pytest.mark.parametrize(("number", "size", "agree"), [(10, 30, 0.2), (30, 5, 0.4), (40, 3, 0.9)])
def test_what_flips_of_clusters_show_is_found_four_times_in_five(number, size, agree):
    """Planted in clusters that move together in part, few or many, it is found as often as said."""
    rng = np.random.default_rng(10)
    clusters = np.repeat(alone(number), size).tolist()

    def draw(difference):
        share = max(0.4, difference)
        odds = [(share + difference) / 2, 1 - share, (share - difference) / 2]
        own = rng.choice([1, 0, -1], size=(number, size), p=odds)
        common = rng.choice([1, 0, -1], size=(number, 1), p=odds)
        return np.where(rng.random((number, size)) < agree, common, own).ravel()

    reach = float(np.median([detectable_by_flips(draw(0), clusters) for _ in range(60)]))
    found = [flip_p_value(draw(reach), clusters) < 0.05 for _ in range(400)]

    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_repeating_every_sample_detects_nothing_more():
    """Three copies of each sample in one cluster are worth one."""
    rng = np.random.default_rng(8)
    differences = rng.choice([-1, 0, 1], size=200, p=[0.1, 0.8, 0.1])

    once = detectable_difference(differences, alone(200))
    thrice = detectable_difference(np.repeat(differences, 3), np.repeat(alone(200), 3).tolist())

    assert thrice == pytest.approx(once)


def test_no_flips_do_not_mean_that_anything_would_be_detected():
    """100 pairs that agree leave room for 3.6% of flips; one cluster says nothing at all."""
    assert 0.03 < detectable_difference([0] * 100, alone(100)) < 0.08
    with pytest.raises(InsufficientDataError, match="2 clusters"):
        detectable_difference([1, 0, -1], ["same"] * 3)


def test_many_clusters_of_several_sizes_are_counted_in_time():
    """25,000 clusters of 2: the normal approximation agrees where it should."""
    rng = np.random.default_rng(9)
    differences = rng.choice([-1, 0, 1], size=50_000, p=[0.095, 0.8, 0.105])
    clusters = np.repeat(np.arange(25_000), 2).astype(str).tolist()
    sums = differences.reshape(-1, 2).sum(axis=1)
    z = abs(sums.sum()) / np.sqrt((sums**2).sum())

    p = flip_p_value(differences, clusters)

    assert p == pytest.approx(2 * stats.norm.sf(z), rel=0.05)
    assert clustered_mean(differences, clusters, support=(-1.0, 1.0)).n_clusters == 25_000
