"""Games of a half-trained model, for their positions: it is corrected where it goes astray itself.

Positions from others' games are not those that a model brings about, least of all after its own
mistakes. Learning from the teacher's answers in one's own positions is DAgger (Ross, Gordon and
Bagnell 2011, arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import chess
import numpy as np

from holdback.models.local import LocalModel
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, PlayedGame, play_games, replay_turns
from holdback.tasks.chess.opponents import LADDER, Opponent

_MOST_RANDOM_PLIES = 8


def play_own_games(
    model: LocalModel, out: Path, *, start: str, games: int, seed: int, pool: EnginePool
) -> None:
    """Let the model play the ladder and write the games as `generate_games` does; once.

    It plays legal moves alone, at a temperature that gives variety. The first plies are random.

    Args:
        model: The player, under its own protocol otherwise.
        out: File of tab-separated games; nothing is done if it is there.
        start: FEN that all games start from.
        games: How many.
        seed: Of openings and dice.
        pool: Engines of the opponents.
    """
    if out.exists():
        return
    # The strongest two are slow, and no model here is near them.
    openings, played = _play(model, start, games, LADDER[:-2], seed, pool)
    lines = []
    for board, game in zip(openings, played, strict=True):
        moves = _write_moves([*board.move_stack, *game.moves])
        lines.append(f"0\t0\t0\t0\t*\t{moves}\n")
    new = out.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(out)


def collect_own_turns(
    model: LocalModel, *, start: str, games: int, seed: int, pool: EnginePool
) -> list[chess.Board]:
    """Play weak opponents in the same way; return the positions that the model had to move in.

    They are games that it wins, with queens of its own, in which most illegal answers are.
    """
    _, played = _play(model, start, games, LADDER[:4], seed, pool)
    return [board for game in played for _, board in replay_turns(game)]


def _play(
    model: LocalModel,
    start: str,
    games: int,
    opponents: Sequence[Opponent],
    seed: int,
    pool: EnginePool,
) -> tuple[list[chess.Board], list[PlayedGame]]:
    player = replace(
        model, decoding=replace(model.decoding, constrained=True, temperature=0.5, tries=1)
    )
    rng = np.random.default_rng(seed)
    openings = [_open_randomly(start, rng) for _ in range(games)]
    pairings = [
        Pairing(
            opening=board.fen(),
            colour=bool(number % 2),
            opponent=opponents[number // 2 % len(opponents)],
            seed=(seed, number),
        )
        for number, board in enumerate(openings)
    ]
    return openings, play_games(player, pairings, pool=pool, evaluation_nodes=None)


def _open_randomly(start: str, rng: np.random.Generator) -> chess.Board:
    board = chess.Board(start)
    for _ in range(int(rng.integers(_MOST_RANDOM_PLIES + 1))):
        moves = list(board.legal_moves)
        # Even random moves mate in eight plies, once in some thousand games.
        if not moves:
            break
        board.push(moves[int(rng.integers(len(moves)))])
    return board


def _write_moves(moves: Sequence[chess.Move]) -> str:
    return " ".join(move.uci() for move in moves)
