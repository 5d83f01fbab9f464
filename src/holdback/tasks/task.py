"""Tasks: samples, outcomes, and what turns outcomes into a capability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np

from holdback.models.protocol import Model
from holdback.statistics.measurement import Measurement


class Split(StrEnum):
    """Disjoint parts of a task: demonstrations, choosing a rung, estimating."""

    TRAIN = "train"
    SELECT = "select"
    TEST = "test"


class Outcome(StrEnum):
    """What became of one sample. A missing answer is never a silent zero."""

    CORRECT = "correct"
    WRONG = "wrong"
    REFUSED = "refused"
    UNPARSED = "unparsed"
    ILLEGAL = "illegal"
    TRUNCATED = "truncated"
    ERRORED = "errored"


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
