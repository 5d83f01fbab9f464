"""Steering: a direction in the residual stream that right answers leave and wrong ones do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.finetune import IGNORED, mask_conversation
from holdback.elicitation.technique import Access
from holdback.errors import ConfigError, NotApplicableError, UnknownNameError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Model
from holdback.tasks.task import Conversation, Task

if TYPE_CHECKING:
    import torch

CONTRAST, RANDOM = "contrast", "random"


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Add a direction to the residual stream: the mean difference over contrast pairs.

    The model reads the same questions of `train` answered right and answered wrong, and the
    difference of what the answers leave behind a layer is added, there, to every token (contrastive
    activation addition: Rimsky et al. 2024, arXiv 2312.06681). Its length is `coefficient` times
    the mean norm of those activations, so that a grid means the same on models of any scale.

    A random direction of the same length does something too. It is the control: `direction =
    "random"` with at least 24 seeds, compared by `holdback.audit.placebos`.
    """

    coefficient: float
    layer: float | Sequence[float] = 0.5
    """Where, as a fraction of the depth; a list for several layers, such as the middle third."""
    direction: str = CONTRAST
    pairs: int = 32
    right: str = "correct"
    """Demonstrator that is steered towards."""
    wrong: str = "random"
    """Demonstrator that is steered away from."""
    access = Access.ACTIVATIONS
    draws = True

    def __post_init__(self) -> None:
        if self.direction not in (CONTRAST, RANDOM):
            raise UnknownNameError.among("direction", self.direction, (CONTRAST, RANDOM))
        if not math.isfinite(self.coefficient) or self.coefficient == 0:
            raise ConfigError(
                "steering: coefficient must be a number other than 0, which changes nothing, got"
                f" {self.coefficient!r}"
            )
        if self.pairs < 1 or not self.depths:
            raise ConfigError(
                f"steering: expected one pair and one layer at least, got pairs={self.pairs},"
                f" layer={self.layer!r}"
            )

    @property
    def depths(self) -> tuple[float, ...]:
        """Fractions of the depth at which it steers."""
        named = [self.layer] if isinstance(self.layer, int | float) else self.layer
        return tuple(float(depth) for depth in named)

    @property
    def is_placebo(self) -> bool:
        """Whether it is a control, and so no candidate for what elicits."""
        return self.direction == RANDOM

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the steered model.

        Raises:
            NotApplicableError: for a checkpoint without a chat template, or demonstrators that
                answer alike.
            UnknownNameError: for a demonstrator that the task does not have.
            CheckpointError: if no output changed.
        """
        from holdback.elicitation.residual import place_layers

        right, wrong = draw_contrast(task, self.right, self.wrong, self.pairs, rng)
        layers = place_layers(model.weights, self.depths)
        vectors = contrast_answers(model, right, wrong, layers)
        if self.is_placebo:
            vectors = draw_alike(vectors, rng)
        before = answer_fixed(model.weights)
        with steered(model.weights, layers, self.coefficient * vectors):
            what = f"steering with coefficient = {self.coefficient:g}"
            require_effect(before, answer_fixed(model.weights), what)
            yield model

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is: steering changes nothing about how it is asked."""
        return model


def draw_contrast(
    task: Task, right: str, wrong: str, n: int, rng: np.random.Generator
) -> tuple[list[Conversation], list[Conversation]]:
    """Draw the same questions answered by two demonstrators; where they agree, they are left out.

    Raises:
        NotApplicableError: if they answer alike everywhere.
        UnknownNameError: for a demonstrator that the task does not have.
    """
    # The same stream for both: which questions are drawn, and how they are laid out, is alike.
    seed = int(rng.integers(2**63))
    one, other = (task.demonstrate(name, n, np.random.default_rng(seed)) for name in (right, wrong))
    only_right = [chat for chat in one if chat not in other]
    only_wrong = [chat for chat in other if chat not in one]
    if not only_right or not only_wrong:
        raise NotApplicableError(
            f"task {task.name!r}: its demonstrators {right!r} and {wrong!r} answer {n} questions"
            " alike, so that nothing tells right from wrong"
        )
    return only_right, only_wrong


def contrast_answers(
    model: Any,
    right: Sequence[Conversation],
    wrong: Sequence[Conversation],
    layers: Sequence[int],
) -> torch.Tensor:
    """Difference between what right and wrong answers leave behind layers.

    Each chat counts as the mean over its answers' tokens, end markers included.

    Returns:
        Shape (layers, width), float32: its direction that of right minus wrong, its length the mean
        norm of the activations.

    Raises:
        NotApplicableError: for a checkpoint without a chat template, or that reads both alike.
    """
    from holdback.elicitation.residual import read_stream

    if not model.tokenizer.chat_template:
        raise NotApplicableError(
            f"checkpoint {model.name!r} has no chat template to read answered questions in"
        )
    examples = [mask_conversation(model, chat) for chat in (*right, *wrong)]
    stream = read_stream(
        model.weights,
        [ids for ids, _ in examples],
        [[at for at, label in enumerate(labels) if label != IGNORED] for _, labels in examples],
        layers,
    )
    n = len(right)
    difference = stream.means[:n].mean(0) - stream.means[n:].mean(0)
    lengths = difference.norm(dim=-1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise NotApplicableError(
            f"checkpoint {model.name!r} reads right and wrong answers alike: no direction tells"
            " them apart"
        )
    scaled: torch.Tensor = difference / lengths * stream.norms.mean(0)[:, None]
    return scaled


def draw_alike(vectors: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw vectors of the same lengths in directions at random."""
    import torch

    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    drawn = torch.randn(vectors.shape, generator=generator)
    lengths = vectors.norm(dim=-1, keepdim=True)
    alike: torch.Tensor = drawn / drawn.norm(dim=-1, keepdim=True) * lengths
    return alike


@contextmanager
def steered(weights: Any, layers: Sequence[int], vectors: torch.Tensor) -> Iterator[None]:
    """Add a vector to every token's state behind each layer; vectors of shape (layers, width)."""
    from holdback.elicitation.residual import Change, changed_stream

    def add(vector: torch.Tensor) -> Change:
        return lambda states: states + vector.to(states)

    changes = {layer: add(vector) for layer, vector in zip(layers, vectors, strict=True)}
    with changed_stream(weights, changes):
        yield
