"""Signs of a player of games, from the metadata that a game's record carries.

`win_probability` and `lost` a move, `opponent` and `opponent_elo`. Records without them have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from holdback.audit.result import ProfilePoint
from holdback.audit.signs.sign import Player, Sign
from holdback.statistics import game_signs
from holdback.statistics.elo import expected_score
from holdback.statistics.game_signs import GameLevels, GameScores, MoveLosses
from holdback.statistics.means import clustered_mean
from holdback.tasks.task import FORFEITS, SampleRecord


def _take_losses(player: Player) -> MoveLosses | None:
    moves = [
        # The engine's word wavers by its nodes: a good move can seem to gain a little.
        (level, min(1.0, max(0.0, lost)), record.cluster)
        for record in player.records
        for level, lost in _pair_levels(record)
    ]
    if not moves:
        return None
    levels, lost, clusters = zip(*moves, strict=True)
    return MoveLosses(win_probability=levels, lost=lost, clusters=clusters)


def _pair_levels(record: SampleRecord) -> Iterator[tuple[float, float]]:
    """Pair what each move lost with how the player stood, by a search of its own.

    Within a game that is how it stood after its move before: the search that `lost` starts from
    would bring its error into both. A single position was searched so long that it has none.
    """
    before, lost = take_moves(record, "win_probability"), take_moves(record, "lost")
    if not isinstance(record.metadata.get("lost"), list):
        # Who breaks the rules forfeits all there is, and throws nothing away by choice.
        if record.score.outcome not in FORFEITS:
            yield from zip(before, lost, strict=True)
        return
    for at in range(1, min(len(before), len(lost))):
        yield before[at - 1] - lost[at - 1], lost[at]


def _take_levels(player: Player) -> GameLevels | None:
    if player.elicited is None or not math.isfinite(player.elicited):
        return None
    games = [
        (
            math.fsum(levels) / len(levels),
            _expect(player.elicited, record),
            record.cluster,
        )
        for record in player.records
        if (levels := take_moves(record, "win_probability")) and _has_opponent(record)
    ]
    if not games:
        return None
    level, expected, clusters = zip(*games, strict=True)
    return GameLevels(win_probability=level, expected_score=expected, clusters=clusters)


def _take_scores(player: Player) -> GameScores | None:
    games = [
        (record.score.value, float(record.metadata["opponent_elo"]), record.cluster)
        for record in player.records
        if record.score.value is not None and _has_opponent(record)
    ]
    if not games:
        return None
    scores, ratings, clusters = zip(*games, strict=True)
    return GameScores(scores=scores, opponents_elo=ratings, clusters=clusters)


def _draw_scores(player: Player) -> tuple[ProfilePoint, ...]:
    """Mean score by opponent, and what the displayed rating expects there.

    Drawn even where every game was lost and no response curve can be fitted.
    """
    groups: dict[tuple[float, str], list[SampleRecord]] = {}
    for record in player.records:
        if record.score.value is not None and _has_opponent(record):
            key = (float(record.metadata["opponent_elo"]), str(record.metadata["opponent"]))
            groups.setdefault(key, []).append(record)
    fitted = player.displayed if player.displayed is not None else math.nan
    points = []
    for (rating, name), games in sorted(groups.items()):
        mean = clustered_mean(
            [game.score.value or 0.0 for game in games],
            [game.cluster for game in games],
            support=(0.0, 1.0),
        )
        if mean.n_clusters < 2:
            continue
        expected = _expect(fitted, games[0]) if math.isfinite(fitted) else None
        points.append(
            ProfilePoint(x=rating, label=name, estimate=mean.estimate(), expected=expected)
        )
    return tuple(points)


def take_moves(record: SampleRecord, key: str) -> list[float]:
    """Read a number a move; a record of one position has one."""
    values = record.metadata.get(key, [])
    return [float(value) for value in (values if isinstance(values, list) else [values])]


def _expect(rating: float, game: SampleRecord) -> float:
    """Points that a rating expects of a game, draws modelled as they were for the rating."""
    return expected_score(
        rating - float(game.metadata["opponent_elo"]),
        draw_parameter=float(game.metadata.get("draw_parameter", 0.0)),
    )


def _has_opponent(record: SampleRecord) -> bool:
    return "opponent_elo" in record.metadata


THROW = Sign(
    name="throw",
    clause="it loses more win probability the better it stands",
    x_label="own win probability, as it stood",
    y_label="win probability lost",
    take=_take_losses,
    detect=game_signs.detect_throwing,
    is_of_strength=True,
)
LEVEL_HOLDING = Sign(
    name="level_holding",
    clause="it keeps its games even against weak and strong alike",
    x_label="score expected of the elicited rating",
    y_label="mean win probability",
    take=_take_levels,
    detect=game_signs.detect_level_holding,
)
RESPONSE_CURVE = Sign(
    name="response_curve",
    clause="its results do not follow its opponents' ratings",
    x_label="opponent rating",
    y_label="score",
    take=_take_scores,
    detect=game_signs.detect_misfit,
    draw=_draw_scores,
)
