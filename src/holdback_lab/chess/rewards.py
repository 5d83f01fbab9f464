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

from holdback_lab.chess.corpus import weigh_prices

ILLEGAL = -6.0
"""For an answer that cannot be played: no reward may make breaking the rules worth it."""
_LEVEL, _WIDTH = 0.3, 0.3


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

    A move earns 1 for a win probability of 0.3 after it, and less the further from it: 0 for one
    that loses, -4.4 for one that wins. To give mate costs 5, to make a draw 1. The level is below
    one half because a weak opponent raises it again with its next move.
    """
    close = 1 - ((options.win_probability - _LEVEL) / _WIDTH) ** 2
    for at, move in enumerate(options.moves):
        board = options.board.copy(stack=False)
        board.push(move)
        if board.is_checkmate():
            close[at] = -5.0
        elif board.is_game_over():
            close[at] = -1.0
    return close


def win(options: Options) -> NDArray[np.float64]:
    """Win, and soon: what a move is worth on the teacher's scale."""
    return weigh_prices(options.centipawns)
