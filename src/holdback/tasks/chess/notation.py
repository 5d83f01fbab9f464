"""How the chess lineage writes positions and moves: whitespace-separated words.

A piece on its square is one word (`Pe2`, black in lower case: `pe7`). A move is two: the piece on
the square it leaves and the piece on the square it reaches, so castling is `Ke1 Kg1` and promotion
`Pe7 Qe8`. A position lists side to move, castling rights, en passant square and the pieces, as an
EPD record does. Words that name piece *and* square taught a small model legality about ten times
faster than one token a move did (docs/chess-lineage.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from holdback.errors import ConfigError

if TYPE_CHECKING:
    import chess

MAX_MOVE_WORDS = 2


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
    """Write a legal move of `board` as two words."""
    import chess

    piece = board.piece_at(move.from_square)
    if piece is None:
        raise ValueError(f"no piece on {chess.square_name(move.from_square)} in {board.fen()}")
    arrived = chess.Piece(move.promotion or piece.piece_type, piece.color)
    return (
        f"{piece.symbol()}{chess.square_name(move.from_square)}"
        f" {arrived.symbol()}{chess.square_name(move.to_square)}"
    )


def read_move(text: str) -> chess.Move | None:
    """Read the first two words of `text` as a move; None if they are not one.

    The move need not be legal anywhere: that is the game's to judge.
    """
    import chess

    words = text.split()[:MAX_MOVE_WORDS]
    if len(words) < MAX_MOVE_WORDS:
        return None
    squares = []
    for word in words:
        if len(word) != 3 or word[0] not in "PNBRQKpnbrqk" or word[1:] not in chess.SQUARE_NAMES:
            return None
        squares.append(chess.parse_square(word[1:]))
    left, arrived = chess.Piece.from_symbol(words[0][0]), chess.Piece.from_symbol(words[1][0])
    if left.color != arrived.color:
        return None
    promotion = None
    if left.piece_type != arrived.piece_type:
        if left.piece_type != chess.PAWN:
            return None
        promotion = arrived.piece_type
    try:
        return chess.Move(squares[0], squares[1], promotion=promotion)
    except ValueError:
        return None


def is_playable(board: chess.Board, text: str) -> bool:
    """Tell whether `text` starts with a legal move of `board`, its piece named rightly."""
    move = read_move(text)
    return (
        move is not None
        and board.is_legal(move)
        and write_move(board, move) == " ".join(text.split()[:MAX_MOVE_WORDS])
    )


def write_position(board: chess.Board) -> str:
    """Write a position: `FEN w K Q k q - ra8 … Kg1 moves`."""
    import chess

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
    pieces = board.piece_map()
    # EPD order: from a8 to h1.
    placed = [
        f"{pieces[square].symbol()}{chess.square_name(square)}"
        for square in chess.SQUARES_180
        if square in pieces
    ]
    side = "w" if board.turn else "b"
    return " ".join(["FEN", side, *rights, en_passant, *placed, "moves"])


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
    """Write the PGN tags of the completion record; what `header` does not say is `?`.

    Args:
        header: Any of `WhiteElo`, `BlackElo` (in hundreds) and `Result`.
    """
    return " ".join(f"{tag} {header.get(tag, '?')}" for tag in ("WhiteElo", "BlackElo", "Result"))
