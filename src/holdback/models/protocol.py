"""What a task asks of a model, and what an elicitation technique may change about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from holdback.errors import ConfigError


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
    allowed: tuple[str, ...] | None = None
    """The only continuations that may be generated: constrained decoding."""


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

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Continue each request's prompt at the model's `decoding.temperature`.

        Prompts are tokenised as they stand, nothing is added. Tries, votes and the best of several
        draws are the task's: each draw is a request with a seed of its own.

        Raises:
            ConfigError: for `Request.allowed` where generation cannot be constrained.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOffers:
    """What a model may have beside its protocol, as attributes of these names; else as here."""

    encode: Callable[[str], Sequence[int]] | None = None
    """Tokenises a text as it stands; None where a provider keeps its tokenizer."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Gives the text of tokens."""
    can_read: Callable[[str], bool] | None = None
    """Tells whether the tokenizer knows all of a text."""
    tokenizer: Any = None
    """Of transformers."""
    weights: Any = None
    """Of transformers."""
    render_opening: Callable[..., str] | None = None
    """As `render_chat`, up to where an answer begins that is to follow at once, unthought."""
    answer_spaces: str = ""
    """What the chat template writes between that and an answer."""
    drops_system: bool = False
    """Whether what a system message says does not reach the model."""
    load_parent: Callable[[], Model] | None = None
    """Loads the checkpoint that it was made from; set by whoever loads it."""
    diagnosis: Mapping[str, Any] | None = None
    """What a technique that trains found on its way, in JSON; a run stores it."""
    usage: Any = None
    """What a service was asked for: `copy`, `since`, `capped` (`models.connection.Usage`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOffers:
    """What a loader of models may have, as attributes of these names; else as here."""

    access: str | Callable[[Any], str] = "samples"
    """What may be touched of its models: a name, or a function of the checkpoint."""
    identify: Callable[[Any], str] | None = None
    """Says what a checkpoint is beyond its id, such as the digest of an engine's binary."""


@runtime_checkable
class ScoringModel(Protocol):
    """A model that can also tell how likely a text is: what choices are compared by."""

    def score(self, questions: Sequence[Question]) -> list[tuple[Scored, ...]]:
        """Score each question's continuations, in the questions' order.

        Texts are tokenised as they stand: nothing is added. A prompt and its continuation are
        tokenised together and split where the prompt's own tokens end.
        """
        ...


def refuse_constraints(name: str, requests: Sequence[Request]) -> None:
    """Refuse constrained requests to a model that only gives whole answers.

    Raises:
        ConfigError: naming the checkpoint `name`, with what to do.
    """
    if any(request.allowed is not None for request in requests):
        raise ConfigError(
            f"checkpoint {name!r}: constrained decoding needs the model's log-probabilities at"
            " every step, which whole answers do not give; load the weights (hf/…), or climb the"
            " rung on other checkpoints only (`checkpoints` of its [[ladder]])"
        )
