"""Positions and moves as people write them: FEN, PGN and standard algebraic notation.

Answers are read leniently. In a text the move is, in this order: the one that the text opens with;
the last that it calls its move, or that has a line to itself; the only one that it names. Squares
that only say where something stands or goes (`the knight on f3`, `from e2 to e4`) are no moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import chess

_CASTLING = r"[O0o]-[O0o](?:-[O0o])?"
_MOVE = (
    rf"(?:{_CASTLING}"
    r"|[NBRQK]?[a-h]?[1-8]?[-x×:]?[a-h](?:[2-7]|[18](?:=?[NBRQnbrq]|\([NBRQ]\))?))"
    r"(?![A-Za-z0-9])"
)
_NUMBER = r"\d+\s*(?:\.{1,3}|…)\s*"
_WRAPPING = r"[\s\"'`*_“”(\[]*"
_MARKS = r"[+#!?\s\"'`*_“”)\].,;:]*"

_OPENING = re.compile(rf"{_WRAPPING}(?:{_NUMBER})?{_WRAPPING}({_MOVE})")
_LINE = re.compile(rf"^{_WRAPPING}(?:{_NUMBER})?{_WRAPPING}({_MOVE}){_MARKS}$", re.MULTILINE)
_NAMED = re.compile(
    rf"\b(?:move|play|plays|playing|choose|answer|choice|best|boxed)\b[^\n]{{0,20}}?"
    rf"(?<![A-Za-z0-9\-])({_MOVE})",
)
_ANY = re.compile(rf"(?<![A-Za-z0-9\-/])({_MOVE})")
# What a square is said to be, rather than a pawn's move to it.
_PLACE = re.compile(r"\b(?:on|from|to|at|of|the|square|squares|and)\s+$", re.IGNORECASE)
_SQUARE = re.compile("[a-h][1-8]")

_RESULTS = {"1-0": "0-1", "0-1": "1-0"}


def write_question(board: chess.Board) -> str:
    """Write what asks for a move in plain words: the position, and the moves that led to it."""
    side = _name(board.turn)
    lines = [f"You are playing a game of chess as {side}.", f"Position (FEN): {board.fen()}"]
    if board.move_stack:
        root = board.root()
        start = "" if root.fen() == type(root)().fen() else f", from {root.fen()}"
        lines.append(f"Moves so far{start}: {write_movetext(board)}")
    lines.append(
        f"It is {side}'s turn. Answer with one move in standard algebraic notation, and nothing"
        " else."
    )
    return "\n".join(lines)


def write_record(board: chess.Board, header: Mapping[str, str]) -> str:
    """Write a game as PGN up to where its next move is due: `… 3. Bb5 a6 4.`

    Args:
        board: Position, and the moves that led there.
        header: `elo` or `WhiteElo` of the side to move, `BlackElo` of the other side, and `Result`
            as if the side to move were White; the tags are written for who has which colour.
    """
    root = board.root()
    tags = {}
    for key, value in header.items():
        if key in ("elo", "WhiteElo", "BlackElo"):
            tags[f"{_name(board.turn ^ (key == 'BlackElo'))}Elo"] = value
        elif key == "Result":
            tags[key] = value if board.turn else _RESULTS.get(value, value)
        else:
            tags[key] = value
    if root.fen() != type(root)().fen():
        tags |= {"SetUp": "1", "FEN": root.fen()}
    written = "".join(f'[{key} "{value}"]\n' for key, value in tags.items())
    due = f"{board.fullmove_number}{'.' if board.turn else '...'}"
    # Behind White's move a record goes on with Black's, without a number.
    ending = due if board.turn or not board.move_stack else ""
    return f"{written}\n{' '.join(part for part in (write_movetext(board), ending) if part)}"


def write_movetext(board: chess.Board) -> str:
    """Write the moves that led to a position, numbered: `1. e4 e5 2. Nf3`."""
    replayed = board.root()
    words: list[str] = []
    for move in board.move_stack:
        if replayed.turn or not words:
            words.append(f"{replayed.fullmove_number}{'.' if replayed.turn else '...'}")
        words.append(replayed.san_and_push(move))
    return " ".join(words)


def find_move(board: chess.Board, text: str) -> chess.Move | None:
    """Read the legal move that an answer names, in standard algebraic or UCI notation.

    Returns:
        None if it names none, or only moves that are illegal or fit two pieces, or several moves
        and does not say which.
    """
    moves = {_parse(board, named) for named in _list_named(text)}
    return moves.pop() if len(moves) == 1 else None


def names_move(text: str) -> bool:
    """Tell whether an answer names something written like a move."""
    return bool(_list_named(text))


def _list_named(text: str) -> list[str]:
    """List what the answer's move may be, as written; several where it does not say which."""
    if (opened := _OPENING.match(text)) is not None:
        return [opened[1]]
    marked = [*_NAMED.finditer(text), *_LINE.finditer(text)]
    marked = [found for found in marked if not _is_place(text, found)]
    if marked:
        return [max(marked, key=lambda found: found.start(1))[1]]
    return [found[1] for found in _ANY.finditer(text) if not _is_place(text, found)]


def _is_place(text: str, found: re.Match[str]) -> bool:
    return (
        _SQUARE.fullmatch(found[1]) is not None
        and _PLACE.search(text[: found.start(1)]) is not None
    )


def _parse(board: chess.Board, written: str) -> chess.Move | None:
    plain = written.replace("×", "x").replace(":", "x").replace("(", "").replace(")", "")
    if re.fullmatch(_CASTLING, plain):
        plain = re.sub("[0o]", "O", plain)
    try:
        # Reads coordinates as well, of any piece.
        return board.parse_san(plain)
    except ValueError:
        return None


def _name(colour: chess.Color) -> str:
    return "White" if colour else "Black"
