"""From a plan to runs: its names become a lineage, tasks and techniques, or are refused."""

from __future__ import annotations

import hashlib
import json
import math
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import holdback
import holdback.elicitation
from holdback.elicitation.technique import Access, Ladder, Rung, Technique, make_technique
from holdback.errors import ConfigError, UnknownNameError
from holdback.lineage import Checkpoint, Lineage, Stage
from holdback.models.registry import identify_checkpoint
from holdback.plan import AuditPlan, RungPlan, TaskPlan
from holdback.runs.records import RunSpec
from holdback.statistics.paired import smallest_detectable_difference
from holdback.tasks.registry import make_task
from holdback.tasks.task import Split, Task


def build_lineage(plan: AuditPlan) -> Lineage:
    """Build the lineage that a plan names.

    Raises:
        ConfigError: for a stage, parent or control that is not there.
    """
    stages = [str(stage) for stage in Stage]
    for checkpoint in plan.lineage.checkpoints:
        if checkpoint.stage not in stages:
            kind = f"stage (of checkpoint {checkpoint.name!r})"
            raise UnknownNameError.among(kind, checkpoint.stage, stages)
    return Lineage(
        name=plan.lineage.name,
        checkpoints=tuple(
            Checkpoint(**{**asdict(checkpoint), "stage": Stage(checkpoint.stage)})
            for checkpoint in plan.lineage.checkpoints
        ),
        controls=plan.lineage.controls,
    )


def build_task(plan: AuditPlan, name: str) -> Task:
    """Build a task that a plan names.

    Raises:
        ConfigError: for a kind or an option that does not exist.
    """
    task = plan.tasks[name]
    return make_task(task.kind, {**task.options, "name": name, "margin": task.margin})


def build_technique(rung: RungPlan) -> Technique:
    """Build a rung's technique.

    Raises:
        ConfigError: for a technique or a parameter that does not exist, or for several seeds where
            nothing is drawn.
    """
    _register_techniques()
    technique = make_technique(
        Rung(name=rung.name, technique=rung.technique, parameters=rung.parameters)
    )
    if len(rung.seeds) > 1 and not technique.draws:
        raise ConfigError(
            f"rung {rung.name!r}: technique {rung.technique!r} draws nothing, so its seeds"
            f" {list(rung.seeds)} would give the same answers and count them several times; leave"
            " 'seeds' out and raise the number of samples instead"
        )
    return technique


def build_ladder(plan: AuditPlan) -> Ladder:
    """List the rungs that the plan's access allows, every technique and parameter checked.

    Raises:
        ConfigError: for a technique or a parameter that does not exist.
    """
    limit = Access[plan.access.upper()]
    return Ladder(
        rungs=tuple(
            Rung(
                name=rung.name,
                technique=rung.technique,
                parameters=rung.parameters,
                tasks=rung.tasks,
                checkpoints=rung.checkpoints,
            )
            for rung in plan.ladder
            if build_technique(rung).access <= limit
        )
    )


def identify_checkpoints(lineage: Lineage) -> dict[str, str]:
    """Map every checkpoint to the digest of what it is made of.

    Raises:
        CheckpointError: for one whose files are missing or unsafe.
    """
    return {checkpoint.name: identify_checkpoint(checkpoint) for checkpoint in lineage}


