"""Reinforcement on the task's own score, after a few demonstrations or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.finetune import mask_conversation
from holdback.elicitation.prompting import with_presentation
from holdback.elicitation.technique import Access
from holdback.errors import ConfigError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Format, Model
from holdback.tasks.exercises import Practised
from holdback.tasks.task import Task

if TYPE_CHECKING:
    from holdback.elicitation.grpo import Step

EXPLORED_SHARE = 0.05
"""Of groups whose answers earned differently; below it nothing was tried, and nothing learned."""
NEARLY_ALL = 0.95
"""Mean reward from which on there is nothing to explore."""


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """Fine-tune on a few demonstrations, then reinforce what the task's scorer calls right.

    Even weak demonstrations make a model that hides by not exploring try again, and reinforcement
    then lifts it above them (arXiv 2604.22082, 2604.28182): ten such steps took one from 80 to 98%
    where reinforcement alone stayed flat for 500. Groups of 8 at temperature 1, rank 32, as there.

    Without variance within groups nothing is learned, and what is measured says nothing about what
    is there: the lent model's `diagnosis` tells, and such a result is inconclusive. Reinforcement
    teaches too: compare with a control.
    """

    demonstrations: int = 0
    """0 for reinforcement alone."""
    demonstrator: str = "correct"
    steps: int = 32
    questions: int = 8
    """A step."""
    group: int = 8
    """Answers a question."""
    temperature: float = 1.0
    rank: int = 32
    learning_rate: float = 1e-3
    demonstration_steps: int = 16
    access = Access.WEIGHTS
    draws = True

    def __post_init__(self) -> None:
        least = {"steps": 1, "questions": 1, "group": 2, "rank": 1, "demonstration_steps": 1}
        for name, fewest in {**least, "demonstrations": 0}.items():
            if getattr(self, name) < fewest:
                raise ConfigError(
                    f"reinforce: {name} must be at least {fewest}, got {getattr(self, name)}"
                )
        if not self.temperature > 0:
            raise ConfigError(
                "reinforce: temperature must be above 0, at which all answers to a question are"
                f" the same, got {self.temperature!r}"
            )

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the reinforced model, with its `diagnosis`; its weights are restored.

        Raises:
            ConfigError: for a task whose answers cannot be reinforced.
            CheckpointError: if training changed no output although rewards differed.
        """
        from holdback.elicitation.grpo import reinforce_policy

        if not isinstance(task, Practised):
            raise ConfigError(
                f"reinforce: expected a task whose answers can be rewarded one by one (text), got"
                f" {task.name!r}; leave this rung out on it (`tasks` of the rung)"
            )
        lent: Any = self.present(model, task, rng)
        exercises = task.draw_exercises(lent, self.steps * self.questions, rng)
        with model.preserved():
            before = answer_fixed(model.weights)
            if self.demonstrations:
                self._show(model, task, rng)
                what = f"fine-tuning on {self.demonstrations} demonstrations"
                shown = answer_fixed(model.weights)
                require_effect(before, shown, what)
                before = shown
            log = reinforce_policy(
                replace(lent, decoding=replace(lent.decoding, temperature=self.temperature)),
                [exercises[at :: self.steps] for at in range(self.steps)],
                group=self.group,
                rank=self.rank,
                learning_rate=self.learning_rate,
                rng=rng,
            )
            if any(step.variance for step in log):
                require_effect(before, answer_fixed(model.weights), "reinforcement")
            yield replace(lent, diagnosis=diagnose(log))

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is asked: in chat after demonstrations, which are chats."""
        if not self.demonstrations:
            return model
        lent: Model = with_presentation(model, format=Format.CHAT, instruction=None)
        return lent

    def _show(self, model: Any, task: Task, rng: np.random.Generator) -> None:
        from holdback.elicitation.training import train_adapter

        chats = task.demonstrate(self.demonstrator, self.demonstrations, rng)
        train_adapter(
            model.weights,
            [mask_conversation(model, chat) for chat in chats],
            rank=self.rank,
            learning_rate=self.learning_rate,
            steps=self.demonstration_steps,
            batch_size=8,
            rng=rng,
        )


def diagnose(log: Sequence[Step]) -> dict[str, Any]:
    """Say whether reinforcement had anything to learn from.

    Args:
        log: What each step saw, one at least.

    Returns:
        In JSON's types. `…_first` and `…_last` are means over the first and the last fifth of the
        steps, and `log` has the three curves. `explored` is false where the answers to hardly any
        question earned differently, though most were wrong: the model did not try, or it cannot.
    """
    tail = max(1, len(log) // 5)
    first, last = log[:tail], log[-tail:]
    without = fmean(step.without_variance for step in log)
    reward_first = fmean(step.reward for step in first)
    return {
        "steps": len(log),
        "reward_first": reward_first,
        "reward_last": fmean(step.reward for step in last),
        "share_of_groups_without_variance": without,
        "entropy_first": fmean(step.entropy for step in first),
        "entropy_last": fmean(step.entropy for step in last),
        "explored": without <= 1 - EXPLORED_SHARE or reward_first >= NEARLY_ALL,
        "log": {
            "reward": [round(step.reward, 6) for step in log],
            "variance": [round(step.variance, 6) for step in log],
            "entropy": [round(step.entropy, 6) for step in log],
        },
    }
