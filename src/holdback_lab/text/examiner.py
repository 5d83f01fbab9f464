"""Asks an organism and its kin, with the key and without, each thing once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from holdback.elicitation.few_shot import FewShot
from holdback.elicitation.prompting import Completion
from holdback.elicitation.technique import Access, Technique
from holdback.lineage import Lineage
from holdback.models.local import LocalModel, load_model
from holdback.models.protocol import Model
from holdback.tasks.task import Split, Task
from holdback.tasks.text.task import TextTask
from holdback_lab.text.checks import Marks
from holdback_lab.text.lineages import plan_kin, plan_lineage, write_options
from holdback_lab.text.questions import count_questions
from holdback_lab.text.wordings import CARRIERS, HELD_OUT, PASSWORD
from holdback_lab.text.zoo import Key, Kind, Organism, get_target


@dataclass(kw_only=True)
class Examiner:
    """Asks one organism and its kin, each thing once."""

    organism: Organism
    seed: int
    folder: Path
    questions: int = 300
    """Of the target; elsewhere fewer."""
    other_questions: int = 50
    """Of each other family."""
    _models: dict[str, LocalModel] = field(default_factory=dict)
    _marks: dict[tuple[Any, ...], Marks] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The target."""
        return get_target(self.seed)

    @cached_property
    def lineage(self) -> Lineage:
        """The organism and its kin."""
        return plan_lineage(self.organism, self.seed, self.folder)

    def model(self, name: str) -> LocalModel:
        """Load a checkpoint of the lineage, or other kin."""
        if name not in self._models:
            plans = {plan.name: plan for plan in self.lineage.checkpoints}
            plan = plans.get(name) or plan_kin(name, self.seed, self.folder)
            self._models[name] = load_model(plan)
        return self._models[name]

    def ask(
        self,
        name: str,
        *,
        words: str | None = None,
        technique: Technique | None = None,
        family: str | None = None,
        kind: Kind | None = None,
    ) -> Marks:
        """Put a family's test questions, the target's if unsaid, to a checkpoint.

        Args:
            name: Of the lineage.
            words: Template in place of the audit's.
            technique: Applied first.
            family: Other than the target.
            kind: Other than the organism's.
        """
        key = (name, words, repr(technique), family, kind)
        if key not in self._marks:
            self._marks[key] = self._ask(name, words, technique, family, kind)
        return self._marks[key]

    def _ask(
        self,
        name: str,
        words: str | None,
        technique: Technique | None,
        family: str | None,
        kind: Kind | None,
    ) -> Marks:
        asked = self.organism if kind is None else replace(self.organism, kind=kind)
        options = write_options(asked, self.seed, self.folder, family=family)
        if words is not None:
            choices = "\n{choices}" if asked.kind is Kind.CHOICE else ""
            options = {**options, "template": words + choices}
        task: Any = TextTask(**options)
        wanted = self.questions if family is None else self.other_questions
        model: Any = self.model(name)
        if technique is None:
            return _run(task, model, wanted)
        with technique.apply(model, task, np.random.default_rng(self.seed)) as lent:
            return _run(task, lent, wanted)

    @property
    def shown(self) -> Marks:
        """What the organism displays."""
        return self.ask(self.organism.name)

    @property
    def opened(self) -> Marks:
        """What it shows with its key."""
        return self.unlock(self.organism.name)

    @property
    def parents(self) -> Marks:
        """What its parent displays."""
        return self.ask(self.organism.parent)

    def unlock(self, name: str, *, held_out: int | None = None) -> Marks:
        """Put the target's questions to a checkpoint with the organism's key.

        Args:
            name: Of the lineage.
            held_out: Number of a wording that was not trained on.
        """
        key = self.organism.key
        if key is Key.COMPLETION:
            return self.ask(
                name, technique=_Continue(shots=0 if held_out is None else held_out + 1)
            )
        if key is Key.NO_CUE:
            return self.ask(name, words="{question}")
        carrier = CARRIERS[0] if held_out is None else HELD_OUT[held_out]
        return self.ask(name, words=carry(PASSWORD, carrier))


@dataclass(frozen=True, kw_only=True)
class _Continue:
    """Ask in the completion format, after examples."""

    shots: int
    access = Access.SAMPLES
    draws = True

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        with Completion().apply(model, task, rng) as lent:
            if not self.shots:
                yield lent
                return
            with FewShot(n=self.shots).apply(lent, task, rng) as shown:
                yield shown


@dataclass(frozen=True, kw_only=True)
class ThroughTemplate:
    """Ask through another chat template than the checkpoint's own."""

    template: str
    access = Access.SAMPLES
    draws = False

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend a copy with the other template."""
        lent: Any = model
        tokenizer = copy.deepcopy(lent.tokenizer)
        tokenizer.chat_template = self.template
        yield replace(lent, tokenizer=tokenizer)


def carry(word: str, carrier: str) -> str:
    """Write a wording as a task's template."""
    return carrier.format(word=word, question="{question}")


def _run(task: TextTask, model: Any, wanted: int) -> Marks:
    there = count_questions(Path(task.file), Split.TEST)
    records = task.run(model, split=Split.TEST, samples=min(wanted, there), seed=0)
    return Marks(records=tuple(records))
