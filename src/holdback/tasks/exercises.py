"""Questions to practise on: what reinforcement needs of a task beside its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from holdback.models.protocol import Generation, Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Exercise:
    """A rendered question of `train`, and what an answer to it earns."""

    prompt: str
    max_tokens: int
    stop: tuple[str, ...]
    """Strings at whose first occurrence an answer ends."""
    reward: Callable[[Generation], float]
    """From 0 to 1, by the task's own scorer; 0 for an answer that cannot be read."""


@runtime_checkable
class Practised(Protocol):
    """A task that answers can be reinforced on."""

    def draw_exercises(self, model: Model, n: int, rng: np.random.Generator) -> list[Exercise]:
        """Draw `n` questions of `train`, as `model` is asked; none again before all have come.

        Raises:
            ConfigError: if there are none.
        """
        ...
