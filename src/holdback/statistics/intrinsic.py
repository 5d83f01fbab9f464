"""How strong a player's single moves are, in Elo, apart from what became of its games.

An honest player gives away some of its win probability with every move, on average the less the
stronger it is. How much also hangs on how it stands: who stands at 5% has 5% to lose. From the
moves of honest players of known ratings (`HonestMoves`) the loss to be expected of a rating and a
standing is fitted; turned around, it gives the rating that a set of moves is worth.

Read apart in three bands (behind, level, ahead) this is a test for holding back that needs no other
model: an honest player is worth about the same in every band, and so are its results. Who plays a
1,500's moves while level and a 400's when ahead, or whose results are a 100's, gives games away.

Sources: intrinsic performance ratings from single moves, Regan and Haworth (AAAI 2011); mean loss
against an engine as a measure of strength, Guid and Bratko (ICGA Journal 29, 2006). Theirs fit
human players; here the reference are engine mixes (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from holdback.errors import InsufficientDataError
from holdback.statistics.elo import rate_player
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import Measurement, index_clusters

Floats = NDArray[np.float64]

BINS = 10
"""Of win probability, equally wide."""
# Below a tenth there is next to nothing to lose, and any player loses next to nothing.
BANDS: Mapping[str, tuple[float, float]] = {
    "behind": (0.1, 0.35),
    "level": (0.35, 0.65),
    "ahead": (0.65, 1.0),
}
_MIDDLES = (np.arange(BINS) + 0.5) / BINS
_BAND_OF: Mapping[int, int] = {
    place: number
    for number, (low, high) in enumerate(BANDS.values())
    for place in np.flatnonzero((low <= _MIDDLES) & (high > _MIDDLES)).tolist()
}
"""Bin to the number of the band that its middle lies in."""
LEAST_MOVES = 25
"""Of a band, for a rating from it."""
_LEAST_PLAYERS = 8
"""Honest ones, for their spread."""
_LIMITS = (-1500.0, 4000.0)
"""Ratings beyond these are as good as none: the reference says nothing out there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RatedMoves:
    """Moves of one player, a row each, and the results of the games that they are from."""

    win_probability: Floats
    """Its own before the move, in [0, 1], by the search that `lost` starts from. What that search
    errs by stands on both sides; so it does in the honest players' moves, searched alike."""
    lost: Floats
    """Win probability of the best move less that of the chosen one, in [0, 1]."""
    clusters: Sequence[str]
    """Opening pair of each move."""
    scores: Floats
    """Points of each game, 0, ½ or 1."""
    opponents_elo: Floats
    """Of each game."""
    game_clusters: Sequence[str]
    """Opening pair of each game."""

    def in_band(self, band: str) -> NDArray[np.bool_]:
        """Tell which moves were made in a band; shape (moves,)."""
        low, high = BANDS[band]
        inside = (self.win_probability >= low) & (self.win_probability < high)
        return np.asarray(inside | ((high == 1.0) & (self.win_probability == 1.0)))


