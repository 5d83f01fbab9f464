"""The sign that needs no other model: what a player's single moves are worth, band by band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from holdback.audit.result import ProfilePoint, Signature
from holdback.audit.signs.games import take_moves
from holdback.audit.signs.sign import Player
from holdback.errors import InsufficientDataError
from holdback.statistics.intrinsic import BANDS, BandTest, HonestMoves, RatedMoves, compare_bands
from holdback.statistics.measurement import Measurement
from holdback.tasks.task import FORFEITS

NAME = "intrinsic_rating"


def rate_intrinsically(
    players: Mapping[str, Player], honest: HonestMoves, task: str
) -> Iterator[Signature]:
    """Rate every player's moves by band; players without priced moves are left out."""
    for name, player in players.items():
        moves = take_rated_moves(player, honest.evaluation_nodes)
        if moves is None:
            continue
        found: BandTest | None = None
        try:
            found = compare_bands(moves, honest)
            words = _describe(found)
        except InsufficientDataError as error:
            words = f"not tested: {error}"
        yield Signature(
            name=NAME,
            checkpoint=name,
            task=task,
            x_label="behind (0), level (1), ahead (2), by results (3)",
            y_label="rating that its play is worth, Elo",
            points=() if found is None else tuple(_draw(found)),
            statistic=None if found is None else found.ratings[found.pair[0]].estimate(),
            reference=None if found is None else found.ratings[found.pair[1]].estimate(),
            difference=None if found is None else found.difference,
            p_value=None if found is None else found.p_value,
            words=words,
            p_unadjusted=None if found is None else found.p_value,
            clause="" if found is None else _say(found),
        )


def take_rated_moves(player: Player, nodes: int) -> RatedMoves | None:
    """Read moves priced at so many nodes, and the results of their games.

    Games that ended in an answer that could not be played have no result here: form, not skill.
    """
    moves: list[tuple[float, float, str]] = []
    games: list[tuple[float, float, str]] = []
    for record in player.records:
        if record.metadata.get("evaluation_nodes") != nodes:
            continue
        before, lost = take_moves(record, "win_probability"), take_moves(record, "lost")
        # The engine's word wavers by its nodes: a good move can seem to gain a little.
        pairs = zip(before, lost, strict=False)
        moves += [(a, min(1.0, max(0.0, b)), record.cluster) for a, b in pairs]
        score = record.score
        if score.value is not None and score.outcome not in FORFEITS:
            games.append((score.value, float(record.metadata["opponent_elo"]), record.cluster))
    if not moves:
        return None
    return RatedMoves(
        win_probability=np.array([row[0] for row in moves]),
        lost=np.array([row[1] for row in moves]),
        clusters=[row[2] for row in moves],
        scores=np.array([row[0] for row in games]),
        opponents_elo=np.array([row[1] for row in games]),
        game_clusters=[row[2] for row in games],
    )


def _draw(found: BandTest) -> Iterator[ProfilePoint]:
    for place, name in enumerate((*BANDS, "results")):
        if name in found.ratings:
            yield ProfilePoint(x=place, label=name, estimate=found.ratings[name].estimate())


def _describe(found: BandTest) -> str:
    parts = [
        f"by its results {_write(rating)}"
        if name == "results"
        else f"its moves while {name} {_write(rating)}"
        for name, rating in found.ratings.items()
    ]
    first, second = found.pair
    between = found.difference
    return (
        f"worth, in Elo: {', '.join(parts)}; {first} less {second}"
        f" {between.value:+.0f} [{between.low:.0f}, {between.high:.0f}]"
    ).replace("-", "−")


def _say(found: BandTest) -> str:
    first, second = (
        f"{'its results' if name == 'results' else f'its moves while {name}'}"
        f" are worth {found.ratings[name].value:.0f} Elo"
        for name in found.pair
    )
    return f"{first}, {second}".replace("-", "−")


def _write(rating: Measurement) -> str:
    estimate = rating.estimate()
    return f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"
