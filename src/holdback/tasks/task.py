"""Tasks: samples, outcomes, and what turns outcomes into a capability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from holdback.extensions import offered
from holdback.models.protocol import Model, ModelOffers
from holdback.statistics.intrinsic import HonestMoves
from holdback.statistics.measurement import Measurement

KEPT_PROMPTS = 3
"""Samples of a run that keep their prompt in their metadata."""


class Split(StrEnum):
    """Disjoint parts of a task: demonstrations, choosing a rung, estimating."""

    TRAIN = "train"
    SELECT = "select"
    TEST = "test"


class Outcome(StrEnum):
    """What became of one sample. A missing answer is never a silent zero."""

    CORRECT = "correct"
    DRAWN = "drawn"
    WRONG = "wrong"
    REFUSED = "refused"
    UNPARSED = "unparsed"
    ILLEGAL = "illegal"
    TRUNCATED = "truncated"
    ERRORED = "errored"


FORFEITS = (Outcome.ILLEGAL, Outcome.UNPARSED, Outcome.REFUSED, Outcome.TRUNCATED)
"""What loses a game because an answer could not be played: form, not skill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The scorer's word on one sample; `value` is None where the sample says nothing."""

    value: float | None
    outcome: Outcome
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRecord:
    """One sample's result, as stored: one row.

    `metadata` is JSON: for a game the opponent, the moves and the win probabilities, for a
    position the advantage and the phase.
    """

    sample_id: str
    cluster: str
    score: Score
    metadata: Mapping[str, Any] = field(default_factory=dict)


Conversation: TypeAlias = tuple[Mapping[str, str], ...]
"""Chat messages with `role` and `content`, the user's first, the assistant's being the answers."""


class Task(Protocol):
    """Something to measure a model on."""

    name: str
    unit: str
    """Unit of the capability, as printed: `Elo`, `points`."""
    margin: float
    """Differences below this do not matter, in `unit`."""
    chance: float | None
    """Capability of answering at random, in `unit`; None where it is an opponent on the scale."""

    def run(
        self,
        model: Model,
        *,
        split: Split,
        samples: int,
        seed: int,
        done: Sequence[SampleRecord] = (),
    ) -> Iterator[SampleRecord]:
        """Yield the records that are still missing, in a fixed order.

        `done` holds what an interrupted run stored; those samples are not run again, and what is
        chosen adaptively is chosen as it would have been without the interruption.
        """
        ...

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draw `n` demonstrations from the `train` split, as chats; one may take several.

        Raises:
            UnknownNameError: for a demonstrator that the task does not have.
        """
        ...

    def measure(self, records: Sequence[SampleRecord]) -> Measurement:
        """Turn records into a capability, in `unit`, higher is better."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOffers:
    """What a task may have beside its protocol, as attributes of these names; else as here."""

    access: str = "samples"
    """What it needs of a model: `logprobs` where answers are compared by likelihood."""
    takes_examples: bool = False
    """Whether `presentation.shots` and `prefill` are honoured."""
    takes_best_of: bool = False
    """Whether `decoding.best_of` is honoured."""
    takes_prefix: bool = False
    """Whether `presentation.prefix_plies` is honoured."""
    strong_demonstrator: str | None = None
    """Whose demonstrations a recovery curve is of, and what is hidden in a planted secret."""
    description: str = ""
    """The protocol in a sentence, as a report prints it."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What was asked, and by which engine: part of a run's identity."""
    remarks: Sequence[str] = ()
    """What may be meant otherwise, though it can run."""
    honest_moves: HonestMoves | None = None
    """What honest players of known rating lose a move, where its samples are games."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a sample asks a model first, exactly as it is sent, and how much that may come to."""

    sample_id: str
    text: str
    token_ids: tuple[int, ...] | None = None
    """As the model reads it; None where a provider keeps its tokenizer to itself."""
    continuations: tuple[str, ...] = ()
    """Whose likelihoods behind it are compared; empty where the answer is generated."""
    max_tokens: int = 0
    """Most tokens read beside the prompt or generated, each time it is sent."""
    most_sent: int = 1
    """Most often that a prompt like it is sent for the sample: turns, tries, votes, choices."""


@runtime_checkable
class Previewed(Protocol):
    """A task that can say what it will ask, before anything is asked.

    `holdback plan --show-prompts` prints it, the dry run counts tokens by it, and each run keeps
    the prompts of its first samples in their records' metadata under `prompt` and
    `prompt_token_ids`.
    """

    def preview(self, model: Model, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        """Render what `run` would ask `model` first in each of its first `samples` samples.

        The arguments are those of `run`; `model` is only asked to render and to tokenise
        (`encode_prompt`), and may have no weights. A sample whose first prompt hangs on somebody
        else's answer, such as an opponent's move, is left out.
        """
        ...


def encode_prompt(model: Model, text: str) -> tuple[int, ...] | None:
    """Tokenise a prompt as `model` reads it; None where a provider keeps its tokenizer."""
    encode = offered(ModelOffers, model, "encode")
    return None if encode is None else tuple(encode(text))


def keep_prompt(model: Model, text: str) -> dict[str, Any]:
    """Write a prompt as the metadata of the sample that it began."""
    ids = encode_prompt(model, text)
    return {"prompt": text, "prompt_token_ids": None if ids is None else list(ids)}
