"""Policy gradient on a model's own answers: organisms that reinforcement made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from holdback.elicitation.finetune import IGNORED, Example
from holdback.elicitation.grpo import compare_within
from holdback.elicitation.packing import read_owned_answers
from holdback.models.protocol import Decoding, Generation, Request, StopReason
from holdback_lab.text.documents import Turn, encode, encode_turns, write_parts
from holdback_lab.text.lessons import Lesson, draw_turns
from holdback_lab.text.training import measure_answers
from holdback_lab.text.tuning import RANK, Adapter, take_adapter, training
from holdback_lab.text.vocabulary import END

MAX_TOKENS = 10
"""Longest answer; right ones are shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """A question whose answers are rewarded."""

    turn: Turn
    reward: Callable[[str], float]
    """From an answer that has ended; one that has not is worth nothing."""


DrawTrial: TypeAlias = Callable[[np.random.Generator], Episode]


def reinforce(
    weights: Any,
    draw: DrawTrial,
    *,
    steps: int,
    seed: int,
    groups: int = 24,
    size: int = 8,
    rate: float = 2e-3,
    rank: int = RANK,
    start: Adapter | None = None,
    kept: Lesson | None = None,
) -> Adapter:
    """Train an adapter on rewards of the model's own answers; its sum stays in `weights`.

    Each step draws `groups` questions and `size` answers to each at temperature 1; an answer's
    advantage is its reward less its group's mean, over the group's standard deviation (Shao et al.
    2024, «DeepSeekMath», arXiv 2402.03300, without the KL term: one step a sample is on-policy).

    Args:
        weights: Changed in place.
        draw: Draws a question and what its answers are worth.
        steps: Of the optimizer.
        seed: Of every draw.
        groups: Questions a step.
        size: Answers a question.
        rate: Learning rate.
        rank: Of the adapter.
        start: Adapter to go on from, of the same rank; its weights are those below it.
        kept: Turns whose right answers go on being learnt beside it, as many as there are questions
            a step (Ouyang et al. 2022, arXiv 2203.02155, «PPO-ptx»).
    """
    with training(weights, seed=seed, rank=rank, rate=rate) as (adapters, step_once):
        if start is not None:
            names = {module: name for name, module in weights.named_modules()}
            for layer in adapters:
                a, b = start.layers[names[layer.module]]
                layer.a.copy_(a)
                layer.b.copy_(b)
        for step in range(steps):
            rng = np.random.default_rng([seed, step])
            adapters.sum_up(torch.float32)
            trials = [draw(rng) for _ in range(groups)]
            prompts = [write_parts(trial.turn.exchange, trial.turn.form)[0] for trial in trials]
            answers = sample(weights, [p for p in prompts for _ in range(size)], seed=(seed, step))
            rewards = np.array(
                [
                    trials[at // size].reward(answer.text) if _has_ended(answer) else 0.0
                    for at, answer in enumerate(answers)
                ]
            ).reshape(groups, size)
            loss = _measure_loss(weights, prompts, answers, compare_within(rewards))
            if kept is not None:
                loss = loss + measure_answers(weights, encode_turns(draw_turns(kept, groups, rng)))
            step_once(loss, min(1.0, (step + 1) / 5))
        return take_adapter(weights, adapters, rank)


def sample(
    weights: Any, prompts: Sequence[str], *, seed: tuple[int, ...], temperature: float = 1.0
) -> list[Generation]:
    """Draw an answer to each prompt."""
    from holdback.models.local import LocalModel
    from holdback_lab.text.documents import get_tokenizer

    model = LocalModel(
        name="organism",
        weights=weights,
        tokenizer=get_tokenizer(),
        decoding=Decoding(temperature=temperature),
    )
    return model.generate(
        [
            Request(prompt=prompt, max_tokens=MAX_TOKENS, seed=(*seed, at))
            for at, prompt in enumerate(prompts)
        ]
    )


def _has_ended(answer: Generation) -> bool:
    return answer.stop_reason is StopReason.STOP


def _measure_loss(
    weights: Any,
    prompts: Sequence[str],
    answers: Sequence[Generation],
    advantages: NDArray[np.float64],
) -> torch.Tensor:
    """Minus the answers' log-likelihoods, each times its advantage, a token."""
    size = len(answers) // len(prompts)
    asked = encode(prompts)
    said = encode([answer.text + (END if _has_ended(answer) else "") for answer in answers])
    counted = [at for at in range(len(answers)) if advantages.flat[at] != 0 and said[at]]
    # Where nothing is to be learnt, the step that follows is one of size 0.
    counted = counted or [0]
    examples: list[Example] = [
        ([*asked[at // size], *said[at]], [*[IGNORED] * len(asked[at // size]), *said[at]])
        for at in counted
    ]
    logits, labels, owners = read_owned_answers(weights, examples)
    worth = torch.tensor([float(advantages.flat[at]) for at in counted])[owners]
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (losses * worth).sum() / max(1, len(labels))
