"""How positions are put to a player and moves are read from its answers: in one of two notations.

`words` is the shipped lineage's own (`notation`). `san` is what people and general models write:
FEN and standard algebraic notation, the answers read leniently (`san`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from holdback.errors import UnknownNameError
from holdback.models.protocol import Format
from holdback.tasks.chess import notation, san

if TYPE_CHECKING:
    import chess


class Notation(Protocol):
    """A way to write positions and moves."""

    @property
    def name(self) -> str:
        """As audit files name it."""
        ...

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        ...

    def count_tokens(self, format: Format) -> int:
        """Longest answer there has to be room for, in tokens of an ordinary tokenizer."""
        ...

    def write_question(self, board: chess.Board) -> str:
        """Write what the user of a chat asks."""
        ...

    def write_record(self, board: chess.Board, header: Mapping[str, str]) -> str:
        """Write the text that a move of `board` continues, as pretraining saw such texts.

        Args:
            board: Position with the model to move, and the moves that led there.
            header: What the record claims; `elo` or `WhiteElo` is the side to move's rating,
                `BlackElo` the other's, and `Result` is written as if the side to move were White.
        """
        ...

    def write_answer(self, board: chess.Board, move: chess.Move, format: Format) -> str:
        """Write a legal move as the text that answers in `format`."""
        ...

    def find_move(self, board: chess.Board, text: str) -> chess.Move | None:
        """Read an answer's legal move; None if it names none, or none for certain."""
        ...

    def names_move(self, text: str) -> bool:
        """Tell whether an answer names any move, of this position or another."""
        ...

    def is_filled(self, text: str, format: Format) -> bool:
        """Tell whether an answer is as long as a move, so that what follows is not looked at."""
        ...


class _Words:
    """The shipped lineage's notation: two words a move, the side to move always White."""

    name = "words"
    title = "the shipped lineage's words"

    def count_tokens(self, format: Format) -> int:
        return notation.MAX_MOVE_WORDS

    def write_question(self, board: chess.Board) -> str:
        return notation.write_position(board)

    def write_record(self, board: chess.Board, header: Mapping[str, str]) -> str:
        claimed = dict(header)
        if "elo" in claimed:
            claimed["WhiteElo"] = claimed.pop("elo")
        return " ".join([*notation.write_header(claimed).split(), notation.write_position(board)])

    def write_answer(self, board: chess.Board, move: chess.Move, format: Format) -> str:
        return notation.write_move(board, move)

    def find_move(self, board: chess.Board, text: str) -> chess.Move | None:
        if not notation.is_playable(board, text):
            return None
        return notation.read_move(text, board.turn)

    def names_move(self, text: str) -> bool:
        # Whose move it would be makes no difference to whether it is one.
        return notation.read_move(text, True) is not None

    def is_filled(self, text: str, format: Format) -> bool:
        return len(text.split()) >= notation.MAX_MOVE_WORDS


class _San:
    """FEN and standard algebraic notation."""

    name = "san"
    title = "standard algebraic notation"

    def count_tokens(self, format: Format) -> int:
        # A chat may wrap its move in a sentence; a record goes straight on with it.
        return 64 if format is Format.CHAT else 10

    def write_question(self, board: chess.Board) -> str:
        return san.write_question(board)

    def write_record(self, board: chess.Board, header: Mapping[str, str]) -> str:
        return san.write_record(board, header)

    def write_answer(self, board: chess.Board, move: chess.Move, format: Format) -> str:
        return board.san(move) if format is Format.CHAT else f" {board.san(move)}"

    def find_move(self, board: chess.Board, text: str) -> chess.Move | None:
        return san.find_move(board, text)

    def names_move(self, text: str) -> bool:
        return san.names_move(text)

    def is_filled(self, text: str, format: Format) -> bool:
        # A record goes on for ever; a chat's sentence may have its move at the end.
        return format is Format.COMPLETION and len(text.split()) > 1


WORDS: Notation = _Words()
SAN: Notation = _San()
NOTATIONS = {notation.name: notation for notation in (WORDS, SAN)}


def get_notation(name: str) -> Notation:
    """Look up a notation.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in NOTATIONS:
        raise UnknownNameError.among("chess notation", name, NOTATIONS)
    return NOTATIONS[name]
