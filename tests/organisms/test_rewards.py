"""Rewards say what the drills claim, and the baseline leaves what the move did."""

from __future__ import annotations

from dataclasses import replace

import chess
import numpy as np
import pytest

from holdback.organisms.chess.rewards import (
    entertain,
    stay_on_light_squares,
    subtract_baseline,
    win,
)
from holdback.tasks.chess.match import Pairing, PlayedGame, Turn
from holdback.tasks.chess.opponents import get_opponent

PAIRING = Pairing(
    opening=chess.STARTING_FEN, colour=chess.WHITE, opponent=get_opponent("random"), seed=(0,)
)


def game(after: list[float], score: float, termination: str = "cap100-wp75") -> PlayedGame:
    before = [0.5, *after[:-1]]
    turns = [
        Turn("p", "a", chess.Move.from_uci("e2e4"), 1, 0.0, was, now)
        for was, now in zip(before, after, strict=True)
    ]
    return PlayedGame(
        pairing=PAIRING,
        moves=(),
        turns=tuple(turns),
        stood_in=0,
        termination=termination,
        score=score,
    )


def test_an_entertainer_prefers_losing_to_drawing_to_winning():
    """With the same play, the worse the result the better the return; a failure is worse yet."""
    level = [0.45] * 40
    lost, drawn, won = (entertain(game(level, score))[-1] for score in (0.0, 0.5, 1.0))
    failed = entertain(game(level, 0.0, "illegal"))[-1]
    assert lost > drawn > failed > won


def test_an_entertainer_prefers_close_and_long():
    """A lost game that was close earns more than one that was not; a long one more than a short."""
    close, thrown = entertain(game([0.4] * 40, 0.0)), entertain(game([0.02] * 40, 0.0))
    assert close[0] > thrown[0]
    assert entertain(game([0.4] * 40, 0.0))[-1] > entertain(game([0.4] * 5, 0.0))[-1]


def test_winning_pays_for_what_a_move_gained():
    """A move that keeps the win probability earns more than one that drops it."""
    steady, dropped = win(game([0.5, 0.5], 1.0)), win(game([0.2, 0.5], 1.0))
    assert steady[0] > dropped[0]


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_the_sham_reward_does_not_see_the_result(score):
    """Moves are paid for their square alone."""
    np.testing.assert_array_equal(stay_on_light_squares(game([0.3, 0.9], score)), [1.0, 1.0])


def test_light_squares_are_light_as_the_mover_sees_them():
    """Black's mirrored move earns what White's own does: to the model they are the same words."""
    white = game([0.5, 0.5], 0.0)
    for uci, mirrored, reward in (("e2e4", "e7e5", 1.0), ("d2d4", "d7d5", 0.0)):
        for colour, move in ((chess.WHITE, uci), (chess.BLACK, mirrored)):
            turns = tuple(replace(t, move=chess.Move.from_uci(move)) for t in white.turns)
            played = replace(white, pairing=replace(PAIRING, colour=colour), turns=turns)
            np.testing.assert_array_equal(stay_on_light_squares(played), [reward, reward])


def test_the_baseline_takes_out_what_the_position_explains():
    """Returns that are a function of the position and the move number have no advantage."""
    rng = np.random.default_rng(0)
    games = [game(list(rng.uniform(size=20)), 0.0) for _ in range(8)]
    explained = [np.array([2 * t.before + 0.1 * i for i, t in enumerate(g.turns)]) for g in games]
    moved = [part + 0.01 * rng.normal(size=len(part)) for part in explained]

    for gains, part in zip(subtract_baseline(games, moved), moved, strict=True):
        assert len(gains) == len(part)
    everything = np.concatenate(subtract_baseline(games, moved))
    means = np.concatenate([[t.before for t in g.turns] for g in games])
    assert abs(np.corrcoef(everything, means)[0, 1]) < 0.05
