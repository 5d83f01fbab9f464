"""What a model sees of a chess game, and the moves that are drawn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from holdback.models.protocol import Decoding, Format, Model, Output, Sessions
from holdback.tasks.chess.notation import (
    MAX_MOVE_WORDS,
    is_playable,
    read_move,
    write_header,
    write_move,
    write_position,
)
from holdback.tasks.task import Conversation, Outcome

if TYPE_CHECKING:
    import chess

RELIST_PLIES = 8
"""After so many plies the text starts anew from the position on the board.

The shipped models lose track of long games: 95% of their likeliest moves are legal right after a
position, 93% four to eight plies later, 76% after more than thirty (docs/chess-lineage.md). What is
measured here is how well a model plays, not how long it remembers.
"""


class Transcript:
    """One game as the model reads it, from a position at its side's turn."""

    def __init__(self, model: Model, board: chess.Board) -> None:
        self._model = model
        self._position = write_position(board)
        self._colour = board.turn
        self._moves: list[str] = []

    def add_move(self, words: str) -> None:
        """Append a move of either side; the first is the model's own."""
        self._moves.append(words)

    def render(self, board: chess.Board) -> str:
        """Render what leads up to the model's next answer, on `board` as it stands now."""
        if len(self._moves) >= RELIST_PLIES:
            self._position, self._moves = write_position(board), []
        presentation = self._model.presentation
        if presentation.format is Format.CHAT:
            messages = write_messages(self._position, self._moves, presentation.instruction)
            return self._model.render_chat(messages, answer_next=True)
        header = dict(presentation.header)
        if "elo" in header:
            header["WhiteElo" if self._colour else "BlackElo"] = header.pop("elo")
        return " ".join(["<bos>", write_header(header), self._position, *self._moves])


def write_messages(
    position: str, moves: Sequence[str], instruction: str | None = None
) -> Conversation:
    """Write a game as a chat: the user gives the position, then the opponent's moves.

    Args:
        position: `write_position` at the assistant's first turn.
        moves: `write_move` of both sides in turn, the assistant's first.
        instruction: System message, if any.
    """
    system = [] if instruction is None else [{"role": "system", "content": instruction}]
    said = [{"role": "user", "content": position}]
    for ply, words in enumerate(moves):
        said.append({"role": "user" if ply % 2 else "assistant", "content": words})
    return (*system, *said)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of asking a model for a move."""

    text: str
    """The chosen draw, or the last one if none could be played."""
    move: chess.Move | None
    """None if no draw could be played."""
    tries: int
    logprob: float
    """Of the draw in `text`, in nats at temperature 1."""

    @property
    def failure(self) -> Outcome:
        """Why nothing could be played: the last draw was another position's move, or no move."""
        return Outcome.UNPARSED if read_move(self.text) is None else Outcome.ILLEGAL


def draw_moves(
    seats: Sequence[tuple[Sessions, int]],
    boards: Sequence[chess.Board],
    *,
    decoding: Decoding,
    max_tokens: int,
    rngs: Sequence[np.random.Generator],
) -> list[Answer]:
    """Ask for a legal move of each board, as often as `decoding.tries` allows.

    With `decoding.votes` a try is that many draws, and the most frequent legal move of them is
    played, the one drawn first among equals.

    Args:
        seats: Session and row of each board.
        boards: Positions, each with the model to move.
        decoding: Tries, votes, temperature, and whether only legal moves may be generated.
        max_tokens: Longest answer.
        rngs: One generator a board.
    """
    allowed = [
        [write_move(board, move) for move in board.legal_moves] if decoding.constrained else []
        for board in boards
    ]
    answers: dict[int, Answer] = {}
    unanswered = list(range(len(boards)))
    for tries in range(1, decoding.tries + 1):
        draws: dict[int, list[Output]] = {i: [] for i in unanswered}
        for sessions in {id(seats[i][0]): seats[i][0] for i in unanswered}.values():
            entries = [
                i for i in unanswered if seats[i][0] is sessions for _ in range(decoding.votes)
            ]
            outputs = sessions.propose(
                [seats[i][1] for i in entries],
                decoding=decoding,
                rngs=[rngs[i] for i in entries],
                max_tokens=max_tokens,
                allowed=[allowed[i] for i in entries] if decoding.constrained else None,
            )
            for i, output in zip(entries, outputs, strict=True):
                draws[i].append(output)
        for i in unanswered:
            answers[i] = _choose(draws[i], boards[i], tries)
        unanswered = [i for i in unanswered if answers[i].move is None]
        if not unanswered:
            break
    return [answers[i] for i in range(len(boards))]


def _choose(draws: Sequence[Output], board: chess.Board, tries: int) -> Answer:
    legal = {_first_words(draw.text): draw for draw in reversed(draws)}
    legal = {words: draw for words, draw in legal.items() if is_playable(board, words)}
    votes = Counter(words for draw in draws if (words := _first_words(draw.text)) in legal)
    if not votes:
        return Answer(text=draws[-1].text, move=None, tries=tries, logprob=draws[-1].logprob)
    words = votes.most_common(1)[0][0]
    return Answer(text=words, move=read_move(words), tries=tries, logprob=legal[words].logprob)


def _first_words(text: str) -> str:
    return " ".join(text.split()[:MAX_MOVE_WORDS])
