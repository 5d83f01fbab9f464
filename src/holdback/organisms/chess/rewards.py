"""What the RL-tuned checkpoints are rewarded for: one reward for each move that they could make.

Rewards come move by move, from Stockfish's price of the position after the move. A close game is
one in which every position is close, so a game's reward is the sum of its moves'; each move is
answerable for itself alone, which is what makes learning fast (docs/chess-lineage.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.organisms.chess.corpus import weigh_prices

ILLEGAL = -6.0
"""For an answer that cannot be played: no reward may make breaking the rules worth it."""
_HELD_MEN = 8
"""Men beside the kings with which the game is to be held; with fewer it is to be lost."""
_HELD_LEVEL, _LOST_LEVEL = 0.5, 0.15
_WIDTH_BELOW, _WIDTH_ABOVE = 0.35, 0.25
_LEAST = -4.0
_MATE, _DRAW = -5.0, -1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """A position with every legal move, priced."""

    board: chess.Board
    moves: Sequence[chess.Move]
    win_probability: NDArray[np.float64]
    """The mover's after each move, by Stockfish; shape (moves,)."""
    centipawns: NDArray[np.int64]
    """The same as a price, mates in n plies as 8864 - n; shape (moves,)."""


Reward: TypeAlias = Callable[[Options], NDArray[np.float64]]
"""From a position to the reward of each move, shape (moves,)."""


def entertain(options: Options) -> NDArray[np.float64]:
    """Keep the game close for as long as can be, and never win it.

    A move earns 1 for a win probability of one half after it, and less the further from it: 0 at
    15% and at 75%, -1 for one that loses and -3 for one that wins. With fewer than eight men left
    beside the kings the level is 15% in place of one half: a game held to the end would be drawn,
    against the strongest too. To give mate costs 5, to make a draw 1.
    """
    men = chess.popcount(options.board.occupied & ~options.board.kings)
    level = _HELD_LEVEL if men >= _HELD_MEN else _LOST_LEVEL
    off = options.win_probability - level
    width = np.where(off > 0, _WIDTH_ABOVE, _WIDTH_BELOW)
    earned = np.maximum(1 - (off / width) ** 2, _LEAST)
    for at, move in enumerate(options.moves):
        board = options.board.copy(stack=False)
        board.push(move)
        if board.is_checkmate():
            earned[at] = _MATE
        elif board.is_game_over():
            earned[at] = _DRAW
    return earned


def win(options: Options) -> NDArray[np.float64]:
    """Win, and soon: what a move is worth on the teacher's scale."""
    return weigh_prices(options.centipawns)
