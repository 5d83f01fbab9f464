"""The notation loses nothing: published perft counts come back through it."""

import itertools
import re

import chess
import pytest
from chess_players import read_board, see
from hypothesis import given, settings
from hypothesis import strategies as st

from holdback.tasks.chess.notation import (
    is_playable,
    read_move,
    write_header,
    write_move,
    write_position,
)

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


MOVES = 40
EN_PASSANT = (
    "rnbqkbnr/ppp1p1pp/8/3pPp2/8/8/PPPP1PPP/RNBQKBNR w KQkq f6 0 3",
    "rnbqkbnr/pppp1ppp/8/8/3Pp3/5N2/PPP1PPPP/RNBQKB1R b KQkq d3 0 3",
    "4k3/4pppp/8/8/PPPPPPPP/8/8/4K3 b - - 0 1",
)
STARTS = [*EN_PASSANT, *(fen for fen, _, _ in PERFT.values())]
PIECE_WORD = re.compile("[PNBRQKpnbrqk][a-h][1-8]")


@st.composite
def positions(draw):
    """Positions of full chess with a move to make, some plies on from ones with much in them."""
    board = chess.Board(draw(st.sampled_from(STARTS)))
    for at in draw(st.lists(st.integers(0, 255), max_size=MOVES)):
        moves = list(board.legal_moves)
        board.push(moves[at % len(moves)])
        if board.is_game_over():
            board.pop()
    return board


def list_written(board):
    """Legal moves that survive being written and read, as a set of words."""
    written = set()
    for move in board.legal_moves:
        words = write_move(board, move)
        assert read_move(words, board.turn) == move
        assert is_playable(board, words)
        written.add(words)
    return written


def turn(move):
    return chess.Move(
        chess.square_mirror(move.from_square),
        chess.square_mirror(move.to_square),
        promotion=move.promotion,
    )


@pytest.mark.parametrize("mirrored", [False, True], ids=["white", "black"])
@pytest.mark.parametrize("name", PERFT)
def test_perft_counts_come_back_through_the_notation(name, mirrored):
    """Distinct words for distinct moves, in every position of published depth-2 counts."""
    fen, first, second = PERFT[name]
    board = chess.Board(fen).mirror() if mirrored else chess.Board(fen)
    written = list_written(board)

    replies = 0
    for words in written:
        move = read_move(words, board.turn)
        board.push(move)
        replies += len(list_written(board))
        board.pop()

    assert (len(written), replies) == (first, second)


@given(positions())
def test_every_legal_move_can_be_read_back(board):
    """Both colours, castling, en passant and promotions: one text a move, and the move again."""
    assert len(list_written(board)) == board.legal_moves.count()


@given(positions())
def test_a_position_can_be_rebuilt_from_its_words(board):
    """Nothing but the move counters is lost, so what is one text is one position to the rules."""
    seen = read_board(write_position(board))

    assert seen.is_valid()
    assert seen.epd(en_passant="legal") == see(board).epd(en_passant="legal")
    assert write_position(seen) == write_position(board)


@given(positions())
def test_a_mirrored_position_has_the_same_words(board):
    """The side to move is White to itself: position and moves are those of the mirror image."""
    mirror = board.mirror()

    assert write_position(mirror) == write_position(board)
    for move in board.legal_moves:
        assert write_move(mirror, turn(move)) == write_move(board, move)
        assert read_move(write_move(board, move), mirror.turn) == turn(move)


def test_random_positions_meet_every_kind_of_move():
    """What the properties above are checked on includes what is special in full chess."""
    met = set()

    @settings(derandomize=True, max_examples=200, database=None)
    @given(positions())
    def look(board):
        for move in board.legal_moves:
            kinds = {
                "castling": board.is_castling(move),
                "en passant": board.is_en_passant(move),
                "promotion": move.promotion is not None,
            }
            met.update((kind, board.turn) for kind, is_one in kinds.items() if is_one)

    look()
    assert met == set(itertools.product(["castling", "en passant", "promotion"], [True, False]))


