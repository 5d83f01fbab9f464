"""Filling the store: every rung on `select`, then what each checkpoint chose there on `test`."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from holdback.audit.reading import choose_rungs, read_result
from holdback.audit.result import AuditResult
from holdback.elicitation.technique import Ladder
from holdback.errors import ConfigError
from holdback.models.registry import fetch_checkpoint
from holdback.plan import AuditPlan, dump_plan
from holdback.runs.allowance import Allowance
from holdback.runs.execution import Executor, Observer, execute
from holdback.runs.planning import (
    build_ladder,
    build_lineage,
    build_task,
    climb,
    identify_checkpoints,
    identify_task,
    pin_plan,
    plan_runs,
    samples_for,
)
from holdback.runs.store import RunStore
from holdback.tasks.task import Split, Task


@runtime_checkable
class ChecksMachine(Protocol):
    """A task that needs more than Python, such as a chess engine."""

    def check_machine(self) -> None:
        """Look whether this machine has what the task needs.

        Raises:
            EngineError: if not, with what to do.
        """
        ...


@runtime_checkable
class ChecksSamples(Protocol):
    """A task that knows how many samples it has."""

    def check_samples(self, split: Split, samples: int) -> None:
        """Look whether a split has so many samples.

        Raises:
            ConfigError: if not, with how many it has.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A plan whose every name was found to stand for something."""

    plan: AuditPlan
    ladder: Ladder
    """Without the rungs that need more access than the plan allows."""
    digests: Mapping[str, str]
    """Checkpoint to the digest of its files."""
    task_digests: Mapping[str, str]
    """Task to the digest of what it asks."""

    @property
    def digest(self) -> str:
        """Identity of the audit: its plan, and the checkpoints and tasks as they are now."""
        parts = sorted([*self.digests.items(), *self.task_digests.items()])
        identity = [dump_plan(self.plan), *(f"{name}={digest}" for name, digest in parts)]
        return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def prepare(plan: AuditPlan) -> Prepared:
    """Check everything that can be checked before anything runs.

    Raises:
        ConfigError: for a name or parameter that does not exist, for more samples or demonstrations
            than a task has.
        CheckpointError: for a checkpoint whose files are missing or unsafe.
        EngineError: for a program that a task needs and this machine lacks.
    """
    plan = pin_plan(plan)
    lineage, ladder = build_lineage(plan), build_ladder(plan)
    tasks = [build_task(plan, name) for name in plan.tasks]
    for task in tasks:
        if isinstance(task, ChecksMachine):
            task.check_machine()
        _check_supply(plan, ladder, task)
    return Prepared(
        plan=plan,
        ladder=ladder,
        digests=identify_checkpoints(lineage),
        task_digests={task.name: identify_task(plan, task) for task in tasks},
    )


def _check_supply(plan: AuditPlan, ladder: Ladder, task: Task) -> None:
    """Refuse rungs that ask for more samples or demonstrations than the task has."""
    wanted: dict[str, dict[int, str]] = defaultdict(dict)
    for rung in ladder.rungs:
        if rung.tasks and task.name not in rung.tasks:
            continue
        if isinstance(task, ChecksSamples):
            for split in (Split.SELECT, Split.TEST):
                samples = samples_for(plan, task.name, plan.rung(rung.name), split)
                task.check_samples(split, samples)
        # A chain has the parameters of its techniques in its links.
        for parameters in (rung.parameters, *rung.parameters.get("links", ())):
            demonstrator, n = parameters.get("demonstrator"), parameters.get("n")
            if isinstance(demonstrator, str) and isinstance(n, int):
                wanted[demonstrator][n] = rung.name
    for demonstrator, rungs in wanted.items():
        # Whoever has the most has fewer.
        most = max(rungs)
        try:
            task.demonstrate(demonstrator, most, np.random.default_rng(0))
        except ConfigError as error:
            raise type(error)(f"rung {rungs[most]!r} on task {task.name!r}: {error}") from error


def run_audit(
    prepared: Prepared,
    *,
    store: RunStore,
    executor: Executor,
    observer: Observer,
    command: str,
    allowance: Allowance | None = None,
) -> AuditResult:
    """Run what the store does not hold yet, and read the result.

    Args:
        prepared: What to run.
        store: Where the records go; the same call again finds them there.
        executor: Who performs the runs.
        observer: Who hears how far they are.
        command: What the user typed, for the report.
        allowance: Caps on what is spent here; where one is reached the rest is left for later.
    """
    plan, digest = prepared.plan, prepared.digest
    allowance = allowance or Allowance()
    for checkpoint in build_lineage(plan):
        # All weights first: a repository that cannot be fetched costs no hours of other runs.
        fetch_checkpoint(checkpoint)
    digests = {"digests": prepared.digests, "task_digests": prepared.task_digests}
    store.begin_audit(digest, plan=dump_plan(plan), command=command)
    started = time.monotonic()
    try:
        rungs = climb(plan, prepared.ladder)
        # The ordinary protocol is needed on both splits whatever is chosen: one phase less to wait.
        displayed = {where: [plan.displayed.name] for where, names in rungs.items() if names}
        specs = plan_runs(plan, rungs, Split.SELECT, **digests)
        specs += plan_runs(plan, displayed, Split.TEST, **digests)
        store.enlist(digest, specs)
        perform = partial(
            execute,
            plan=plan,
            store=store,
            executor=executor,
            observer=observer,
            allowance=allowance,
        )
        perform(specs)
        if allowance.reached:
            # A rung chosen on half the records might not be the one of all of them.
            return read_result(store, digest)
        chosen = {where: [rung] for where, rung in choose_rungs(plan, store, specs).items()}
        specs = plan_runs(plan, chosen, Split.TEST, **digests)
        store.enlist(digest, specs)
        perform(specs)
    finally:
        store.add_seconds(digest, time.monotonic() - started)
    return read_result(store, digest)
