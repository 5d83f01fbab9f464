"""A short timing of this machine, for a forecast that speaks of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from holdback.errors import HoldbackError
from holdback.models.registry import load_checkpoint
from holdback.plan import AuditPlan, Rung
from holdback.runs.resolve import Resolved
from holdback.tasks.task import Split

_SAMPLES = 16
_DEMONSTRATIONS = ("n", "demonstrator")
"""Parameters that say what a technique shows, and not how long it works on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How fast a checkpoint answers one task here under the ordinary protocol."""

    task: str
    checkpoint: str
    samples: int
    samples_per_second: float


def time_tasks(resolved: Resolved, *, samples: int = _SAMPLES) -> list[Timing]:
    """Time a few samples of each task on the first checkpoint that can be put to it.

    One sample goes before, untimed, since it pays for what is loaded and started once. Tasks that
    ask in batches are faster a sample when there are many, so the rates are at least these.
    """
    plan, climbed = resolved.plan, resolved.climbs
    timings = []
    for name, planned in plan.tasks.items():
        able = [c for c in resolved.lineage if plan.displayed.name in climbed[c.name, name]]
        if not able:
            continue
        task, model = resolved.tasks[name], load_checkpoint(able[0])
        timed = min(samples, planned.select_samples)
        rng = np.random.default_rng([plan.seed, plan.displayed.seeds[0]])
        technique = resolved.technique(plan.displayed.name)
        with technique.apply(model, task, rng) as asked:
            for count in (1, timed):
                started = time.monotonic()
                ran = sum(
                    1 for _ in task.run(asked, split=Split.SELECT, samples=count, seed=plan.seed)
                )
                seconds = time.monotonic() - started
        timings.append(
            Timing(
                task=name,
                checkpoint=able[0].name,
                samples=ran,
                samples_per_second=max(ran, 1) / max(seconds, 1e-9),
            )
        )
    return timings


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """How long it takes here to apply a technique once, as training does before it is asked."""

    rungs: tuple[str, ...]
    """That it stands for: they differ in their demonstrations alone."""
    checkpoint: str
    task: str
    seconds: float | None
    """Of the rung with the most demonstrations; None if it could not be applied."""
    reason: str = ""
    """Why it could not."""


def time_techniques(resolved: Resolved) -> list[Application]:
    """Apply each technique once whose time the file does not say, and time it.

    On the first checkpoint and task that climb it. Rungs that differ in their demonstrations alone
    are timed by the one that takes the most of them.
    """
    climbed = resolved.climbs
    alike: dict[str, list[Rung]] = {}
    for rung in resolved.plan.ladder:
        if not rung.seconds and any(rung.name in names for names in climbed.values()):
            kept = {k: v for k, v in rung.parameters.items() if k not in _DEMONSTRATIONS}
            alike.setdefault(json.dumps([rung.technique, kept], sort_keys=True), []).append(rung)
    applications = []
    for rungs in alike.values():
        rung = max(rungs, key=lambda rung: int(rung.parameters.get("n", 0)))
        checkpoint, task = next(place for place, names in climbed.items() if rung.name in names)
        try:
            seconds, reason = _time_application(resolved, checkpoint, task, rung), ""
        except HoldbackError as error:
            seconds, reason = None, str(error)
        applications.append(
            Application(
                rungs=tuple(rung.name for rung in rungs),
                checkpoint=checkpoint,
                task=task,
                seconds=seconds,
                reason=reason,
            )
        )
    return applications


def _time_application(resolved: Resolved, checkpoint: str, task: str, rung: Rung) -> float:
    model, technique = (
        load_checkpoint(resolved.lineage[checkpoint]),
        resolved.technique(rung.name),
    )
    rng = np.random.default_rng([resolved.plan.seed, rung.seeds[0]])
    asked = resolved.tasks[task]
    started = time.monotonic()
    with technique.apply(model, asked, rng):
        return time.monotonic() - started


def apply_timings(
    plan: AuditPlan, timings: Sequence[Timing], applications: Sequence[Application] = ()
) -> AuditPlan:
    """Put measured rates in the place of the file's, and measured times where it says none."""
    taken = {name: done.seconds or 0.0 for done in applications for name in done.rungs}
    rates = {timing.task: timing.samples_per_second for timing in timings}
    tasks = {
        name: replace(task, samples_per_second=rates.get(name, task.samples_per_second))
        for name, task in plan.tasks.items()
    }
    ladder = tuple(
        replace(rung, seconds=taken.get(rung.name, rung.seconds)) for rung in plan.ladder
    )
    return replace(plan, tasks=tasks, ladder=ladder)
