"""A short timing of this machine, for a forecast that speaks of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from holdback.elicitation.technique import Ladder
from holdback.models.registry import load_checkpoint
from holdback.plan import AuditPlan
from holdback.runs.planning import build_lineage, build_task, build_technique, climb
from holdback.tasks.task import Split

_SAMPLES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How fast a checkpoint answers one task here under the ordinary protocol."""

    task: str
    checkpoint: str
    samples: int
    samples_per_second: float


def time_tasks(plan: AuditPlan, ladder: Ladder, *, samples: int = _SAMPLES) -> list[Timing]:
    """Time a few samples of each task on the first checkpoint that can be put to it.

    One sample goes before, untimed, since it pays for what is loaded and started once. Tasks that
    ask in batches are faster a sample when there are many, so the rates are at least these.
    """
    lineage, climbed = build_lineage(plan), climb(plan, ladder)
    timings = []
    for name, planned in plan.tasks.items():
        able = [c for c in lineage if plan.displayed.name in climbed[c.name, name]]
        if not able:
            continue
        task, model = build_task(plan, name), load_checkpoint(able[0])
        timed = min(samples, planned.select_samples)
        rng = np.random.default_rng([plan.seed, plan.displayed.seeds[0]])
        with build_technique(plan.displayed).apply(model, task, rng) as asked:
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


def apply_timings(plan: AuditPlan, timings: Sequence[Timing]) -> AuditPlan:
    """Put measured rates in the place of the file's."""
    rates = {timing.task: timing.samples_per_second for timing in timings}
    tasks = {
        name: replace(task, samples_per_second=rates.get(name, task.samples_per_second))
        for name, task in plan.tasks.items()
    }
    return replace(plan, tasks=tasks)
