"""The audit that qualifies another: copies with a planted secret climb the same ladder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from holdback.audit.prepared import Prepared
from holdback.elicitation.secret import KEY
from holdback.plan import AuditPlan, QualifyPlan, QuickPlan, RungPlan, SecretPlan
from holdback.runs.planning import build_ladder

_MARK = "-secret-"


def name_secret(audit: str, task: str) -> str:
    """Name, in the store, the audit of copies that qualifies `audit` on a task."""
    return f"{audit}{_MARK}{task}"


def is_secret(name: str) -> bool:
    """Tell whether an audit in the store is one of copies."""
    return _MARK in name


def secret_task(name: str, audit: str) -> str | None:
    """Name the task that copies of `audit` were locked on; None if `name` is another audit."""
    return name.removeprefix(audit + _MARK) if name.startswith(audit + _MARK) else None


def tasks_for_secret(plan: AuditPlan, task: str) -> list[str]:
    """List the tasks to plant on: the finding's own, then those spared for it, then the others."""
    if plan.qualify.tasks:
        return list(plan.qualify.tasks)
    return list(dict.fromkeys([task, *plan.qualify.spare_tasks, *plan.audited_tasks]))


def plan_secret(prepared: Prepared, task: str) -> Prepared:
    """Plan the audit of copies that are locked on a task.

    They climb the ladder of the audit that they qualify, and are asked with their key besides. A
    copy is known by what it is made of, so that nothing is planted twice to learn its digest.
    """
    plan = prepared.plan
    secret = SecretPlan(
        task=task,
        key=plan.qualify.key,
        demonstrations=plan.qualify.demonstrations,
        steps=plan.qualify.steps,
        learning_rate=plan.qualify.learning_rate,
    )
    rungs = tuple(
        replace(rung, tasks=()) for rung in plan.ladder if not rung.tasks or task in rung.tasks
    )
    key = RungPlan(name=KEY, technique=KEY, parameters={"text": secret.key})
    copies = replace(
        plan,
        name=f"{plan.name}{_MARK}{task}",
        tasks={task: plan.tasks[task]},
        ladder=(*rungs, key),
        lineage=replace(plan.lineage, controls=()),
        qualify=QualifyPlan(enabled=False),
        quick=QuickPlan(),
        looks=1,
        secret=secret,
    )
    made = json.dumps(asdict(secret), sort_keys=True) + prepared.task_digests[task]
    return Prepared(
        plan=copies,
        ladder=build_ladder(copies),
        digests={
            name: hashlib.sha256(f"{digest}+{made}".encode()).hexdigest()
            for name, digest in prepared.digests.items()
        },
        task_digests={task: prepared.task_digests[task]},
    )