@dataclass(frozen=True, kw_only=True)
class HonestMoves:
    """What honest players of known rating lose by how they stand: the reference.

    Shapes: (players,) and (players, BINS).
    """

    names: Sequence[str]
    elo: Floats
    count: Floats
    """Moves of each player in each bin of win probability."""
    lost: Floats
    """Their mean loss, in win probability."""
    deviation: Floats
    """Standard deviation of that loss from move to move."""
    results: Floats
    """Rating by the results of these very games; shape (players,)."""
    evaluation_nodes: int
    """Nodes that each position was searched with: shallow searches see fewer losses."""

    @cached_property
    def curve(self) -> LossCurve:
        """Loss by rating and standing, fitted on all players."""
        return self._fit(np.ones(len(self.elo), bool))

    def _fit(self, used: NDArray[np.bool_]) -> LossCurve:
        """Fit log loss on rating in each bin, by least squares weighted by moves.

        A bin has its own level and slope, a band its own bend: what shallow searches can still tell
        of strong players differs by how they stand.
        """
        design, target, weight = [], [], []
        for player in np.flatnonzero(used):
            x = self.elo[player] / 1000
            for place, band in _BAND_OF.items():
                if self.count[player, place] < 20 or self.lost[player, place] <= 0:
                    continue
                row = np.zeros(2 * BINS + len(BANDS))
                row[place], row[BINS + place], row[2 * BINS + band] = 1.0, x, x * x
                design.append(row)
                target.append(math.log(self.lost[player, place]))
                # Var log m ≈ (sd/m)²/n; players differ by more than that, so that nobody's weight
                # grows without end.
                error = self.deviation[player, place] / self.lost[player, place]
                weight.append(1 / (0.1**2 + error**2 / self.count[player, place]))
        root = np.sqrt(np.array(weight))
        # A faint pull to 0 keeps bins solvable that hardly anybody was in.
        matrix = np.vstack([np.array(design) * root[:, None], 1e-3 * np.eye(2 * BINS + len(BANDS))])
        aim = np.concatenate([np.array(target) * root, np.zeros(2 * BINS + len(BANDS))])
        solved = np.linalg.lstsq(matrix, aim, rcond=None)[0]
        bend = np.zeros(BINS)
        for place, band in _BAND_OF.items():
            bend[place] = solved[2 * BINS + band]
        return LossCurve(
            level=solved[:BINS], slope=np.minimum(solved[BINS : 2 * BINS], -0.1), bend=bend
        )

    @cached_property
    def spread(self) -> Mapping[tuple[str, str], tuple[float, float]]:
        """Mean and standard deviation over honest players of each contrast, in Elo."""
        found = {}
        for first, second in CONTRASTS:
            values = [
                rated[first] - rated[second]
                for rated in self._rated_by_others
                if first in rated and second in rated
            ]
            if len(values) >= _LEAST_PLAYERS:
                found[first, second] = float(np.mean(values)), float(np.std(values, ddof=1))
        return found

    @cached_property
    def misfit(self) -> Mapping[str, float]:
        """Root mean square over honest players of a band's rating less the known one, in Elo."""
        found = {}
        for band in BANDS:
            errors = [
                rated[band] - elo
                for rated, elo in zip(self._rated_by_others, self.elo, strict=True)
                if band in rated
            ]
            if len(errors) >= _LEAST_PLAYERS:
                found[band] = float(np.sqrt(np.mean(np.square(errors))))
        return found

    @cached_property
    def _rated_by_others(self) -> list[dict[str, float]]:
        """Rate each player by a curve fitted on the others; by bands of many moves, and results."""
        players = np.arange(len(self.elo))
        rated = []
        for player in range(len(players)):
            curve = self._fit(players != player)
            by_band = {
                band: curve.rate_mean(self.count[player], self.lost[player], band)
                for band in BANDS
                if self._count_in(player, band) >= 2 * LEAST_MOVES
            }
            by_band["results"] = float(self.results[player])
            rated.append({name: elo for name, elo in by_band.items() if math.isfinite(elo)})
        return rated

    def _count_in(self, player: int, band: str) -> float:
        return float(self.count[player][_bins_of(band)].sum())


CONTRASTS: tuple[tuple[str, str], ...] = (
    *combinations(BANDS, 2),
    ("level", "results"),
)
"""Pairs in which the first is to be the stronger of one who gives games away."""


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """Expected loss of an honest player by rating and standing."""

    level: Floats
    """Log loss at rating 0 in each bin, shape (BINS,)."""
    slope: Floats
    """Its change a thousand Elo at rating 0, below 0, shape (BINS,)."""
    bend: Floats
    """A thousand Elo squared, shape (BINS,); above 0 where shallow searches cannot tell strong
    players apart."""

    def expect(self, elo: float, places: NDArray[np.intp]) -> Floats:
        """Loss to be expected in bins of win probability; shape of `places`."""
        x = elo / 1000
        return np.asarray(
            np.exp(self.level[places] + self.slope[places] * x + self.bend[places] * x * x)
        )

    def rate(self, places: NDArray[np.intp], lost: Floats, weight: Floats | None = None) -> float:
        """Find the rating whose expected losses add up to these; ±∞ outside of all reason."""
        weight = np.ones(len(places)) if weight is None else weight
        total = float(weight @ lost)

        def excess(elo: float) -> float:
            return float(weight @ self.expect(elo, places)) - total

        low, high = _LIMITS
        # More rating loses less: parabolas are used on that side of their turning points alone.
        for slope, bend in zip(self.slope[places], self.bend[places], strict=True):
            turn = -slope / (2 * bend) * 1000 if bend else math.inf
            low, high = (max(low, turn), high) if bend < 0 else (low, min(high, turn))
        if excess(low) <= 0:
            return -math.inf
        if excess(high) >= 0:
            return math.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        return (low + high) / 2

    def rate_mean(self, count: Floats, lost: Floats, band: str) -> float:
        """Do the same from mean losses by bin."""
        places = _bins_of(band)
        filled = places[count[places] > 0]
        return self.rate(filled, lost[filled], count[filled])

    def fall(self, elo: float, places: NDArray[np.intp]) -> Floats:
        """Loss that a point of Elo more saves, below 0."""
        steepness = (self.slope[places] + 2 * self.bend[places] * elo / 1000) / 1000
        return np.asarray(steepness * self.expect(elo, places))


def _bins_of(band: str) -> NDArray[np.intp]:
    number = list(BANDS).index(band)
    return np.array([place for place, other in _BAND_OF.items() if other == number], np.intp)


def place_in_bins(win_probability: Floats) -> NDArray[np.intp]:
    """Number the bin of each win probability."""
    return np.asarray(np.clip((win_probability * BINS).astype(int), 0, BINS - 1), np.intp)


