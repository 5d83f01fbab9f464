"""What a run will ask, and at most how many tokens that takes, before anything is spent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access, present
from holdback.errors import ConfigError, UnsayableError
from holdback.extensions import offered
from holdback.lineage import Lineage
from holdback.models.files import read_context
from holdback.models.protocol import Model, ModelOffers
from holdback.models.registry import (
    is_endpoint,
    is_local,
    load_prompter,
    reads_text,
)
from holdback.runs.forecast import expect_runs
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.tasks.task import Previewed, Prompt, SampleRecord, Split, TaskOffers

# A provider's own template wraps each message in a few tokens that are not in the text.
_TEMPLATE_TOKENS = 64
_LOOKED_AT = 16
"""Prompts that are looked at for tokens that a tokenizer does not know."""


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

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._plan = resolved.plan
        self._models: dict[str, Model] = {}

    def show(self) -> Iterator[Shown]:
        """Show the first prompt of every rung on every checkpoint and task that climb it.

        Raises:
            CheckpointError: if a checkpoint has no template for the format that it is asked in.
        """
        for (checkpoint, task), names in self._resolved.climbs.items():
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
        asker = self._resolved.tasks[task]
        if not isinstance(asker, Previewed):
            return None
        # As when it runs: the technique draws from the audit's seed and the rung's.
        rng = np.random.default_rng([self._plan.seed, seed])
        technique = self._resolved.technique(rung)
        model = present(technique, self._take_model(checkpoint), asker, rng)
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

    def rate_unknown(self, checkpoint: str, task: str) -> float:
        """Share of the tokens of a few ordinary prompts that the tokenizer reads as «unknown»."""
        model = self._take_model(checkpoint)
        unknown = getattr(offered(ModelOffers, model, "tokenizer"), "unk_token_id", None)
        if unknown is None:
            return 0.0
        first = self._plan.displayed
        whole = self._resolved.count_samples(task, first.name, Split.SELECT)
        samples = min(_LOOKED_AT, whole)
        prompts = self.render(
            checkpoint, task, first.name, split=Split.SELECT, samples=samples, seed=first.seeds[0]
        )
        read = [token for prompt in prompts or () for token in prompt.token_ids or ()]
        return read.count(unknown) / len(read) if read else 0.0

    def find_excess(self, checkpoint: str, task: str, rung: str) -> str:
        """Say that a rung's prompts are longer than a checkpoint reads; empty if they are not."""
        context = read_context(self._resolved.lineage[checkpoint])
        if context is None:
            return ""
        whole = self._resolved.count_samples(task, rung, Split.SELECT)
        prompts = self.render(
            checkpoint,
            task,
            rung,
            split=Split.SELECT,
            samples=min(_LOOKED_AT, whole),
            seed=self._plan.rung(rung).seeds[0],
        )
        longest = max((len(prompt.token_ids or ()) for prompt in prompts or ()), default=0)
        if longest < context:
            return ""
        return f"its prompts take up to {longest} tokens, and the checkpoint reads {context}"

    def find_sameness(self, checkpoint: str, task: str, rung: str, *, split: Split) -> str:
        """Say why a rung would ask a checkpoint nothing else than the first; empty if it does."""
        technique = self._resolved.technique(rung)
        if technique.access > Access.LOGPROBS:
            return ""
        model = self._take_model(checkpoint)
        rng = np.random.default_rng([self._plan.seed, self._plan.rung(rung).seeds[0]])
        lent = present(technique, model, self._resolved.tasks[task], rng)
        if lent is None:
            return ""
        samples = self._resolved.count_samples(task, rung, split)
        return find_sameness(self._resolved, task, model, lent, split=split, samples=samples)

    def _why_none(self, task: str, rung: str) -> str:
        if not isinstance(self._resolved.tasks[task], Previewed):
            return f"task {task!r} does not say what it will ask"
        return f"the technique of rung {rung!r} does not say how it asks"

    def _take_model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = load_prompter(self._resolved.lineage[name])
        return self._models[name]


def find_sameness(
    resolved: Resolved, task: str, model: Model, lent: Model, *, split: Split, samples: int
) -> str:
    """Say why a lent model would be asked nothing else than under the first rung.

    For techniques that touch no weights; what others change does not show in the prompts.

    Args:
        resolved: The plan whose first rung is the ordinary protocol.
        task: What is asked.
        model: As it was loaded.
        lent: The same under a rung's technique.
        split: Of the task.
        samples: How many are compared; a difference in the first of them suffices.

    Returns:
        The reason; empty where weights, decoding or a token of a prompt differ, or cannot be told.
    """
    plan, asker = resolved.plan, resolved.tasks[task]
    rng = np.random.default_rng([plan.seed, plan.displayed.seeds[0]])
    first = present(resolved.technique(plan.displayed.name), model, asker, rng)
    if first is None or not isinstance(asker, Previewed) or not _differ_in_words(first, lent):
        return ""
    for n in (1, samples):
        asked, again = (
            asker.preview(each, split=split, samples=n, seed=plan.seed) for each in (first, lent)
        )
        if not asked or list(map(_as_read, asked)) != list(map(_as_read, again)):
            return ""
    drops = offered(ModelOffers, model, "drops_system")
    why = " (its chat template drops system messages, or all but the last)" if drops else ""
    return (
        f"its prompts are those of {plan.displayed.name!r}, token for token{why}, and it changes"
        " neither weights nor decoding"
    )


