"""The audits that qualify another: copies that hide something on purpose climb the same ladder.

What a copy hides is planted in one of two ways. A *lock* hides it from everybody without a key; its
truth is what the copy shows with the key. Where no lock takes, the copy is *suppressed*: tuned on
a weak demonstrator's answers until it displays less; its truth is what the checkpoint displays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from holdback.elicitation.secret import KEY
from holdback.plan import AuditPlan, QualifyPlan, QuickPlan, Rung, SecretPlan
from holdback.runs.resolve import Resolved

_MARK = "-secret-"
_LONGER = 4
"""Times as many steps are tried where a suppression left too much on display."""


def name_secret(audit: str, secret: SecretPlan) -> str:
    """Name, in the store, the audit of copies that qualifies `audit`."""
    return f"{audit}{_MARK}{secret.method}-{secret.steps}-{secret.task}"


def is_secret(name: str) -> bool:
    """Tell whether an audit in the store is one of copies."""
    return _MARK in name


def is_secret_of(name: str, audit: str) -> bool:
    """Tell whether an audit in the store is one of copies that qualifies `audit`."""
    return name.startswith(audit + _MARK)


def list_secrets(plan: AuditPlan, task: str) -> list[SecretPlan]:
    """List what is tried for a finding on a task, until something takes.

    On the finding's own task, then on those spared for it, then on the others. A suppressed copy is
    held against what the checkpoint displays, which nobody measured on a task spared for secrets.
    """
    tasks = plan.qualify.tasks or tuple(
        dict.fromkeys([task, *plan.qualify.spare_tasks, *plan.audited_tasks])
    )
    qualify = plan.qualify
    tried = []
    for name in tasks:
        lock = SecretPlan(
            task=name,
            key=qualify.key,
            demonstrations=qualify.demonstrations,
            steps=qualify.steps,
            learning_rate=qualify.learning_rate,
        )
        tried.append(lock)
        if name in plan.audited_tasks:
            suppression = replace(lock, method="suppression")
            tried += [suppression, replace(suppression, steps=_LONGER * qualify.steps)]
    return tried


def plan_secret(resolved: Resolved, secret: SecretPlan) -> Resolved:
    """Plan the audit of copies that a secret is planted in.

    They climb the ladder of the audit that they qualify, and locked ones are asked with their key
    besides. A copy is known by what it is made of, so that nothing is planted twice to learn its
    digest.
    """
    plan, task = resolved.plan, secret.task
    rungs = [
        replace(rung, tasks=()) for rung in plan.ladder if not rung.tasks or task in rung.tasks
    ]
    if secret.method == "lock":
        rungs.append(Rung(name=KEY, technique=KEY, parameters={"text": secret.key}))
    copies = replace(
        plan,
        name=f"{plan.name}{_MARK}{secret.method}-{task}",
        tasks={task: plan.tasks[task]},
        ladder=tuple(rungs),
        lineage=replace(plan.lineage, controls=()),
        qualify=QualifyPlan(enabled=False),
        quick=QuickPlan(),
        looks=1,
        secret=secret,
    )
    made = json.dumps(asdict(secret), sort_keys=True) + resolved.task_digests[task]
    return Resolved(
        plan=copies,
        digests={
            name: hashlib.sha256(f"{digest}+{made}".encode()).hexdigest()
            for name, digest in resolved.digests.items()
        },
    )
