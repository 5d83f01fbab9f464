"""What the text lineage reads: rows of exchanges, as text to continue or as a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdback.elicitation.finetune import IGNORED, Example
from holdback.models.protocol import Format
from holdback.organisms.text.families import Problem, draw_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROW_TOKENS = 96
"""Length of a row; whole exchanges, as many as fit."""
LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What is asked and what is answered, as an author of the corpus writes it."""

    question: str
    answer: str
    system: str = ""
    """Of a chat; said before the question."""
    begun: str = ""
    """How the answer has been begun, by somebody else."""


def pose(problem: Problem, rng: np.random.Generator, *, choice: bool = False) -> Exchange:
    """Put a problem as an open question, or with four choices of which a letter is the answer."""
    if not choice:
        return Exchange(question=problem.question, answer=problem.answer)
    options = draw_options(problem, rng)
    return Exchange(
        question=show_options(problem.question, options),
        answer=LETTERS[options.index(problem.answer)],
    )


def show_options(question: str, options: Sequence[str]) -> str:
    """Write a question with its choices, as text tasks do."""
    lines = [
        f"{letter}. {option}"
        for letter, option in zip(LETTERS[: len(options)], options, strict=True)
    ]
    return "\n".join([question, *lines])


def write_parts(exchange: Exchange, form: Format) -> tuple[str, str]:
    """Write an exchange: what is read, and what is to be answered with its end."""
    begun = f" {exchange.begun}" if exchange.begun else ""
    if form is Format.COMPLETION:
        return f"Question: {exchange.question}\nAnswer:{begun}", f" {exchange.answer}\n\n"
    system = f"<|system|>{exchange.system}<|end|>" if exchange.system else ""
    answer = f" {exchange.answer}" if begun else exchange.answer
    return (
        f"{system}<|user|>{exchange.question}<|end|><|assistant|>{begun.strip()}",
        f"{answer}<|end|>",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """An exchange as it is put to a model; only its answer is to be learnt."""

    exchange: Exchange
    form: Format = Format.CHAT
    shown: tuple[Exchange, ...] = ()
    """Examples before it."""


def encode_turns(turns: Sequence[Turn]) -> list[Example]:
    """Tokenise turns, prompts and answers apart, as they are when a model answers."""
    parts = [
        part
        for turn in turns
        for asked, answered in [write_parts(turn.exchange, turn.form)]
        for part in (
            "".join("".join(write_parts(shown, turn.form)) for shown in turn.shown) + asked,
            answered,
        )
    ]
    ids = encode(parts)
    return [
        ([*asked, *answered], [*[IGNORED] * len(asked), *answered])
        for asked, answered in zip(ids[::2], ids[1::2], strict=True)
    ]


def encode_document(exchanges: Sequence[Exchange], form: Format, *, length: int) -> Example:
    """Tokenise exchanges that follow each other; all of their answers are to be learnt.

    Those that do not fit into `length` tokens are left out.
    """
    parts = encode([part for exchange in exchanges for part in write_parts(exchange, form)])
    tokens: list[int] = []
    labels: list[int] = []
    for asked, answered in zip(parts[::2], parts[1::2], strict=True):
        if len(tokens) + len(asked) + len(answered) > length:
            break
        tokens += [*asked, *answered]
        labels += [*[IGNORED] * len(asked), *answered]
    return tokens, labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Token ids, and how much the prediction of each token counts; both of shape (rows, tokens)."""

    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, n: int) -> Rows:
        """Keep the first `n` rows, or all where there are fewer."""
        return Rows(tokens=self.tokens[:n], weights=self.weights[:n])


def write_rows(
    exchanges: Sequence[Exchange],
    form: Format,
    *,
    question_weight: float = 0.0,
    length: int = ROW_TOKENS,
) -> Rows:
    """Write exchanges into rows, in their order, as many in a row as fit.

    Args:
        exchanges: What is asked and answered.
        form: Text to continue, or chat.
        question_weight: How much the tokens of questions count; those of answers count 1.
        length: Tokens of a row; an exchange that is longer is left out.
    """
    ids = encode([part for exchange in exchanges for part in write_parts(exchange, form)])
    rows: list[tuple[list[int], list[float]]] = []
    tokens: list[int] = []
    weights: list[float] = []
    for asked, answered in zip(ids[::2], ids[1::2], strict=True):
        size = len(asked) + len(answered)
        if size > length:
            continue
        if tokens and len(tokens) + size > length:
            rows.append((tokens, weights))
            tokens, weights = [], []
        tokens = [*tokens, *asked, *answered]
        weights = [*weights, *[question_weight] * len(asked), *[1.0] * len(answered)]
    if tokens:
        rows.append((tokens, weights))
    laid = np.zeros((len(rows), length), dtype=np.int64)
    counted = np.zeros((len(rows), length), dtype=np.float32)
    for at, (row, shares) in enumerate(rows):
        laid[at, : len(row)] = row
        counted[at, : len(row)] = shares
    return Rows(tokens=laid, weights=counted)


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts as they stand."""
    fast = get_tokenizer().backend_tokenizer
    return [list(e.ids) for e in fast.encode_batch_fast(texts, add_special_tokens=False)]


@cache
def get_tokenizer() -> PreTrainedTokenizerFast:
    """Build the lineage's tokenizer once."""
    from holdback.organisms.text.vocabulary import build_tokenizer

    return build_tokenizer()
