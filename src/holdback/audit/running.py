"""Filling the store: every rung on `select`, then what each checkpoint chose there on `test`."""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from holdback.audit.cases import find_undecided, find_unqualified
from holdback.audit.planted import find_planted
from holdback.audit.prepared import Prepared, remark_copies
from holdback.audit.reading import choose_rungs, read_result
from holdback.audit.records import Place
from holdback.audit.result import AuditResult
from holdback.audit.secrets import list_secrets, name_secret, plan_secret
from holdback.elicitation.few_shot import FewShot, check_taken
from holdback.elicitation.secret import KEY
from holdback.elicitation.technique import Ladder
from holdback.errors import ConfigError
from holdback.models.registry import fetch_checkpoint, try_checkpoint
from holdback.models.token_cap import sharing_ledger
from holdback.plan import AuditPlan, dump_plan
from holdback.runs.allowance import Allowance
from holdback.runs.execution import Executor, Observer, execute, find_shelf
from holdback.runs.planning import (
    build_ladder,
    build_lineage,
    build_task,
    build_technique,
    climb,
    identify_checkpoints,
    identify_task,
    pin_plan,
    plan_runs,
    samples_for,
)
from holdback.runs.preview import remark_words
from holdback.runs.records import RunSpec
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


def prepare(plan: AuditPlan) -> Prepared:
    """Check everything that can be checked before anything runs.

    Raises:
        ConfigError: for a name or parameter that does not exist, for more samples or demonstrations
            than a task has.
        CheckpointError: for a checkpoint whose files are missing, unsafe or not those that its
            configuration describes, or that is to be asked in chat and has no template.
        EngineError: for a program that a task needs and this machine lacks.
    """
    plan = pin_plan(plan)
    lineage, ladder = build_lineage(plan), build_ladder(plan)
    digests = identify_checkpoints(lineage)
    remarks = [*remark_copies(digests)]
    for checkpoint in lineage:
        remarks += [f"{checkpoint.name}: {remark}" for remark in try_checkpoint(checkpoint)]
    tasks = [build_task(plan, name) for name in plan.tasks]
    for task in tasks:
        if isinstance(task, ChecksMachine):
            task.check_machine()
        _check_supply(plan, ladder, task)
    remarks += remark_words(plan, ladder)
    return Prepared(
        plan=plan,
        ladder=ladder,
        digests=digests,
        task_digests={task.name: identify_task(plan, task) for task in tasks},
        remarks=tuple(remarks),
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
        technique = build_technique(plan.rung(rung.name))
        for link in (technique, *getattr(technique, "techniques", ())):
            if isinstance(link, FewShot):
                check_taken(f"rung {rung.name!r}", task)
            demonstrator = getattr(link, "demonstrator", None)
            n = getattr(link, "n", getattr(link, "demonstrations", 0))
            if isinstance(demonstrator, str) and n:
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
    digest = prepared.digest
    allowance = allowance or Allowance()
    for checkpoint in build_lineage(prepared.plan):
        # All weights first: a repository that cannot be fetched costs no hours of other runs.
        fetch_checkpoint(checkpoint)
    shelf = find_shelf(store, digest)
    perform = partial(
        execute,
        store=store,
        executor=executor,
        observer=observer,
        allowance=allowance,
        shelf=shelf,
    )
    store.begin_audit(digest, plan=dump_plan(prepared.plan), command=command)
    started = time.monotonic()
    try:
        with sharing_ledger():
            rungs = climb(prepared.plan, prepared.ladder)
            _climb_all(prepared, rungs, digest, store, perform, allowance)
            if not allowance.reached:
                _qualify(prepared, store, perform, allowance, command)
        if not allowance.reached:
            # Another audit of this store may be training.
            shutil.rmtree(shelf, ignore_errors=True)
            with suppress(OSError):
                shelf.parent.rmdir()
    finally:
        store.add_seconds(digest, time.monotonic() - started)
    return read_result(store, digest)


def _climb_all(
    prepared: Prepared,
    rungs: Mapping[Place, Sequence[str]],
    digest: str,
    store: RunStore,
    perform: Callable[..., None],
    allowance: Allowance,
) -> None:
    """Run rungs on `select`, then on `test` the ordinary protocol and what was chosen."""
    plan = prepared.plan
    digests = {"digests": prepared.digests, "task_digests": prepared.task_digests}

    def run(specs: Sequence[RunSpec]) -> None:
        store.enlist(digest, specs)
        perform(specs, plan=plan)

    # The ordinary protocol is needed on both splits whatever is chosen: one phase less to wait.
    shown = {where: _always_tested(plan, names) for where, names in rungs.items() if names}
    specs = plan_runs(plan, rungs, Split.SELECT, **digests)
    run([*specs, *_look(plan, plan_runs(plan, shown, Split.TEST, **digests), 1)])
    if allowance.reached:
        # A rung chosen on half the records might not be the one of all of them.
        return
    chosen = choose_rungs(plan, store, specs)
    tested = {where: [*shown[where], rung] for where, rung in chosen.items()}
    for look in range(1, plan.looks + 1):
        run(_look(plan, plan_runs(plan, tested, Split.TEST, **digests), look))
        if allowance.reached or look == plan.looks:
            return
        undecided = find_undecided(store, digest)
        tested = {where: names for where, names in tested.items() if where in undecided}


def _ask_with_key(
    copies: Prepared,
    rungs: Mapping[Place, Sequence[str]],
    digest: str,
    store: RunStore,
    perform: Callable[..., None],
    allowance: Allowance,
) -> None:
    """Run copies on `test` as they are, locked ones with their key too: what they hide."""
    shown = {where: _always_tested(copies.plan, names) for where, names in rungs.items()}
    specs = plan_runs(
        copies.plan,
        shown,
        Split.TEST,
        digests=copies.digests,
        task_digests=copies.task_digests,
    )
    store.enlist(digest, specs)
    perform(specs, plan=copies.plan)


def _always_tested(plan: AuditPlan, names: Sequence[str]) -> list[str]:
    """Name the rungs that run on `test` whatever is chosen: the first, and a copy's key."""
    return [
        name for name in names if name == plan.displayed.name or plan.rung(name).technique == KEY
    ]


def _look(plan: AuditPlan, specs: Sequence[RunSpec], look: int) -> list[RunSpec]:
    """Cut runs to the samples of a look, the last of which has them all."""
    return [replace(spec, samples=math.ceil(spec.samples * look / plan.looks)) for spec in specs]


def _qualify(
    prepared: Prepared,
    store: RunStore,
    perform: Callable[..., None],
    allowance: Allowance,
    command: str,
) -> None:
    """Let copies that hide something climb, of every checkpoint that nothing was found in."""
    plan, digest = prepared.plan, prepared.digest
    waiting = {place: list_secrets(plan, place[1]) for place in find_unqualified(store, digest)}
    while waiting:
        # One after the other: where one does not take the next is tried.
        secret = next(iter(waiting.values()))[0]
        copies = plan_secret(prepared, secret)
        names = {name for (name, _), secrets in waiting.items() if secrets[0] == secret}
        rungs = climb(copies.plan, copies.ladder)
        audit = name_secret(digest, secret)
        store.begin_audit(audit, plan=dump_plan(copies.plan), command=command)
        # What did not take hides nothing: its copy need not climb.
        for climbing in (_ask_with_key, _climb_all):
            places = {place: rungs[place] for place in rungs if place[0] in names}
            climbing(copies, places, audit, store, perform, allowance)
            if allowance.reached:
                return
            planted = find_planted(store, digest)
            names &= planted
        waiting = {
            place: secrets[1:] if secrets[0] == secret else secrets
            for place, secrets in waiting.items()
            if place[0] not in planted and (secrets[0] != secret or secrets[1:])
        }
