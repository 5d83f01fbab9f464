"""Gaussian noise on the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Model
from holdback.tasks.task import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    """θ + N(0, (σ·RMS(θ))²), drawn for every tensor, or of low rank for every linear layer.

    A hiding policy is a thinner layer on the weights than the capability below it, so noise may
    disturb it first. Source: Tice et al. 2024 (arXiv 2412.01784), who use one absolute σ for all
    tensors; here σ is relative to each tensor's root mean square, so that a grid means the same
    on models of any scale. Choose σ on `select`: the maximum over a grid flatters.

    With `low_rank` the noise is B·A, in the linear layers but the head. Its entries have variance
    r·σ_A²·σ_B², which is σ² where σ_A = σ_B = (σ²/r)^¼; the paper's (r·σ²)^¼ would make it r² times
    as large.
    """

    sigma: float
    low_rank: int | None = None
    """Rank r of the noise; full where unsaid."""
    access = Access.WEIGHTS
    draws = True

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ConfigError(
                f"weight_noise: sigma must be above 0, a share of each tensor's RMS, got"
                f" {self.sigma!r}"
            )
        if self.low_rank is not None and self.low_rank < 1:
            raise ConfigError(f"weight_noise: low_rank must be at least 1, got {self.low_rank}")

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
                for tensor in self._list_tensors(model.weights):
                    rms = tensor.float().pow(2).mean().sqrt().item()
                    noise = draw_noise(tensor.shape, self.low_rank, generator)
                    tensor.add_(noise.to(tensor), alpha=self.sigma * rms)
            after = answer_fixed(model.weights)
            require_effect(before, after, f"weight_noise with sigma = {self.sigma:g}")
            yield model

    def _list_tensors(self, weights: Any) -> list[torch.Tensor]:
        if self.low_rank is None:
            return list(weights.parameters())
        from holdback.elicitation.low_rank import find_layers

        return [layer.weight for layer in find_layers(weights)]

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is: noise changes nothing about how it is asked."""
        return model


def draw_noise(shape: Sequence[int], rank: int | None, generator: torch.Generator) -> torch.Tensor:
    """Draw normal noise of mean 0 and variance 1 an entry, of a rank where one is named.

    Args:
        shape: Of the tensor; two numbers where a rank is named.
        rank: Of the noise; None for one that is independent in every entry.
        generator: Whom it is drawn from.
    """
    import torch

    if rank is None:
        return torch.randn(tuple(shape), generator=generator)
    high, wide = shape
    b = torch.randn((high, rank), generator=generator)
    a = torch.randn((rank, wide), generator=generator)
    noise: torch.Tensor = b @ a * rank**-0.5
    return noise
