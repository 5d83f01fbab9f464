"""From a plan to runs: its names become a lineage, tasks and techniques, or are refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from holdback.elicitation.technique import (
    Access,
    Ladder,
    Rung,
    Technique,
    digest_technique,
    make_technique,
    offers,
    present,
)
from holdback.errors import ConfigError, UnknownNameError
from holdback.extensions import describe_contents, digest_source, is_in_file
from holdback.lineage import Checkpoint, Lineage, Stage
from holdback.models.protocol import Decoding, Presentation
from holdback.models.registry import (
    find_access,
    identify_checkpoint,
    is_local,
    pin_checkpoint,
    reads_text,
)
from holdback.plan import AuditPlan, RungPlan, TaskPlan
from holdback.runs.records import RunSpec
from holdback.statistics.paired import smallest_detectable_excess
from holdback.tasks.registry import find_task, make_task
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


def pin_plan(plan: AuditPlan) -> AuditPlan:
    """Replace branches of model repositories by the commits that they stand at now.

    Runs, the workers that perform them and the report then speak of the same weights.

    Raises:
        CheckpointError: if the hub, or offline its cache, does not know them.
    """
    pinned = [pin_checkpoint(checkpoint) for checkpoint in build_lineage(plan)]
    checkpoints = tuple(
        replace(planned, model=found.model, adapter=found.adapter, revision=found.revision)
        for planned, found in zip(plan.lineage.checkpoints, pinned, strict=True)
    )
    return replace(plan, lineage=replace(plan.lineage, checkpoints=checkpoints))


def build_task(plan: AuditPlan, name: str) -> Task:
    """Build a task that a plan names.

    Raises:
        ConfigError: for a kind or an option that does not exist.
    """
    task = plan.tasks[name]
    return make_task(task.kind, {**task.options, "name": name, "margin": task.margin})


def remark_tasks(tasks: Mapping[str, Task]) -> list[str]:
    """List what tasks have to say of their own options, each with the task's name."""
    return [
        f"{name}: {remark}"
        for name, task in tasks.items()
        for remark in getattr(task, "remarks", ())
    ]


def build_technique(rung: RungPlan) -> Technique:
    """Build a rung's technique.

    Raises:
        ConfigError: for a technique or a parameter that does not exist, or for several seeds where
            nothing is drawn.
    """
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

    By contents: files that options name count by what they hold, and code by its source.
    """
    planned = plan.tasks[task.name]
    kind, _, reference = planned.kind.partition(":")
    file, _, name = reference.partition("@")
    identity = {
        "kind": [kind, describe_contents(file), name] if kind == "inspect" else kind,
        "options": describe_contents(planned.options),
        "seed": plan.seed,
        "provenance": getattr(task, "provenance", {}),
        "code": [
            digest_source(task, whole_package=not is_in_file(planned.kind)),
            # Who made it, where that is not its class.
            digest_source(find_task(planned.kind)),
        ],
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
            checkpoint_digest=_identify_weights(plan, checkpoint, rung, digests),
            task=task,
            task_digest=task_digests[task],
            rung=rung.name,
            technique=rung.technique,
            parameters=rung.parameters,
            code=digest_technique(
                Rung(name=rung.name, technique=rung.technique, parameters=rung.parameters)
            ),
            split=split,
            seed=seed,
            samples=samples_for(plan, task, rung, split),
        )
        for (checkpoint, task), names in rungs.items()
        for rung in map(plan.rung, names)
        for seed in rung.seeds
    ]


def _identify_weights(
    plan: AuditPlan, checkpoint: str, rung: RungPlan, digests: Mapping[str, str]
) -> str:
    """Digest of a checkpoint, and of its parent for a technique that mixes the two."""
    parents = {known.name: known.parent for known in plan.lineage.checkpoints}
    parent = parents[checkpoint]
    if parent is None or not offers(build_technique(rung)).uses_parent:
        return digests[checkpoint]
    return hashlib.sha256(f"{digests[checkpoint]} {digests[parent]}".encode()).hexdigest()


def climb(plan: AuditPlan, ladder: Ladder) -> dict[tuple[str, str], list[str]]:
    """Map (checkpoint, task) to the rungs to be climbed there, in the ladder's order.

    A rung that needs more than may be touched of a checkpoint is left out there.
    """
    skipped = {(skip.checkpoint, skip.task, skip.rung) for skip in find_skipped(plan)}
    allowed = {rung.name for rung in ladder.rungs}
    return {
        (checkpoint.name, task): [
            rung.name
            for rung in plan.rungs_for(checkpoint.name, task)
            if rung.name in allowed and (checkpoint.name, task, rung.name) not in skipped
        ]
        for checkpoint in plan.lineage.checkpoints
        for task in plan.audited_tasks
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """A rung that a checkpoint does not climb on a task, and why."""

    checkpoint: str
    task: str
    rung: str
    reason: str


def find_skipped(plan: AuditPlan) -> list[Skip]:
    """List what is not climbed for want of access to a checkpoint, or of words to change.

    An endpoint or an engine gives samples and no weights, and an engine is given positions, which
    no instruction reaches. A task says what it needs in an attribute `access`, such as `logprobs`
    where answers are compared by likelihood; samples where unsaid.

    Raises:
        ConfigError: for a technique, a task or a model id that does not exist.
    """
    lineage = build_lineage(plan)
    access = {c.name: Access[find_access(c).upper()] for c in lineage}
    if min(access.values()) is Access.WEIGHTS:
        return []
    limit = Access[plan.access.upper()]
    techniques = {rung.name: build_technique(rung) for rung in plan.ladder}
    tasks = {name: build_task(plan, name) for name in plan.tasks}
    skipped = []
    for (checkpoint, given), (name, task) in product(access.items(), tasks.items()):
        for rung in plan.rungs_for(checkpoint, name):
            technique = techniques[rung.name]
            # What the whole audit may not touch is the ladder's business.
            if technique.access > limit:
                continue
            reason = _find_obstacle(
                technique, task, given, in_words=reads_text(lineage[checkpoint])
            )
            if reason:
                skipped.append(
                    Skip(checkpoint=checkpoint, task=name, rung=rung.name, reason=reason)
                )
    return skipped


def _find_obstacle(technique: Technique, task: Task, given: Access, *, in_words: bool) -> str:
    """Say why a technique cannot be applied to a checkpoint; empty if it can."""
    asks = Access[str(getattr(task, "access", "samples")).upper()]
    need = max(technique.access, asks)
    if need > given:
        return f"needs {need.name.lower()}, and of this checkpoint there are {given.name.lower()}"
    if given is not Access.WEIGHTS and _constrains(technique, task):
        return "needs log-probabilities at every step, and whole answers are all that is given"
    if not in_words and _rewords(technique, task):
        return "changes how a model is asked in words, and an engine is given positions"
    return ""


@dataclass(frozen=True, kw_only=True)
class _StandIn:
    """What a technique that only asks or draws otherwise changes of a model."""

    name: str = "stand-in"
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)


def _constrains(technique: Technique, task: Task) -> bool:
    stand_in: Any = _StandIn()
    try:
        lent = present(technique, stand_in, task, np.random.default_rng(0))
    except ConfigError:
        return False
    return lent is not None and lent.decoding.constrained


def _rewords(technique: Technique, task: Task) -> bool:
    stand_in: Any = _StandIn()
    try:
        lent = present(technique, stand_in, task, np.random.default_rng(0))
    except ConfigError:
        # Examples, or words that this task does not take.
        return True
    if lent is None:
        return True
    plain = Presentation(prefix_plies=lent.presentation.prefix_plies)
    same = replace(lent.decoding, votes=1) == Decoding()
    return lent.presentation != plain or not same


def samples_for(plan: AuditPlan, task: str, rung: RungPlan, split: Split) -> int:
    """Count the samples of one run: the rung's own number or the task's."""
    if split is Split.SELECT:
        return rung.select_samples or plan.tasks[task].select_samples
    return rung.test_samples or plan.tasks[task].test_samples


def list_own_code(plan: AuditPlan) -> list[str]:
    """Name what the plan takes from files of one's own, `file.py:Name` each."""
    named = [
        *(checkpoint.model.partition("?")[0] for checkpoint in plan.lineage.checkpoints),
        *(task.kind for task in plan.tasks.values()),
        *(rung.technique for rung in plan.ladder),
    ]
    return list(dict.fromkeys(name for name in named if is_in_file(name)))


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


