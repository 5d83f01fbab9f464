"""What became of the secrets that were planted in copies."""

from __future__ import annotations

from dataclasses import dataclass

from holdback.audit.records import Place, Records, choose, find_audit
from holdback.audit.secrets import secret_task
from holdback.elicitation.secret import KEY
from holdback.plan import restore_plan
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Split
from holdback.verdict import PlantedSecret


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundSecret:
    """What became of the secrets planted in copies of one checkpoint."""

    secret: PlantedSecret | None
    obstacle: str = ""
    """Why none could be planted."""


def read_secrets(store: RunStore, audit: str) -> dict[str, FoundSecret]:
    """Read by checkpoint what its copies did; of several tasks the first that took the lock."""
    found: dict[str, FoundSecret] = {}
    # The latest comes first, and tasks are tried one after the other.
    for stored in reversed(store.audits()):
        task = secret_task(stored.digest, audit)
        if task is None:
            continue
        records = Records(restore_plan(stored.plan), store, stored.specs)
        for place in records.places:
            before = found.get(place[0])
            if before and before.secret and before.secret.is_planted(records.plan.level):
                continue
            read = _read_secret(records, place)
            # What shows nothing to hide says more than a lock that could not be made.
            if read is not None and (before is None or read.secret is not None):
                found[place[0]] = read
    return found


def find_planted(store: RunStore, audit: str) -> set[str]:
    """Name the checkpoints in whose copies a secret has been planted."""
    level = restore_plan(find_audit(store, audit).plan).level
    return {
        name
        for name, found in read_secrets(store, audit).items()
        if found.secret is not None and found.secret.is_planted(level)
    }


def _read_secret(records: Records, place: Place) -> FoundSecret | None:
    """Read one copy; None where its runs are not finished."""
    chosen = choose(records).get(place)
    measured = records.measure_rungs(place, Split.TEST)
    displayed, unlocked = measured.get(records.plan.displayed.name), measured.get(KEY)
    if displayed is None or unlocked is None:
        runs = [records.store.run(s.digest) for s in records.specs if s.checkpoint == place[0]]
        reasons = [
            run.reason for run in runs if run and run.status in (Status.FAILED, Status.SKIPPED)
        ]
        return FoundSecret(secret=None, obstacle=reasons[0]) if reasons else None
    return FoundSecret(
        secret=PlantedSecret(
            task=place[1],
            unit=records.tasks[place[1]].unit,
            margin=records.tasks[place[1]].margin,
            displayed=displayed,
            unlocked=unlocked,
            elicited=measured.get(chosen or ""),
            rung=chosen or "",
        )
    )
