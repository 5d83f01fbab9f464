"""What question tasks share: splits, the order in which they are asked, the run, the measure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from holdback.errors import ConfigError
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement
from holdback.tasks.task import KEPT_PROMPTS, SampleRecord, Split

NOT_RIGHT, RIGHT = 0.0, 100.0
"""Least and greatest value of a sample, in points."""
CORRECT, RANDOM = "correct", "random"
"""Demonstrators that questions with a target have: right answers, and answers to other ones."""
DEFAULT_SHARES = {"train": 0.2, "select": 0.3, "test": 0.5}
_ORDER = 1
"""Stream of the audit's seed that the order of the questions is drawn from."""


class Question(Protocol):
    """One question, and where it belongs."""

    @property
    def id(self) -> str:
        """Of its sample."""
        ...

    @property
    def cluster(self) -> str:
        """Unit by which errors are clustered."""
        ...

    @property
    def split(self) -> Split:
        """Of the task."""
        ...


Q = TypeVar("Q", bound=Question)


@dataclass(frozen=True, kw_only=True)
class QuestionTask(Generic[Q]):
    """Questions that are asked once each; a sample's value is from 0 to 100 points.

    A task says what its questions are (`questions`, or `in_split`) and asks a batch of them
    (`run_batch`).
    """

    name: str
    margin: float = 3.0
    unit: str = "points"
    rows: int = 64
    """Questions in a batch."""

    @property
    def questions(self) -> Sequence[Q]:
        """All questions, of every split."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """Where the questions are from, for messages; empty where the task's name says it."""
        return ""

    def run_batch(
        self, model: Any, batch: Sequence[Q], *, seed: int, kept: Collection[str]
    ) -> Iterable[SampleRecord]:
        """Ask a batch of questions, one record each in their order.

        Args:
            model: The player.
            batch: At most `rows` questions.
            seed: The audit's.
            kept: Ids of the samples whose record keeps its prompt (`keep_prompt`).
        """
        raise NotImplementedError

    def in_split(self, split: Split) -> Sequence[Q]:
        """List the questions of a split."""
        return [question for question in self.questions if question.split is split]

    def count_samples(self, split: Split) -> int:
        """Count the questions of a split."""
        return len(self.in_split(split))

    def check_samples(self, split: Split, samples: int) -> None:
        """Look whether a split has so many questions.

        Raises:
            ConfigError: if not.
        """
        there = self.count_samples(split)
        if samples > there:
            of = f" of {self.source}" if self.source else ""
            raise ConfigError(
                f"{self.name}: split {split}{of} has {there} questions, got samples={samples}; ask"
                " for fewer, or give the split a larger share"
            )

    def choose(self, split: Split, *, samples: int, seed: int) -> list[Q]:
        """Draw the questions of a run, the same for all models."""
        among = self.in_split(split)
        order = np.random.default_rng((seed, _ORDER)).permutation(len(among))[:samples]
        return [among[int(at)] for at in order]

    def run(
        self,
        model: Any,
        *,
        split: Split,
        samples: int,
        seed: int,
        done: Sequence[SampleRecord] = (),
    ) -> Iterator[SampleRecord]:
        """Ask the questions that are missing in `done`, `rows` at a time.

        Raises:
            ConfigError: for more samples than the split has questions, or for decoding that the
                task cannot honour.
            CheckpointError: for a checkpoint that cannot be asked so.
        """
        self.check_samples(split, samples)
        chosen = self.choose(split, samples=samples, seed=seed)
        kept = {question.id for question in chosen[:KEPT_PROMPTS]}
        stored = {record.sample_id for record in done}
        missing = [question for question in chosen if question.id not in stored]
        for start in range(0, len(missing), self.rows):
            yield from self.run_batch(
                model, missing[start : start + self.rows], seed=seed, kept=kept
            )

    def measure(self, records: Sequence[SampleRecord]) -> Measurement:
        """Mean value over the samples that say something, clustered."""
        scored = [record for record in records if record.score.value is not None]
        return clustered_mean(
            [record.score.value or 0.0 for record in scored],
            [record.cluster for record in scored],
            support=(NOT_RIGHT, RIGHT),
        )


def check_shares(task: str, shares: Mapping[str, float]) -> None:
    """Refuse shares of splits that are none.

    Raises:
        ConfigError: saying what was expected.
    """
    parts = [shares.get(str(split), 0.0) for split in Split]
    if set(shares) - set(Split) or min(parts) < 0 or abs(sum(parts) - 1) > 1e-9:
        raise ConfigError(
            f"{task}: expected shares = {{ train = …, select = …, test = … }} that sum to 1, got"
            f" {dict(shares)!r}"
        )
