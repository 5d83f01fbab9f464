"""Techniques that draw answers differently and leave the weights and the prompt alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError
from holdback.extensions import offered
from holdback.models.protocol import Model
from holdback.tasks.task import Task, TaskOffers


def _with_decoding(model: Any, **changes: Any) -> Any:
    if "temperature" in changes:
        changes["keeps_temperature"] = True
    return replace(model, decoding=replace(model.decoding, **changes))


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


@dataclass(frozen=True, kw_only=True)
class Majority:
    """The most frequent of several answers; ones that cannot be used do not vote."""

    votes: int
    temperature: float | None = None
    access = Access.SAMPLES
    draws = False

    def __post_init__(self) -> None:
        if self.votes < 2:
            raise ConfigError(f"majority: votes must be at least 2, got {self.votes}")
        if self.temperature is not None:
            _check_temperature("majority: temperature", self.temperature)

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model with majority voting."""
        changes: dict[str, Any] = {"votes": self.votes}
        if self.temperature is not None:
            changes["temperature"] = self.temperature
        yield _with_decoding(model, **changes)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Answers are drawn at another temperature, from the likeliest alone (0) to all (above 1).

    What the model seldom says is drawn more often; by itself it trades one error for another, and
    it is meant to be crossed with `best_of_n` or `majority`.
    """

    value: float
    access = Access.SAMPLES
    draws = False

    def __post_init__(self) -> None:
        _check_temperature("temperature: value", self.value)

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model that draws at `value`.

        Raises:
            ConfigError: where nothing is drawn, or where answers are drawn at `value` already.
        """
        if offered(TaskOffers, task, "access") != "samples":
            raise ConfigError(
                f"temperature: expected a task whose answers are generated, got {task.name!r},"
                " which compares likelihoods; leave this rung out on it (`tasks` of the rung)"
            )
        if model.decoding.temperature == self.value:
            raise ConfigError(
                f"temperature: expected another than the ordinary one, got {self.value:g}, at which"
                f" {model.name!r} answers as it is; the rung would be the one without it"
            )
        yield _with_decoding(model, temperature=float(self.value))


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """An answer counts if any of `n` draws is right, by the task's own scorer.

    The verifier knows the target, so this is what the model can reach and not what it would submit
    (pass@n, Chen et al. 2021, arXiv 2107.03374). Guesses gain by it too: compare at an equal number
    of draws with a control, never with one draw; the rung is shown, and never chosen.
    """

    n: int
    temperature: float | None = None
    access = Access.SAMPLES
    draws = False
    is_candidate = False

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"best_of_n: n must be at least 2, got {self.n}")
        if self.temperature is not None:
            _check_temperature("best_of_n: temperature", self.temperature)

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model that is given `n` draws.

        Raises:
            ConfigError: for a task that does not score each draw, or at temperature 0, where all
                are the same.
        """
        if not offered(TaskOffers, task, "takes_best_of"):
            raise ConfigError(
                "best_of_n: expected a task that scores each of several generated answers (text"
                f" tasks that generate), got {task.name!r}; leave this rung out on it (`tasks` of"
                " the rung)"
            )
        changes: dict[str, Any] = {"best_of": self.n}
        if self.temperature is not None:
            changes["temperature"] = self.temperature
        lent = _with_decoding(model, **changes)
        if lent.decoding.temperature == 0:
            raise ConfigError(
                f"best_of_n: expected a temperature above 0, got 0, at which all {self.n} draws are"
                " the same; give `temperature`"
            )
        yield lent


def _check_temperature(what: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{what} must be a number of at least 0, got {value!r}")
