"""How accuracy falls with difficulty: a logistic curve above what guessing gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement, index_clusters

Floats = NDArray[np.float64]

_LEAST_KNOWN, _MOST_KNOWN = 0.05, 0.95


def difficulty_slope(
    correct: ArrayLike, level: ArrayLike, chance: ArrayLike, clusters: Sequence[str]
) -> Measurement:
    """Slope b of P(correct) = c + (1 - c) logistic(a + b·level), c being the chance of a guess.

    The slope of what is known, not of what is right: two solvers of different strength, to whom the
    same steps are as hard, have the same b though the weaker guesses more (Rasch's model with
    guessing). An honest solver has b below 0.

    Args:
        correct: Shape (n,), 0 or 1.
        level: Difficulty, shape (n,), in steps of the task's own.
        chance: Probability that a guess is right, shape (n,) or one for all; below 1.
        clusters: Cluster of each question, length n.

    Returns:
        The slope in logits a level, with clustered errors.

    Raises:
        InsufficientDataError: at ceiling or floor, where the curve is flat for anybody: the share
            known, (accuracy - c)/(1 - c), must lie within 5% and 95% with 95% confidence; with
            one level; or where one level parts right and wrong exactly.

    Source: Birnbaum (1968), with the guessing parameter known; Liang and Zeger (1986).
    """
    right, across, guess = _check_columns(correct, level, chance, clusters)
    _require_room(right, guess, clusters)
    centred = across - across.mean()
    design = np.column_stack([np.ones(len(right)), centred])
    known = (right.mean() - guess.mean()) / (1 - guess.mean())
    theta = np.array([float(special.logit(known)), 0.0])
    theta, inverse = _fit(design, right, guess, theta)
    scores = design * _score(design @ theta, right, guess)[:, None]
    names, index = index_clusters(clusters)
    parts = np.bincount(index, weights=scores @ inverse[:, 1])
    return Measurement(
        value=float(theta[1]),
        influence=dict(zip(names, parts.tolist(), strict=True)),
        n=len(right),
        method=f"logistic slope above guessing, clustered (CR1, t); {len(names)} clusters",
    )


def _require_room(right: Floats, guess: Floats, clusters: Sequence[str]) -> None:
    """Accuracy says something of difficulty only where it could rise as well as fall."""
    known = (right - guess) / (1 - guess)
    support = (min(0.0, float(known.min())), 1.0)
    mean = clustered_mean(known, clusters, support=support)
    low, high = mean.lower(0.975), mean.upper(0.975)
    if not (low > _LEAST_KNOWN and high < _MOST_KNOWN):
        raise InsufficientDataError(
            f"accuracy is at floor or ceiling: beyond guessing {mean.value:.0%} [{low:.0%},"
            f" {high:.0%}] is known, expected within {_LEAST_KNOWN:.0%} and {_MOST_KNOWN:.0%}; no"
            " fall with difficulty could be seen there"
        )


def _fit(design: Floats, right: Floats, guess: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Fisher scoring with step halving; returns parameters and inverse information."""
    value = _log_likelihood(design @ theta, right, guess)
    spread = float(np.abs(design[:, 1]).max())
    for _ in range(100):
        logit = design @ theta
        information = design.T @ (design * _weight(logit, guess)[:, None])
        if abs(theta[0]) + abs(theta[1]) * spread > 50 or np.linalg.cond(information) > 1e12:
            raise InsufficientDataError(
                "one level parts right and wrong exactly, so that no slope fits; add questions"
                " around it"
            )
        step = np.linalg.solve(information, design.T @ _score(logit, right, guess))
        if float(np.abs(step).max()) < 1e-9:
            break
        for _ in range(40):
            proposed = _log_likelihood(design @ (theta + step), right, guess)
            if proposed >= value - 1e-12 * abs(value):
                break
            step = step / 2
        theta, value = theta + step, proposed
    inverse: Floats = np.linalg.inv(information).astype(np.float64)
    return theta, inverse


def _probability(logit: Floats, guess: Floats) -> Floats:
    probability: Floats = guess + (1 - guess) * special.expit(logit)
    return probability


def _log_likelihood(logit: Floats, right: Floats, guess: Floats) -> float:
    wrong = np.log1p(-guess) - np.logaddexp(0, logit)
    return float(np.sum(np.where(right > 0, np.log(_probability(logit, guess)), wrong)))


def _score(logit: Floats, right: Floats, guess: Floats) -> Floats:
    """Derivative of each answer's log-likelihood by its logit."""
    probability = _probability(logit, guess)
    score: Floats = (right - probability) * special.expit(logit) / probability
    return score


def _weight(logit: Floats, guess: Floats) -> Floats:
    """Expected information of each answer about its logit."""
    known = special.expit(logit)
    weight: Floats = (1 - guess) * known**2 * (1 - known) / _probability(logit, guess)
    return weight


def _check_columns(
    correct: ArrayLike, level: ArrayLike, chance: ArrayLike, clusters: Sequence[str]
) -> tuple[Floats, Floats, Floats]:
    right, across = np.asarray(correct, dtype=float), np.asarray(level, dtype=float)
    guess = np.broadcast_to(np.asarray(chance, dtype=float), right.shape)
    if right.ndim != 1 or across.shape != right.shape or len(clusters) != len(right):
        raise ValueError(
            f"correct, level and clusters must have one length, got {right.shape}, {across.shape}"
            f" and {len(clusters)}"
        )
    if not np.isin(right, (0.0, 1.0)).all() or not ((guess >= 0) & (guess < 1)).all():
        raise ValueError("expected correct of 0 or 1 and chance within 0 and 1")
    if len(right) < 3 or float(np.ptp(across)) < 1e-12:
        raise InsufficientDataError(
            f"a slope needs 3 questions at 2 or more levels, got {len(right)} at"
            f" {len(np.unique(across))}"
        )
    if not math.isfinite(float(across.sum())):
        raise ValueError("expected finite levels of difficulty")
    return right, across, guess
