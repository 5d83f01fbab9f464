"""One way to draw out a capability, and the ladder of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from holdback.errors import ConfigError, UnknownNameError
from holdback.models.protocol import Model
from holdback.tasks.task import Task


class Access(IntEnum):
    """What an evaluator must be able to touch, least first."""

    SAMPLES = 1
    LOGPROBS = 2
    ACTIVATIONS = 3
    WEIGHTS = 4


class Technique(Protocol):
    """One way to draw out capability that the plain prompt does not show."""

    @property
    def access(self) -> Access:
        """What it must be able to touch."""
        ...

    @property
    def draws(self) -> bool:
        """Whether `apply` draws from its `rng`, so that runs with other seeds differ."""
        ...

    def apply(
        self, model: Model, task: Task, rng: np.random.Generator
    ) -> AbstractContextManager[Model]:
        """Lend the model with the technique applied; `task` gives demonstrations to who needs them.

        On exit, including after an exception, `model` is bit for bit what it was: rungs share one
        copy of the weights, so a leak would credit this technique's effect to the next.
        """
        ...


def is_candidate(technique: Technique) -> bool:
    """Tell whether what a technique brings out may stand for what the model can do.

    Not where it comes from elsewhere: from a verifier that knows the answers, the parent's weights
    or a planted key; nor for a placebo. Such a rung is climbed and shown, and never chosen.
    """
    return bool(getattr(technique, "is_candidate", not getattr(technique, "is_placebo", False)))


@runtime_checkable
class Presents(Protocol):
    """A technique that works on the weights and can say how a model is asked under it."""

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it will be asked, with nothing done to its weights.

        Prompts are shown by it before anything is spent; `model` may have no weights.
        """
        ...


def present(
    technique: Technique, model: Model, task: Task, rng: np.random.Generator
) -> Model | None:
    """Lend a model as a technique will ask it; None where the technique does not say.

    What needs no more than log-probabilities only asks or draws otherwise, and is applied.
    """
    if isinstance(technique, Presents):
        return technique.present(model, task, rng)
    if technique.access > Access.LOGPROBS:
        return None
    # Nothing is changed in place, so what is lent outlives the context.
    with technique.apply(model, task, rng) as lent:
        return lent


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A technique with its parameters, under the name that tables print."""

    name: str
    technique: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    """Tasks it is climbed on; all of them where empty."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints it is climbed on; all of them where empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """Rungs in the order of their cost. The first is the ordinary protocol, `displayed`."""

    rungs: tuple[Rung, ...]

    def __post_init__(self) -> None:
        names = [rung.name for rung in self.rungs]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"ladder: rung names must differ, got twice: {sorted(twice)}")

    def __getitem__(self, name: str) -> Rung:
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise UnknownNameError.among("rung", name, [rung.name for rung in self.rungs])


F = TypeVar("F", bound=Callable[..., Technique])
_TECHNIQUES: dict[str, Callable[..., Technique]] = {}


def technique(name: str) -> Callable[[F], F]:
    """Register a technique under the name that audit files use."""

    def register(factory: F) -> F:
        if name in _TECHNIQUES:
            raise ValueError(f"technique {name!r} is registered twice")
        _TECHNIQUES[name] = factory
        return factory

    return register


def make_technique(rung: Rung) -> Technique:
    """Build a rung's technique from its parameters.

    Raises:
        UnknownNameError: for a technique that neither Holdback nor an entry point of the group
            `holdback.techniques` provides.
        ConfigError: for parameters that the technique does not take.
    """
    factory = _TECHNIQUES.get(rung.technique)
    if factory is None:
        offered = {point.name: point for point in entry_points(group="holdback.techniques")}
        if rung.technique not in offered:
            unknown = UnknownNameError.among("technique", rung.technique, {*_TECHNIQUES, *offered})
            raise UnknownNameError(f"rung {rung.name!r}: {unknown}")
        factory = offered[rung.technique].load()
    signature = inspect.signature(factory)
    taken = signature.parameters
    try:
        # Partly first: a misspelt name is told as what it is, before what it leaves missing.
        signature.bind_partial(**rung.parameters)
        signature.bind(**rung.parameters)
        return factory(**rung.parameters)
    except TypeError as error:
        raise ConfigError(
            f"rung {rung.name!r}, technique {rung.technique!r}: {error}; its parameters are"
            f" {', '.join(taken) or 'none'}"
        ) from error
