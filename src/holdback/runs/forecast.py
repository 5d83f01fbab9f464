"""What an audit will take and what it can see, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdback.plan import AuditPlan, TaskPlan
from holdback.runs.resolve import Resolved, Skip, remark_tasks
from holdback.statistics.paired import smallest_detectable_excess
from holdback.tasks.task import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastRow:
    """What one rung on one task will take, over all its checkpoints and seeds."""

    task: str
    rung: str
    split: Split
    runs: int
    samples: int
    minutes: float
    """On one worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What an audit will take and what it can see, from the rates in its file."""

    rows: tuple[ForecastRow, ...]
    runs: int
    samples: int
    minutes: float
    """On the plan's workers, and at most: the costliest rung is taken to be the chosen one."""
    detectable: Mapping[str, float | None]
    """Task to its smallest detectable excess over a control's gap, in its unit."""
    skipped: tuple[Skip, ...] = ()
    """What is not climbed for want of access to a checkpoint."""
    secrets: ForecastRow | None = None
    """What planted secrets add at most, where nothing is found in any checkpoint; planting aside.
    None where none are planted."""
    remarks: tuple[str, ...] = ()
    """What tasks have to say of their own options."""


def expect_runs(resolved: Resolved) -> dict[Split, Mapping[tuple[str, str], list[str]]]:
    """Map splits to (checkpoint, task) to rungs, the costliest rung being taken for the chosen."""
    first = resolved.plan.displayed.name

    def choose(task: str, names: Sequence[str]) -> list[str]:
        costliest = max(names, key=lambda name: _run_minutes(resolved, task, name, Split.TEST))
        return list(dict.fromkeys([first, costliest]))

    chosen = {where: choose(where[1], names) for where, names in resolved.climbs.items() if names}
    selected = {
        where: names
        for where, names in resolved.climbs.items()
        if resolved.plan.tasks[where[1]].choose_on is None
    }
    return {Split.SELECT: selected, Split.TEST: chosen}


def forecast(resolved: Resolved) -> Forecast:
    """Say what an audit will take, without running anything."""
    plan = resolved.plan
    rows = [
        row
        for split, rungs in expect_runs(resolved).items()
        for row in _forecast_split(resolved, rungs, split)
    ]
    tests = max(1, count_tests(plan))
    return Forecast(
        rows=tuple(rows),
        runs=sum(row.runs for row in rows),
        samples=sum(row.samples for row in rows),
        minutes=sum(row.minutes for row in rows) / plan.budget.workers,
        detectable={
            name: detectable_gap(task, level=plan.level, tests=tests)
            for name, task in plan.tasks.items()
        },
        skipped=resolved.skips,
        secrets=_forecast_secrets(resolved),
        remarks=tuple(remark_tasks(resolved.tasks)),
    )


def count_tests(plan: AuditPlan) -> int:
    """Count the tests that Holm corrects for: one a task for each checkpoint that may be convicted.

    By a matched control, or by any control where it is shown demonstrations, which may be weak.
    """
    lineage = plan.lineage
    return sum(
        bool(lineage.matched_controls_for(checkpoint.name))
        or any("demonstrator" in rung.parameters for rung in plan.rungs_for(checkpoint.name, task))
        for checkpoint in lineage
        if not checkpoint.is_root and lineage.controls_for(checkpoint.name)
        for task in plan.audited_tasks
    )


def _forecast_secrets(resolved: Resolved) -> ForecastRow | None:
    names = resolved.qualifiable
    if not names:
        return None
    rows = [
        row
        for split, rungs in expect_runs(resolved).items()
        for row in _forecast_split(
            resolved, {place: among for place, among in rungs.items() if place[0] in names}, split
        )
    ]
    return ForecastRow(
        task="",
        rung="",
        split=Split.TEST,
        runs=sum(row.runs for row in rows),
        samples=sum(row.samples for row in rows),
        minutes=sum(row.minutes for row in rows) / resolved.plan.budget.workers,
    )


def detectable_gap(task: TaskPlan, *, level: float, tests: int = 1) -> float | None:
    """Excess over a control's gap that is found with 80% power; None without a `spread`.

    In the task's unit. The four measurements, displayed and elicited of the two, are taken as
    independent; pairing makes it smaller. `tests` are those that Holm corrects for.
    """
    if task.spread is None:
        return None
    standard_error = task.spread * math.sqrt(4 / task.test_samples)
    return smallest_detectable_excess(standard_error, task.margin, level=level, tests=tests)


def _forecast_split(
    resolved: Resolved, rungs: Mapping[tuple[str, str], Sequence[str]], split: Split
) -> list[ForecastRow]:
    runs: dict[tuple[str, str], int] = {}
    for (_, task), names in rungs.items():
        for name in names:
            seeds = len(resolved.plan.rung(name).seeds)
            runs[task, name] = runs.get((task, name), 0) + seeds
    return [
        ForecastRow(
            task=task,
            rung=name,
            split=split,
            runs=count,
            samples=count * resolved.count_samples(task, name, split),
            minutes=count * _run_minutes(resolved, task, name, split),
        )
        for (task, name), count in runs.items()
    ]


def _run_minutes(resolved: Resolved, task: str, name: str, split: Split) -> float:
    rung = resolved.plan.rung(name)
    rate = resolved.plan.tasks[task].samples_per_second
    samples = resolved.count_samples(task, name, split)
    return (rung.seconds + samples * rung.relative_cost / rate) / 60
