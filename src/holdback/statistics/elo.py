"""Ratings by maximum likelihood, draws modelled, clustered by opening pair.

With g = 10^(Δ/800) and draw parameter ν, Davidson's model gives a player rated Δ above the other

    P(win) = g / Z,    P(draw) = ν / Z,    P(loss) = (1/g) / Z,    Z = g + 1/g + ν.

At ν = 0 this is Elo's own curve: win probability 1/(1 + 10^(-Δ/400)), with a draw counted as half
a win and half a loss. Its log-likelihood is concave in ratings and log ν, and its score equations
say that the points won equal the points expected.

ν stretches the scale (at Δ = 0 a point is worth 1 + ν/2 times as many Elo), so ratings that are to
be compared need one ν: estimate it once, in the opponents' round robin, and hand it in.

Sources: Elo (1978); Davidson (1970), «On extending the Bradley-Terry model to accommodate ties»;
Hunter (2004) for the conditions under which the maximum exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdback.errors import InsufficientDataError
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import (
    SMALLEST_INFINITE_P,
    Measurement,
    escaped_share,
    index_clusters,
    quantile_t,
)

Floats = NDArray[np.float64]

ELO_PER_UNIT = 800 / math.log(10)
"""Elo for each unit of log g."""
_BOUND_ALPHA = 0.05


def expected_score(difference_elo: float, *, draw_parameter: float = 0.0) -> float:
    """Expected points of one game, in [0, 1], for a player rated `difference_elo` above the other.

    1/(1 + 10^(-Δ/400)) at ν = 0, else (g + ν/2)/(g + 1/g + ν).

    Source: Elo (1978), §1.4; Davidson (1970).
    """
    log_g = np.array([difference_elo / ELO_PER_UNIT])
    return float(0.5 + _curve(log_g, draw_parameter).net[0] / 2)


def rate_player(
    scores: ArrayLike,
    opponents_elo: ArrayLike,
    clusters: Sequence[str],
    *,
    draw_parameter: float | None = 0.0,
) -> Measurement:
    """Rate one player against opponents of fixed rating.

    Args:
        scores: Points of each game, shape (n,): 0, ½ or 1.
        opponents_elo: Rating of each opponent, shape (n,), taken as known.
        clusters: Opening pair of each game, length n; the two games of an opening with colours
            swapped are not independent.
        draw_parameter: Davidson's ν; 0 for Elo's own curve; None to estimate it from these games
            (with half a drawn and half a decisive game between equals added, so that it is finite).

    Returns:
        The rating in Elo. All lost or all won: infinite, with the one-sided 95% bound at which
        such a row of results has probability 5%, each cluster counted as one game.

    Raises:
        InsufficientDataError: without games.
        ValueError: for scores other than 0, ½ and 1, or lengths that differ.
    """
    points, opponents = _check_games(scores, opponents_elo, clusters)
    names, index = index_clusters(clusters)
    if points.min() == points.max() and points[0] != 0.5:
        won = bool(points[0] == 1)
        return _bound_rating(opponents, names, index, won=won, draw_parameter=draw_parameter or 0.0)
    games = _Games(
        design=np.ones((len(points), 1)),
        offset=-opponents / ELO_PER_UNIT,
        net=2 * points - 1,
        cluster=index,
    )
    start = np.array([opponents.mean() / ELO_PER_UNIT])
    return _fit(games, start, draw_parameter).measure(0, names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratings:
    """Result of a round robin."""

    anchor: str
    elo: Mapping[str, Estimate]
    """Every player, the anchor included: its interval is a point, by convention."""
    measurements: Mapping[str, Measurement]
    """Every player but the anchor."""
    draw_parameter: float


def fit_ratings(
    first: Sequence[str],
    second: Sequence[str],
    scores: ArrayLike,
    clusters: Sequence[str],
    *,
    anchor: str,
    anchor_elo: float,
    draw_parameter: float | None = None,
    level: float = 0.95,
) -> Ratings:
    """Rate all players of a tournament jointly.

    Args:
        first: One player of each game, length n.
        second: The other player of each game, length n.
        scores: Points of `first`, shape (n,): 0, ½ or 1.
        clusters: Opening pair of each game, length n.
        anchor: The player whose rating is fixed.
        anchor_elo: That rating, in Elo.
        draw_parameter: Davidson's ν; None to estimate it jointly.
        level: Level of the intervals.

    Raises:
        InsufficientDataError: if the players fall into groups of which one never took a point off
            another: no finite rating links them (Ford 1957).
        ValueError: if the anchor played no game, or lengths differ.
    """
    points, _ = _check_games(scores, np.zeros(len(first)), clusters)
    if not len(first) == len(second) == len(points):
        raise ValueError(
            f"first, second and scores must have one length, got {len(first)}, {len(second)} and"
            f" {len(points)}"
        )
    players, seats = _seat_players(first, second, anchor)
    _require_linked(players, seats, points)
    names, index = index_clusters(clusters)
    rows = np.arange(len(points))
    design = np.zeros((len(points), len(players)))
    np.add.at(design, (rows, seats[0]), 1.0)
    np.add.at(design, (rows, seats[1]), -1.0)
    # The anchor is the last player: its column goes, and ratings are relative to it.
    games = _Games(
        design=design[:, :-1], offset=np.zeros(len(points)), net=2 * points - 1, cluster=index
    )
    fit = _fit(games, np.zeros(len(players) - 1), draw_parameter)
    measured = {
        name: fit.measure(column, names, zero_elo=anchor_elo)
        for column, name in enumerate(players[:-1])
    }
    elo = {name: measurement.estimate(level) for name, measurement in measured.items()}
    fixed = int(np.count_nonzero((seats == len(players) - 1).any(axis=0)))
    elo[anchor] = Estimate(
        value=anchor_elo,
        low=anchor_elo,
        high=anchor_elo,
        n=fixed,
        n_clusters=len(names),
        method="anchor, fixed by convention",
        level=level,
    )
    return Ratings(anchor=anchor, elo=elo, measurements=measured, draw_parameter=fit.nu)


@dataclass(frozen=True, slots=True)
class _Curve:
    """Davidson's probabilities at log g, each of shape (n,)."""

    net: Floats
    """P(win) - P(loss)."""
    draw: Floats
    slope: Floats
    """Derivative of `net` by log g."""
    log_total: Floats
    """log Z."""


