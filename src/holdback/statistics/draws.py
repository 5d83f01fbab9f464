"""Several draws a question: the chance that one of k is right."""

from __future__ import annotations

from math import comb


def pass_at_k(draws: int, right: int, k: int) -> float:
    """Chance that at least one of `k` draws is right, from how many of more draws were.

    1 − C(n−c, k) / C(n, k), which is unbiased; 1 − (1 − c/n)^k is not.

    Args:
        draws: n, at least `k`.
        right: c, how many of them were right, from 0 to n.
        k: At least 1.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: for numbers outside these ranges.

    Source: Chen et al. 2021, «Evaluating large language models trained on code» (arXiv
    2107.03374), equation 1.
    """
    if not 1 <= k <= draws or not 0 <= right <= draws:
        raise ValueError(
            f"expected 1 <= k <= draws and 0 <= right <= draws, got k={k}, draws={draws},"
            f" right={right}"
        )
    return 1.0 - comb(draws - right, k) / comb(draws, k)
