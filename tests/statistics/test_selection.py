"""Choosing rungs, the winner's curse, Holm."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdback.errors import InsufficientDataError
from holdback.statistics.measurement import Measurement
from holdback.statistics.selection import (
    adjust_holm,
    adjust_max_t,
    choose_rung,
    expected_maximum_z,
    winner_interval,
)


def rung(value, bound=None):
    return Measurement(value=value, influence={"a": 0.0, "b": 0.0}, n=2, method="", bound=bound)


@pytest.mark.parametrize(
    ("k", "gold"), [(1, 0.0), (2, 0.56419), (5, 1.16296), (10, 1.53875), (20, 1.86748)]
)
def test_best_of_k_null_rungs(k, gold):
    """Harter's (1961) table of expected normal maxima."""
    assert expected_maximum_z(k) == pytest.approx(gold, abs=1e-5)


def test_chooses_the_highest_and_of_equals_the_cheapest():
    """Ladders are listed cheapest first, so the first of equals is the cheapest."""
    assert choose_rung({"displayed": rung(1), "format": rung(3), "tune": rung(3)}) == "format"


def test_infinite_ratings_are_ranked_by_what_is_known():
    """All lost comes last; all won counts with its lower bound, not as infinite."""
    few_lucky_games = rung(math.inf, bound=1400.0)

    assert choose_rung({"a": rung(-math.inf, 900.0), "b": rung(100)}) == "b"
    assert choose_rung({"a": few_lucky_games, "b": rung(1600)}) == "b"
    assert choose_rung({"a": few_lucky_games, "b": rung(1300)}) == "a"
    assert choose_rung({"a": rung(-math.inf), "b": rung(-math.inf)}) == "a"
    with pytest.raises(InsufficientDataError, match="at least 1 rung"):
        choose_rung({})


def measure_rungs(rng, means, *, clusters=40, correlation=0.7):
    """Rungs measured on the same clusters, on which they gain and lose together."""
    shared = rng.normal(size=(clusters, 1)) * np.sqrt(correlation)
    apart = rng.normal(size=(clusters, len(means))) * np.sqrt(1 - correlation)
    data = means + shared + apart
    names = [f"c{i}" for i in range(clusters)]
    parts = (data - data.mean(axis=0)) / clusters
    return {
        f"rung{k}": Measurement(
            value=float(data[:, k].mean()),
            influence=dict(zip(names, parts[:, k].tolist(), strict=True)),
            n=clusters,
            method="mean",
        )
        for k in range(len(means))
    }


@pytest.mark.parametrize("clusters", [20, 60])
def test_max_t_holds_the_family_error_rate(clusters):
    """Eight rungs that do nothing, correlated: any at 5% in about 5% of families; Holm is timid."""
    rng, ours, holm = np.random.default_rng(clusters), [], []
    for _ in range(400):
        rungs = measure_rungs(rng, np.zeros(8), clusters=clusters, correlation=0.9)
        ours.append(min(adjust_max_t(rungs, rng, draws=399).values()) < 0.05)
        holm.append(min(adjust_holm([r.p_above() for r in rungs.values()])) < 0.05)

    assert 0.02 < np.mean(ours) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(holm) < np.mean(ours)


def test_max_t_finds_a_planted_gain_and_only_that():
    """One rung of six gains half a standard deviation; p-values stay at or above the rungs' own."""
    rng, found = np.random.default_rng(1), []
    for _ in range(100):
        rungs = measure_rungs(rng, np.array([0, 0, 0.5, 0, 0, 0]), clusters=60)
        adjusted = adjust_max_t(rungs, rng, draws=399)
        assert all(adjusted[name] >= rungs[name].p_above() for name in rungs)
        found.append([p < 0.05 for p in adjusted.values()])

    rates = np.mean(found, axis=0)
    assert rates[2] > 0.85
    assert np.delete(rates, 2).max() < 0.12


def test_max_t_of_one_rung_is_its_own_test():
    """With nothing to correct for, flipping signs agrees with Student's t."""
    rng = np.random.default_rng(2)
    rungs = measure_rungs(rng, np.array([0.3]), clusters=50)

    (adjusted,) = adjust_max_t(rungs, rng, draws=20_000).values()

    assert adjusted == pytest.approx(rungs["rung0"].p_above(), rel=0.2, abs=2e-3)


@pytest.mark.parametrize("means", [[0.0] * 8, [0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 3.0]])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_winner_is_covered(means, correlation):
    """Of equals, of unequals and of a clear winner: 95%; the winner's own interval flatters."""
    rng, ours, naive, above = np.random.default_rng(3), [], [], []
    for _ in range(400):
        rungs = measure_rungs(rng, np.array(means), correlation=correlation)
        winner = choose_rung(rungs)
        truth = means[int(winner.removeprefix("rung"))]
        found, own = winner_interval(rungs), rungs[winner].estimate()
        ours.append(found.low <= truth <= found.high)
        naive.append(own.low <= truth <= own.high)
        above.append(found.value > truth)

    assert np.mean(ours) > 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(above) == pytest.approx(0.5, abs=0.1)
    if len(set(means)) == 1 and correlation == 0:
        assert np.mean(naive) < 0.87


def test_a_clear_winner_pays_little():
    """Who wins by ten standard errors has nearly the interval that it would have alone."""
    rungs = measure_rungs(np.random.default_rng(4), np.array([0.0, 3.0]))
    found, own = winner_interval(rungs), rungs["rung1"].estimate()

    assert found.value == pytest.approx(own.value, abs=1e-3)
    assert 1 <= (found.high - found.low) / (own.high - own.low) < 1.06


def test_a_narrow_winner_is_drawn_back():
    """Won by a hair: the estimate lies below the value, and the interval stays finite."""
    rungs = measure_rungs(np.random.default_rng(5), np.zeros(6), correlation=0.0)
    best = rungs[choose_rung(rungs)]
    found = winner_interval(rungs)

    assert found.value < best.value
    assert math.isfinite(found.low)
    assert found.low < best.estimate().low
    assert found.method.startswith("best of 6 on the same data")


def test_infinite_rungs_are_refused():
    """A bound is no number to be drawn around."""
    rungs = {"a": rung(1.0), "b": rung(math.inf, bound=3.0)}
    with pytest.raises(ValueError, match="infinite ones of"):
        winner_interval(rungs)
    with pytest.raises(ValueError, match="infinite ones of"):
        adjust_max_t(rungs, np.random.default_rng(0))


def test_holm_published_example():
    """Holm (1979) steps: 0.01, 0.04, 0.03, 0.005 adjust to 0.03, 0.06, 0.06, 0.02."""
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_order(p_values, random):
    """Adjusted p-values follow their p-value through any shuffle, never fall below it."""
    order = random.sample(range(len(p_values)), len(p_values))

    adjusted = adjust_holm(p_values)
    shuffled = adjust_holm([p_values[i] for i in order])

    assert shuffled == pytest.approx([adjusted[i] for i in order])
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))


def test_holm_holds_the_family_error_rate():
    """Over ten true nulls, any rejection at 5% happens in about 5% of families."""
    draws = np.random.default_rng(0).random((4000, 10))

    rejected = np.mean([min(adjust_holm(row)) < 0.05 for row in draws])

    assert rejected == pytest.approx(0.05, abs=0.01)
