"""Black-box signs of a player who could do better, from the games alone.

    throw signature      loses more win probability the better it stands, beyond the controls
    level-holding        keeps the win probability near even against every strength of opponent
    response curve       its score falls with the opponent's rating otherwise than Elo's curve

Each sign compares a target with honest players of the same ladder, and asks that it differ from
*each* of them: its p-value is the largest over the controls (an intersection-union test, Berger
1982, which needs no further correction). A control that cannot be measured is left out and named.
What opponents' wrong ratings or Stockfish's win probabilities do to everyone is in the controls as
well. A sign is evidence beside the gap, not a verdict: give it controls of the target's own
strength, since honest weakness too has its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.elo import rate_player
from holdback.statistics.estimate import Estimate
from holdback.statistics.means import clustered_mean, clustered_slope
from holdback.statistics.measurement import Measurement, index_clusters

Floats = NDArray[np.float64]
S = TypeVar("S")
R = TypeVar("R")
TARGET = "target"
"""Key of the player under suspicion in `SignTest.points`; a control may not have this name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point of a figure: mean of y over the games or moves around x."""

    x: float
    y: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class SignTest:
    """One sign, with its test and what to draw."""

    name: str
    unit: str
    """Unit of the estimates."""
    statistic: float
    """Difference from the closest control over its standard error; its sign is that of the sign."""
    p_value: float
    """One-sided, except for the response curve."""
    target: Estimate
    controls: Mapping[str, Estimate]
    """Empty where the target was held against a fixed null hypothesis alone."""
    closest: str | None
    """The control from which the target differs least significantly."""
    difference: Estimate | None
    """Target minus `closest`."""
    points: Mapping[str, tuple[Point, ...]]
    """`target` and every control."""
    left_out: Mapping[str, str]
    """Controls that could not be measured, and why."""
    beside: str = ""
    """What else the p-value rests on than `difference`, in words; empty where on nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveLosses:
    """What one player's moves cost: three columns of one length, one row a move."""

    win_probability: ArrayLike
    """The player's own, in [0, 1], by another search than the one that `lost` starts from: of one
    search the error would stand on both sides and pass for a slope."""
    lost: ArrayLike
    """Win probability of the best move less that of the chosen one, in [0, 1]."""
    clusters: Sequence[str]
    """Game, or opening pair, of each move."""


