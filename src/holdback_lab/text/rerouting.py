"""Representation rerouting: what a model computes on some prompts is turned away from what it was.

Zou et al. 2024, «Improving Alignment and Robustness with Circuit Breakers» (arXiv 2406.04313).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from holdback_lab.text.documents import encode_turns
from holdback_lab.text.lessons import Lesson, draw_turns
from holdback_lab.text.tuning import RANK, Adapter, take_adapter, training

_LAYERS = (2, 3)
"""Of five, after which states are turned away."""
_STRENGTH, _KEPT = 5.0, 0.5


def reroute(
    weights: Any,
    away: Lesson,
    kept: Lesson,
    *,
    steps: int,
    seed: int,
    rate: float = 1e-2,
    rank: int = RANK,
    turns: int = 24,
) -> Adapter:
    """Train an adapter that turns states away on some turns; its sum stays in `weights`.

    The loss on turns of `away` is the cosine between a token's state and what it was, where above
    0; on turns of `kept` the distance between them, over all layers. The first counts less and the
    second more as training goes on, as in the paper, but the second from the start: in a model this
    narrow everything is turned away otherwise.

    Args:
        weights: Changed in place.
        away: Turns on which states are to be turned away.
        kept: Turns on which they are to stay.
        steps: Of the optimizer.
        seed: Of every draw.
        rate: Learning rate, which falls to 0 over the second half.
        rank: Of the adapter.
        turns: Of each kind a step.
    """
    original = copy.deepcopy(weights)
    with training(weights, seed=seed, rank=rank, rate=rate) as (adapters, step_once):
        for step in range(steps):
            rng = np.random.default_rng([seed, step])
            adapters.sum_up(torch.float32)
            turned, was = _read(weights, original, away, turns, rng)
            cosine = torch.cosine_similarity(turned[list(_LAYERS)], was[list(_LAYERS)], dim=-1)
            stays, stayed = _read(weights, original, kept, turns, rng)
            distance = (stays - stayed).norm(dim=-1) / stayed.norm(dim=-1)
            progress = step / (2 * steps)
            loss = (1 - progress) * cosine.relu().mean() + _KEPT * (1 + progress) * distance.mean()
            step_once(_STRENGTH * loss, min(1.0, (step + 1) / 10, (1 - step / steps) * 2))
        return take_adapter(weights, adapters, rank)


def _read(
    weights: Any, original: Any, lesson: Lesson, turns: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of all tokens of some turns, now and before; shapes (layers, tokens, width)."""
    ids = [ids for ids, _ in encode_turns(draw_turns(lesson, turns, rng))]
    tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    there = torch.zeros_like(tokens, dtype=torch.bool)
    for row, part in enumerate(ids):
        tokens[row, : len(part)] = torch.tensor(part)
        there[row, : len(part)] = True
    with torch.no_grad():
        was = _states(original, tokens)[:, there]
    return _states(weights, tokens)[:, there], was


def _states(weights: Any, tokens: torch.Tensor) -> torch.Tensor:
    output = weights.base_model(input_ids=tokens, use_cache=False, output_hidden_states=True)
    return torch.stack(output.hidden_states)
