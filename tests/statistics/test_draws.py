"""pass@k is what drawing k of the n answers would give on average."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.statistics.draws import pass_at_k


@given(st.data(), st.integers(1, 9))
def test_equals_the_share_of_subsets_with_a_right_answer(data, n):
    """By counting all subsets of k draws."""
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations(range(n), k))
    share = sum(min(subset) < right for subset in subsets) / len(subsets)

    assert pass_at_k(n, right, k) == pytest.approx(share)


def test_is_unbiased():
    """Its mean over binomial draws is 1 − (1 − p)^k, which the plug-in estimate is not."""
    rng, n, k, p = np.random.default_rng(0), 10, 4, 0.15
    right = rng.binomial(n, p, size=20_000)

    unbiased = np.mean([pass_at_k(n, int(c), k) for c in right])
    plug_in = np.mean(1 - (1 - right / n) ** k)

    truth = 1 - (1 - p) ** k
    assert abs(unbiased - truth) < 0.005
    assert abs(plug_in - truth) > 0.02


def test_refuses_more_than_was_drawn():
    with pytest.raises(ValueError, match="k=4, draws=3"):
        pass_at_k(3, 1, 4)
