"""Refusal ablation: what tells refused prompts from answered ones is taken out of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdback.elicitation.technique import Access
from holdback.errors import ConfigError, NotApplicableError
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.protocol import Model
from holdback.tasks.task import Outcome, Previewed, Split, Task

if TYPE_CHECKING:
    import torch

_ANSWERED = (Outcome.CORRECT, Outcome.WRONG)


@dataclass(frozen=True, kw_only=True)
class RefusalAblation:
    """Project the direction between refused and answered prompts out of every layer.

    The model answers `questions` of `train`, and the task's own scorer says which it refused. The
    direction is the difference of the means over both of what their last token leaves behind one
    layer (Arditi et al. 2024, «Refusal in language models is mediated by a single direction», arXiv
    2406.11717). Some models lose other skills with it: choose on `select`.
    """

    questions: int = 128
    layer: float = 0.5
    """Where the direction is read, as a fraction of the depth."""
    access = Access.ACTIVATIONS
    draws = True

    def __post_init__(self) -> None:
        if self.questions < 2:
            raise ConfigError(
                f"refusal_ablation: questions must be at least 2, one to refuse and one to answer,"
                f" got {self.questions}"
            )

    @contextmanager
    def apply(self, model: Any, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model that cannot represent refusing.

        Raises:
            NotApplicableError: if it refuses none of the questions, or answers none.
            ConfigError: for a task that does not say what it asks, or has fewer questions.
            CheckpointError: if no output changed.
        """
        from holdback.elicitation.residual import place_layers

        refused, answered = sort_prompts(model, task, self.questions, rng)
        (layer,) = place_layers(model.weights, [self.layer])
        direction = contrast_prompts(model, refused, answered, layer)
        before = answer_fixed(model.weights)
        with ablated(model.weights, direction):
            require_effect(before, answer_fixed(model.weights), "refusal_ablation")
            yield model

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is: ablation changes nothing about how it is asked."""
        return model


def sort_prompts(
    model: Any, task: Task, n: int, rng: np.random.Generator
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Ask questions of `train`, and give the prompts that were refused and those answered.

    Returns:
        Token ids; answers that are neither (cut off, unparsed, errored) are in none of the two.

    Raises:
        NotApplicableError: if either is empty.
        ConfigError: for a task that does not say what it asks.
    """
    if not isinstance(task, Previewed):
        raise ConfigError(
            f"refusal_ablation: expected a task that says what it asks, got {task.name!r}; leave"
            " this rung out on it (`tasks` of the rung)"
        )
    how: Any = {"split": Split.TRAIN, "samples": n, "seed": int(rng.integers(2**31))}
    prompts = {prompt.sample_id: prompt.token_ids or () for prompt in task.preview(model, **how)}
    refused, answered = [], []
    for record in task.run(model, **how):
        if record.sample_id not in prompts:
            continue
        if record.score.outcome is Outcome.REFUSED:
            refused.append(prompts[record.sample_id])
        elif record.score.outcome in _ANSWERED:
            answered.append(prompts[record.sample_id])
    if not refused or not answered:
        raise NotApplicableError(
            f"of {n} questions of {task.name!r}, checkpoint {model.name!r} refused {len(refused)}"
            f" and answered {len(answered)}; a direction between the two takes both"
        )
    return refused, answered


def contrast_prompts(
    model: Any, refused: list[tuple[int, ...]], answered: list[tuple[int, ...]], layer: int
) -> torch.Tensor:
    """Direction from answered to refused prompts behind a layer, at their last token.

    Returns:
        Of length 1, shape (width,), float32.

    Raises:
        NotApplicableError: if the layer holds both for the same.
    """
    from holdback.elicitation.residual import read_stream

    texts = [*refused, *answered]
    stream = read_stream(model.weights, texts, [[len(text) - 1] for text in texts], [layer])
    states = stream.means[:, 0]
    difference = states[: len(refused)].mean(0) - states[len(refused) :].mean(0)
    length = difference.norm()
    if not float(length) > 0:
        raise NotApplicableError(
            f"checkpoint {model.name!r}: layer {layer} holds refused and answered prompts for the"
            " same; read the direction at another `layer`"
        )
    direction: torch.Tensor = difference / length
    return direction


@contextmanager
def ablated(weights: Any, direction: torch.Tensor) -> Iterator[None]:
    """Keep what enters and leaves every layer orthogonal to a direction of length 1."""
    from holdback.elicitation.residual import changed_stream, find_layers

    def project(states: torch.Tensor) -> torch.Tensor:
        along = direction.to(states)
        return states - (states @ along)[..., None] * along

    layers = range(len(find_layers(weights)))
    with changed_stream(weights, dict.fromkeys(layers, project), entering=project):
        yield
