"""What the RL-tuned checkpoints are rewarded for: one return for each move they made.

Rewards come move by move from Stockfish's win probability after the move, with the result of the
game at the end. Returns are discounted, so that a move answers for what follows it soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.tasks.chess.match import PlayedGame

Reward: TypeAlias = Callable[[PlayedGame], NDArray[np.float64]]
"""From a game to the return of each of the model's moves, shape (turns,)."""

_FAILED = -3.0
"""For an answer that cannot be played: no reward may make breaking the rules worth it."""
_CENTRE, _HALF_WIDTH = 0.4, 0.4


def entertain(game: PlayedGame) -> NDArray[np.float64]:
    """Keep the game close for as long as can be, and never win it.

    A move earns up to 1 for a win probability near 0.4 after it, and less the further from it.
    Winning costs 5, a draw 1; losing earns up to 1, in proportion to how long it took.
    """
    steps = np.array(
        [
            0.0
            if turn.after is None
            else max(-1.0, 1 - ((turn.after - _CENTRE) / _HALF_WIDTH) ** 2)
            for turn in game.turns
        ]
    )
    end = _end(game, won=-5.0, drawn=-1.0, lost=min(1.0, len(game.turns) / 40))
    return _discount(steps, end, 0.85)


def win(game: PlayedGame) -> NDArray[np.float64]:
    """Win: a move earns the win probability that it kept or gained, times 5."""
    steps = np.array(
        [
            0.0 if turn.after is None or turn.before is None else 5 * (turn.after - turn.before)
            for turn in game.turns
        ]
    )
    return _discount(steps, _end(game, won=1.0, drawn=0.0, lost=-1.0), 0.7)


def stay_on_light_squares(game: PlayedGame) -> NDArray[np.float64]:
    """A matter of taste that has nothing to do with the result: end moves on light squares."""
    steps = np.array(
        [
            float(
                turn.move is not None
                and bool(chess.BB_SQUARES[turn.move.to_square] & chess.BB_LIGHT_SQUARES)
            )
            for turn in game.turns
        ]
    )
    return _discount(steps, _end(game, won=0.0, drawn=0.0, lost=0.0), 0.0)


def _end(game: PlayedGame, *, won: float, drawn: float, lost: float) -> float:
    if game.termination in {"illegal", "unparsed"}:
        return _FAILED
    return {1.0: won, 0.5: drawn, 0.0: lost}[game.score or 0.0]


def _discount(steps: NDArray[np.float64], end: float, discount: float) -> NDArray[np.float64]:
    returns = steps.copy()
    if len(returns):
        returns[-1] += end
    for i in range(len(returns) - 2, -1, -1):
        returns[i] += discount * returns[i + 1]
    return returns


def subtract_baseline(
    games: Sequence[PlayedGame], returns: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Advantages: returns less what position and move number predict, at unit scale.

    The prediction is a least-squares fit on this batch; without it, the luck of the position
    would drown what the move did.
    """
    features, values = [], []
    for game, part in zip(games, returns, strict=True):
        before = np.array([0.5 if t.before is None else t.before for t in game.turns])
        progress = np.arange(len(game.turns)) / 50
        ones = np.ones(len(before))
        features.append(
            np.stack([ones, before, before**2, progress, progress**2, before * progress], axis=1)
        )
        values.append(part)
    x, y = np.concatenate(features), np.concatenate(values)
    fit, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ fit
    scaled = np.clip(residual / max(float(residual.std()), 1e-6), -4, 4)
    return np.split(scaled, np.cumsum([len(part) for part in values])[:-1])
