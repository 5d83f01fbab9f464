"""A third-party package for tests: models of known capability, and no torch anywhere.

It is found through its entry points, as any plug-in is; conftest.py puts this folder on the path.
A checkpoint `fake:0.3/0.8` shows a capability of 0.3 and has one of 0.8.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError, EngineError, UnknownNameError
from holdback.lineage import Checkpoint
from holdback.models.protocol import Decoding, Presentation
from holdback.statistics.estimate import Estimate
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement
from holdback.tasks.task import Outcome, Prompt, SampleRecord, Score, Split


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    name: str
    shown: float
    latent: float
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)


def load_fake(checkpoint: Checkpoint) -> FakeModel:
    shown, _, latent = checkpoint.model.removeprefix("fake:").partition("/")
    return FakeModel(name=checkpoint.name, shown=float(shown), latent=float(latent))


load_fake.access = "weights"  # type: ignore[attr-defined]


def load_closed(checkpoint: Checkpoint) -> FakeModel:
    """A model behind somebody's door: nothing of it may be touched."""
    return load_fake(replace(checkpoint, model=checkpoint.model.replace("closed:", "fake:")))


load_closed.access = "samples"  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Yes-or-no questions; question i is answered if its luck is below the capability."""

    name: str = "questions"
    margin: float = 3.0
    unit: str = "points"
    chance: float | None = 0.0
    delay_seconds: float = 0.0
    engine: str = ""
    """Program that it needs; there is none."""
    oracle: ClassVar[int] = 1
    """Version of a program that it uses."""

    def check_machine(self) -> None:
        if self.engine:
            raise EngineError(f"expected the program {self.engine!r}, found none; install it")

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        rated = {"strong": 90.0, "poor": 40.0}.get(demonstrator)
        return rated and Estimate(
            value=rated, low=rated - 1, high=rated + 1, n=9999, n_clusters=9999, method="given"
        )

    takes_prefix: ClassVar[bool] = True

    def run(
        self,
        model: Any,
        *,
        split: Split,
        samples: int,
        seed: int,
        done: Sequence[SampleRecord] = (),
    ) -> Iterator[SampleRecord]:
        splits = list(Split)
        for index in range(len(done), samples):
            time.sleep(self.delay_seconds)
            shared = np.random.default_rng([seed, splits.index(split), index])
            correct = shared.random() < model.shown
            yield SampleRecord(
                sample_id=f"q{index}",
                cluster=f"{split}-{index}",
                score=Score(
                    value=float(correct),
                    outcome=Outcome.CORRECT if correct else Outcome.WRONG,
                    answer="yes" if correct else "no",
                ),
                metadata={"difficulty": index / samples},
            )

    def preview(self, model: Any, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        return [
            Prompt(
                sample_id=f"q{index}",
                text=f"{model.name}, question {index}?",
                token_ids=tuple(range(8)),
                max_tokens=2,
            )
            for index in range(samples)
        ]

    def check_samples(self, split: Split, samples: int) -> None:
        if samples > 5000:
            raise ConfigError(f"{self.name}: split {split} has 5000 questions, got {samples}")

    def demonstrate(self, demonstrator: str, n: int, rng: np.random.Generator) -> list[Any]:
        if demonstrator not in ("strong", "poor"):
            raise UnknownNameError.among("demonstrator", demonstrator, ["strong", "poor"])
        if n > 5000:
            raise ConfigError(f"{self.name}: 5000 demonstrations are there, got n={n}")
        return [()] * n

    @property
    def provenance(self) -> dict[str, str]:
        return {"engine": f"oracle {self.oracle}"}

    def measure(self, records: Sequence[SampleRecord]) -> Measurement:
        values = [100 * (record.score.value or 0.0) for record in records]
        return clustered_mean(values, [record.cluster for record in records], support=(0, 100))


@dataclass(frozen=True, kw_only=True)
class Plain:
    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        yield model


@dataclass(frozen=True, kw_only=True)
class Unlock:
    """Brings out a share of what is latent, and nothing else."""

    share: float = 1.0
    access = Access.WEIGHTS
    draws = True

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        yield replace(model, shown=model.shown + self.share * (model.latent - model.shown))


@dataclass(frozen=True, kw_only=True)
class Teach:
    """Unlocks, and teaches everybody a little, as fine-tuning does."""

    def present(self, model: Any, task: Any, rng: np.random.Generator) -> Any:
        return model

    demonstrator: str = "strong"
    n: int = 4
    lift: float = 0.0
    access = Access.WEIGHTS
    draws = True

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        share = min(1.0, self.n / 16)
        shown = model.shown + share * (model.latent - model.shown) + self.lift
        yield replace(model, shown=min(1.0, shown))


@dataclass(frozen=True, kw_only=True)
class Luck:
    """Training that goes well or badly by its seed."""

    spread: float = 0.1
    access = Access.WEIGHTS
    draws = True

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        yield replace(model, shown=float(np.clip(model.shown + rng.normal(0, self.spread), 0, 1)))


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A technique with a bug."""

    access = Access.SAMPLES
    draws = True

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        raise ZeroDivisionError("planted bug")
        yield model


@dataclass(frozen=True, kw_only=True)
class Die:
    """A technique that takes its process with it, as running out of memory does."""

    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Any, task: Any, rng: np.random.Generator) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield model
