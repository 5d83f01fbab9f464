"""One way to draw out a capability."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from holdback.errors import ConfigError
from holdback.extensions import TECHNIQUES, digest_source, find_extension, make_extension
from holdback.models.protocol import Model
from holdback.plan import Rung
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """What a technique may declare beside its protocol, as attributes of these names."""

    uses_parent: bool = False
    """It needs the weights that the checkpoint was made from."""
    is_placebo: bool = False
    """It is held against a technique, and not for one."""
    is_candidate: bool = True
    """What it brings out may stand for what the model can do. Not where it comes from elsewhere: a
    verifier that knows the answers, the parent's weights, a planted key, or a placebo. Such a rung
    is climbed and shown, and never chosen."""
    asks_model: bool = False
    """Its `apply` asks the model, so that its prompts cannot be shown before."""


def offers(technique: Technique) -> Offers:
    """Read what a technique declares."""
    declared = {
        part.name: bool(getattr(technique, part.name))
        for part in fields(Offers)
        if hasattr(technique, part.name)
    }
    return Offers(**{"is_candidate": not declared.get("is_placebo", False), **declared})


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
    if technique.access > Access.LOGPROBS or offers(technique).asks_model:
        return None
    # Nothing is changed in place, so what is lent outlives the context.
    with technique.apply(model, task, rng) as lent:
        return lent


def make_technique(rung: Rung) -> Technique:
    """Build a rung's technique from its parameters.

    Raises:
        UnknownNameError: for a technique that nothing provides.
        ConfigError: for parameters that the technique does not take, or of another type, or for
            several seeds where nothing is drawn.
    """
    try:
        factory = find_extension(TECHNIQUES, rung.technique, kind="technique")
    except ConfigError as error:
        raise type(error)(f"rung {rung.name!r}: {error}") from error
    made: Technique = make_extension(
        factory,
        rung.parameters,
        what=f"rung {rung.name!r}, technique {rung.technique!r}",
        noun="parameters",
    )
    _check_parts(made, f"rung {rung.name!r}, technique {rung.technique!r}")
    if len(rung.seeds) > 1 and not made.draws:
        raise ConfigError(
            f"rung {rung.name!r}: technique {rung.technique!r} draws nothing, so its seeds"
            f" {list(rung.seeds)} would give the same answers and count them several times; leave"
            " 'seeds' out and raise the number of samples instead"
        )
    return made


def _check_parts(made: Any, what: str) -> None:
    """Refuse what is no technique, before anything runs."""
    access = getattr(made, "access", None)
    if not isinstance(access, Access):
        names = ", ".join(f"Access.{each.name}" for each in Access)
        raise ConfigError(f"{what}: expected `access` to be one of {names}, got {access!r}")
    if not isinstance(getattr(made, "draws", None), bool):
        raise ConfigError(f"{what}: expected `draws` to be True or False, got none")
    if not callable(getattr(made, "apply", None)):
        raise ConfigError(f"{what}: expected a method `apply`, got none")


def digest_technique(rung: Rung) -> str:
    """SHA-256 of the source of a rung's technique, and of those that a chain is made of."""
    factory = find_extension(TECHNIQUES, rung.technique, kind="technique")
    links = rung.parameters.get("links", ()) if rung.technique == "chain" else ()
    parts = [Rung(name=rung.name, technique=str(link["technique"])) for link in links]
    return " ".join([digest_source(factory), *map(digest_technique, parts)])
