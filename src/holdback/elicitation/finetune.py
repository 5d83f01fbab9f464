"""LoRA fine-tuning on demonstrations: the rung that reveals, and also teaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from holdback.elicitation.prompting import with_presentation
from holdback.elicitation.technique import Access
from holdback.errors import CheckpointError, ConfigError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Format, Model
from holdback.tasks.task import Conversation, Task

IGNORED = -100
"""Label of a token that nothing is to be learned from."""

Example: TypeAlias = tuple[list[int], list[int]]
"""Token ids and labels of equal length; label i is the token to predict at position i."""


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Supervised fine-tuning of an adapter on a few demonstrations, in the chat format.

    Revealing takes a few demonstrations, teaching takes many; what rises above a weak
    demonstrator was there before (Greenblatt et al. 2024, arXiv 2405.19550; AISI 2025, arXiv
    2512.07810). All linear layers, and the loss on the answers only, each as those papers do.
    """

    demonstrator: str
    n: int
    rank: int = 32
    learning_rate: float = 1e-3
    steps: int = 32
    batch_size: int = 8
    access = Access.WEIGHTS
    draws = True

    def __post_init__(self) -> None:
        if self.n < 1 or self.steps < 1 or self.batch_size < 1:
            raise ConfigError(
                f"finetune: n, steps and batch_size must be at least 1, got n={self.n},"
                f" steps={self.steps}, batch_size={self.batch_size}"
            )

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the fine-tuned model; its weights are restored and the adapter is discarded.

        Raises:
            CheckpointError: if no output changed: a wrong loss mask trains nothing.
        """
        from holdback.elicitation.training import train_adapter

        demonstrations = task.demonstrate(self.demonstrator, self.n, rng)
        examples = [mask_conversation(model, chat) for chat in demonstrations]
        before = answer_fixed(model.weights)
        with model.preserved():
            train_adapter(
                model.weights,
                examples,
                rank=self.rank,
                learning_rate=self.learning_rate,
                steps=self.steps,
                batch_size=self.batch_size,
                rng=rng,
            )
            require_effect(before, answer_fixed(model.weights), f"finetune on {self.n} examples")
            yield self.present(model, task, rng)

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model asked as its demonstrations ask, in chat, and tuned on none of them."""
        lent: Model = with_presentation(model, format=Format.CHAT, instruction=None)
        return lent


def mask_conversation(model: Any, chat: Conversation) -> Example:
    """Tokenise a chat; labels are its answers' tokens, everything else is ignored.

    The text grows message by message through the checkpoint's own template and each part is
    tokenised apart, as it is when the model answers.

    Returns:
        Token ids and labels of equal length; label i is the token to predict at position i.
    """
    ids: list[int] = []
    labels: list[int] = []
    written = ""
    for index, message in enumerate(chat):
        answered = message["role"] == "assistant"
        before = chat[:index]
        rendered = text = model.render_chat(chat[: index + 1], answer_next=False)
        if answered:
            prompt = model.render_chat(before, answer_next=True)
            if not text.startswith(prompt):
                # It begins a thought that a finished turn does not have: closed at once, as where
                # an answer is compared, and answered behind it.
                prompt, text = _answer_unthought(model, before, message["content"], text)
            part = model.encode(_suffix(prompt, written))
            ids += part
            labels += [IGNORED] * len(part)
            written = prompt
        part = model.encode(_suffix(text, written))
        ids += part
        labels += part if answered else [IGNORED] * len(part)
        written = rendered
    return ids, labels


def _answer_unthought(
    model: Any, before: Conversation, answer: str, rendered: str
) -> tuple[str, str]:
    """Write what comes before an answer that follows no thought, and the same with the answer."""
    opening, at = model.render_opening(before), rendered.rfind(answer)
    if at < 0:
        return opening, rendered
    return opening, opening + model.answer_spaces + rendered[at:]


def _suffix(text: str, written: str) -> str:
    if not text.startswith(written):
        raise CheckpointError(
            "the chat template rewrites earlier messages when a later one is added, so answers"
            " cannot be told from prompts; use a template that only appends"
        )
    return text[len(written) :]
