"""The opponents' own tournament, from which their ratings come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import chess
import numpy as np

from holdback.statistics.elo import Ratings, fit_ratings
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, Rules, play_engines
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import ANCHOR, ANCHOR_ELO, LADDER, Opponent, get_opponent
from holdback.tasks.chess.setup import Setup
from holdback.tasks.task import Split

# By strength, the anchor where a pilot put it.
_ORDER = (
    "random",
    "sf1-random80",
    "sf1-random60",
    "sf1-random40",
    "sf1-random20",
    ANCHOR,
    "sf1",
    "sf50",
    "sf300",
    "sf2000",
)


def list_pairs(games: int, players: Sequence[str] = _ORDER) -> list[tuple[Opponent, Opponent, int]]:
    """List who plays whom, and how many games.

    Neighbours by strength play `games`: their games say most about a rating. Next neighbours play
    a quarter of it, which says whether one scale fits all.
    """
    return [
        (get_opponent(name), get_opponent(stronger), games if not step else games // 8 * 2)
        for at, name in enumerate(players)
        for step, stronger in enumerate(players[at + 1 : at + 3])
    ]


def rate_opponents(
    setup: Setup,
    *,
    games: int = 1200,
    players: Sequence[str] = _ORDER,
    seed: int = 22,
    rules: Rules | None = None,
    processes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Ratings, dict[str, object]]:
    """Play the tournament and rate everybody jointly, the anchor fixed.

    Args:
        setup: Where the games start.
        games: Games of each pair of neighbours: half as many openings, both colours.
        players: Names by strength, weakest first; the anchor among them.
        seed: Of the openings' order and of all dice.
        rules: How games end; those of the task by default, since ratings belong to rules.
        processes: Engines; as many as there are cores by default.
        report: Called with a line after each pair.

    Returns:
        Ratings, and what the file says besides: engine, rules, seed, points of each pair.
    """
    rules = rules or Rules()
    openings = [opening for split in Split for opening in read_openings(setup, split)]
    first: list[str] = []
    second: list[str] = []
    scores: list[float] = []
    clusters: list[str] = []
    results = []
    with EnginePool(processes=processes) as pool:
        for at, (weaker, stronger, n) in enumerate(list_pairs(games, players)):
            order = np.random.default_rng((seed, at)).permutation(len(openings))
            pairings = [
                Pairing(
                    opening=openings[int(order[i // 2 % len(openings)])].fen,
                    colour=chess.BLACK if i % 2 else chess.WHITE,
                    opponent=stronger,
                    seed=(seed, at, i),
                )
                for i in range(n)
            ]
            played = play_engines([weaker] * n, pairings, pool=pool, rules=rules)
            points = [game.score for game in played if game.score is not None]
            first += [weaker.name] * len(points)
            second += [stronger.name] * len(points)
            scores += points
            clusters += [
                f"{at}-{i // 2}" for i, game in enumerate(played) if game.score is not None
            ]
            counts = [points.count(score) for score in (1.0, 0.5, 0.0)]
            results.append(
                {"first": weaker.name, "second": stronger.name, "won_drawn_lost": counts}
            )
            report(f"{weaker.name} - {stronger.name}: +{counts[0]} ={counts[1]} -{counts[2]}")
        engine = pool.version
    ratings = fit_ratings(first, second, scores, clusters, anchor=ANCHOR, anchor_elo=ANCHOR_ELO)
    facts = {
        "setup": setup.name,
        "engine": engine,
        "rules": rules.name,
        "adjudication_nodes": rules.adjudication_nodes,
        "seed": seed,
        "results": results,
    }
    return ratings, facts


def write_ratings(path: Path, ratings: Ratings, facts: dict[str, object]) -> None:
    """Write the file that `opponents.read_ratings` reads."""
    elo = {
        opponent.name: {
            key: round(value, 1) if isinstance(value, float) and key != "level" else value
            for key, value in dataclasses.asdict(ratings.elo[opponent.name]).items()
        }
        for opponent in LADDER
    }
    stored = {
        "made_by": "holdback organisms rate-opponents",
        **facts,
        "anchor": ratings.anchor,
        "draw_parameter": round(ratings.draw_parameter, 4),
        "elo": elo,
    }
    path.write_text(json.dumps(stored, indent=1) + "\n")
