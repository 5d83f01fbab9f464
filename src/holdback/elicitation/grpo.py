"""Reinforcement of an adapter by group-relative advantages, on one's own answers.

Shao et al. 2024, «DeepSeekMath» (arXiv 2402.03300): several answers to one question, each rewarded
by how it compares with the others. One update a batch, so that the policy that answered is the one
that is updated and no ratio needs clipping; no penalty for leaving the start, since the adapter is
thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdback.elicitation.finetune import IGNORED, Example
from holdback.elicitation.packing import read_owned_answers
from holdback.elicitation.training import adapting
from holdback.models.protocol import Generation, Request
from holdback.tasks.exercises import Exercise

_TOGETHER = 32
"""Answers in one pass of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step saw, before it was learned from."""

    reward: float
    """Mean, from 0 to 1."""
    variance: float
    """Of the rewards within a group, the mean over groups."""
    without_variance: float
    """Share of groups in which all answers earned the same: nothing is learned from these."""
    entropy: float
    """Minus the mean log-probability of the sampled tokens at temperature 1, in nats a token."""


def reinforce_policy(
    model: Any,
    batches: Sequence[Sequence[Exercise]],
    *,
    group: int,
    rank: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> list[Step]:
    """Train a LoRA on rewarded answers and merge it into the model's weights, in place.

    Args:
        model: A local model; it answers at its `decoding.temperature`, which is above 0.
        batches: The questions of each step.
        group: Answers a question, at least 2.
        rank: Of the adapter.
        learning_rate: Falls linearly to 0.
        rng: Of the answers and of the adapter's start.

    Returns:
        One a step.
    """
    weights, log = model.weights, []
    seed = int(rng.integers(2**31))
    with adapting(weights, rank=rank, rng=rng) as (adapters, precision):
        optimizer = torch.optim.AdamW([adapters.flat], lr=learning_rate, weight_decay=0.0)
        for number, exercises in enumerate(batches):
            adapters.sum_up(precision)
            answers = _answer(model, exercises, group, (seed, number))
            rewards = np.array(
                [
                    [exercise.reward(answer) for answer in own]
                    for exercise, own in zip(exercises, answers, strict=True)
                ]
            )
            log.append(_describe(rewards, answers))
            advantages = compare_within(rewards)
            examples, worth = _list_lessons(model, exercises, answers, advantages)
            if not examples:
                continue
            for options in optimizer.param_groups:
                options["lr"] = learning_rate * (1 - number / len(batches))
            _add_gradients(weights, examples, worth, model.decoding.temperature)
            torch.nn.utils.clip_grad_norm_([adapters.flat], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return log


def compare_within(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Advantages: rewards less their group's mean, over its standard deviation; 0 without any.

    Args:
        rewards: Shape (groups, answers).

    Source: arXiv 2402.03300, section 4.1.2.
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    spread = rewards.std(1, keepdims=True)
    advantages: NDArray[np.float64] = np.divide(
        centred, spread, out=np.zeros_like(centred), where=spread > 0
    )
    return advantages


def _answer(
    model: Any, exercises: Sequence[Exercise], group: int, seed: tuple[int, ...]
) -> list[list[Generation]]:
    requests = [
        Request(
            prompt=exercise.prompt,
            max_tokens=exercise.max_tokens,
            seed=(*seed, at, member),
            stop=exercise.stop,
        )
        for at, exercise in enumerate(exercises)
        for member in range(group)
    ]
    answers = model.generate(requests)
    return [answers[start : start + group] for start in range(0, len(answers), group)]


def _describe(rewards: NDArray[np.float64], answers: Sequence[Sequence[Generation]]) -> Step:
    logprobs = [part for own in answers for answer in own for part in answer.logprobs]
    variances = rewards.var(1)
    return Step(
        reward=float(rewards.mean()),
        variance=float(variances.mean()),
        without_variance=float((variances == 0).mean()),
        entropy=-float(np.mean(logprobs)) if logprobs else 0.0,
    )


def _list_lessons(
    model: Any,
    exercises: Sequence[Exercise],
    answers: Sequence[Sequence[Generation]],
    advantages: NDArray[np.float64],
) -> tuple[list[Example], list[float]]:
    """Turn answers that beat or fall behind their group into examples, with their advantages."""
    examples: list[Example] = []
    worth: list[float] = []
    for exercise, own, gains in zip(exercises, answers, advantages, strict=True):
        prompt = model.encode(exercise.prompt) or [model.first_token]
        for answer, gain in zip(own, gains, strict=True):
            if gain and answer.token_ids:
                ids = list(answer.token_ids)
                examples.append(([*prompt, *ids], [*[IGNORED] * len(prompt), *ids]))
                worth.append(float(gain))
    return examples, worth


def _add_gradients(
    weights: Any, examples: Sequence[Example], worth: Sequence[float], temperature: float
) -> None:
    """Of minus the mean over tokens of advantage · log-probability, as they were sampled."""
    tokens = sum(label != IGNORED for _, labels in examples for label in labels)
    for start in range(0, len(examples), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        logits, labels, owners = read_owned_answers(weights, examples[part])
        gains = torch.tensor(worth[part], device=logits.device)[owners]
        losses = torch.nn.functional.cross_entropy(
            logits.float() / temperature, labels, reduction="none"
        )
        torch.autograd.backward((losses * gains).sum() / tokens)
