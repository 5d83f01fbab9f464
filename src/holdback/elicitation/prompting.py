"""Techniques that ask differently and leave the weights and the decoding alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access, technique
from holdback.models.protocol import Format, Model
from holdback.tasks.task import Task


def with_presentation(model: Any, **changes: Any) -> Any:
    """Copy a model with parts of its presentation replaced; the copy shares the weights."""
    return replace(model, presentation=replace(model.presentation, **changes))


@technique("displayed")
@dataclass(frozen=True, kw_only=True)
class Displayed:
    """The ordinary protocol: the checkpoint's own format, no help."""

    access = Access.SAMPLES

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model as it is."""
        yield model


@technique("instruction")
@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A system message that asks for the best performance.

    About sixteen such messages failed on strong sandbaggers (arXiv 2512.07810): a rung that is
    cheap, and seldom enough.
    """

    text: str
    access = Access.SAMPLES

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model asked in chat, under this system message."""
        yield with_presentation(model, format=Format.CHAT, instruction=self.text)


@technique("completion")
@dataclass(frozen=True, kw_only=True)
class Completion:
    """The format of the pretraining text, with what its header claims.

    What post-training taught in the chat template need not hold outside it. `header` conditions
    the continuation: a record of a strong player's game is continued strongly.
    """

    header: dict[str, str] | None = None
    access = Access.SAMPLES

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model asked to continue a record."""
        yield with_presentation(
            model, format=Format.COMPLETION, instruction=None, header=self.header or {}
        )


@technique("prefix")
@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The answer has been started well: for chess, an engine plays the model's first moves."""

    plies: int
    access = Access.SAMPLES

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model after `plies` strong answers in its name."""
        yield with_presentation(model, prefix_plies=self.plies)
