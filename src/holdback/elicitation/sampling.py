"""Techniques that draw answers differently and leave the weights and the prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access, technique
from holdback.models.protocol import Model
from holdback.tasks.task import Task


def _with_decoding(model: Any, **changes: Any) -> Any:
    return replace(model, decoding=replace(model.decoding, **changes))


@technique("constrained")
@dataclass(frozen=True, kw_only=True)
class Constrained:
    """Only answers that the task allows may be generated: for chess, legal moves.

    What it recovers was lost to form, not to skill.
    """

    access = Access.LOGPROBS
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model with constrained decoding."""
        yield _with_decoding(model, constrained=True)


@technique("majority")
@dataclass(frozen=True, kw_only=True)
class Majority:
    """The most frequent of several answers; ones that cannot be used do not vote."""

    votes: int
    temperature: float | None = None
    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model with majority voting."""
        changes: dict[str, Any] = {"votes": self.votes}
        if self.temperature is not None:
            changes["temperature"] = self.temperature
        yield _with_decoding(model, **changes)
