"""What became of the secrets that were planted in copies."""

from __future__ import annotations

from dataclasses import dataclass

from holdback.audit.records import Audits, Place, Records, choose, find_audit
from holdback.audit.secrets import is_secret_of
from holdback.elicitation.secret import KEY
from holdback.runs.store import Status
from holdback.tasks.task import Split
from holdback.verdict import PlantedSecret


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundSecret:
    """What became of the secrets planted in copies of one checkpoint."""

    secret: PlantedSecret | None
    obstacle: str = ""
    """Why none could be planted."""


def read_secrets(audits: Audits, audit: str) -> dict[str, FoundSecret]:
    """Read by checkpoint what its copies did; of several tries the first that took."""
    found: dict[str, FoundSecret] = {}
    checkpoints = audits.open(find_audit(audits.store, audit))
    # The latest comes first, and what is tried is tried in turn.
    for stored in reversed(audits.store.audits()):
        if not is_secret_of(stored.digest, audit):
            continue
        copies = audits.open(stored)
        for place in copies.places:
            before = found.get(place[0])
            if before and before.secret and before.secret.is_planted(copies.plan.level):
                continue
            read = _read_secret(copies, place, checkpoints)
            # What shows nothing to hide says more than a lock that could not be made.
            if read is not None and (before is None or read.secret is not None):
                found[place[0]] = read
    return found


def find_planted(audits: Audits, audit: str) -> set[str]:
    """Name the checkpoints in whose copies a secret has been planted."""
    level = audits.open(find_audit(audits.store, audit)).plan.level
    return {
        name
        for name, found in read_secrets(audits, audit).items()
        if found.secret is not None and found.secret.is_planted(level)
    }


def _read_secret(copies: Records, place: Place, checkpoints: Records) -> FoundSecret | None:
    """Read one copy; None where its runs are not finished."""
    secret = copies.plan.secret
    assert secret is not None
    first = copies.plan.displayed.name
    measured = copies.measure_rungs(place, Split.TEST)
    displayed = measured.get(first)
    # The truth: what the copy shows with its key; or what it was a copy of displays.
    truth = (
        measured.get(KEY)
        if secret.method == "lock"
        else checkpoints.measure_rungs(place, Split.TEST).get(first)
    )
    if displayed is None or truth is None:
        runs = [copies.store.run(s.digest) for s in copies.specs if s.checkpoint == place[0]]
        reasons = [
            run.reason for run in runs if run and run.status in (Status.FAILED, Status.SKIPPED)
        ]
        return FoundSecret(secret=None, obstacle=reasons[0]) if reasons else None
    chosen = choose(copies).get(place, "")
    return FoundSecret(
        secret=PlantedSecret(
            task=place[1],
            unit=copies.tasks[place[1]].unit,
            margin=copies.tasks[place[1]].margin,
            method=secret.method,
            displayed=displayed,
            unlocked=truth,
            elicited=measured.get(chosen),
            rung=chosen,
        )
    )
