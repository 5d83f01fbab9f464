"""What a task asks of a model, and what an elicitation technique may change about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np


class Format(StrEnum):
    """How a task is put to a model: as text to continue, or through its chat template."""

    COMPLETION = "completion"
    CHAT = "chat"


@dataclass(frozen=True, kw_only=True, slots=True)
class Presentation:
    """How a task is put to a model. Prompting techniques replace it; weights stay as they are."""

    format: Format = Format.CHAT
    instruction: str | None = None
    """System message in chat; ignored by the completion format."""
    header: Mapping[str, str] = field(default_factory=dict)
    """Metadata the completion record claims, for chess `{"elo": "2000"}`."""
    prefix_plies: int = 0
    """Plies that a strong engine plays, for both sides, before the model takes over."""
    shots: tuple[tuple[Mapping[str, str], ...], ...] = ()
    """Answered examples put before the question, each a chat; for text tasks and Inspect."""
    prefill: str = ""
    """How the answer begins; the model goes on from there. For text tasks and Inspect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How an answer is drawn from the model's distribution."""

    temperature: float = 0.3
    keeps_temperature: bool = False
    """Whether the temperature is a rung's, so that no other program's task replaces it."""
    tries: int = 3
    """Draws before an answer that cannot be used stands as the outcome."""
    constrained: bool = False
    """Only answers that the task allows (for chess: legal moves) may be generated."""
    votes: int = 1
    """Draws an answer is chosen from by majority; unusable ones do not vote."""
    best_of: int = 1
    """Draws of which one right answer is enough, by the task's own scorer; for text tasks."""


class StopReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """The model ended it, or a stop string did."""
    LENGTH = "length"
    """It reached `max_tokens`, or the model's context."""
    REFUSED = "refused"
    """The model declined through its provider's own field for that, or a filter cut it off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One generated answer."""

    text: str
    logprob: float
    """Sum over its tokens, in nats, at temperature 1; NaN where a provider keeps it."""
    stop_reason: StopReason = StopReason.STOP
    """`LENGTH` only where the length of an answer is not the task's own."""
    error: str = ""
    """Why there is no answer: what plays in the model's place, such as an engine, failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A rendered prompt, and the continuations whose probabilities are compared."""

    prompt: str
    continuations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a continuation is worth to a model."""

    logprob: float
    """Sum over its tokens, in nats, at temperature 1."""
    tokens: int
    greedy: bool
    """Whether every one of its tokens is the likeliest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A rendered prompt to continue. What is drawn depends on it alone, never on the batch."""

    prompt: str
    max_tokens: int
    seed: tuple[int, ...]
    """Of its draws; without effect at temperature 0."""
    stop: tuple[str, ...] = ()
    """Strings at whose first occurrence the text ends; they are not part of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What a model generated for a request."""

    text: str
    logprobs: tuple[float, ...]
    """Of the sampled tokens at temperature 1, in nats; empty where the provider keeps them."""
    stop_reason: StopReason
    tokens: int
    thought: str = ""
    """What was thought before the text, where a provider tells it apart."""
    token_ids: tuple[int, ...] = ()
    """All that were sampled, what ended the text included; empty where the provider keeps them."""
    error: str = ""
    """Why there is no answer: the service stopped answering. Such a sample is to be tried again."""


class TextModel(Protocol):
    """A model that scores continuations and generates: what text tasks need."""

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        """Score each question's continuations, in the questions' order.

        Texts are tokenised as they stand: nothing is added. A prompt and its continuation are
        tokenised together and split where the prompt's own tokens end.
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Continue each request's prompt at the model's `decoding.temperature`."""
        ...


class Sessions(Protocol):
    """Texts that only grow, one a row (a game, a conversation), advanced in lock step.

    Each row keeps its key/value cache, so a step costs the new tokens only.
    """

    def extend(self, texts: Mapping[int, str]) -> None:
        """Append to the named rows what is now part of their text."""
        ...

    def propose(
        self,
        rows: Sequence[int],
        *,
        decoding: Decoding,
        rngs: Sequence[np.random.Generator],
        max_tokens: int,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Output]:
        """Draw one continuation for each of `rows`, without appending it.

        Args:
            rows: Row numbers; a row may be named several times for independent draws.
            decoding: Only `temperature` matters here (0 is greedy); tries and votes are the task's.
            rngs: One generator for each entry of `rows`, so that no draw depends on the batch.
            max_tokens: Longest continuation. Generation also stops at an end-of-text token.
            allowed: For each entry of `rows`, the only continuations that may be generated.
        """
        ...

    def close(self, rows: Sequence[int]) -> None:
        """Drop rows that are finished; their numbers are not used again."""
        ...


class Model(Protocol):
    """A checkpoint ready to answer, with the way in which it is asked."""

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        ...

    @property
    def presentation(self) -> Presentation:
        """How tasks are put to it."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How its answers are drawn."""
        ...

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Render messages through the checkpoint's own chat template.

        Args:
            messages: `role` and `content` each; what else they have, the template may know.
            answer_next: Whether an answer is begun behind them.
            tools: Schemas of functions that it may call, as OpenAI's interface has them; templates
                that know no tools leave them out.

        Raises:
            CheckpointError: if the checkpoint has no chat template.
        """
        ...

    def open_sessions(self, texts: Sequence[str]) -> Sessions:
        """Start one session a text. Texts are tokenised as they stand, nothing is added."""
        ...
