"""How the chess lineage writes positions and moves: whitespace-separated words.

A piece on its square is one word (`Pe2`, the opponent's in lower case: `pe7`). A move is two: the
piece on the square it leaves and the piece on the square it reaches, so castling is `Ke1 Kg1` and
promotion `Pe7 Qe8`. A position lists side to move, castling rights, en passant square and the
pieces, as an EPD record does, and asks for the best move (`bm`).

The side to move is always written as White: a position in which Black is to move is mirrored, ranks
and colours, as `chess.Board.mirror` does, and so are its moves. That halves what there is to learn.
The opponent's pieces come first, so that each of the mover's own is read in the light of theirs.
Words that name piece *and* square taught a small model legality about ten times faster than one
token a move did (docs/chess-lineage.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from holdback.errors import ConfigError

if TYPE_CHECKING:
    import chess

MAX_MOVE_WORDS = 2
HEADER_TAGS = ("WhiteElo", "BlackElo", "Result")


def require_chess() -> None:
    """Look whether python-chess is installed, which reports do without.

    Raises:
        ConfigError: if not, with what to do.
    """
    if find_spec("chess") is None:
        raise ConfigError(
            "chess tasks need python-chess, which is not installed: pip install 'holdback[chess]'"
        )


def write_move(board: chess.Board, move: chess.Move) -> str:
    """Write a legal move of `board` as two words, seen from the side to move."""
    import chess

    piece = board.piece_at(move.from_square)
    if piece is None:
        raise ValueError(f"no piece on {chess.square_name(move.from_square)} in {board.fen()}")
    # The mover is White to itself, whose pieces are in upper case.
    left = chess.piece_symbol(piece.piece_type).upper()
    arrived = chess.piece_symbol(move.promotion or piece.piece_type).upper()
    return (
        f"{left}{chess.square_name(_turn(move.from_square, board.turn))}"
        f" {arrived}{chess.square_name(_turn(move.to_square, board.turn))}"
    )


def read_move(text: str, colour: chess.Color) -> chess.Move | None:
    """Read the first two words of `text` as a move; None if they are not one.

    The move need not be legal anywhere: that is the game's to judge.

    Args:
        text: An answer.
        colour: The mover's.
    """
    import chess

    words = text.split()[:MAX_MOVE_WORDS]
    if len(words) < MAX_MOVE_WORDS:
        return None
    for word in words:
        if len(word) != 3 or word[0] not in "PNBRQK" or word[1:] not in chess.SQUARE_NAMES:
            return None
    left, arrived = (_turn(chess.parse_square(word[1:]), colour) for word in words)
    promotion = None
    if words[0][0] != words[1][0]:
        if words[0][0] != "P":
            return None
        promotion = chess.Piece.from_symbol(words[1][0]).piece_type
    try:
        return chess.Move(left, arrived, promotion=promotion)
    except ValueError:
        return None


def is_playable(board: chess.Board, text: str) -> bool:
    """Tell whether `text` starts with a legal move of `board`, its piece named rightly."""
    move = read_move(text, board.turn)
    return (
        move is not None
        and board.is_legal(move)
        and write_move(board, move) == " ".join(text.split()[:MAX_MOVE_WORDS])
    )


def _turn(square: chess.Square, colour: chess.Color) -> chess.Square:
    """Turn a square to the side of the board that `colour` sits at, or back."""
    import chess

    return square if colour else chess.square_mirror(square)


def write_position(board: chess.Board) -> str:
    """Write a position as its side to move sees it: `EPD w K Q k q - rh8 … Ra1 bm`."""
    import chess

    if not board.turn:
        board = board.mirror()
    rights = [
        symbol
        for symbol, has in (
            ("K", board.has_kingside_castling_rights(chess.WHITE)),
            ("Q", board.has_queenside_castling_rights(chess.WHITE)),
            ("k", board.has_kingside_castling_rights(chess.BLACK)),
            ("q", board.has_queenside_castling_rights(chess.BLACK)),
        )
        if has
    ] or ["-"]
    en_passant = (
        chess.square_name(board.ep_square)
        if board.ep_square is not None and board.has_legal_en_passant()
        else "-"
    )
    placed = [
        f"{piece.symbol()}{chess.square_name(square)}"
        for colour in (chess.BLACK, chess.WHITE)
        for square, piece in sorted(board.piece_map().items(), reverse=True)
        if piece.color == colour
    ]
    return " ".join(["EPD", "w", *rights, en_passant, *placed, "bm"])


def write_san(fen: str, moves: Sequence[chess.Move]) -> str:
    """Write a game in standard algebraic notation, as PGN wants it: `Nc6 Bb5 Nf6`.

    Args:
        fen: Where it starts.
        moves: Of both sides.
    """
    import chess

    board = chess.Board(fen)
    return " ".join(board.san_and_push(move) for move in moves)


def write_header(header: Mapping[str, str]) -> str:
    """Write the PGN tags of a record, of which any may be missing.

    Args:
        header: Any of `WhiteElo` (the side to move), `BlackElo` (the side that waits), both in
            steps of 100 (`2400`), and `Result`.
    """
    return " ".join(f"{tag} {header[tag]}" for tag in HEADER_TAGS if tag in header)
