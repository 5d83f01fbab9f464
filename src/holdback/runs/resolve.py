"""From a plan to the things that its names stand for: resolved once, and handed on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from holdback.elicitation.technique import (
    Access,
    Technique,
    digest_technique,
    make_technique,
    offers,
    present,
)
from holdback.errors import ConfigError
from holdback.extensions import describe_contents, digest_source, is_in_file, offered
from holdback.ids import parse_id
from holdback.lineage import Checkpoint, Lineage
from holdback.models.protocol import Decoding, Presentation
from holdback.models.registry import (
    find_access,
    identify_checkpoint,
    is_local,
    pin_checkpoint,
    reads_text,
)
from holdback.plan import AuditPlan, Rung, dump_plan
from holdback.runs.records import RunSpec
from holdback.tasks.registry import find_task, make_task
from holdback.tasks.task import Split, Task, TaskOffers


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """A rung that a checkpoint does not climb on a task, and why."""

    checkpoint: str
    task: str
    rung: str
    reason: str


@dataclass(kw_only=True, eq=False)
class Resolved:
    """A plan with what its names stand for; each thing is made when first asked for, and kept.

    Stored records are read through it too, on machines without the models that made them: so
    nothing is made that is not asked for.
    """

    plan: AuditPlan
    digests: Mapping[str, str] = field(default_factory=dict)
    """Checkpoint to the digest of what it is made of; empty until `identified`."""
    remarks: tuple[str, ...] = ()
    """What may be meant otherwise, though it can run; known once it was looked for."""

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes what it needs itself.
        return {name: getattr(self, name) for name in ("plan", "digests", "remarks")}

    @property
    def lineage(self) -> Lineage:
        """The plan's."""
        return self.plan.lineage

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """All tasks, by name.

        Raises:
            ConfigError: for a kind or an option that does not exist.
        """
        return {
            name: make_task(task.kind, {**task.options, "name": name, "margin": task.margin})
            for name, task in self.plan.tasks.items()
        }

    def technique(self, rung: str) -> Technique:
        """Give a rung's technique.

        Raises:
            UnknownNameError: for a rung or a technique that is not there.
            ConfigError: for a parameter that does not exist.
        """
        if rung not in self._techniques:
            self._techniques[rung] = make_technique(self.plan.rung(rung))
        return self._techniques[rung]

    @cached_property
    def _techniques(self) -> dict[str, Technique]:
        return {}

    @cached_property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that the plan's access allows, every technique and parameter checked.

        Raises:
            ConfigError: for a technique or a parameter that does not exist.
        """
        limit = Access[self.plan.access.upper()]
        # All are made, so that a mistake in one that is left out is told as well.
        access = {rung.name: self.technique(rung.name).access for rung in self.plan.ladder}
        return tuple(rung for rung in self.plan.ladder if access[rung.name] <= limit)

    @cached_property
    def climbs(self) -> Mapping[tuple[str, str], list[str]]:
        """(checkpoint, task) to the rungs to be climbed there, in the ladder's order.

        A rung that needs more than may be touched of a checkpoint is left out there.
        """
        skipped = {(skip.checkpoint, skip.task, skip.rung) for skip in self.skips}
        allowed = {rung.name for rung in self.ladder}
        return {
            (checkpoint.name, task): [
                rung.name
                for rung in self.plan.rungs_for(checkpoint.name, task)
                if rung.name in allowed and (checkpoint.name, task, rung.name) not in skipped
            ]
            for checkpoint in self.lineage
            for task in self.plan.audited_tasks
        }

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """What is not climbed for want of access to a checkpoint, or of words to change.

        An endpoint or an engine gives samples and no weights, and an engine is given positions,
        which no instruction reaches. A task says what it needs in an attribute `access`, such as
        `logprobs` where answers are compared by likelihood; samples where unsaid.

        Raises:
            ConfigError: for a technique, a task or a model id that does not exist.
        """
        return tuple(self._find_skips())

    def _find_skips(self) -> Iterator[Skip]:
        access = {c.name: Access[find_access(c).upper()] for c in self.lineage}
        if min(access.values()) is Access.WEIGHTS:
            return
        limit = Access[self.plan.access.upper()]
        for (checkpoint, given), (name, task) in product(access.items(), self.tasks.items()):
            for rung in self.plan.rungs_for(checkpoint, name):
                technique = self.technique(rung.name)
                # What the whole audit may not touch is the ladder's business.
                if technique.access > limit:
                    continue
                reason = _find_obstacle(
                    technique, task, given, in_words=reads_text(self.lineage[checkpoint])
                )
                if reason:
                    yield Skip(checkpoint=checkpoint, task=name, rung=rung.name, reason=reason)

    @property
    def qualifiable(self) -> list[str]:
        """Names of checkpoints in copies of which a secret can be planted: local, and no roots."""
        plan = self.plan
        if not plan.qualify.enabled or plan.access != "weights":
            return []
        return [
            checkpoint.name
            for checkpoint in self.lineage
            if is_local(checkpoint)
            and checkpoint.name in (plan.qualify.checkpoints or (checkpoint.name,))
            and not checkpoint.is_root
        ]

    @property
    def own_code(self) -> list[str]:
        """What the plan takes from files of one's own, `file.py:Name` each."""
        named = [
            *(parse_id(checkpoint.model).code for checkpoint in self.lineage),
            *(task.kind for task in self.plan.tasks.values()),
            *(rung.technique for rung in self.plan.ladder),
            self.plan.budget.executor,
        ]
        return list(dict.fromkeys(name for name in named if is_in_file(name)))

    def identified(self) -> Resolved:
        """Learn what every checkpoint is made of, and pin branches of repositories to commits.

        Runs, the workers that perform them and the report then speak of the same weights.

        Raises:
            CheckpointError: for one whose files are missing or unsafe, or that the hub, or offline
                its cache, does not know.
        """
        pinned: tuple[Checkpoint, ...] = tuple(map(pin_checkpoint, self.lineage))
        plan = replace(self.plan, lineage=replace(self.lineage, checkpoints=pinned))
        known = replace(
            self, plan=plan, digests={each.name: identify_checkpoint(each) for each in pinned}
        )
        known._techniques.update(self._techniques)
        return known

    @cached_property
    def task_digests(self) -> Mapping[str, str]:
        """Task to the digest of what it asks: kind, options, seed, engine, data and code.

        By contents: files that options name count by what they hold, and code by its source.
        """
        return {name: self._identify_task(name, task) for name, task in self.tasks.items()}

    def _identify_task(self, name: str, task: Task) -> str:
        planned = self.plan.tasks[name]
        kind, _, reference = planned.kind.partition(":")
        file, _, member = reference.partition("@")
        # Wherever a file lies, it is what it holds, which is in `code`.
        own = planned.kind.rpartition("/")[2] if is_in_file(planned.kind) else kind
        identity = {
            "kind": [kind, describe_contents(file), member] if kind == "inspect" else own,
            "options": describe_contents(planned.options),
            "seed": self.plan.seed,
            "provenance": offered(TaskOffers, task, "provenance"),
            "code": [
                digest_source(task, whole_package=not is_in_file(planned.kind)),
                # Who made it, where that is not its class.
                digest_source(find_task(planned.kind)),
            ],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Identity of the audit: its plan, and the checkpoints and tasks as they are now."""
        parts = sorted([*self.digests.items(), *self.task_digests.items()])
        identity = [dump_plan(self.plan), *(f"{name}={digest}" for name, digest in parts)]
        return hashlib.sha256("\n".join(identity).encode()).hexdigest()

    def count_samples(self, task: str, rung: str, split: Split) -> int:
        """Count the samples of one run: the rung's own number or the task's."""
        planned, own = self.plan.tasks[task], self.plan.rung(rung)
        if split is Split.SELECT:
            return own.select_samples or planned.select_samples
        return own.test_samples or planned.test_samples

    def list_runs(
        self, rungs: Mapping[tuple[str, str], Iterable[str]], split: Split
    ) -> list[RunSpec]:
        """List the runs of rungs on one split, from (checkpoint, task) to the rungs' names."""
        return [
            RunSpec(
                checkpoint=checkpoint,
                checkpoint_digest=self._identify_weights(checkpoint, rung),
                task=task,
                task_digest=self.task_digests[task],
                rung=rung.name,
                technique=rung.technique,
                parameters=rung.parameters,
                code=digest_technique(rung),
                split=split,
                seed=seed,
                samples=self.count_samples(task, rung.name, split),
            )
            for (checkpoint, task), names in rungs.items()
            for rung in map(self.plan.rung, names)
            for seed in rung.seeds
        ]

    def _identify_weights(self, checkpoint: str, rung: Rung) -> str:
        """Digest of a checkpoint, and of its parent for a technique that mixes the two."""
        parent = self.lineage[checkpoint].parent
        if parent is None or not offers(self.technique(rung.name)).uses_parent:
            return self.digests[checkpoint]
        both = f"{self.digests[checkpoint]} {self.digests[parent]}"
        return hashlib.sha256(both.encode()).hexdigest()


def _find_obstacle(technique: Technique, task: Task, given: Access, *, in_words: bool) -> str:
    """Say why a technique cannot be applied to a checkpoint; empty if it can."""
    asks = Access[str(offered(TaskOffers, task, "access")).upper()]
    need = max(technique.access, asks)
    if need > given:
        return f"needs {need.name.lower()}, and of this checkpoint there are {given.name.lower()}"
    if given is not Access.WEIGHTS and _constrains(technique, task):
        return "needs log-probabilities at every step, and whole answers are all that is given"
    if not in_words and _rewords(technique, task):
        return "changes how a model is asked in words, and an engine is given positions"
    return ""


@dataclass(frozen=True, kw_only=True)
class _StandIn:
    """What a technique that only asks or draws otherwise changes of a model."""

    name: str = "stand-in"
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)


def _constrains(technique: Technique, task: Task) -> bool:
    stand_in: Any = _StandIn()
    try:
        lent = present(technique, stand_in, task, np.random.default_rng(0))
    except ConfigError:
        return False
    return lent is not None and lent.decoding.constrained


def _rewords(technique: Technique, task: Task) -> bool:
    stand_in: Any = _StandIn()
    try:
        lent = present(technique, stand_in, task, np.random.default_rng(0))
    except ConfigError:
        # Examples, or words that this task does not take.
        return True
    if lent is None:
        return True
    plain = Presentation(prefix_plies=lent.presentation.prefix_plies)
    same = replace(lent.decoding, votes=1) == Decoding()
    return lent.presentation != plain or not same


def remark_tasks(tasks: Mapping[str, Task]) -> list[str]:
    """List what tasks have to say of their own options, each with the task's name."""
    return [
        f"{name}: {remark}"
        for name, task in tasks.items()
        for remark in offered(TaskOffers, task, "remarks")
    ]
