"""Techniques that show how to answer, or begin the answer, and leave the weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdback.elicitation.prompting import with_presentation
from holdback.elicitation.technique import Access
from holdback.errors import ConfigError
from holdback.extensions import offered
from holdback.models.protocol import Model
from holdback.tasks.task import Task, TaskOffers


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Answered examples before the question, in the format that the model is asked in.

    Drawn from `train` with the rung's seed, since fixed ones leak. Usual numbers are 1, 3, 5 and 10
    (Hofstätter et al. 2025, arXiv 2502.02180).
    """

    n: int
    demonstrator: str = "correct"
    access = Access.SAMPLES
    draws = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"few_shot: n must be at least 1, got {self.n}")

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model that is shown `n` demonstrations first.

        Raises:
            UnknownNameError: for a demonstrator that the task does not have.
            ConfigError: for a task that would not show them.
        """
        check_taken("few_shot", task)
        shots = tuple(task.demonstrate(self.demonstrator, self.n, rng))
        yield with_presentation(model, shots=shots)


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """The answer has been begun: «The correct answer is»; also in every example.

    To be crossed with `few_shot`: the two together nearly unlock password locks, each alone may not
    (Hofstätter et al. 2025, arXiv 2502.02180).
    """

    text: str
    access = Access.SAMPLES
    draws = False

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(f"prefill: expected the beginning of an answer, got {self.text!r}")

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model whose answers begin with `text`.

        Raises:
            ConfigError: for a task that would not begin them so.
        """
        check_taken("prefill", task)
        # A trailing space would split the next word's token.
        yield with_presentation(model, prefill=self.text.rstrip())


def check_taken(technique: str, task: Task) -> None:
    """Refuse a task that would ask as ever: the rung would be the one without it, unnoticed.

    Raises:
        ConfigError: naming the task.
    """
    if not offered(TaskOffers, task, "takes_examples"):
        raise ConfigError(
            f"{technique}: expected a task that puts examples and prefills to the model (text,"
            f" inspect), got {task.name!r}; leave this rung out on it (`tasks` of the rung)"
        )
