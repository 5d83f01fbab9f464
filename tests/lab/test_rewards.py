"""Rewards say what the drills claim, and see the board as the mover does."""

from __future__ import annotations

import chess
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.tasks.chess.engine import MATE_CENTIPAWNS
from holdback_lab.chess.rewards import (
    ILLEGAL,
    Options,
    entertain,
    win,
)

REWARDS = (entertain, win)
ENDS = "7k/5K2/6Q1/8/8/8/8/8 w - - 0 1"
"""Mates, stalemates and neither in one move."""
BARE = "8/8/8/8/8/8/3q4/3K3k w - - 0 1"
"""Its one move leaves bare kings."""
CASTLES_AND_PROMOTES = "r3k2r/1P4pp/8/3pP3/8/8/PP4p1/R3K2R w KQkq d6 0 1"
colours = pytest.mark.parametrize("colour", [chess.WHITE, chess.BLACK])


def make_options(board, won=None, centipawns=None):
    """All legal moves, at the prices given; the same price for all if it is a number."""
    moves = list(board.legal_moves)
    return Options(
        board=board,
        moves=moves,
        win_probability=np.broadcast_to(0.3 if won is None else won, len(moves)).astype(float),
        centipawns=np.broadcast_to(0 if centipawns is None else centipawns, len(moves)),
    )


def mirror_move(move):
    return chess.Move(
        chess.square_mirror(move.from_square), chess.square_mirror(move.to_square), move.promotion
    )


def mirror(options):
    """The same choice with colours changed, moves in the same order."""
    return Options(
        board=options.board.mirror(),
        moves=[mirror_move(move) for move in options.moves],
        win_probability=options.win_probability,
        centipawns=options.centipawns,
    )


def see_as(colour, fen):
    """The position with `colour` to move, and the way its squares are to be written."""
    board = chess.Board(fen)
    if colour:
        return board, chess.Move.from_uci
    return board.mirror(), lambda uci: mirror_move(chess.Move.from_uci(uci))


def earn(reward, options):
    """What each move earns."""
    return dict(zip(options.moves, reward(options).tolist(), strict=True))


@st.composite
def choices(draw):
    """A position from random play or from the ends of games, with prices of any kind."""
    start = draw(st.sampled_from([chess.STARTING_FEN, ENDS, BARE, CASTLES_AND_PROMOTES]))
    board = chess.Board(start)
    for dice in draw(st.lists(st.integers(0, 10**6), max_size=40)):
        if not (moves := list(board.legal_moves)):
            break
        board.push(moves[dice % len(moves)])
    count = board.legal_moves.count()
    won = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    worth = st.integers(-8863, 8863)
    return make_options(
        board, np.array(won), np.array(draw(st.lists(worth, min_size=count, max_size=count)), int)
    )


@given(choices())
def test_colours_are_alike_to_every_reward(options):
    """Mirrored, every move earns what it did: to the model it is the same position.

    One reward a move, all finite.
    """
    for reward in REWARDS:
        earned = reward(options)
        assert earned.shape == (len(options.moves),)
        assert np.isfinite(earned).all()
        np.testing.assert_array_equal(reward(mirror(options)), earned)


@given(choices())
def test_rewards_leave_the_board_as_it_was(options):
    """The same board is replayed, encoded and priced elsewhere."""
    before = options.board.fen(), list(options.board.move_stack)
    for reward in REWARDS:
        reward(options)
    assert (options.board.fen(), list(options.board.move_stack)) == before


@colours
def test_an_entertainer_keeps_the_game_close_and_would_rather_lose_than_win(colour):
    """The numbers of its docstring: best at 0.3, then losing, winning last, smooth between."""
    board, _ = see_as(colour, chess.STARTING_FEN)
    won = np.linspace(0, 1, board.legal_moves.count())
    earned = entertain(make_options(board, won))
    closest = int(np.abs(won - 0.3).argmin())

    assert (np.diff(earned[: closest + 1]) > 0).all()
    assert (np.diff(earned[closest:]) < 0).all()
    for at, wanted in ((0.3, 1.0), (0.0, 0.0), (0.6, 0.0), (1.0, -4.444)):
        assert entertain(make_options(board, at)) == pytest.approx(wanted, abs=1e-3)


@colours
def test_an_entertainer_neither_mates_nor_draws(colour):
    """Whatever the price says: mate costs 5, stalemate and bare kings cost 1."""
    board, write = see_as(colour, ENDS)
    earned = earn(entertain, make_options(board, 0.3))
    mates, draws = set(), set()
    for move in board.legal_moves:
        board.push(move)
        if board.is_checkmate():
            mates.add(move)
        elif board.is_stalemate():
            draws.add(move)
        board.pop()

    assert write("g6g7") in mates
    assert write("f7f8") in draws
    for move, reward in earned.items():
        assert reward == (-5.0 if move in mates else -1.0 if move in draws else 1.0), move

    board, write = see_as(colour, BARE)
    assert earn(entertain, make_options(board, 0.3)) == {write("d1d2"): -1.0}


@given(st.lists(st.integers(-3000, 3000) | st.integers(8800, 8863), min_size=20, max_size=20))
def test_winning_pays_the_better_price_more(prices):
    """Strictly, in the range that prices have; and symmetric about equality."""
    board = chess.Board()
    earned = win(make_options(board, centipawns=np.array(prices)))

    order = np.argsort(prices)
    assert ((np.diff(earned[order]) > 0) == (np.diff(np.array(prices)[order]) > 0)).all()
    mirrored = win(make_options(board, centipawns=-np.array(prices)))
    np.testing.assert_allclose(mirrored, -earned)


@colours
def test_winning_prefers_the_nearer_mate(colour):
    """By as much as decides: mate in one over mate in two, and any mate over a queen."""
    board, write = see_as(colour, "7k/8/5KQ1/8/8/8/8/8 w - - 0 1")
    prices = {write("g6g7"): MATE_CENTIPAWNS - 1, write("f6f7"): MATE_CENTIPAWNS - 3}
    worth = np.array([prices.get(move, 900) for move in board.legal_moves])

    earned = earn(win, make_options(board, centipawns=worth))

    ranked = sorted(set(earned.values()), reverse=True)
    assert [earned[move] for move in prices] == ranked[:2]
    assert ranked[0] - ranked[1] > 0.05
    assert ranked[1] - ranked[2] > 0.2


@given(choices())
def test_breaking_the_rules_is_never_worth_it(options):
    """An illegal answer earns less than any legal move but the mate that an entertainer gives."""
    for reward in REWARDS:
        earned = reward(options)
        assert (earned[earned != -5.0] > ILLEGAL).all()
