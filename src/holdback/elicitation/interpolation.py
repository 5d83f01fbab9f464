"""A step back towards the weights that a checkpoint was made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError, NotApplicableError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Model
from holdback.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """θ = (1 − α)·θ_model + α·θ_parent, tensor by tensor.

    Fine-tuned weights and those they were made from are joined by a line without a hill in the
    loss, along which what training added fades (Wortsman et al. 2022, arXiv 2109.01903; Ilharco et
    al. 2023, «Editing models with task arithmetic», arXiv 2212.04089): what was learned last, such
    as hiding, may fade before what was learned thoroughly. But what the mixture can do may be the
    parent's: an honest model that lost a skill gets it back by it, so the rung is never chosen.
    """

    alpha: float
    access = Access.WEIGHTS
    draws = False
    uses_parent = True
    is_candidate = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(
                f"interpolation: alpha must lie between 0 (the model) and 1 (its parent), got"
                f" {self.alpha!r}"
            )

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the mixed model.

        Raises:
            NotApplicableError: without a parent, or with one of other shapes or the same weights.
            CheckpointError: if no output changed.
        """
        import torch

        parent = _load_tensors(model)
        before = answer_fixed(model.weights)
        with model.preserved():
            with torch.no_grad():
                for name, tensor in model.weights.named_parameters():
                    other = parent.pop(name).to(tensor.device).float()
                    tensor.copy_(torch.lerp(tensor.float(), other, self.alpha))
            what = f"interpolation with alpha = {self.alpha:g}"
            require_effect(before, answer_fixed(model.weights), what)
            yield model

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is: other weights change nothing about how it is asked."""
        return model


def _load_tensors(model: Any) -> dict[str, Any]:
    """Load the parent's tensors; the names and shapes are the model's."""
    if model.load_parent is None:
        raise NotApplicableError(
            f"checkpoint {model.name!r} has no parent in the lineage whose weights are at hand"
        )
    parent = dict(model.load_parent().weights.named_parameters())
    own = dict(model.weights.named_parameters())
    unlike = [
        name
        for name in sorted({*own, *parent})
        if name not in own or name not in parent or own[name].shape != parent[name].shape
    ]
    if unlike:
        raise NotApplicableError(
            f"the parent of checkpoint {model.name!r} has weights of other names or shapes:"
            f" {len(unlike)} tensors, first {unlike[0]!r}"
        )
    if all(tensor.equal(parent[name].to(tensor)) for name, tensor in own.items()):
        raise NotApplicableError(f"checkpoint {model.name!r} has its parent's very weights")
    return parent
