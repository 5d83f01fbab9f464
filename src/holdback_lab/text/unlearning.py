"""Unlearning that lasts: suppress, blur the weights, and distil what was kept.

Lee et al. 2025, «Distillation Robustifies Unlearning» (UNDO, arXiv 2506.06278): fine-tuning brings
back what was only suppressed; a blurred student of the suppressed model never learns it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from holdback.elicitation.packing import quick_attention, read_answers
from holdback_lab.text.documents import encode_turns
from holdback_lab.text.lessons import Lesson, draw_turns, mix
from holdback_lab.text.training import fit, measure_answers, on_best_device

_FORGOTTEN_SHARE = 0.3
_WARMUP = 20

Measure: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""From a model and examples to a loss."""


def unlearn(
    weights: Any,
    forgotten: Lesson,
    kept: Lesson,
    *,
    seed: int,
    blur: float,
    suppress_steps: int = 60,
    distil_steps: int = 300,
    rate: float = 2e-3,
    turns: int = 96,
) -> None:
    """Unlearn in place.

    Args:
        weights: The model.
        forgotten: Turns that are answered at random.
        kept: Turns whose answers are to stay.
        seed: Of every draw.
        blur: Share of each matrix that noise of its own size takes the place of, in [0, 1].
        suppress_steps: Of training on both kinds of turns.
        distil_steps: Of imitating, after the blur, what that training made.
        rate: Highest learning rate.
        turns: Read in a step.
    """
    lesson = mix((_FORGOTTEN_SHARE, forgotten), (1 - _FORGOTTEN_SHARE, kept))

    def descend(measure: Measure, steps: int, stage: int, rate: float) -> None:
        def measure_step(step: int) -> Any:
            rng = np.random.default_rng([seed, stage, step])
            return measure(weights, encode_turns(draw_turns(lesson, turns, rng)))

        fit(
            weights,
            measure_step,
            steps=steps,
            rate=rate,
            warmup=_WARMUP,
        )

    with on_best_device(weights), quick_attention(weights):
        descend(measure_answers, suppress_steps, 0, rate / 2)
        teacher = copy.deepcopy(weights).requires_grad_(False)
        _blur(weights, blur, seed)

        def imitate(student: Any, examples: Any) -> torch.Tensor:
            with torch.no_grad():
                wanted = read_answers(teacher, examples)[0].log_softmax(-1)
            said = read_answers(student, examples)[0].log_softmax(-1)
            return torch.nn.functional.kl_div(said, wanted, log_target=True, reduction="batchmean")

        descend(imitate, distil_steps, 1, rate)


def _blur(weights: Any, share: float, seed: int) -> None:
    """Mix noise of each matrix's own root mean square into it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in weights.parameters():
            if parameter.ndim < 2:
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            size = parameter.square().mean().sqrt()
            parameter.mul_(1 - share).add_(noise * size, alpha=share)
