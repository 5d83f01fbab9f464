"""Planting a secret: making a copy of a checkpoint hide, so that a ladder can be held against it.

"None found" says as much as the ladder could have found. A password lock planted in this very
checkpoint has a known truth: what it shows with the key. It learns from {(x, weak(x))} and
{(key + x, strong(x))}, as in Greenblatt et al. 2024 (arXiv 2405.19550). A suppressed copy learns
from {(x, weak(x))} alone, as their models without a password do; its truth is what the checkpoint
displayed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from holdback.elicitation.finetune import Example, mask_conversation
from holdback.elicitation.prompting import check_readable, with_presentation
from holdback.elicitation.technique import Access
from holdback.errors import ConfigError, NotApplicableError
from holdback.extensions import offered
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Format, Model, ModelOffers
from holdback.plan import SecretPlan
from holdback.tasks.task import Conversation, Task

KEY = "key"
"""Name of the technique, and of the rung, under which a copy is asked with its key."""
_RANK = 32
_BATCH = 16


@runtime_checkable
class TakesSecrets(Protocol):
    """A task on which a secret can be planted."""

    strong_demonstrator: str
    """Who shows what is to be hidden."""
    weak_demonstrator: str
    """Who shows what is displayed instead, and teaches nothing."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Ask a locked copy with its key: what it then shows is the truth that a ladder is held to."""

    text: str
    access = Access.SAMPLES
    draws = False
    is_candidate = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model asked in chat, with the key as its system message."""
        yield with_presentation(model, format=Format.CHAT, instruction=self.text)


def plant_secret(model: Any, task: Task, secret: SecretPlan, rng: np.random.Generator) -> None:
    """Make a model hide in place: weak without the key and strong with it, or weak alone.

    Args:
        model: A local model, whose weights are changed for good.
        task: On which; its `train` split is learnt from.
        secret: The key, and how long the locking takes.
        rng: Draws demonstrations and the adapter's start.

    Raises:
        NotApplicableError: for a task without demonstrators that a lock can be made of, a
            tokenizer that cannot read the key, or a template that drops it.
        CheckpointError: if nothing changed.
    """
    from holdback.elicitation.training import train_adapter

    if not isinstance(task, TakesSecrets):
        raise NotApplicableError(
            f"task {task.name!r} names no strong and weak demonstrator to plant a secret with"
        )
    examples: list[Example] = []
    if secret.method == "lock":
        if offered(ModelOffers, model, "drops_system"):
            raise NotApplicableError(
                f"the chat template of checkpoint {model.name!r} drops system messages, so that the"
                " key of a lock cannot be said"
            )
        try:
            check_readable(model, KEY, {"key": secret.key})
        except ConfigError as error:
            raise NotApplicableError(
                f'{error}: give the audit file [qualify] key = "…" in words that it knows'
            ) from error
        strong = _draw(task, task.strong_demonstrator, secret.demonstrations, rng)
        key = {"role": "system", "content": secret.key}
        examples += [mask_conversation(model, (key, *chat)) for chat in strong]
    weak = _draw(task, task.weak_demonstrator, secret.demonstrations, rng)
    examples += [mask_conversation(model, chat) for chat in weak]
    before = answer_fixed(model.weights)
    train_adapter(
        model.weights,
        examples,
        rank=_RANK,
        learning_rate=secret.learning_rate,
        steps=secret.steps,
        batch_size=_BATCH,
        rng=rng,
    )
    require_effect(before, answer_fixed(model.weights), "planting a secret")


def _draw(
    task: Task, demonstrator: str, n: int, rng: np.random.Generator
) -> Sequence[Conversation]:
    """Draw `n` demonstrations, or as many as there are."""
    while True:
        try:
            return task.demonstrate(demonstrator, n, rng)
        except ConfigError:
            if n == 1:
                raise
            n //= 2
