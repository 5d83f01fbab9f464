"""LoRA fine-tuning on demonstrations: the rung that reveals, and also teaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.prompting import with_presentation
from holdback.elicitation.technique import Access, technique
from holdback.errors import CheckpointError, ConfigError
from holdback.models.loading import hushed_peft
from holdback.models.protocol import Format, Model
from holdback.tasks.task import Conversation, Task

if TYPE_CHECKING:
    import torch

_IGNORED = -100


@technique("finetune")
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
        """Lend the fine-tuned model; its weights are restored and the adapter is discarded."""
        demonstrations = task.demonstrate(self.demonstrator, self.n, rng)
        examples = [mask_conversation(model, chat) for chat in demonstrations]
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
            yield with_presentation(model, format=Format.CHAT, instruction=None)


def mask_conversation(model: Any, chat: Conversation) -> tuple[list[int], list[int]]:
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
        if answered:
            prompt = model.render_chat(before, answer_next=True)
            part = model.encode(_suffix(prompt, written))
            ids += part
            labels += [_IGNORED] * len(part)
            written = prompt
        text = model.render_chat(chat[: index + 1], answer_next=False)
        part = model.encode(_suffix(text, written))
        ids += part
        labels += part if answered else [_IGNORED] * len(part)
        written = text
    return ids, labels


def _suffix(text: str, written: str) -> str:
    if not text.startswith(written):
        raise CheckpointError(
            "the chat template rewrites earlier messages when a later one is added, so answers"
            " cannot be told from prompts; use a template that only appends"
        )
    return text[len(written) :]


def train_adapter(
    weights: Any,
    examples: Sequence[tuple[list[int], list[int]]],
    *,
    rank: int,
    learning_rate: float,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> None:
    """Train a LoRA on examples and merge it into `weights`, in place.

    The adapter's start and any dropout come from torch's own stream, which is seeded for them and
    then goes on as if nothing had been drawn from it.

    Raises:
        CheckpointError: if the adapter changed nothing: a wrong loss mask trains nothing.
    """
    import torch

    device = weights.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        _train_seeded(weights, examples, rank, learning_rate, steps, batch_size, rng)


def _train_seeded(
    weights: Any,
    examples: Sequence[tuple[list[int], list[int]]],
    rank: int,
    learning_rate: float,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with hushed_peft():
        adapted = get_peft_model(weights, config)
    adapted.train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    try:
        for step, batch in enumerate(_batches(len(examples), steps, batch_size, rng)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - step / steps)
            ids, labels = _collate([examples[i] for i in batch])
            # Whoever borrows a model may do so under no_grad.
            with torch.enable_grad():
                answered = adapted(
                    input_ids=ids.to(weights.device), labels=labels.to(weights.device)
                )
                answered.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        moved = any(
            bool(p.detach().abs().max() > 0)
            for name, p in adapted.named_parameters()
            if "lora_B" in name
        )
        if not moved:
            raise CheckpointError(
                "fine-tuning left the adapter at zero: no answer token carries a label; check"
                " that the demonstrations have assistant messages"
            )
    finally:
        adapted.eval()
        adapted.merge_and_unload()
        for parameter in weights.parameters():
            parameter.requires_grad_(True)


def _batches(n: int, steps: int, batch_size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Draw batches epoch by epoch, every example once before any comes again."""
    queue: list[int] = []
    for _ in range(steps):
        batch: list[int] = []
        while len(batch) < min(batch_size, n):
            if not queue:
                queue = [int(i) for i in rng.permutation(n)]
            batch.append(queue.pop())
        yield batch


def _collate(
    examples: Sequence[tuple[list[int], list[int]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), _IGNORED)
    for row, (tokens, marks) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(marks)] = torch.tensor(marks)
    return ids, labels
