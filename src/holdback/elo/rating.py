"""The rating of one player of a PGN, and whether its games measure skill at all.

Games decided by play are evidence of skill. Games that ended by an illegal move, the clock or
absence are not, whoever lost them: they say how reliably a program plays, not how well. They are
counted apart and left out, wins by the opponent's forfeit as well as losses by one's own.

A player who lost no game but by forfeit is *not measured*. It may be strong and unable to write its
moves down, or forfeit whenever it is about to lose: its remaining games were chosen by itself.
What then can be said is a lower bound, by counting every forfeit as the worst that it could have
been, a loss.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from holdback.elo.endings import Ending
from holdback.elo.player_games import (
    PlayerGame,
    PlayerRecord,
    choose_player,
    cluster_games,
    count_repeats,
    read_player,
    shorten,
)
from holdback.elo.ratings import KnownRatings, write_name
from holdback.errors import ConfigError, InsufficientDataError
from holdback.statistics.elo import expected_score, rate_player
from holdback.statistics.estimate import Estimate
from holdback.statistics.game_signs import GameScores, fit_response
from holdback.statistics.measurement import Measurement


class SkillVerdict(StrEnum):
    """Whether the games say how well the player plays."""

    MEASURED = "measured"
    NOT_MEASURED = "not_measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpponentRow:
    """The games against one opponent; wins, draws and losses are those decided by play."""

    name: str
    elo: float
    wins: int
    draws: int
    losses: int
    forfeits: int
    """Games that the player lost by forfeit."""
    expected: float | None
    """Points expected of the games decided by play, at the player's rating; None without one."""

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON has it."""
        return {
            "player": self.name,
            "elo": self.elo,
            "wins": self.wins,
            "draws": self.draws,
            "losses": self.losses,
            "forfeits": self.forfeits,
            "expected_points": _round(self.expected),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """Whether the score falls with opponents' rating as Elo's curve says."""

    p_value: float | None = None
    """Two-sided, of slope 1."""
    slope: Estimate | None = None
    """Of the score's logistic; 1 is Elo's, 0 that of a player who scores the same against all."""
    reason: str | None = None
    """Why there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PgnRating:
    """One player's games of a PGN, and what they say.

    `games` is the sum of wins, draws, losses (all three decided by play), forfeits, wins by the
    opponent's forfeit and draws by forfeit.
    """

    player: str
    verdict: SkillVerdict
    reason: str | None
    """Why skill is not measured."""
    elo: Estimate | None
    """None where skill is not measured."""
    at_least: float | None
    """Where skill is not measured: one-sided 95% lower bound, every forfeit counted as lost."""
    elo_with_forfeits: Estimate | None
    """The rating with forfeits counted as losses; None where there are none, or no interval."""
    games: int
    wins: int
    draws: int
    losses: int
    forfeits: int
    forfeits_by: Mapping[Ending, int]
    wins_by_forfeit: int
    draws_by_forfeit: int
    unfinished: int
    broken: int
    unrated: int
    unread: Mapping[str, int]
    """Words of `Termination` that are not understood, to the games with them, counted as played."""
    clusters: int
    clustered_by: str
    repeats: int
    """Games decided by play that repeat another move for move."""
    draw_parameter: float
    misfit: Misfit
    opponents: tuple[OpponentRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give what `holdback elo --json` prints; an infinite rating is None with its bound."""
        unmeasured = {"value": None, "low": _round(self.at_least), "high": None}
        with_forfeits, slope = self.elo_with_forfeits, self.misfit.slope
        return {
            "player": self.player,
            "elo": _to_interval(self.elo) if self.elo else unmeasured,
            "games": self.games,
            "wins": self.wins,
            "draws": self.draws,
            "losses": self.losses,
            "forfeits": self.forfeits,
            "verdict": self.verdict.value,
            "misfit_p": self.misfit.p_value,
            "reason": self.reason,
            "misfit_reason": self.misfit.reason,
            "misfit_slope": _to_interval(slope) if slope else None,
            "elo_with_forfeits": _to_interval(with_forfeits) if with_forfeits else None,
            "forfeits_by": {ending.value: n for ending, n in self.forfeits_by.items()},
            "wins_by_forfeit": self.wins_by_forfeit,
            "draws_by_forfeit": self.draws_by_forfeit,
            "unfinished": self.unfinished,
            "broken": self.broken,
            "unrated": self.unrated,
            "terminations_not_understood": dict(self.unread),
            "clusters": self.clusters,
            "clustered_by": self.clustered_by,
            "repeated_games": self.repeats,
            "draw_parameter": self.draw_parameter,
            "opponents": [row.to_dict() for row in self.opponents],
        }


def rate_pgn(
    path: Path,
    ratings: KnownRatings,
    *,
    player: str | None = None,
    encoding: str = "utf-8",
    skip_broken: bool = False,
    skip_unrated: bool = False,
) -> PgnRating:
    """Rate a player of a PGN file against opponents of known rating.

    Args:
        path: The PGN file.
        ratings: Of the opponents.
        player: Whose rating; the one player without a rating who is in every game by default.
        encoding: Of the PGN file.
        skip_broken: Leave broken games out, and count them.
        skip_unrated: Leave out games against opponents without a rating, and count them.

    Raises:
        PgnError: if a game is broken, or there is none.
        ConfigError: if the player cannot be told, or opponents have no rating.
        InsufficientDataError: if no opponent has a rating.
    """
    if player is None:
        name = choose_player(path, ratings.elo, encoding=encoding, skip_broken=skip_broken)
    else:
        name = write_name(player)
    record = read_player(path, name, encoding=encoding, skip_broken=skip_broken)
    return _measure(name, record, ratings, path, skip_unrated=skip_unrated)


def _measure(
    player: str, record: PlayerRecord, ratings: KnownRatings, path: Path, *, skip_unrated: bool
) -> PgnRating:
    games = _keep_rated(player, record.games, ratings, path, skip_unrated=skip_unrated)
    played = [game for game in games if game.ending is Ending.PLAY]
    forfeited = [game for game in games if game.ending.forfeit]
    lost = [game for game in forfeited if game.points == 0]
    rated = _rate(played, ratings)
    obstacle = _find_obstacle(played, lost, rated)
    elo = rated.estimate() if rated is not None and obstacle is None else None
    worst = _rate([*played, *lost], ratings) if lost else None
    misfit = _find_misfit(played, ratings) if elo is not None else Misfit(reason=obstacle)
    clusters, clustered_by = cluster_games(played)
    results = Counter(game.points for game in played)
    return PgnRating(
        player=player,
        verdict=SkillVerdict.NOT_MEASURED if elo is None else SkillVerdict.MEASURED,
        reason=obstacle,
        elo=elo,
        at_least=_bound_below(worst) if elo is None else None,
        elo_with_forfeits=worst.estimate() if worst is not None and _has_interval(worst) else None,
        games=len(games),
        wins=results[1.0],
        draws=results[0.5],
        losses=results[0.0],
        forfeits=len(lost),
        forfeits_by=_count_endings(lost),
        wins_by_forfeit=sum(game.points == 1 for game in forfeited),
        draws_by_forfeit=sum(game.points == 0.5 for game in forfeited),
        unfinished=record.unfinished,
        broken=record.broken,
        unrated=len(record.games) - len(games),
        unread=dict(Counter(record.unread).most_common()),
        clusters=len(set(clusters)),
        clustered_by=clustered_by,
        repeats=count_repeats(played),
        draw_parameter=ratings.draw_parameter,
        misfit=misfit,
        opponents=_list_opponents(games, ratings, elo),
    )


def _keep_rated(
    player: str,
    games: Sequence[PlayerGame],
    ratings: KnownRatings,
    path: Path,
    *,
    skip_unrated: bool,
) -> list[PlayerGame]:
    unrated = Counter(game.opponent for game in games if game.opponent not in ratings.elo)
    if unrated and not skip_unrated:
        listed = [f"{name!r} ({n} games)" for name, n in unrated.most_common()]
        close = difflib.get_close_matches(next(iter(unrated)), ratings.elo, n=1)
        hint = f" {close[0]!r} has one: is it the same?" if close else ""
        raise ConfigError(
            f"{path}: opponents of {player!r} without a rating: {shorten(listed)}.{hint} Add them"
            " to [ratings], or leave their games out with --skip-unrated"
        )
    kept = [game for game in games if game.opponent in ratings.elo]
    if games and not kept:
        raise InsufficientDataError(
            f"{path}: none of the {len(unrated)} opponents of {player!r} has a rating; add theirs"
            " to [ratings]"
        )
    return kept


def _rate(games: Sequence[PlayerGame], ratings: KnownRatings) -> Measurement | None:
    if not games:
        return None
    scores = _score(games, ratings)
    return rate_player(
        scores.scores,
        scores.opponents_elo,
        scores.clusters,
        draw_parameter=ratings.draw_parameter,
    )


def _score(games: Sequence[PlayerGame], ratings: KnownRatings) -> GameScores:
    return GameScores(
        scores=[game.points for game in games],
        opponents_elo=[ratings.elo[game.opponent] for game in games],
        clusters=cluster_games(games)[0],
    )


def _has_interval(rated: Measurement) -> bool:
    """Whether there is one: a bound counts each cluster once, a spread needs two of them."""
    return math.isinf(rated.value) or rated.n_clusters >= 2


def _bound_below(worst: Measurement | None) -> float | None:
    if worst is None or not _has_interval(worst):
        return None
    return worst.lower(0.95)


def _find_obstacle(
    played: Sequence[PlayerGame], lost: Sequence[PlayerGame], rated: Measurement | None
) -> str | None:
    """Say why these games do not measure skill, if they do not."""
    by = ", ".join(f"{ending.value} {n}" for ending, n in _count_endings(lost).items())
    if rated is None:
        return "no game was decided by play" + (
            f": all {len(lost)} losses are forfeits ({by})" if lost else ""
        )
    if lost and not any(game.points == 0 for game in played):
        return (
            f"all {len(lost)} losses are forfeits ({by}): how well it plays where it does not"
            " forfeit, its other games cannot say, for it chose them itself"
        )
    if not _has_interval(rated):
        return (
            f"{len(played)} games decided by play are one independent observation, and an interval"
            " needs two"
        )
    return None


def _count_endings(games: Sequence[PlayerGame]) -> dict[Ending, int]:
    return dict(Counter(game.ending for game in games).most_common())


def _find_misfit(played: Sequence[PlayerGame], ratings: KnownRatings) -> Misfit:
    """Test whether the score falls with opponents' rating as Elo's curve does.

    By the slope's clustered interval: the likelihood ratio rejects one game in nine of honest
    pairs that share an opening, and hardly any where a third of games is drawn.
    """
    if ratings.draw_parameter:
        return Misfit(
            reason="it is fitted on Elo's own curve; draw_parameter puts these on Davidson's"
        )
    try:
        slope = fit_response(_score(played, ratings)).slope
        p_value = min(1.0, 2 * min(slope.p_above(1.0), slope.p_below(1.0)))
        return Misfit(p_value=p_value, slope=slope.estimate())
    except InsufficientDataError as error:
        return Misfit(reason=str(error))


def _list_opponents(
    games: Sequence[PlayerGame], ratings: KnownRatings, elo: Estimate | None
) -> tuple[OpponentRow, ...]:
    met: dict[str, list[PlayerGame]] = {}
    for game in games:
        met.setdefault(game.opponent, []).append(game)
    rows = []
    for name in sorted(met, key=lambda name: (-ratings.elo[name], name)):
        played = Counter(game.points for game in met[name] if game.ending is Ending.PLAY)
        expected = None
        if elo is not None and math.isfinite(elo.value):
            each = expected_score(
                elo.value - ratings.elo[name], draw_parameter=ratings.draw_parameter
            )
            expected = each * played.total()
        rows.append(
            OpponentRow(
                name=name,
                elo=ratings.elo[name],
                wins=played[1.0],
                draws=played[0.5],
                losses=played[0.0],
                forfeits=sum(game.ending.forfeit and game.points == 0 for game in met[name]),
                expected=expected,
            )
        )
    return tuple(rows)


def _to_interval(estimate: Estimate) -> dict[str, float | None]:
    return {
        "value": _round(estimate.value),
        "low": _round(estimate.low),
        "high": _round(estimate.high),
    }


def _round(value: float | None) -> float | None:
    """Round to what can matter; JSON has no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, 3)
