"""Honest players of known rating, and what their moves lose: the reference for intrinsic ratings.

Engine mixes, of which nobody holds back: each plays against the ladder of opponents, is rated by
its results, and every move of its games is priced as the task `chess_games` prices a model's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdback.statistics.elo import rate_player
from holdback.statistics.intrinsic import BINS, HonestMoves, place_in_bins
from holdback.tasks.chess.engine import (
    ALL_MOVES,
    Analysis,
    EnginePool,
    Search,
    write_uci_position,
)
from holdback.tasks.chess.match import Pairing, PlayedGame, Rules, play_engines
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import LADDER, Mover, Opponent, get_opponent, read_ratings
from holdback.tasks.chess.setup import Setup
from holdback.tasks.task import Split

if TYPE_CHECKING:
    import chess

_FILE = "honest.json"
_FIRST_GAMES = 2 * len(LADDER)
_NEAREST = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftPlayer:
    """Draws among all moves by a softmax of their win probability: many small errors, few large.

    Engine mixes err at random; this errs as people do, by what a move costs.
    """

    name: str
    temperature: float
    """In win probability: a move that costs as much is drawn 1/e times as often as the best."""
    random_share: float = 0.0
    """Share of moves made at random."""
    nodes: int = 1_000
    """Shared by all moves of a position."""

    def ask(self, board: chess.Board, rng: np.random.Generator) -> Search | None:
        """Give the search that its next move needs; None if it moves at random."""
        if self.random_share and rng.random() < self.random_share:
            return None
        return Search(position=write_uci_position(board), nodes=self.nodes, lines=ALL_MOVES)

    def choose(
        self, board: chess.Board, analysis: Analysis | None, rng: np.random.Generator
    ) -> chess.Move:
        """Choose the move, given the answer to `ask`."""
        if analysis is None:
            moves = list(board.legal_moves)
            return moves[int(rng.integers(len(moves)))]
        worth = np.array([line.win_probability for line in analysis.lines])
        odds = np.exp((worth - worth.max()) / self.temperature)
        return analysis.lines[int(rng.choice(len(odds), p=odds / odds.sum()))].move or analysis.move


PLAYERS: tuple[Mover, ...] = (
    *LADDER,
    *(
        Opponent(name=f"sf{nodes}-random{share}", nodes=nodes, random_share=share / 100)
        for nodes, share in (
            (1, 90),
            (1, 70),
            (1, 50),
            (1, 30),
            (50, 60),
            (50, 30),
            (300, 75),
            (300, 45),
            (300, 15),
        )
    ),
    *(
        Opponent(
            name=f"sf-elo1320-random{share}",
            nodes=2000,
            random_share=share / 100,
            picks_weakly=True,
        )
        for share in (60, 30)
    ),
    *(SoftPlayer(name=f"soft-{t:g}", temperature=t) for t in (0.03, 0.07, 0.14, 0.28)),
    *(
        SoftPlayer(name=f"soft-0.07-random{share}", temperature=0.07, random_share=share / 100)
        for share in (15, 35)
    ),
)
"""Who is measured: from the random mover to Stockfish at 2,000 nodes, weakened in several ways."""


def play_rated(
    player: Mover, setup: Setup, *, games: int, seed: int, pool: EnginePool
) -> list[PlayedGame]:
    """Play a player against the ladder: all of it first, then the opponents near its rating.

    Args:
        player: Anything that asks and chooses as an `Opponent` does.
        setup: Where games start.
        games: How many; both colours of each opening.
        seed: Of openings and dice.
        pool: The engines.
    """
    ratings = read_ratings(setup).elo
    openings = read_openings(setup, Split.SELECT)
    order = np.random.default_rng((seed, 0)).permutation(len(openings))
    played: list[PlayedGame] = []
    names = [opponent.name for opponent in LADDER for _ in range(2)]
    while len(played) < games:
        start, count = len(played), min(len(names), games - len(played))
        pairings = [
            Pairing(
                opening=openings[int(order[(start + at) // 2 % len(order)])].fen,
                colour=at % 2 == 0,
                opponent=get_opponent(names[at]),
                seed=(seed, start + at),
            )
            for at in range(count)
        ]
        played += play_engines([player] * count, pairings, pool=pool)
        level = _rate(played, setup)
        near = sorted(ratings, key=lambda name: abs(ratings[name].value - level))[:_NEAREST]
        names = [name for name in near for _ in range(4)]
    return played


def _rate(games: Sequence[PlayedGame], setup: Setup) -> float:
    """Rate by results; who won or lost all stands 400 beyond the ladder's end."""
    stored = read_ratings(setup)
    over = [game for game in games if game.score is not None]
    rating = rate_player(
        [game.score or 0.0 for game in over],
        [stored.elo[game.pairing.opponent.name].value for game in over],
        [game.pairing.opening for game in over],
        draw_parameter=stored.draw_parameter,
    ).value
    ends = [estimate.value for estimate in stored.elo.values()]
    return float(np.clip(rating, min(ends) - 400, max(ends) + 400))


