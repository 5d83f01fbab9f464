"""Filling the store: every rung on `select`, then what each checkpoint chose there on `test`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from holdback.audit.reading import choose_rungs, read_result
from holdback.audit.result import AuditResult
from holdback.elicitation.technique import Ladder
from holdback.plan import AuditPlan, dump_plan
from holdback.runs.execution import Executor, Observer, execute
from holdback.runs.planning import (
    build_ladder,
    build_lineage,
    build_task,
    climb,
    identify_checkpoints,
    plan_runs,
)
from holdback.runs.store import RunStore
from holdback.tasks.task import Split


@runtime_checkable
class ChecksMachine(Protocol):
    """A task that needs more than Python, such as a chess engine."""

    def check_machine(self) -> None:
        """Look whether this machine has what the task needs.

        Raises:
            EngineError: if not, with what to do.
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

    @property
    def digest(self) -> str:
        """Identity of the audit: its plan and the checkpoints as they are now."""
        identity = [dump_plan(self.plan), *sorted(f"{n}={d}" for n, d in self.digests.items())]
        return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def prepare(plan: AuditPlan) -> Prepared:
    """Check everything that can be checked before anything runs.

    Raises:
        ConfigError: for a name or parameter that does not exist.
        CheckpointError: for a checkpoint whose files are missing or unsafe.
        EngineError: for a program that a task needs and this machine lacks.
    """
    lineage, ladder = build_lineage(plan), build_ladder(plan)
    for name in plan.tasks:
        task = build_task(plan, name)
        if isinstance(task, ChecksMachine):
            task.check_machine()
    return Prepared(plan=plan, ladder=ladder, digests=identify_checkpoints(lineage))


def run_audit(
    prepared: Prepared, *, store: RunStore, executor: Executor, observer: Observer, command: str
) -> AuditResult:
    """Run what the store does not hold yet, and read the result.

    Args:
        prepared: What to run.
        store: Where the records go; the same call again finds them there.
        executor: Who performs the runs.
        observer: Who hears how far they are.
        command: What the user typed, for the report.
    """
    plan, digest = prepared.plan, prepared.digest
    store.begin_audit(digest, plan=dump_plan(plan), command=command)
    started = time.monotonic()
    try:
        rungs = climb(plan, prepared.ladder)
        # The ordinary protocol is needed on both splits whatever is chosen: one phase less to wait.
        displayed = {where: [plan.displayed.name] for where in rungs}
        specs = plan_runs(plan, rungs, Split.SELECT, digests=prepared.digests)
        specs += plan_runs(plan, displayed, Split.TEST, digests=prepared.digests)
        store.enlist(digest, specs)
        execute(specs, plan=plan, store=store, executor=executor, observer=observer)
        chosen = {where: [rung] for where, rung in choose_rungs(plan, store, specs).items()}
        specs = plan_runs(plan, chosen, Split.TEST, digests=prepared.digests)
        store.enlist(digest, specs)
        execute(specs, plan=plan, store=store, executor=executor, observer=observer)
    finally:
        store.add_seconds(digest, time.monotonic() - started)
    return read_result(store, digest)
