"""Running what a store does not hold yet: jobs go out, events come back, one process writes them.

Records travel back to the process that holds the store: were workers to write themselves, those of
a killed audit would go on writing beside the workers of the one that was started after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from holdback.runs.allowance import Allowance
from holdback.runs.executors import Executor
from holdback.runs.jobs import (
    Capped,
    Ended,
    Event,
    Job,
    Scored,
    Started,
    describe_machine,
    make_jobs,
)
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore


class Observer(Protocol):
    """Whoever wants to know how far the runs are."""

    def expect(self, specs: Sequence[RunSpec], *, stored: int) -> None:
        """Hear which runs are to come and how many of their samples are already stored."""
        ...

    def note(self, spec: RunSpec, event: Event) -> None:
        """Hear of one event, after it was stored."""
        ...


def execute(
    specs: Sequence[RunSpec],
    *,
    resolved: Resolved,
    store: RunStore,
    executor: Executor,
    observer: Observer,
    allowance: Allowance | None = None,
    shelf: Path | None = None,
) -> None:
    """Run what is not in the store yet. What fails is stored as failed, and tried again next time.

    Interrupted at any moment, or stopped by the `allowance`, the store holds whole blocks of
    records and the same call goes on from there.
    """
    allowance = allowance or Allowance()
    missing: dict[str, RunSpec] = {}
    for spec in specs:
        # Rungs alike but for their numbers of samples are one run, of the most.
        known = missing.get(spec.digest)
        if not store.is_done(spec) and (known is None or known.samples < spec.samples):
            missing[spec.digest] = spec
    jobs = make_jobs(list(missing.values()), resolved=resolved, store=store, shelf=shelf)
    jobs = [kept for job in jobs if (kept := _cut(job, allowance)).specs]
    pending = {spec.digest: spec for job in jobs for spec in job.specs}
    stored = sum(len(job.done[spec.digest]) for job in jobs for spec in job.specs)
    observer.expect(list(pending.values()), stored=stored)
    unfinished = set(pending)
    if unfinished and allowance.is_over():
        return
    with closing(executor.run(jobs)) as events:
        for event in events:
            spec = pending[event.run]
            match event:
                case Started():
                    store.begin(spec, event.provenance)
                case Scored():
                    store.append(event.run, event.records)
                case Ended():
                    if store.run(event.run) is None:
                        store.begin(spec, describe_machine())
                    elif event.usage:
                        store.note_usage(event.run, event.usage)
                    store.finish(
                        spec,
                        event.status,
                        seconds=event.seconds,
                        reason=event.reason,
                        details=event.details,
                    )
                    unfinished.discard(event.run)
                case Capped():
                    allowance.reached = event.reason
                    return
            observer.note(spec, event)
            if unfinished and allowance.is_over():
                return


def _cut(job: Job, allowance: Allowance) -> Job:
    return replace(
        job, specs=tuple(allowance.grant(job.specs, resolved=job.resolved, done=job.done))
    )


def find_shelf(store: RunStore, audit: str) -> Path:
    """Say where the adapters that an audit trains are kept until it is done."""
    return store.path.with_name(f"{store.path.stem}.adapters") / audit[:16]
