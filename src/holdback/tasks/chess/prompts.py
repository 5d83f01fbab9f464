"""What a model is asked about a chess position, and the moves that are drawn from its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from holdback.models.protocol import Decoding, Format, Model, Output, Sessions, StopReason
from holdback.tasks.chess.notations import WORDS, Notation
from holdback.tasks.task import Conversation, Outcome
from holdback.tasks.text.prompts import begin_text, render_chat
from holdback.tasks.text.scoring import is_refusal, split_thought

if TYPE_CHECKING:
    import chess


@runtime_checkable
class ReadsBoards(Protocol):
    """A player that reads positions in a notation of its own, such as an engine over UCI."""

    def render_board(self, board: chess.Board) -> str:
        """Write what asks it for a move of `board`, with the moves that led there."""
        ...


def choose_notation(model: Model, notation: Notation) -> Notation:
    """Choose what a player's answers are read in: a board reader's are in words, always."""
    return WORDS if isinstance(model, ReadsBoards) else notation


def render_prompt(model: Model, board: chess.Board, notation: Notation = WORDS) -> str:
    """Render what asks `model` for a move of `board`, as its presentation says.

    The whole position is given each time: what is measured here is how well a model plays, not how
    long it remembers (docs/chess-lineage.md).
    """
    if isinstance(model, ReadsBoards):
        return model.render_board(board)
    presentation = model.presentation
    if presentation.format is Format.CHAT:
        messages = write_messages(board, presentation.instruction, notation=notation)
        # A move is asked for in a few tokens, which no thought would leave room in.
        return render_chat(model, messages, at_once=True)
    record = notation.write_record(board, presentation.header)
    return f"<bos> {record}" if notation is WORDS else f"{begin_text(model)}{record}"


def write_messages(
    board: chess.Board,
    instruction: str | None = None,
    *,
    answer: chess.Move | None = None,
    notation: Notation = WORDS,
) -> Conversation:
    """Write a turn as a chat: the user gives the position that the opponent's move has led to.

    Args:
        board: Position with the assistant to move.
        instruction: System message, if any.
        answer: The assistant's move, if it has been made.
        notation: Of the position and the move.
    """
    messages = [] if instruction is None else [{"role": "system", "content": instruction}]
    messages.append({"role": "user", "content": notation.write_question(board)})
    if answer is not None:
        written = notation.write_answer(board, answer, Format.CHAT)
        messages.append({"role": "assistant", "content": written})
    return tuple(messages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of asking a model for a move."""

    text: str
    """The chosen draw, or the last one if none could be played."""
    move: chess.Move | None
    """None if no draw could be played."""
    tries: int
    logprob: float
    """Of the draw in `text`, in nats at temperature 1; NaN where a provider keeps it."""
    stop_reason: StopReason = StopReason.STOP
    named: bool = False
    """Whether a draw that could not be played named a move all the same, of another position."""
    error: str = ""
    """Why nothing was answered, where that is no doing of the player's."""

    @property
    def failure(self) -> Outcome:
        """Why nothing could be played: the last draw was another position's move, or no move."""
        if self.error:
            return Outcome.ERRORED
        if self.stop_reason is StopReason.REFUSED or is_refusal(self.text):
            return Outcome.REFUSED
        if self.named:
            return Outcome.ILLEGAL
        return Outcome.TRUNCATED if self.stop_reason is StopReason.LENGTH else Outcome.UNPARSED


def draw_moves(
    sessions: Sessions,
    boards: Sequence[chess.Board],
    *,
    decoding: Decoding,
    max_tokens: int,
    rngs: Sequence[np.random.Generator],
    notation: Notation = WORDS,
    format: Format = Format.CHAT,
) -> list[Answer]:
    """Ask for a legal move of each board, as often as `decoding.tries` allows.

    With `decoding.votes` a try is that many draws, and the most frequent legal move of them is
    played, the one drawn first among equals.

    Args:
        sessions: One row a board, opened on its prompt.
        boards: Positions, each with the model to move.
        decoding: Tries, votes, temperature, and whether only legal moves may be generated.
        max_tokens: Longest answer.
        rngs: One generator a board.
        notation: In which the answers are read.
        format: In which the prompts were rendered.
    """
    allowed = [
        [notation.write_answer(board, move, format) for move in board.legal_moves]
        if decoding.constrained
        else []
        for board in boards
    ]
    answers: dict[int, Answer] = {}
    unanswered = list(range(len(boards)))
    for tries in range(1, decoding.tries + 1):
        entries = [i for i in unanswered for _ in range(decoding.votes)]
        outputs = sessions.propose(
            entries,
            decoding=decoding,
            rngs=[rngs[i] for i in entries],
            max_tokens=max_tokens,
            allowed=[allowed[i] for i in entries] if decoding.constrained else None,
        )
        draws: dict[int, list[Output]] = {i: [] for i in unanswered}
        for i, output in zip(entries, outputs, strict=True):
            draws[i].append(output)
        for i in unanswered:
            answers[i] = _choose(draws[i], boards[i], tries, notation)
        unanswered = [i for i in unanswered if answers[i].move is None]
        if not unanswered:
            break
    return [answers[i] for i in range(len(boards))]


def _choose(draws: Sequence[Output], board: chess.Board, tries: int, notation: Notation) -> Answer:
    said = [split_thought(draw.text)[1] or "" for draw in draws]
    read = [notation.find_move(board, text) for text in said]
    votes = Counter(move for move in read if move is not None)
    if not votes:
        last = draws[-1]
        return Answer(
            text=last.text,
            move=None,
            tries=tries,
            logprob=last.logprob,
            stop_reason=last.stop_reason,
            named=notation.names_move(said[-1]),
            error=last.error,
        )
    move = votes.most_common(1)[0][0]
    chosen = draws[read.index(move)]
    return Answer(text=chosen.text, move=move, tries=tries, logprob=chosen.logprob)
