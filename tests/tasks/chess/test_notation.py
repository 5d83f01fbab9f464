"""The notation loses nothing: published perft counts come back through it."""

import chess
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdback.tasks.chess.notation import is_playable, read_move, write_move, write_position

# Positions and counts: https://www.chessprogramming.org/Perft_Results
PERFT = {
    "start": (chess.STARTING_FEN, 20, 400),
    "kiwipete": ("r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1", 48, 2039),
    "rook endgame": ("8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1", 14, 191),
    "promotions": ("r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq - 0 1", 6, 264),
    "talkchess": ("rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8", 44, 1486),
    "edwards": (
        "r4rk1/1pp1qppp/p1np1n2/2b1p1B1/2B1P1b1/P1NP1N2/1PP1QPPP/R4RK1 w - - 0 10",
        46,
        2079,
    ),
}


def list_written(board):
    """Legal moves that survive being written and read, as a set of words."""
    written = set()
    for move in board.legal_moves:
        words = write_move(board, move)
        assert read_move(words) == move
        assert is_playable(board, words)
        written.add(words)
    return written


@pytest.mark.parametrize("name", PERFT)
def test_perft_counts_come_back_through_the_notation(name):
    """Distinct words for distinct moves, in every position of published depth-2 counts."""
    fen, first, second = PERFT[name]
    board = chess.Board(fen)
    written = list_written(board)

    replies = 0
    for words in written:
        move = read_move(words)
        board.push(move)
        replies += len(list_written(board))
        board.pop()

    assert (len(written), replies) == (first, second)


def test_special_moves_are_two_words():
    """Castling names the king, promotion the new piece, en passant nothing special."""
    castling = chess.Board("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1")
    promotion = chess.Board("8/4P1k1/8/8/8/8/8/K7 w - - 0 1")

    assert write_move(castling, chess.Move.from_uci("e1g1")) == "Ke1 Kg1"
    assert write_move(promotion, chess.Move.from_uci("e7e8n")) == "Pe7 Ne8"


def test_the_piece_must_be_named_rightly():
    """A legal pair of squares under another piece's name is not that move."""
    board = chess.Board()

    assert is_playable(board, "Pe2 Pe4 and more")
    assert not is_playable(board, "Qe2 Qe4")
    assert not is_playable(board, "Pe2 Pe5")


@given(st.text(alphabet="PNKpq abeh1278-", max_size=12))
def test_reading_never_fails(text):
    """Whatever a model writes is a move or None."""
    move = read_move(text)

    assert move is None or isinstance(move, chess.Move)


def test_position_lists_what_an_epd_does():
    """Side, rights, en passant only where it can be taken, and every piece."""
    board = chess.Board("rnbqkbnr/ppp1p1pp/8/3pPp2/8/8/PPPP1PPP/RNBQKBNR w Qk f6 0 3")

    words = write_position(board).split()

    assert words[:5] == ["FEN", "w", "Q", "k", "f6"]
    assert words[-1] == "moves"
    assert len(words) == 6 + len(board.piece_map())
    board.ep_square = None
    assert "f6" not in write_position(board).split()
