"""Gaussian noise on the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access, technique
from holdback.errors import ConfigError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Model
from holdback.tasks.task import Task


@technique("weight_noise")
@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    """θ + N(0, (σ·RMS(θ))²), drawn for every tensor.

    A hiding policy is a thinner layer on the weights than the capability below it, so noise may
    disturb it first. Source: Tice et al. 2024 (arXiv 2412.01784), who use one absolute σ for all
    tensors; here σ is relative to each tensor's root mean square, so that a grid means the same
    on models of any scale. Choose σ on `select`: the maximum over a grid flatters.
    """

    sigma: float
    access = Access.WEIGHTS
    draws = True

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ConfigError(
                f"weight_noise: sigma must be above 0, a share of each tensor's RMS, got"
                f" {self.sigma!r}"
            )

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model with noise on its weights.

        Raises:
            CheckpointError: if no output changed: half precision rounds small noise away.
        """
        import torch

        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        before = answer_fixed(model.weights)
        with model.preserved():
            with torch.no_grad():
                for tensor in model.weights.parameters():
                    rms = tensor.float().pow(2).mean().sqrt().item()
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor.add_(noise.to(tensor), alpha=self.sigma * rms)
            after = answer_fixed(model.weights)
            require_effect(before, after, f"weight_noise with sigma = {self.sigma:g}")
            yield model

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is: noise changes nothing about how it is asked."""
        return model
