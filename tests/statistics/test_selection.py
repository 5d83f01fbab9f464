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
    choose_rung,
)


def rung(value, bound=None):
    return Measurement(value=value, influence={"a": 0.0, "b": 0.0}, n=2, method="", bound=bound)


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