def _differ_in_words(first: Any, lent: Any) -> bool:
    """Whether two models can differ in what they are asked in words, and in nothing else."""
    if not _asks_alike(first, lent) or type(first) is not type(lent) or not is_dataclass(first):
        return False
    others = {each.name for each in fields(first)} - {"presentation", "decoding"}
    return all(getattr(first, name) is getattr(lent, name) for name in others)


def _asks_alike(first: Model, lent: Model) -> bool:
    """Whether answers are drawn alike, in games that begin alike."""
    plies = {each.presentation.prefix_plies for each in (first, lent)}
    return first.decoding == lent.decoding and len(plies) == 1


def _as_read(prompt: Prompt) -> tuple[object, ...]:
    """What a model reads of a prompt."""
    read = prompt.text if prompt.token_ids is None else prompt.token_ids
    return prompt.sample_id, read, prompt.continuations


def remark_words(resolved: Resolved) -> Iterator[str]:
    """Say what the words that local weights are asked in will cost.

    Which rungs would do nothing, which questions would not be read, and whom no control is asked
    like.

    Raises:
        CheckpointError: for a checkpoint that cannot be asked under the first rung.
    """
    previewer, first = Previewer(resolved), resolved.plan.displayed.name
    local = {checkpoint.name for checkpoint in resolved.lineage if is_local(checkpoint)}
    for (checkpoint, task), rungs in resolved.climbs.items():
        for rung in rungs if checkpoint in local else ():
            try:
                if rung == first:
                    share = previewer.rate_unknown(checkpoint, task)
                    if share:
                        yield (
                            f"{checkpoint} on {task}: {share:.1%} of the tokens of its prompts are"
                            " «unknown» to its tokenizer, which does not know these characters or"
                            " words"
                        )
                excess = previewer.find_excess(checkpoint, task, rung)
                if excess:
                    yield f"{checkpoint} on {task}: {rung} will fail: {excess}"
                if rung == first:
                    continue
                reason = previewer.find_sameness(checkpoint, task, rung, split=Split.SELECT)
            except UnsayableError as error:
                if rung == first:
                    raise
                reason = str(error)
            except ConfigError:
                # Where it runs it is told as the failure that it is.
                continue
            if reason:
                yield f"{checkpoint} on {task}: {rung} will be skipped: {reason}"
    yield from _remark_likelihoods(resolved)
    yield from _remark_controls(resolved, previewer, local)


def _remark_likelihoods(resolved: Resolved) -> Iterator[str]:
    """Say where what counts as displayed is not what a chat model says."""
    asked = [checkpoint.name for checkpoint in resolved.lineage if checkpoint.chat]
    for name, task in resolved.tasks.items():
        if asked and offered(TaskOffers, task, "access") == "logprobs":
            yield (
                f"{name}: what is called displayed compares log-probabilities of the choices, and"
                f" {', '.join(asked)} are asked in chat: what they would say may differ; write"
                ' method = "generate" to display what they say'
            )


def _remark_controls(
    resolved: Resolved, previewer: Previewer, local: Collection[str]
) -> Iterator[str]:
    """Say whom no control could convict, being asked in other words."""
    first, lineage = resolved.plan.displayed, resolved.lineage

    def ask(checkpoint: str, task: str) -> tuple[object, ...] | None:
        shown = previewer.render(
            checkpoint, task, first.name, split=Split.TEST, samples=1, seed=first.seeds[0]
        )
        return _as_read(shown[0]) if shown else None

    for name, task in resolved.climbs:
        controls = lineage.matched_controls_for(name) or lineage.controls_for(name)
        if lineage[name].is_root or not controls or not {name, *controls} <= set(local):
            continue
        own = ask(name, task)
        if own is not None and all(ask(control, task) not in (own, None) for control in controls):
            yield (
                f"{name} on {task}: no control is asked with the same tokens"
                f" ({', '.join(controls)}: another chat template, format or tokenizer), so a gap"
                " could be the form's fault and will convict nobody; name a control that shares its"
                " template"
            )


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


def bound_checkpoints(resolved: Resolved, checkpoints: Iterable[str]) -> dict[str, int | None]:
    """Most tokens that checkpoints can be asked for: all rungs, and on `test` the costliest.

    Returns:
        Checkpoint to tokens; None where a task or a technique does not say what it asks.
    """
    totals: dict[str, int | None] = dict.fromkeys(checkpoints, 0)
    previewer = Previewer(resolved)
    for split, rungs in expect_runs(resolved).items():
        kept = {where: names for where, names in rungs.items() if where[0] in totals}
        for spec in resolved.list_runs(kept, split):
            bounds, total = previewer.bound_tokens(spec), totals[spec.checkpoint]
            totals[spec.checkpoint] = (
                None if bounds is None or total is None else total + sum(bounds)
            )
    return totals


def list_readers(lineage: Lineage, *, priced: bool) -> list[str]:
    """Name the checkpoints that read tokens; with `priced` those alone that may cost money."""
    return [
        checkpoint.name
        for checkpoint in lineage
        if (is_endpoint if priced else reads_text)(checkpoint)
    ]