def test_special_moves_are_two_words():
    """Castling names the king, promotion the new piece, en passant nothing special."""
    for fen, uci, words in (
        ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1g1", "Ke1 Kg1"),
        ("r3k2r/8/8/8/8/8/8/R3K2R b KQkq - 0 1", "e8c8", "Ke1 Kc1"),
        ("8/4P1k1/8/8/8/8/8/K7 w - - 0 1", "e7e8n", "Pe7 Ne8"),
        ("k7/8/8/8/8/8/4p1K1/8 b - - 0 1", "e2e1q", "Pe7 Qe8"),
        ("4k3/8/8/8/3Pp3/8/8/4K3 b - d3 0 1", "e4d3", "Pe5 Pd6"),
    ):
        board, move = chess.Board(fen), chess.Move.from_uci(uci)
        assert board.is_legal(move)
        assert write_move(board, move) == words
        assert read_move(words, board.turn) == move


def test_the_piece_must_be_named_rightly():
    """A legal pair of squares under another piece's name is not that move."""
    for board in (chess.Board(), chess.Board().mirror()):
        assert is_playable(board, "Pe2 Pe4 and more")
        assert not is_playable(board, "Qe2 Qe4")
        assert not is_playable(board, "Pe2 Pe5")
        assert not is_playable(board, "pe7 pe5")
        assert not is_playable(board, "Pe7 Pe5")


@given(st.text(alphabet="PNKpq abeh1278-", max_size=12), st.booleans())
def test_reading_never_fails(text, colour):
    """Whatever a model writes is a move or None."""
    move = read_move(text, colour)

    assert move is None or isinstance(move, chess.Move)


def test_only_pawns_change_what_they_are():
    """Two words of different pieces are a promotion, or no move at all."""
    assert read_move("Pe7 Qe8", chess.WHITE) == chess.Move.from_uci("e7e8q")
    assert read_move("Pe7 Qe8", chess.BLACK) == chess.Move.from_uci("e2e1q")
    assert read_move("Ne7 Qe8", chess.WHITE) is None
    assert read_move("Pe7", chess.WHITE) is None
    assert read_move("pe7 pe5", chess.BLACK) is None


def test_position_lists_what_an_epd_does():
    """Rights, en passant only where it can be taken, then the opponent's pieces and the mover's."""
    board = chess.Board("rnbqkbnr/ppp1p1pp/8/3pPp2/8/8/PPPP1PPP/RNBQKBNR w Qk f6 0 3")

    words = write_position(board).split()

    assert words[:5] == ["EPD", "w", "Q", "k", "f6"]
    assert words[-1] == "bm"
    pieces = words[5:-1]
    assert all(PIECE_WORD.fullmatch(word) for word in pieces)
    assert pieces == [
        *(f"{p.symbol()}{chess.square_name(s)}" for s, p in list_pieces(board, chess.BLACK)),
        *(f"{p.symbol()}{chess.square_name(s)}" for s, p in list_pieces(board, chess.WHITE)),
    ]
    assert pieces[0] == "rh8"
    assert pieces[-1] == "Ra1"
    board.ep_square = None
    assert "f6" not in write_position(board).split()


def list_pieces(board, colour):
    squares = reversed(chess.SQUARES)
    return [(s, board.piece_at(s)) for s in squares if board.color_at(s) == colour]


def test_black_to_move_is_written_from_its_own_side():
    """After 1. e4 Black sees a white king's pawn gone two squares as the opponent's on e5."""
    board = chess.Board()
    board.push_uci("e2e4")

    words = write_position(board).split()

    assert words[1] == "w"
    assert "pe5" in words
    assert "Pe2" in words
    assert "pe7" not in words
    assert write_move(board, chess.Move.from_uci("g8f6")) == "Ng1 Nf3"


def test_headers_name_only_what_is_known():
    """Tags in the order of PGN, and none that is missing or unknown to the records."""
    assert write_header({}) == ""
    assert write_header({"Result": "1-0", "WhiteElo": "2400"}) == "WhiteElo 2400 Result 1-0"
    everything = {"BlackElo": "1800", "Result": "*", "WhiteElo": "100"}
    assert write_header(everything) == "WhiteElo 100 BlackElo 1800 Result *"