def _curve(log_g: Floats, nu: float) -> _Curve:
    # Divided through by exp(|log g|), so that 10^4 Elo apart does not overflow.
    small = np.exp(-np.abs(log_g))
    total = 1 + small**2 + nu * small
    net = np.sign(log_g) * (1 - small**2) / total
    draw = nu * small / total
    return _Curve(
        net=net, draw=draw, slope=1 - draw - net**2, log_total=np.abs(log_g) + np.log(total)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Games:
    """Games as a regression: log g = design @ ratings + offset."""

    design: Floats
    offset: Floats
    net: Floats
    """Points of the first player less the other's: -1, 0 or 1."""
    cluster: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """The likelihood around one choice of parameters: ratings, then log ν if that is free."""

    value: float
    gradients: Floats
    """Each game's, shape (n, parameters)."""
    prior_gradient: Floats
    curvature: Floats
    """Minus the second derivatives, shape (parameters, parameters)."""

    def solve_step(self) -> Floats:
        return np.linalg.solve(self.curvature, self.gradients.sum(axis=0) + self.prior_gradient)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """The maximum, and what each cluster contributes to its error, in units of log g."""

    ratings: Floats
    nu: float
    contributions: Floats
    """Shape (clusters, ratings)."""
    reach: Floats
    """By how much each rating would move if every game went the other way, linearised."""
    played: Floats
    """Games of each player."""

    def measure(self, column: int, names: Sequence[str], *, zero_elo: float = 0.0) -> Measurement:
        parts = self.contributions[:, column] * ELO_PER_UNIT
        floor = 0.0
        if len(parts) >= 2 and float(np.abs(parts).max()) < 1e-6:
            share = escaped_share(len(parts)) / quantile_t(0.975, len(parts) - 1)
            floor = share * float(self.reach[column]) * ELO_PER_UNIT
        return Measurement(
            value=zero_elo + float(self.ratings[column]) * ELO_PER_UNIT,
            influence=dict(zip(names, parts.tolist(), strict=True)),
            n=round(float(self.played[column])),
            method=f"maximum likelihood, Davidson ν = {self.nu:.3g}, clustered by opening pair",
            unseen_error=floor,
        )


def _fit(games: _Games, start: Floats, draw_parameter: float | None) -> _Fit:
    """Maximise the likelihood by Newton's method with step halving (it is concave)."""
    if draw_parameter is not None and draw_parameter < 0:
        raise ValueError(f"draw_parameter must not be negative, got {draw_parameter!r}")
    theta = start if draw_parameter is not None else np.append(start, 0.0)
    point = _evaluate(games, theta, draw_parameter)
    for _ in range(100):
        step = point.solve_step()
        if float(np.abs(step).max()) < 1e-9:
            break
        theta, point = _ascend(games, theta, point, step, draw_parameter)
    inverse = np.linalg.inv(point.curvature)
    summed = np.zeros((int(games.cluster.max()) + 1, len(theta)))
    np.add.at(summed, games.cluster, point.gradients)
    ratings, size = theta[: len(start)], np.abs(games.design)
    nu = math.exp(theta[-1]) if draw_parameter is None else draw_parameter
    expected = _curve(games.design @ ratings + games.offset, nu).net
    return _Fit(
        ratings=ratings,
        nu=nu,
        contributions=(summed @ inverse)[:, : len(start)],
        reach=((1 + np.abs(expected)) @ size) * np.diag(inverse)[: len(start)],
        played=size.sum(axis=0),
    )


def _ascend(
    games: _Games, theta: Floats, point: _Point, step: Floats, draw_parameter: float | None
) -> tuple[Floats, _Point]:
    # 2 units are 700 Elo: enough to arrive soon, too little to land where the curve is flat.
    step = step * min(1.0, 2.0 / float(np.abs(step).max()))
    tolerance = 1e-10 * (1 + abs(point.value))
    for _ in range(30):
        proposed = _evaluate(games, theta + step, draw_parameter)
        if proposed.value >= point.value - tolerance:
            return theta + step, proposed
        step = step / 2
    return theta, point


def _evaluate(games: _Games, theta: Floats, draw_parameter: float | None) -> _Point:
    """Log-likelihood, its gradients and its curvature."""
    free = draw_parameter is None
    nu = math.exp(theta[-1]) if draw_parameter is None else draw_parameter
    log_g = games.design @ (theta[:-1] if free else theta) + games.offset
    curve = _curve(log_g, nu)
    value = float(np.sum(games.net * log_g - curve.log_total))
    gradients = games.design * (games.net - curve.net)[:, None]
    curvature = games.design.T @ (games.design * curve.slope[:, None])
    if not free:
        prior = np.zeros(len(theta))
        return _Point(value=value, gradients=gradients, prior_gradient=prior, curvature=curvature)
    drawn = games.net == 0
    cross = -games.design.T @ (curve.net * curve.draw)
    # Half a drawn and half a decisive game between equals keep ν away from 0 and infinity.
    even = nu / (2 + nu)
    own = float(np.sum(curve.draw * (1 - curve.draw))) + even * (1 - even)
    prior = np.zeros(len(theta))
    prior[-1] = 0.5 - even
    return _Point(
        value=value + float(drawn.sum()) * theta[-1] + 0.5 * (math.log(even) + math.log(1 - even)),
        gradients=np.column_stack([gradients, drawn - curve.draw]),
        prior_gradient=prior,
        curvature=np.block([[curvature, cross[:, None]], [cross[None, :], np.array([[own]])]]),
    )


def _bound_rating(
    opponents: Floats,
    names: Sequence[str],
    index: NDArray[np.intp],
    *,
    won: bool,
    draw_parameter: float,
) -> Measurement:
    """Infinite rating of a player who won, or lost, every game."""
    # Mirrored for all won: the bound of a player who loses to opponents at minus their ratings.
    mirrored = -opponents if won else opponents
    weights = 1 / np.bincount(index)[index]

    def log_probability(rating: float) -> float:
        log_g = (rating - mirrored) / ELO_PER_UNIT
        return float(weights @ (-log_g - _curve(log_g, draw_parameter).log_total))

    near = _solve_bound(log_probability, mirrored, _BOUND_ALPHA)
    far = _solve_bound(log_probability, mirrored, SMALLEST_INFINITE_P)
    steps = math.log(math.log(SMALLEST_INFINITE_P) / math.log(_BOUND_ALPHA))
    return Measurement(
        value=math.inf if won else -math.inf,
        influence=dict.fromkeys(names, 0.0),
        n=len(opponents),
        method=f"all {'won' if won else 'lost'}, Davidson ν = {draw_parameter:.3g},"
        " each opening pair counted once",
        bound=-near if won else near,
        bound_scale=(far - near) / steps,
    )


def _solve_bound(
    log_probability: Callable[[float], float], opponents: Floats, alpha: float
) -> float:
    # Imported where needed, as sparse matrices are: a report takes half as long to begin.
    from scipy import optimize

    low, high = float(opponents.min()) - 4000.0, float(opponents.max()) + 4000.0
    return float(optimize.brentq(lambda r: log_probability(r) - math.log(alpha), low, high))


def _check_games(
    scores: ArrayLike, opponents_elo: ArrayLike, clusters: Sequence[str]
) -> tuple[Floats, Floats]:
    points, opponents = np.asarray(scores, dtype=float), np.asarray(opponents_elo, dtype=float)
    if points.ndim != 1 or points.shape != opponents.shape or len(clusters) != len(points):
        raise ValueError(
            f"scores, ratings and clusters must have one length, got {points.shape},"
            f" {opponents.shape} and {len(clusters)}"
        )
    if len(points) == 0:
        raise InsufficientDataError("need at least 1 game for a rating, got none")
    odd = ~np.isin(points, (0.0, 0.5, 1.0))
    if odd.any():
        raise ValueError(
            f"scores must be 0, 0.5 or 1, got {points[odd][0]} at index"
            f" {int(np.flatnonzero(odd)[0])}; leave out games that were not finished"
        )
    if not np.isfinite(opponents).all():
        raise ValueError("opponents' ratings must be finite; rate them in a round robin first")
    return points, opponents


def _seat_players(
    first: Sequence[str], second: Sequence[str], anchor: str
) -> tuple[list[str], NDArray[np.intp]]:
    """Order the players, the anchor last; columns of both sides of each game, shape (2, n)."""
    players = sorted({*first, *second} - {anchor})
    if anchor not in first and anchor not in second:
        raise ValueError(f"anchor {anchor!r} played no game; players: {', '.join(players)}")
    if any(one == other for one, other in zip(first, second, strict=True)):
        raise ValueError("a game needs two players, got one who plays against themself")
    players.append(anchor)
    column = {name: place for place, name in enumerate(players)}
    return players, np.array([[column[name] for name in side] for side in (first, second)])


def _require_linked(players: Sequence[str], seats: NDArray[np.intp], points: Floats) -> None:
    """Check Ford's condition: a chain of points taken leads from everyone to everyone."""
    takers = np.concatenate([seats[0][points > 0], seats[1][points < 1]])
    givers = np.concatenate([seats[1][points > 0], seats[0][points < 1]])
    size = len(players)
    from scipy import sparse
    from scipy.sparse import csgraph

    graph = sparse.coo_matrix((np.ones(len(takers)), (takers, givers)), shape=(size, size))
    groups, label = csgraph.connected_components(graph, connection="strong")
    if groups > 1:
        smallest = min(range(groups), key=lambda group: int(np.count_nonzero(label == group)))
        apart = [name for name, group in zip(players, label, strict=True) if group == smallest]
        raise InsufficientDataError(
            f"no finite ratings: {', '.join(apart)} won everything from, lost everything to or"
            " never met the other players; add games against an opponent of nearer strength"
        )