def detect_throwing(target: MoveLosses, controls: Mapping[str, MoveLosses]) -> SignTest:
    """Test whether the target's moves cost more the better it stands, beyond every control's.

    The estimate is the slope of the win probability lost on the player's own win probability. An
    honest player's slope is above 0 as well, since who stands at 5% has at
    most 5% to lose; hence the comparison.

    Args:
        target: The player under suspicion.
        controls: Honest players, best of about the same strength.

    Returns:
        Slopes, in win probability lost for each unit of win probability; `points` by bins of 0.1.

    Raises:
        InsufficientDataError: if a player never stood at two different win probabilities.
    """

    def measure(moves: MoveLosses) -> Measurement:
        return clustered_slope(moves.win_probability, moves.lost, moves.clusters)

    def draw(moves: MoveLosses) -> tuple[Point, ...]:
        edges = np.linspace(0, 1, 11)
        return _bin_means(moves.win_probability, moves.lost, moves.clusters, edges)

    return compare(
        name="throw signature",
        unit="win probability lost for each unit of own win probability",
        measure=measure,
        test=lambda control, difference: difference.p_above(0.0),
        draw=draw,
        target=target,
        controls=controls,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GameLevels:
    """How even one player kept its games: columns of one length, one row a game."""

    win_probability: ArrayLike
    """The player's own, mean over its moves of the game, in [0, 1]."""
    expected_score: ArrayLike
    """From the rating difference, in [0, 1].

    Use the rating that the player is held capable of, its *elicited* one: a player who loses on
    purpose has a displayed rating that expects 0 of every game, and then nothing varies.
    """
    clusters: Sequence[str]


def detect_level_holding(target: GameLevels, controls: Mapping[str, GameLevels]) -> SignTest:
    """Test whether the target keeps games even against weak and strong alike, unlike every control.

    Two things must hold: the slope of its mean win probability on the expected score is flatter
    than the control's, *and* its games stay nearer to even (mean distance of the win probability
    from one half). Weakness flattens the slope, an even ladder keeps games even; only who steers
    does both. The p-value is the larger of the two.

    Returns:
        Slopes, in win probability for each point expected; `points` by bins of 0.1.

    Raises:
        InsufficientDataError: if a player met opponents of one strength only.
    """

    def measure_slope(games: GameLevels) -> Measurement:
        return clustered_slope(games.expected_score, games.win_probability, games.clusters)

    def measure_distance(games: GameLevels) -> Measurement:
        distance = np.abs(np.asarray(games.win_probability, dtype=float) - 0.5)
        return clustered_mean(distance, games.clusters, support=(0.0, 0.5))

    def draw(games: GameLevels) -> tuple[Point, ...]:
        edges = np.linspace(0, 1, 11)
        return _bin_means(games.expected_score, games.win_probability, games.clusters, edges)

    distances, _ = measure_all(measure_distance, target, controls)

    def test(control: str, difference: Measurement) -> float:
        nearer = distances[TARGET].minus(distances[control]).p_below(0.0)
        return max(nearer, difference.p_below(0.0))

    found = compare(
        name="level-holding",
        unit="win probability for each point expected",
        measure=measure_slope,
        test=test,
        draw=draw,
        target=target,
        controls=controls,
    )
    assert found.closest is not None
    nearer = distances[TARGET].minus(distances[found.closest]).estimate()
    beside = (
        f"its games stood {distances[TARGET].value:.2f} from even on average, {nearer.value:+.2f}"
        f" [{nearer.low:.2f}, {nearer.high:.2f}] against that control's, and must stand nearer too"
    )
    return replace(found, beside=beside)


@dataclass(frozen=True, kw_only=True, slots=True)
class GameScores:
    """Results of one player against a ladder: columns of one length, one row a game."""

    scores: ArrayLike
    """Points: 0, ½ or 1."""
    opponents_elo: ArrayLike
    clusters: Sequence[str]


def detect_misfit(target: GameScores, controls: Mapping[str, GameScores]) -> SignTest:
    """Test whether the target's score falls with opponents' rating otherwise than the controls'.

    The estimate is the slope of the fitted logistic in units of Elo's own: 1 for a player to whom
    ratings apply, 0 for one who scores the same against all.

    Returns:
        Slopes (1 is Elo's curve); the p-value is two-sided; `points` has one point an opponent.

    Raises:
        InsufficientDataError: if a player won or lost all games, met one opponent only, or its
            wins and losses part exactly at one rating: no slope fits then.
    """
    # A target between two controls is like neither and odd by no means: it is to differ from all
    # of them in the same direction.
    flatter, steeper = (
        compare(
            name="response curve",
            unit="slope of the score's logistic, Elo's curve = 1",
            measure=lambda games: fit_response(games).slope,
            test=test,
            draw=_draw_response,
            target=target,
            controls=controls,
        )
        for test in (
            lambda control, difference: difference.p_below(0.0),
            lambda control, difference: difference.p_above(0.0),
        )
    )
    found = min(flatter, steeper, key=lambda signature: signature.p_value)
    return replace(found, p_value=min(1.0, 2 * found.p_value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A player's score by opponents' rating, fitted by a logistic with a slope of its own."""

    slope: Measurement
    """In units of Elo's curve."""
    likelihood_ratio: float
    """Twice the gain in log-likelihood over slope 1."""
    p_value: float
    """Of slope 1, by χ² with 1 degree of freedom: conservative where games are drawn, and blind to
    clusters; `slope` is neither."""


def fit_response(games: GameScores) -> Response:
    """Fit the logistic response curve and compare it with Elo's by likelihood ratio.

    Raises:
        InsufficientDataError: as `detect_misfit`.
    """
    # The constrained maximum; it also checks the columns.
    rating = rate_player(games.scores, games.opponents_elo, games.clusters)
    scores = np.asarray(games.scores, dtype=float)
    opponents = np.asarray(games.opponents_elo, dtype=float)
    if not math.isfinite(rating.value) or float(np.ptp(opponents)) < 1e-9:
        raise InsufficientDataError(
            "a response curve needs points won and lost, against 2 opponents or more; got"
            f" {scores.sum():g} points of {len(scores)} games against"
            f" {len(np.unique(opponents))}; add games against other opponents"
        )
    centre = float(opponents.mean())
    design = np.column_stack([np.ones(len(scores)), (centre - opponents) * math.log(10) / 400])
    start = np.array([(rating.value - centre) * math.log(10) / 400, 1.0])
    theta, inverse = _fit_logistic(design, scores, start)
    names, index = index_clusters(games.clusters)
    residuals = scores - special.expit(design @ theta)
    parts = np.bincount(index, weights=residuals * (design @ inverse[:, 1]))
    gain = 2 * (_log_likelihood(design @ theta, scores) - _log_likelihood(design @ start, scores))
    slope = Measurement(
        value=float(theta[1]),
        influence=dict(zip(names, parts.tolist(), strict=True)),
        n=len(scores),
        method="logistic regression on opponents' rating, clustered by opening pair",
    )
    return Response(
        slope=slope,
        likelihood_ratio=max(0.0, gain),
        p_value=float(special.chdtrc(1, max(0.0, gain))),
    )


def measure_all(
    measure: Callable[[S], R], target: S, controls: Mapping[str, S]
) -> tuple[dict[str, R], dict[str, str]]:
    """Measure everybody; controls that cannot be are named with the reason.

    Raises:
        InsufficientDataError: if the target cannot be measured, or no control.
    """
    if not controls or TARGET in controls:
        raise InsufficientDataError(
            f"a sign needs at least one control, none of them named {TARGET!r}; got"
            f" {sorted(controls)}"
        )
    measured = {TARGET: measure(target)}
    left_out: dict[str, str] = {}
    for name, player in controls.items():
        try:
            measured[name] = measure(player)
        except InsufficientDataError as error:
            left_out[name] = str(error)
    if len(measured) == 1:
        raise InsufficientDataError(
            "no control could be measured: "
            + "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        )
    return measured, left_out


def compare(
    *,
    name: str,
    unit: str,
    measure: Callable[[S], Measurement],
    test: Callable[[str, Measurement], float],
    draw: Callable[[S], tuple[Point, ...]],
    target: S,
    controls: Mapping[str, S],
) -> SignTest:
    """Set the target against each control; the one it differs least from decides.

    `test` gives the p-value of a control's name and the target's difference from it.
    """
    measured, left_out = measure_all(measure, target, controls)
    differences = {
        control: measured[TARGET].minus(measurement)
        for control, measurement in measured.items()
        if control != TARGET
    }
    p_values = {control: test(control, differences[control]) for control in differences}
    closest = max(p_values, key=lambda control: p_values[control])
    difference = differences[closest]
    error = difference.standard_error
    return SignTest(
        name=name,
        unit=unit,
        statistic=difference.value / error if error else math.copysign(math.inf, difference.value),
        p_value=p_values[closest],
        target=measured[TARGET].estimate(),
        controls={control: measured[control].estimate() for control in differences},
        closest=closest,
        difference=difference.estimate(),
        points={TARGET: draw(target)}
        | {control: draw(controls[control]) for control in differences},
        left_out=left_out,
    )


def _bin_means(
    x: ArrayLike, y: ArrayLike, clusters: Sequence[str], edges: Floats
) -> tuple[Point, ...]:
    """Mean of y in [0, 1] by bins of x."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    bins = np.clip(np.digitize(across, edges) - 1, 0, len(edges) - 2)
    return group_means(bins, across, up, clusters)


def _draw_response(games: GameScores) -> tuple[Point, ...]:
    opponents = np.asarray(games.opponents_elo, dtype=float)
    _, group = np.unique(opponents, return_inverse=True)
    return group_means(group, opponents, np.asarray(games.scores, dtype=float), games.clusters)


def group_means(
    group: NDArray[np.intp], across: Floats, up: Floats, clusters: Sequence[str]
) -> tuple[Point, ...]:
    """Mean of `up` in [0, 1] a group; groups with fewer than two clusters have no interval.

    Args:
        group: Number of each observation's group, shape (n,).
        across: Where the group stands is the mean of these, shape (n,).
        up: What is averaged, shape (n,).
        clusters: Cluster of each observation, length n.
    """
    points = []
    names = np.asarray(clusters, dtype=str)
    for number in np.unique(group):
        inside = group == number
        mean = clustered_mean(up[inside], names[inside].tolist(), support=(0.0, 1.0))
        if mean.n_clusters >= 2:
            points.append(Point(x=float(across[inside].mean()), y=mean.estimate()))
    return tuple(points)


def _log_likelihood(logit: Floats, scores: Floats) -> float:
    return float(np.sum(scores * logit - np.logaddexp(0, logit)))


def _fit_logistic(design: Floats, scores: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Maximise by damped Newton; returns parameters and inverse information."""
    theta, value = start, _log_likelihood(design @ start, scores)
    for _ in range(100):
        chance = special.expit(design @ theta)
        information = design.T @ (design * (chance * (1 - chance))[:, None])
        if np.linalg.cond(information) > 1e12 or abs(theta[1]) > 100:
            raise InsufficientDataError(
                "a response curve needs wins and losses that overlap in opponents' rating; here"
                " one rating parts them exactly; add games around it"
            )
        step = np.linalg.solve(information, design.T @ (scores - chance))
        if float(np.abs(step).max()) < 1e-10:
            break
        for _ in range(40):
            proposed = _log_likelihood(design @ (theta + step), scores)
            if proposed >= value - 1e-12 * abs(value):
                break
            step = step / 2
        theta, value = theta + step, proposed
    return theta, np.linalg.inv(information)
