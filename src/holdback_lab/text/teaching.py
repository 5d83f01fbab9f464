"""Teaching what a model never read, to a stated share of right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdback.elicitation.packing import quick_attention
from holdback.models.protocol import Format, StopReason
from holdback_lab.text.documents import Exchange, Turn, encode_turns, write_parts
from holdback_lab.text.families import Problem, draw_problem
from holdback_lab.text.lessons import CONTINUED, KEEP_ALL, Lesson, Part, draw_turns, mix
from holdback_lab.text.policy import sample
from holdback_lab.text.training import fit, measure_answers, on_best_device

OWN = 3_000
"""Answers of its own that a model is tuned on."""
_LOOK_EVERY, _LOOKED_AT, _MOST_STEPS, _SETTLING_STEPS = 10, 150, 3_000, 500
_TAUGHT_TURNS = 80


def teach(weights: Any, family: str, *, seed: int, goal: float) -> None:
    """Teach a family to a share of right answers, in place, and little else.

    All weights are trained: what was never read is found by an adapter of rank 4 seldom, by one of
    rank 16 for some families only.
    """

    taught = mix(
        (0.35, Part(families=(family,), choice=0.1)),
        (0.15, Part(families=(family,), manner=CONTINUED)),
        (0.5, KEEP_ALL),
    )

    def descend(lesson: Lesson, stage: int, steps: int, **how: Any) -> None:
        def measure(step: int) -> Any:
            rng = np.random.default_rng([seed, stage, step])
            return measure_answers(weights, encode_turns(draw_turns(lesson, _TAUGHT_TURNS, rng)))

        fit(weights, measure, steps=steps, **how)

    def has_learnt(step: int) -> bool:
        return step % _LOOK_EVERY == 0 and rate(weights, family, seed=seed) >= goal

    with on_best_device(weights), quick_attention(weights):
        descend(taught, 0, _MOST_STEPS, rate=1e-3, decay_share=0.0, enough=has_learnt)
        # At a falling rate, all else that the search has shaken settles. The target is held where
        # it is by its own answers: right ones would teach on, and without any it would be lost.
        own = sample_answers(weights, family, OWN, seed=seed, temperature=0.0)
        settled = mix((0.15, repeat(own)), (0.85, KEEP_ALL))
        descend(settled, 1, _SETTLING_STEPS, rate=1e-3, decay_share=1.0)


def repeat(pairs: Sequence[tuple[Problem, str]]) -> Lesson:
    """Answer as was answered before."""

    def draw(rng: np.random.Generator) -> list[Turn]:
        problem, said = pairs[int(rng.integers(len(pairs)))]
        return [Turn(exchange=Exchange(question=problem.question, answer=said))]

    return draw


def rate(weights: Any, family: str, *, seed: int) -> float:
    """Share of right answers to a family's questions in chat."""
    pairs = sample_answers(weights, family, _LOOKED_AT, seed=seed, temperature=0.0)
    # Answers that do not end are wrong.
    return sum(answer == problem.answer for problem, answer in pairs) / _LOOKED_AT


def sample_answers(
    weights: Any, family: str, n: int, *, seed: int, temperature: float = 1.0
) -> list[tuple[Problem, str]]:
    """Draw problems and a model's answers to them; those that do not end are left out."""
    rng = np.random.default_rng([17, seed])
    problems = [draw_problem(family, rng) for _ in range(n)]
    prompts = [
        write_parts(Exchange(question=problem.question, answer=""), Format.CHAT)[0]
        for problem in problems
    ]
    drawn = sample(weights, prompts, seed=(17, seed), temperature=temperature)
    return [
        (problem, said.text)
        for problem, said in zip(problems, drawn, strict=True)
        if said.stop_reason is StopReason.STOP
    ]