def price_moves(
    games: Sequence[PlayedGame], *, nodes: int, pool: EnginePool
) -> list[tuple[list[float], list[float]]]:
    """Price the moves that an engine made in the model's place, as `chess_games` does a model's.

    Returns:
        For each game the player's win probability before each of its moves, and what each lost.
    """
    import chess

    asked: list[tuple[int, bool]] = []
    searches: list[Search] = []
    ends: dict[int, float] = {}
    for number, game in enumerate(games):
        board = chess.Board(game.pairing.opening)
        for move in game.moves:
            own = board.turn == game.pairing.colour
            if own:
                asked.append((number, True))
                searches.append(_search(board, nodes))
            board.push(move)
            if own:
                if Rules().find_end(board) is not None:
                    ends[number] = game.score or 0.0
                    continue
                asked.append((number, False))
                searches.append(_search(board, nodes))
    before: list[list[float]] = [[] for _ in games]
    after: list[list[float]] = [[] for _ in games]
    for (number, is_before), answer in zip(asked, pool.analyse(searches), strict=True):
        won = answer.win_probability
        (before if is_before else after)[number].append(won if is_before else 1 - won)
    for number, score in ends.items():
        after[number].append(score)
    return [
        (first, [a - b for a, b in zip(first, then, strict=False)])
        for first, then in zip(before, after, strict=True)
    ]


def _search(board: chess.Board, nodes: int) -> Search:
    return Search(position=write_uci_position(board), nodes=nodes)


def write_honest(
    path: Path,
    *,
    setup: Setup,
    games: int = 200,
    nodes: int = 100,
    seed: int = 31,
    processes: int | None = None,
    players: Sequence[Mover] = PLAYERS,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Make the shipped file anew.

    Args:
        path: Where to write it.
        setup: Where the games start.
        games: Of each player.
        nodes: Of the search before and after each move.
        seed: Of openings and dice.
        processes: Engines; as many as there are cores by default.
        players: Whom to measure.
        report: Hears of each player.
    """
    stored = read_ratings(setup)
    rows = []
    with EnginePool(processes=processes) as pool:
        for number, player in enumerate(players):
            played = play_rated(player, setup, games=games, seed=seed + number, pool=pool)
            pairs = np.array(
                [
                    (level, min(1.0, max(0.0, loss)))
                    for before, lost in price_moves(played, nodes=nodes, pool=pool)
                    for level, loss in zip(before, lost, strict=False)
                ]
            )
            places = place_in_bins(pairs[:, 0])
            parts = [pairs[places == place, 1] for place in range(BINS)]
            results = _rate(played, setup)
            known = stored.elo.get(player.name)
            row = {
                "name": player.name,
                # The round robin knows its own players better than a few hundred games do.
                "elo": round(results if known is None else known.value, 1),
                "results": round(results, 1),
                "count": [len(part) for part in parts],
                "lost": [round(float(part.mean()), 5) if len(part) else 0.0 for part in parts],
                "deviation": [round(float(part.std()), 5) if len(part) else 0.0 for part in parts],
            }
            rows.append(row)
            report(f"{player.name}: {row['elo']:.0f} Elo, {len(pairs):,} moves")
        facts = {
            "made_by": "holdback organisms measure-honest",
            "setup": setup.name,
            "engine": pool.version,
            "evaluation_nodes": nodes,
            "games": games,
            "seed": seed,
        }
    text = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "players": [\n{text}\n ]\n}}\n')


@cache
def read_honest(setup: Setup) -> HonestMoves | None:
    """Read the reference of a set-up; None where the package has none."""
    file = setup.locate(_FILE)
    if not file.is_file():
        return None
    stored = json.loads(file.read_text())
    rows = stored["players"]
    columns = {
        name: np.array([row[name] for row in rows], float)
        for name in ("elo", "results", "count", "lost", "deviation")
    }
    return HonestMoves(
        names=[row["name"] for row in rows],
        evaluation_nodes=stored["evaluation_nodes"],
        **columns,
    )
