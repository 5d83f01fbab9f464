"""Measurements: paired differences, bounds of infinite values, degrees of freedom."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.errors import InsufficientDataError
from holdback.statistics.elo import rate_player
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement

UNIT = (0.0, 1.0)
binary = st.lists(st.integers(0, 1), min_size=3, max_size=30)


def mean(values, clusters=None):
    return clustered_mean(values, clusters or [str(i) for i in range(len(values))], support=UNIT)


def lost(games, opponent=1500.0):
    return rate_player([0] * games, [opponent] * games, [str(i) for i in range(games)])


def drawn_and_won(games, opponent=1500.0):
    clusters = [str(i) for i in range(games)]
    return rate_player([1, 0.5] * (games // 2), [opponent] * games, clusters)


@given(binary, st.randoms(use_true_random=False))
def test_swapping_sides_negates_the_difference(values, random):
    """a - b and b - a are mirror images: value, interval and both p-values."""
    other = [random.randint(0, 1) for _ in values]
    there, back = mean(values).minus(mean(other)), mean(other).minus(mean(values))

    one, two = there.estimate(), back.estimate()
    assert one.value == pytest.approx(-two.value)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert there.p_above(0.1) == pytest.approx(back.p_below(-0.1))


@given(binary, st.floats(0.01, 1000))
def test_a_change_of_unit_changes_nothing_else(values, factor):
    """An interval in points is the interval in shares times 100."""
    plain, scaled = mean(values).estimate(), mean(values).times(factor).estimate()

    expected = tuple(factor * end for end in (plain.low, plain.value, plain.high))
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(expected)


def test_pairing_removes_what_both_sides_share():
    """Two conditions that differ by a constant shift plus little noise: the difference is sharp."""
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0, 0.8, 200)
    first, second = mean(hardness + rng.uniform(0, 0.02, 200)), mean(hardness)

    assert first.minus(second).standard_error < 0.05 * first.standard_error


def test_unshared_clusters_add_their_variances():
    """Without a common cluster the difference is that of two independent samples."""
    rng = np.random.default_rng(1)
    one = mean(rng.integers(0, 2, 80).tolist(), [f"a{i}" for i in range(80)])
    two = mean(rng.integers(0, 2, 80).tolist(), [f"b{i}" for i in range(80)])

    separate = math.hypot(one.standard_error, two.standard_error)
    assert one.minus(two).standard_error == pytest.approx(separate, rel=0.01)


def test_one_cluster_has_no_standard_error():
    """One cluster has no spread; 0 would be a lie."""
    with pytest.raises(InsufficientDataError, match="at least 2 clusters"):
        _ = mean([0.0, 1.0, 1.0], ["a", "a", "a"]).standard_error


def test_few_informative_clusters_leave_few_degrees_of_freedom():
    """One failure in a hundred gives 2 degrees of freedom; an even split gives 99."""
    right, coin = mean([1] * 100), mean([0, 1] * 50)

    one_failure = right.minus(mean([0] + [1] * 99))
    assert one_failure.degrees_of_freedom == pytest.approx(2, abs=0.1)
    assert right.minus(coin).degrees_of_freedom == 99


def test_equal_outcomes_do_not_make_a_difference_certain():
    """Two techniques that agree on 100 samples may still differ on the next: ±3.6 points."""
    values = [0, 1] * 50

    difference = mean(values).minus(mean(values)).estimate()

    assert difference.value == 0
    assert difference.high == pytest.approx(0.0362, abs=0.0002)
    assert difference.low == -difference.high


def test_gap_above_an_infinite_rating_has_a_lower_bound():
    """Displayed all lost: the gap is at least the elicited's lower bound less the bound."""
    elicited, displayed = drawn_and_won(100), lost(100)

    gap = elicited.minus(displayed)

    assert gap.value == math.inf
    assert gap.bound == pytest.approx(elicited.lower(0.95) - displayed.bound)
    estimate = gap.estimate()
    assert (estimate.low, estimate.high) == (gap.bound, math.inf)
    assert displayed.minus(elicited).estimate().high == pytest.approx(-gap.bound)


def test_two_infinite_ratings_have_no_difference():
    """All lost both times: undetermined, not zero."""
    estimate = lost(10).minus(lost(20)).estimate()

    assert math.isnan(estimate.value)
    assert not estimate.determined
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert lost(10).minus(lost(20)).p_above() == 1.0


def test_gap_of_gaps_keeps_the_infinite_bound():
    """Target gap infinite, control gap finite: the excess is bounded below and tested."""
    gap = drawn_and_won(100).minus(lost(100))
    control = drawn_and_won(100).minus(drawn_and_won(60))

    excess = gap.minus(control)

    assert excess.lower() == pytest.approx(gap.lower() - control.upper())
    assert excess.p_above(0.0) < 0.01
    assert excess.p_above(5000.0) == 1.0


@given(st.integers(5, 200), st.floats(0.9, 0.999))
def test_bounds_at_any_level_are_near_the_exact_ones(games, level):
    """The bound's log(-log α) law follows the exact bound -400 log10(1/(1 - α^(1/N)) - 1)."""
    alpha = 1 - level
    share = 1 - alpha ** (1 / games)
    exact = 1500 - 400 * math.log10(1 / share - 1)

    assert lost(games).upper(level) == pytest.approx(exact, abs=40)


def test_p_value_of_an_infinite_rating_inverts_its_bound():
    """p is the level at which the bound touches the threshold."""
    won = lost(30).times(-1)
    threshold = won.lower(0.99)

    assert won.p_above(threshold) == pytest.approx(0.01, rel=1e-3)


def test_ratio_of_paired_measurements():
    """The ratio of a thing to itself is 1 up to the floor; to a noisy thing it has an interval."""
    rng = np.random.default_rng(2)
    top = mean(rng.uniform(0.4, 0.6, 300))
    bottom = mean(rng.uniform(0.7, 0.9, 300))

    ratio = top.divided_by(bottom)

    assert ratio.value == pytest.approx(0.5 / 0.8, abs=0.02)
    independent = ratio.value * math.hypot(
        top.standard_error / top.value, bottom.standard_error / bottom.value
    )
    assert ratio.standard_error == pytest.approx(independent, rel=0.1)
    with pytest.raises(InsufficientDataError, match="away from 0"):
        top.divided_by(top.minus(top))


def test_measurements_survive_pickling():
    """Executors send measurements between processes."""
    gap = drawn_and_won(20).minus(lost(20))

    assert pickle.loads(pickle.dumps(gap)) == gap


def test_negative_infinity_is_never_above_a_threshold():
    """A player who lost everything gives no evidence of any strength."""
    assert lost(10).p_above(-10_000) == 1.0
    assert isinstance(lost(10), Measurement)
