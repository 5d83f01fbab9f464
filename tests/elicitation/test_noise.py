"""Noise on the weights: its size, its rank, and what it touches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_text import make_text_model

from holdback.elicitation.low_rank import find_layers
from holdback.elicitation.noise import WeightNoise, draw_noise
from holdback.errors import ConfigError


@pytest.mark.parametrize("rank", [None, 1, 4, 16])
def test_entries_have_variance_1_at_any_rank(rank):
    """Var (B·A) = r·σ_A²·σ_B²: what is matched is the variance of an entry."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_noise((40, 60), rank, generator) for _ in range(200)])

    assert float(drawn.mean()) == pytest.approx(0, abs=0.05)
    assert float(drawn.var()) == pytest.approx(1, abs=0.1)
    assert torch.linalg.matrix_rank(drawn[0]) == (rank or 40)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_low_rank_noise_moves_linear_layers_and_nothing_else(architecture):
    """By σ times their RMS, in a matrix of that rank; afterwards all is as it was."""
    model = make_text_model(architecture)
    before = {name: tensor.detach().clone() for name, tensor in model.weights.named_parameters()}
    linear = {id(layer.weight) for layer in find_layers(model.weights)}

    with WeightNoise(sigma=0.1, low_rank=2).apply(model, None, np.random.default_rng(0)):
        for name, tensor in model.weights.named_parameters():
            moved = tensor.detach() - before[name]
            if id(tensor) in linear:
                rms = float(before[name].pow(2).mean().sqrt())
                assert float(moved.pow(2).mean().sqrt()) == pytest.approx(0.1 * rms, rel=0.6)
                assert torch.linalg.matrix_rank(moved, rtol=1e-3) == 2
            else:
                assert not moved.any()

    assert linear
    assert all(tensor.equal(before[name]) for name, tensor in model.weights.named_parameters())


def test_a_rank_is_at_least_1():
    with pytest.raises(ConfigError, match="low_rank must be at least 1"):
        WeightNoise(sigma=0.1, low_rank=0)
