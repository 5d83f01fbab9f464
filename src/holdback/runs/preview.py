"""What a run will ask, and at most how many tokens that takes, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdback.elicitation.technique import Ladder, present
from holdback.errors import ConfigError
from holdback.models.protocol import Model
from holdback.models.registry import is_endpoint, load_prompter, reads_text
from holdback.plan import AuditPlan
from holdback.runs.planning import (
    build_lineage,
    build_task,
    build_technique,
    expect_runs,
    plan_runs,
)
from holdback.runs.records import RunSpec
from holdback.tasks.task import Previewed, Prompt, SampleRecord, Split, Task

# A provider's own template wraps each message in a few tokens that are not in the text.
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """The first prompt of one rung on one task, as one checkpoint is asked."""

    checkpoint: str
    task: str
    rung: str
    prompt: Prompt | None
    reason: str = ""
    """Why there is no prompt to show."""


class Previewer:
    """Renders prompts as runs will: with tokenizers and templates, without weights."""

    def __init__(self, plan: AuditPlan) -> None:
        self._plan = plan
        self._lineage = build_lineage(plan)
        self._models: dict[str, Model] = {}
        self._tasks: dict[str, Task] = {}

    def show(self, rungs: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[Shown]:
        """Show the first prompt of every rung, from (checkpoint, task) to the names of rungs.

        Raises:
            CheckpointError: if a checkpoint has no template for the format that it is asked in.
        """
        for (checkpoint, task), names in rungs.items():
            for rung in names:
                found: Prompt | None = None
                try:
                    prompts = self.render(
                        checkpoint,
                        task,
                        rung,
                        split=Split.TEST,
                        samples=1,
                        seed=self._plan.rung(rung).seeds[0],
                    )
                except ConfigError as error:
                    reason = str(error)
                else:
                    found = prompts[0] if prompts else None
                    reason = "" if found else self._why_none(task, rung)
                yield Shown(
                    checkpoint=checkpoint, task=task, rung=rung, prompt=found, reason=reason
                )

    def render(
        self, checkpoint: str, task: str, rung: str, *, split: Split, samples: int, seed: int
    ) -> list[Prompt] | None:
        """Render the prompts of a run's samples; None where task or technique do not say."""
        planned, asker = self._plan.rung(rung), self._take_task(task)
        if not isinstance(asker, Previewed):
            return None
        # As when it runs: the technique draws from the audit's seed and the rung's.
        rng = np.random.default_rng([self._plan.seed, seed])
        model = present(build_technique(planned), self._take_model(checkpoint), asker, rng)
        if model is None:
            return None
        return asker.preview(model, split=split, samples=samples, seed=self._plan.seed)

    def bound_tokens(self, spec: RunSpec, done: Sequence[SampleRecord] = ()) -> list[int] | None:
        """Most tokens that each missing sample of a run can take, read and generated.

        Returns:
            One number a sample, in their order; None where task or technique do not say.
        """
        prompts = self.render(
            spec.checkpoint,
            spec.task,
            spec.rung,
            split=spec.split,
            samples=spec.samples,
            seed=spec.seed,
        )
        if not prompts:
            return None
        missing = spec.samples - len(done)
        stored = {record.sample_id for record in done}
        left = [bound_prompt(prompt) for prompt in prompts if prompt.sample_id not in stored]
        if len(prompts) == spec.samples and len(left) == missing:
            return left
        # Samples that start with somebody else's answer have prompts like those that do not.
        return [max(map(bound_prompt, prompts))] * missing

    def _why_none(self, task: str, rung: str) -> str:
        if not isinstance(self._take_task(task), Previewed):
            return f"task {task!r} does not say what it will ask"
        return f"the technique of rung {rung!r} does not say how it asks"

    def _take_model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = load_prompter(self._lineage[name])
        return self._models[name]

    def _take_task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = build_task(self._plan, name)
        return self._tasks[name]


def bound_prompt(prompt: Prompt) -> int:
    """Most tokens that a sample can take: read and generated, each time that it is sent.

    A provider that keeps its tokenizer is taken to need no more tokens than the text has bytes,
    which holds for every byte-level vocabulary, and a few for its template.
    """
    if prompt.token_ids is None:
        read = len(prompt.text.encode()) + _TEMPLATE_TOKENS
    else:
        read = len(prompt.token_ids)
    return prompt.most_sent * (read + prompt.max_tokens)


def bound_checkpoints(
    plan: AuditPlan, ladder: Ladder, checkpoints: Iterable[str]
) -> dict[str, int | None]:
    """Most tokens that checkpoints can be asked for: all rungs, and on `test` the costliest.

    Returns:
        Checkpoint to tokens; None where a task or a technique does not say what it asks.
    """
    totals: dict[str, int | None] = dict.fromkeys(checkpoints, 0)
    previewer = Previewer(plan)
    # Nothing is stored under these runs, so nobody asks what their digests are.
    nothing = dict.fromkeys([*totals, *plan.tasks], "")
    for split, rungs in expect_runs(plan, ladder).items():
        kept = {where: names for where, names in rungs.items() if where[0] in totals}
        for spec in plan_runs(plan, kept, split, digests=nothing, task_digests=nothing):
            bounds, total = previewer.bound_tokens(spec), totals[spec.checkpoint]
            totals[spec.checkpoint] = (
                None if bounds is None or total is None else total + sum(bounds)
            )
    return totals


def list_readers(plan: AuditPlan, *, priced: bool) -> list[str]:
    """Name the checkpoints that read tokens; with `priced` those alone that may cost money."""
    return [
        checkpoint.name
        for checkpoint in build_lineage(plan)
        if (is_endpoint if priced else reads_text)(checkpoint)
    ]
