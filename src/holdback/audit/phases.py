"""An audit, phase by phase: display and climb, choose, test, plant, conclude.

Every rung runs on `select`, what each checkpoint chose there on `test`, look by look; copies of
what nothing is found in then climb the same ladder with something to hide.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from holdback.audit.cases import find_undecided, find_unqualified
from holdback.audit.planted import find_planted
from holdback.audit.racing import drop_beaten, shorten
from holdback.audit.reading import conclude
from holdback.audit.records import Audits, Place, Records, choose
from holdback.audit.result import AuditResult
from holdback.audit.secrets import list_secrets, name_secret, plan_secret
from holdback.elicitation.secret import KEY
from holdback.models.registry import fetch_checkpoint
from holdback.models.token_cap import sharing_ledger
from holdback.plan import dump_plan
from holdback.runs.allowance import Allowance
from holdback.runs.execution import Observer, execute, find_shelf
from holdback.runs.executors import Executor
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore
from holdback.tasks.task import Split


def run_audit(
    resolved: Resolved,
    *,
    store: RunStore,
    executor: Executor,
    observer: Observer,
    command: str,
    allowance: Allowance | None = None,
) -> AuditResult:
    """Run what the store does not hold yet, and read the result.

    Args:
        resolved: What to run, from `prepare`.
        store: Where the records go; the same call again finds them there.
        executor: Who performs the runs.
        observer: Who hears how far they are.
        command: What the user typed, for the report.
        allowance: Caps on what is spent here; where one is reached the rest is left for later.
    """
    digest = resolved.digest
    allowance = allowance or Allowance()
    for checkpoint in resolved.lineage:
        # All weights first: a repository that cannot be fetched costs no hours of other runs.
        fetch_checkpoint(checkpoint)
    shelf = find_shelf(store, digest)
    audits = Audits(store)
    started = time.monotonic()

    def perform(specs: Sequence[RunSpec], of: Resolved) -> None:
        execute(
            specs,
            resolved=of,
            store=store,
            executor=executor,
            observer=observer,
            allowance=allowance,
            shelf=shelf,
        )

    def begin(of: Resolved, name: str) -> _Phases:
        store.begin_audit(name, plan=dump_plan(of.plan), command=command)
        audits.keep(of)
        return _Phases(of, name, audits, allowance, perform)

    phases = begin(resolved, digest)
    try:
        with sharing_ledger():
            phases.run_all(resolved.climbs)
            if not allowance.reached:
                _plant(phases, begin)
        if not allowance.reached:
            # Another audit of this store may be training.
            shutil.rmtree(shelf, ignore_errors=True)
            with suppress(OSError):
                shelf.parent.rmdir()
    finally:
        store.add_seconds(digest, time.monotonic() - started)
    return conclude(audits, digest)


@dataclass(frozen=True)
class _Phases:
    """The phases that an audit of checkpoints and one of copies have in common."""

    resolved: Resolved
    digest: str
    """Of the audit in the store."""
    audits: Audits
    allowance: Allowance
    perform: Callable[[Sequence[RunSpec], Resolved], None]

    def run_all(self, rungs: Mapping[Place, Sequence[str]]) -> None:
        """Run rungs on `select`, then on `test` the ordinary protocol and what was chosen."""
        plan = self.resolved.plan
        # The ordinary protocol is needed on both splits whatever is chosen: one phase less to wait.
        shown = {where: self._always_tested(names) for where, names in rungs.items() if names}
        tests = self._list_tests(shown, look=1)
        racing: Mapping[Place, Sequence[str]] = {
            where: names for where, names in rungs.items() if plan.tasks[where[1]].choose_on is None
        }
        for number in range(1, plan.rounds + 1):
            whole = self.resolved.list_runs(racing, Split.SELECT)
            specs = shorten(whole, number=number, rounds=plan.rounds)
            self._run([*specs, *tests] if number == 1 else specs)
            if self.allowance.reached:
                # A rung chosen on half the records might not be the one of all of them.
                return
            records = Records(self.resolved, self.audits.store, [*specs, *tests])
            if number < plan.rounds:
                racing = drop_beaten(self.resolved, records, racing)
        chosen = choose(records)
        tested = {where: [*shown[where], rung] for where, rung in chosen.items()}
        for look in range(1, plan.looks + 1):
            self._run(self._list_tests(tested, look=look))
            if self.allowance.reached or look == plan.looks:
                return
            undecided = find_undecided(self.audits, self.digest)
            tested = {where: names for where, names in tested.items() if where in undecided}

    def run_shown(self, rungs: Mapping[Place, Sequence[str]]) -> None:
        """Run copies on `test` as they are, locked ones with their key too: what they hide."""
        shown = {where: self._always_tested(names) for where, names in rungs.items()}
        self._run(self.resolved.list_runs(shown, Split.TEST))

    def _run(self, specs: Sequence[RunSpec]) -> None:
        self.audits.store.enlist(self.digest, specs)
        self.perform(specs, self.resolved)

    def _always_tested(self, names: Sequence[str]) -> list[str]:
        """Name the rungs that run on `test` whatever is chosen: the first, and a copy's key."""
        plan = self.resolved.plan
        return [
            name
            for name in names
            if name == plan.displayed.name or plan.rung(name).technique == KEY
        ]

    def _list_tests(self, rungs: Mapping[Place, Sequence[str]], *, look: int) -> list[RunSpec]:
        """List runs on `test` with the samples of a look, the last of which has them all."""
        looks = self.resolved.plan.looks
        return [
            replace(spec, samples=math.ceil(spec.samples * look / looks))
            for spec in self.resolved.list_runs(rungs, Split.TEST)
        ]


def _plant(phases: _Phases, begin: Callable[[Resolved, str], _Phases]) -> None:
    """Let copies that hide something climb, of every checkpoint that nothing was found in."""
    plan, digest, audits = phases.resolved.plan, phases.digest, phases.audits
    waiting = {place: list_secrets(plan, place[1]) for place in find_unqualified(audits, digest)}
    while waiting:
        # One after the other: where one does not take the next is tried.
        secret = next(iter(waiting.values()))[0]
        copies = begin(plan_secret(phases.resolved, secret), name_secret(digest, secret))
        names = {name for (name, _), secrets in waiting.items() if secrets[0] == secret}
        rungs = copies.resolved.climbs
        # What did not take hides nothing: its copy need not climb.
        for run in (copies.run_shown, copies.run_all):
            run({place: rungs[place] for place in rungs if place[0] in names})
            if phases.allowance.reached:
                return
            planted = find_planted(audits, digest)
            names &= planted
        waiting = {
            place: secrets[1:] if secrets[0] == secret else secrets
            for place, secrets in waiting.items()
            if place[0] not in planted and (secrets[0] != secret or secrets[1:])
        }