def identify_task(plan: AuditPlan, task: Task) -> str:
    """Digest of what a task asks: kind, options, the audit's seed, its engine, data and code.

    The code is told by Holdback's version.
    """
    planned = plan.tasks[task.name]
    identity = {
        "kind": planned.kind,
        "options": planned.options,
        "seed": plan.seed,
        "provenance": getattr(task, "provenance", {}),
        "data": _digest_data(task),
        "holdback": holdback.__version__,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def plan_runs(
    plan: AuditPlan,
    rungs: Mapping[tuple[str, str], Iterable[str]],
    split: Split,
    *,
    digests: Mapping[str, str],
    task_digests: Mapping[str, str],
) -> list[RunSpec]:
    """List the runs of the named rungs on one split.

    Args:
        plan: The audit.
        rungs: (checkpoint, task) to the names of rungs.
        split: Which samples.
        digests: Checkpoint to its digest, from `identify_checkpoints`.
        task_digests: Task to its digest, from `identify_task`.
    """
    return [
        RunSpec(
            checkpoint=checkpoint,
            checkpoint_digest=digests[checkpoint],
            task=task,
            task_digest=task_digests[task],
            rung=rung.name,
            technique=rung.technique,
            parameters=rung.parameters,
            split=split,
            seed=seed,
            samples=samples_for(plan, task, rung, split),
        )
        for (checkpoint, task), names in rungs.items()
        for rung in map(plan.rung, names)
        for seed in rung.seeds
    ]


def climb(plan: AuditPlan, ladder: Ladder) -> dict[tuple[str, str], list[str]]:
    """Map (checkpoint, task) to the rungs to be climbed there, in the ladder's order."""
    allowed = {rung.name for rung in ladder.rungs}
    return {
        (checkpoint.name, task): [
            rung.name for rung in plan.rungs_for(checkpoint.name, task) if rung.name in allowed
        ]
        for checkpoint in plan.lineage.checkpoints
        for task in plan.tasks
    }


def samples_for(plan: AuditPlan, task: str, rung: RungPlan, split: Split) -> int:
    """Count the samples of one run: the rung's own number or the task's."""
    if split is Split.SELECT:
        return rung.select_samples or plan.tasks[task].select_samples
    return rung.test_samples or plan.tasks[task].test_samples


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
    """Task to its smallest detectable gap, in its unit."""


def forecast(plan: AuditPlan, ladder: Ladder) -> Forecast:
    """Say what an audit will take, without running anything."""
    climbed = climb(plan, ladder)
    first = plan.displayed.name
    chosen = {
        where: list(
            dict.fromkeys(
                [first, max(names, key=lambda name: _run_minutes(plan, where[1], name, Split.TEST))]
            )
        )
        for where, names in climbed.items()
    }
    rows = [
        *_forecast_split(plan, climbed, Split.SELECT),
        *_forecast_split(plan, chosen, Split.TEST),
    ]
    return Forecast(
        rows=tuple(rows),
        runs=sum(row.runs for row in rows),
        samples=sum(row.samples for row in rows),
        minutes=sum(row.minutes for row in rows) / plan.budget.workers,
        detectable={
            name: detectable_gap(task, level=plan.level) for name, task in plan.tasks.items()
        },
    )


def detectable_gap(task: TaskPlan, *, level: float) -> float | None:
    """Gap on `test` that is found with 80% power, in the task's unit; None without a `spread`.

    Displayed and elicited are taken as independent; pairing makes it smaller.
    """
    if task.spread is None:
        return None
    standard_error = task.spread * math.sqrt(2 / task.test_samples)
    return smallest_detectable_difference(standard_error, level=level)


def _forecast_split(
    plan: AuditPlan, rungs: Mapping[tuple[str, str], Sequence[str]], split: Split
) -> list[ForecastRow]:
    runs: dict[tuple[str, str], int] = {}
    for (_, task), names in rungs.items():
        for name in names:
            runs[task, name] = runs.get((task, name), 0) + len(plan.rung(name).seeds)
    return [
        ForecastRow(
            task=task,
            rung=name,
            split=split,
            runs=count,
            samples=count * samples_for(plan, task, plan.rung(name), split),
            minutes=count * _run_minutes(plan, task, name, split),
        )
        for (task, name), count in runs.items()
    ]


def _run_minutes(plan: AuditPlan, task: str, name: str, split: Split) -> float:
    rung = plan.rung(name)
    samples = samples_for(plan, task, rung, split)
    rate = plan.tasks[task].samples_per_second
    return (rung.seconds + samples * rung.relative_cost / rate) / 60


def _digest_data(task: Task) -> str:
    """SHA-256 over the names and contents of what the task's package ships beside its code."""
    digest = hashlib.sha256()
    package = sys.modules[type(task).__module__].__package__
    if not package:
        # A module that lies alone ships nothing, and its folder is not its own.
        return digest.hexdigest()
    folder = Path(str(files(package)))
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix not in {".py", ".pyc"}:
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _register_techniques() -> None:
    # A technique registers itself when its module is imported.
    for module in pkgutil.iter_modules(holdback.elicitation.__path__):
        import_module(f"holdback.elicitation.{module.name}")
