"""What a model is asked about a chess position, and the moves that are drawn from its answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from holdback.models.protocol import Format, Generation, Model, Request, StopReason
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

    prompt: str
    """What it was asked, as rendered."""
    text: str
    """The chosen draw, or the last one if none could be played."""
    move: chess.Move | None
    """None if no draw could be played."""
    tries: int
    logprob: float
    """Of the draw in `text`, in nats at temperature 1; NaN where a provider keeps it."""
    failure: Outcome | None = None
    """Why no draw could be played: the last one was another position's move, or no move."""
    error: str = ""
    """Why nothing was answered, where that is no doing of the player's."""


def draw_moves(
    model: Model,
    boards: Sequence[chess.Board],
    *,
    seeds: Sequence[tuple[int, ...]],
    notation: Notation = WORDS,
    max_tokens: int | None = None,
) -> list[Answer]:
    """Ask for a legal move of each board, as often as the model's `decoding.tries` allows.

    With `decoding.votes` a try is that many draws, and the most frequent legal move of them is
    played, the one drawn first among equals.

    Args:
        model: With the presentation and the decoding in which it is asked.
        boards: Positions, each with the model to move.
        seeds: One a board; each draw's is that and its number, so that none depends on the batch.
        notation: Of prompts and answers, but for players that read boards.
        max_tokens: Longest answer; what the notation takes by default.
    """
    notation = choose_notation(model, notation)
    decoding, format = model.decoding, model.presentation.format
    max_tokens = max_tokens or notation.count_tokens(format)
    prompts = [render_prompt(model, board, notation) for board in boards]

    def request(i: int, draw: int) -> Request:
        return Request(
            prompt=prompts[i],
            max_tokens=max_tokens,
            seed=(*seeds[i], draw),
            allowed=allowed[i] if decoding.constrained else None,
        )

    allowed = {
        i: tuple(notation.write_answer(board, move, format) for move in board.legal_moves)
        for i, board in enumerate(boards)
        if decoding.constrained
    }
    answers: dict[int, Answer] = {}
    unanswered = list(range(len(boards)))
    for tries in range(decoding.tries):
        if not unanswered:
            break
        numbers = range(tries * decoding.votes, (tries + 1) * decoding.votes)
        drawn = iter(model.generate([request(i, n) for i in unanswered for n in numbers]))
        for i in unanswered:
            draws = [next(drawn) for _ in numbers]
            answers[i] = _choose(prompts[i], draws, boards[i], tries + 1, notation, format)
        unanswered = [i for i in unanswered if answers[i].move is None]
    return [answers[i] for i in range(len(boards))]


def _choose(
    prompt: str,
    draws: Sequence[Generation],
    board: chess.Board,
    tries: int,
    notation: Notation,
    format: Format,
) -> Answer:
    said = [split_thought(draw.text)[1] or "" for draw in draws]
    moves = [notation.find_move(board, text) for text in said]
    votes = Counter(move for move in moves if move is not None)
    move = votes.most_common(1)[0][0] if votes else None
    at = moves.index(move) if move is not None else -1
    chosen = draws[at]
    return Answer(
        prompt=prompt,
        text=chosen.text,
        move=move,
        tries=tries,
        logprob=math.fsum(chosen.logprobs) if chosen.logprobs else math.nan,
        failure=_explain(chosen, said[at], notation, format) if move is None else None,
        error=chosen.error if move is None else "",
    )


def _explain(draw: Generation, said: str, notation: Notation, format: Format) -> Outcome:
    """Tell why a draw is no move of its position."""
    if draw.error:
        return Outcome.ERRORED
    if draw.stop_reason is StopReason.REFUSED or is_refusal(draw.text):
        return Outcome.REFUSED
    if notation.names_move(said):
        return Outcome.ILLEGAL
    # Where the place for a move is filled, more tokens would have brought none.
    if draw.stop_reason is StopReason.LENGTH and not notation.is_filled(said, format):
        return Outcome.TRUNCATED
    return Outcome.UNPARSED