def expect_runs(plan: AuditPlan, ladder: Ladder) -> dict[Split, dict[tuple[str, str], list[str]]]:
    """Map splits to (checkpoint, task) to rungs, the costliest rung being taken for the chosen."""
    climbed = climb(plan, ladder)
    first = plan.displayed.name

    def choose(task: str, names: Sequence[str]) -> list[str]:
        costliest = max(names, key=lambda name: _run_minutes(plan, task, name, Split.TEST))
        return list(dict.fromkeys([first, costliest]))

    chosen = {where: choose(where[1], names) for where, names in climbed.items() if names}
    return {Split.SELECT: climbed, Split.TEST: chosen}


def forecast(plan: AuditPlan, ladder: Ladder) -> Forecast:
    """Say what an audit will take, without running anything."""
    expected = expect_runs(plan, ladder)
    rows = [row for split, rungs in expected.items() for row in _forecast_split(plan, rungs, split)]
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
        skipped=tuple(find_skipped(plan)),
        secrets=_forecast_secrets(plan, ladder),
        remarks=tuple(remark_tasks({name: build_task(plan, name) for name in plan.tasks})),
    )


def count_tests(plan: AuditPlan) -> int:
    """Count the tests that Holm corrects for: one a task for each checkpoint that may be convicted.

    By a matched control, or by any control where it is shown demonstrations, which may be weak.
    """
    lineage = build_lineage(plan)
    return sum(
        bool(lineage.matched_controls_for(checkpoint.name))
        or any("demonstrator" in rung.parameters for rung in plan.rungs_for(checkpoint.name, task))
        for checkpoint in lineage
        if not checkpoint.is_root and lineage.controls_for(checkpoint.name)
        for task in plan.audited_tasks
    )


def list_qualifiable(plan: AuditPlan) -> list[str]:
    """Name the checkpoints in copies of which a secret can be planted: local, and no roots."""
    if not plan.qualify.enabled or plan.access != "weights":
        return []
    return [
        checkpoint.name
        for checkpoint in build_lineage(plan)
        if is_local(checkpoint)
        and checkpoint.name in (plan.qualify.checkpoints or (checkpoint.name,))
        and not checkpoint.is_root
    ]


def _forecast_secrets(plan: AuditPlan, ladder: Ladder) -> ForecastRow | None:
    names = list_qualifiable(plan)
    if not names:
        return None
    rows = [
        row
        for split, rungs in expect_runs(plan, ladder).items()
        for row in _forecast_split(
            plan, {place: among for place, among in rungs.items() if place[0] in names}, split
        )
    ]
    return ForecastRow(
        task="",
        rung="",
        split=Split.TEST,
        runs=sum(row.runs for row in rows),
        samples=sum(row.samples for row in rows),
        minutes=sum(row.minutes for row in rows) / plan.budget.workers,
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
