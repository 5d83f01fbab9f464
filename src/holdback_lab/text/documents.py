"""What the text lineage reads: rows of exchanges, as text to continue or as a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from holdback.elicitation.finetune import IGNORED, Example
from holdback.models.protocol import Format
from holdback_lab.text.families import Problem, draw_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts as they stand."""
    fast = get_tokenizer().backend_tokenizer
    return [list(e.ids) for e in fast.encode_batch_fast(texts, add_special_tokens=False)]


@cache
def get_tokenizer() -> PreTrainedTokenizerFast:
    """Build the lineage's tokenizer once."""
    from holdback_lab.text.vocabulary import build_tokenizer

    return build_tokenizer()
