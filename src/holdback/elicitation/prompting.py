"""Techniques that ask differently and leave the weights and the decoding alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError
from holdback.extensions import offered
from holdback.models.protocol import Format, Model, ModelOffers
from holdback.tasks.task import Task, TaskOffers


def with_presentation(model: Any, **changes: Any) -> Any:
    """Copy a model with parts of its presentation replaced; the copy shares the weights."""
    return replace(model, presentation=replace(model.presentation, **changes))


@dataclass(frozen=True, kw_only=True)
class Displayed:
    """The ordinary protocol: the checkpoint's own format, no help."""

    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model as it is."""
        yield model


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A system message that asks for the best performance.

    About sixteen such messages failed on strong sandbaggers (arXiv 2512.07810): a rung that is
    cheap, and seldom enough.
    """

    text: str
    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model asked in chat, under this system message.

        Raises:
            ConfigError: for a text that the model's tokenizer does not know.
        """
        check_readable(model, "instruction", {"text": self.text})
        yield with_presentation(model, format=Format.CHAT, instruction=self.text)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The format of the pretraining text, with what its header claims.

    What post-training taught in the chat template need not hold outside it. `header` conditions
    the continuation: a record of a strong player's game is continued strongly.
    """

    header: dict[str, str] | None = None
    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model asked to continue a record.

        Raises:
            ConfigError: for a header that the model's tokenizer does not know.
        """
        header = self.header or {}
        check_readable(model, "completion", header)
        yield with_presentation(model, format=Format.COMPLETION, instruction=None, header=header)


def check_readable(model: Any, technique: str, texts: Mapping[str, str]) -> None:
    """Refuse a text that reads as nothing: the rung would be the one without it, unnoticed."""
    # A remote model keeps its tokenizer to itself.
    can_read = offered(ModelOffers, model, "can_read")
    for key, value in texts.items():
        if can_read is not None and not can_read(str(value)):
            raise ConfigError(
                f"{technique}: expected words that the tokenizer of checkpoint {model.name!r}"
                f" knows, got {key} = {value!r}, in which it reads an unknown word; take its own"
                " (the chess lineage knows ratings in hundreds, and lower case)"
            )


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The game has been started well: a strong engine plays its first plies, for both sides.

    It plays the opponent's moves too, so that what it gains for the model is the kind of position
    that good play leads to, and not an advantage.
    """

    plies: int
    access = Access.SAMPLES
    draws = False

    def __post_init__(self) -> None:
        if self.plies < 1:
            raise ConfigError(f"prefix: plies must be at least 1, got {self.plies}")

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model to games that begin after `plies` strong plies.

        Raises:
            ConfigError: for a task in which no game is played.
        """
        if not offered(TaskOffers, task, "takes_prefix"):
            raise ConfigError(
                f"prefix: expected a task that plays games, got {task.name!r}; leave this rung out"
                " on it (`tasks` of the rung)"
            )
        yield with_presentation(model, prefix_plies=self.plies)
