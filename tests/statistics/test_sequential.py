"""Looks: published boundaries, and what stopping early does to errors and sample size."""

import itertools

import numpy as np
import pytest
from crossing import crossing_probability
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdback.statistics.means import clustered_mean
from holdback.statistics.sequential import (
    Spending,
    look_levels,
    nominal_levels,
)

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


def boundary(fractions, alpha, spending):
    return stats.norm.isf(np.array(nominal_levels(fractions, alpha, spending)) / 2)


@pytest.mark.parametrize(
    ("fractions", "spending", "gold"),
    [
        (FIVE, "obrien_fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
        ([0.5, 1.0], "obrien_fleming", [2.963, 1.969]),
        (FIVE, "pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_published_boundaries(fractions, spending, gold):
    """Two-sided 5% boundaries of Reboussin et al. (2000), as `ldbounds` and `gsDesign` print."""
    found = boundary(fractions, 0.05, Spending(spending))

    assert found == pytest.approx(np.array(gold), abs=6e-4)


def test_published_one_sided_boundary():
    """One-sided 5%, four looks: 3.7496, 2.5399, 2.0160, 1.7201 (SeqBounds.jl, against ldbounds)."""
    fractions, gold = [0.25, 0.5, 0.75, 1.0], [3.74955, 2.53993, 2.01604, 1.72014]
    spent = np.cumsum(crossing_probability(fractions, gold, sides=1))

    assert spent == pytest.approx(
        np.array([Spending.OBRIEN_FLEMING.spend(t, 0.05) for t in fractions]), abs=1e-5
    )


def test_one_look_is_the_fixed_test():
    """With a single look there is nothing to pay for."""
    for spending in Spending:
        assert nominal_levels([1.0], 0.05, spending) == pytest.approx([0.05])
    assert look_levels([120]) == pytest.approx([0.95])


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from(list(Spending)),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_boundaries_spend_alpha(steps, spending, alpha):
    """However the looks are spaced, what is crossed up to each is what was to be spent."""
    looks = list(itertools.accumulate(steps))
    fractions = [look / looks[-1] for look in looks]
    crossed = np.cumsum(crossing_probability(fractions, boundary(fractions, alpha, spending)))

    assert crossed == pytest.approx(
        np.array([2 * spending.spend(t, alpha / 2) for t in fractions]), abs=1e-8
    )


def test_unequal_looks_against_simulated_walks():
    """Looks at 10%, 25% and 90% and at the end: a million walks cross as computed."""
    fractions = np.array([0.1, 0.25, 0.9, 1.0])
    z = boundary(fractions, 0.1, Spending.POCOCK)
    steps = np.sqrt(np.diff(fractions, prepend=0.0))
    walks = np.cumsum(np.random.default_rng(0).normal(size=(1_000_000, 4)) * steps, axis=1)
    crossed = np.abs(walks / np.sqrt(fractions)) > z
    first = np.argmax(np.column_stack([crossed, np.ones(len(crossed), dtype=bool)]), axis=1)

    found = np.bincount(first, minlength=5)[:4] / len(walks)

    assert found == pytest.approx(np.array(crossing_probability(fractions, z)), abs=1e-3)
    assert found.sum() == pytest.approx(0.1, abs=1e-3)


def test_drift_gives_power():
    """Jennison and Turnbull: an O'Brien–Fleming-like design of five looks loses little power."""
    fixed = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    power = sum(
        crossing_probability(FIVE, boundary(FIVE, 0.05, Spending.OBRIEN_FLEMING), drift=fixed)
    )

    assert 0.78 < power < 0.80


@pytest.mark.parametrize("spending", list(Spending))
@pytest.mark.parametrize("family", [1, 4, 10])
def test_one_sided_claims_and_holm_are_paid_for_as_well(spending, family):
    """j true nulls, each held one-sided against α_k/j: by Bonferroni at most α over all looks."""
    levels = np.array(look_levels([20, 40, 60, 80, 100], spending=spending, family=family))
    for left in range(1, family + 1):
        z = stats.norm.isf((1 - levels) / left)
        assert left * sum(crossing_probability(FIVE, z, sides=1)) <= 0.05 + 1e-9
    assert sum(crossing_probability(FIVE, stats.norm.isf((1 - levels) / 2))) <= 0.05 + 1e-9


def test_levels_are_levels():
    """However early the look, its level is one that an interval can have."""
    levels = look_levels([1, 50, 1000])

    assert all(0.95 <= level < 1 for level in levels)
    assert list(levels) == sorted(levels, reverse=True)


def draw_pairs(rng, difference, *, clusters, size=3):
    """Paired 0/1 scores in clusters: sisters share how hard they are, and which side they suit."""
    hard = rng.normal(0, 1, (clusters, 1)) + rng.normal(0, 0.7, (clusters, size))
    suits = rng.normal(0, 0.5, (clusters, 1))
    first = (hard + suits + rng.normal(0, 0.7, hard.shape) + difference > 0).astype(float)
    second = (hard - suits + rng.normal(0, 0.7, hard.shape) > 0).astype(float)
    return first.ravel(), second.ravel(), [f"c{i:04d}" for i in np.repeat(range(clusters), size)]


def stop(rng, difference, looks, levels):
    """Look by look until the interval leaves 0 out; clusters used, and whether it did."""
    first, second, names = draw_pairs(rng, difference, clusters=looks[-1])
    for look, level in zip(looks, levels, strict=True):
        seen = 3 * look
        one, other = (
            clustered_mean(scores[:seen], names[:seen], support=(0.0, 1.0))
            for scores in (first, second)
        )
        found = one.minus(other).estimate(level)
        if found.low > 0 or found.high < 0:
            return look, True
    return looks[-1], False


@pytest.mark.parametrize("looks", [(20, 40, 60, 80, 100), (8, 16, 24, 32, 40)])
def test_stopping_early_keeps_the_error_rate(looks):
    """Clustered paired 0/1 scores, Student's t: at looks' own levels 5%, at 95% each far more."""
    rng = np.random.default_rng(looks[0])
    levels = look_levels(looks)
    draws = 800
    careful = np.mean([stop(rng, 0.0, looks, levels)[1] for _ in range(draws)])
    careless = np.mean([stop(rng, 0.0, looks, [0.95] * 5)[1] for _ in range(draws // 2)])

    assert careful <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / draws)
    assert careless > 0.09


def test_stopping_early_saves_samples():
    """With something to find, fewer clusters are run on average, at nearly the fixed power."""
    rng, looks = np.random.default_rng(5), (20, 40, 60, 80, 100)
    levels = look_levels(looks)
    runs = [stop(rng, 0.45, looks, levels) for _ in range(300)]
    fixed = np.mean([stop(rng, 0.45, looks[-1:], [0.95])[1] for _ in range(300)])

    assert np.mean([used for used, _ in runs]) < 80
    assert np.mean([found for _, found in runs]) > fixed - 0.06


def test_what_is_no_schedule_is_refused():
    """Looks that do not grow, and levels that are none."""
    with pytest.raises(ValueError, match="must grow"):
        look_levels([40, 40])
    with pytest.raises(ValueError, match="counts of at least 1"):
        look_levels([])
    with pytest.raises(ValueError, match="alpha must lie"):
        nominal_levels([1.0], 0.0)