def rate_moves(moves: RatedMoves, honest: HonestMoves, band: str) -> Measurement:
    """Rate a player by its moves in one band.

    Returns:
        The rating in Elo; its error is the sampling error of the moves, clustered by opening, and
        that of such ratings of honest players (`HonestMoves.misfit`).

    Raises:
        InsufficientDataError: for too few moves, or losses that no rating explains.
    """
    inside = moves.in_band(band)
    count = int(inside.sum())
    if count < LEAST_MOVES:
        raise InsufficientDataError(
            f"a rating from moves while {band} needs {LEAST_MOVES} of them, got {count}"
        )
    curve, lost = honest.curve, moves.lost[inside]
    places = place_in_bins(moves.win_probability[inside])
    elo = curve.rate(places, lost)
    if not math.isfinite(elo):
        raise InsufficientDataError(
            f"a rating from moves while {band} needs losses like those of an honest player, got"
            f" {lost.mean():.3f} a move"
        )
    names, index = index_clusters(
        [c for c, used in zip(moves.clusters, inside, strict=True) if used]
    )
    slope = float(curve.fall(elo, places).sum())
    parts = np.bincount(index, weights=(lost - curve.expect(elo, places)) / slope)
    return Measurement(
        value=elo,
        influence=dict(zip(names, parts.tolist(), strict=True)),
        n=count,
        method=f"rating whose expected losses are these moves', clustered; {len(names)} clusters",
        unseen_error=honest.misfit.get(band, 0.0),
    )


def rate_results(moves: RatedMoves) -> Measurement:
    """Rate a player by its results; who lost or won all is given half a point of one game.

    Raises:
        InsufficientDataError: without games.
    """
    scores = moves.scores.copy()
    if len(scores) and scores.min() == scores.max() and scores[0] in (0.0, 1.0):
        # In the accused's favour: of all draws the one that leaves the highest rating.
        scores[int(np.argmax(moves.opponents_elo))] = 0.5
    return rate_player(scores, moves.opponents_elo, moves.game_clusters)


@dataclass(frozen=True, kw_only=True, slots=True)
class BandTest:
    """Whether a player is worth less where it stands better, or by its results."""

    ratings: Mapping[str, Measurement]
    """By band, and `results`; what could not be measured is left out."""
    pair: tuple[str, str]
    """The contrast that is most telling."""
    difference: Estimate
    """Of its two ratings, in Elo; the interval has the honest players' spread in it."""
    p_value: float
    """One-sided, after Bonferroni over the contrasts that could be measured."""


def compare_bands(moves: RatedMoves, honest: HonestMoves) -> BandTest:
    """Test whether a player's moves are worth less when ahead, or its results less than its moves.

    Each contrast of two ratings is set against honest players': they differ a little among
    themselves too, by their style, so that its standard error is √(sampling² + spread²), with
    Student's t of as many degrees of freedom as the honest players leave.

    Raises:
        InsufficientDataError: if no two ratings could be measured.
    """
    ratings = dict(_rate_all(moves, honest))
    tests: list[tuple[float, tuple[str, str], Measurement, float]] = []
    for pair in CONTRASTS:
        if pair[0] not in ratings or pair[1] not in ratings or pair not in honest.spread:
            continue
        usual, spread = honest.spread[pair]
        # Their own misfit stays out: what honest players' ratings differ by is `spread`.
        first, second = (replace(ratings[name], unseen_error=0.0) for name in pair)
        difference = first.minus(second)
        error = math.hypot(difference.standard_error, spread)
        freedom = min(len(honest.elo) - 2, difference.degrees_of_freedom)
        p = float(special.stdtr(freedom, -(difference.value - usual) / error))
        tests.append((p, pair, difference, error))
    if not tests:
        raise InsufficientDataError(
            f"needs {LEAST_MOVES} moves in each of two bands (behind, level, ahead), or while level"
            " and a result, got fewer; add games"
        )
    p, pair, difference, error = min(tests, key=lambda test: test[0])
    reach = float(special.stdtrit(max(1.0, len(honest.elo) - 2), 0.975)) * error
    return BandTest(
        ratings=ratings,
        pair=pair,
        difference=Estimate(
            value=difference.value,
            low=difference.value - reach,
            high=difference.value + reach,
            n=difference.n,
            n_clusters=difference.n_clusters,
            method="difference of intrinsic ratings; the honest players' spread is in it",
        ),
        p_value=min(1.0, p * len(tests)),
    )


def _rate_all(moves: RatedMoves, honest: HonestMoves) -> Iterator[tuple[str, Measurement]]:
    for band in BANDS:
        try:
            yield band, rate_moves(moves, honest, band)
        except InsufficientDataError:
            continue
    if len(moves.scores):
        yield "results", rate_results(moves)
