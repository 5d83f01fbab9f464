"""From stored records to a result: arithmetic, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from holdback.audit.cases import (
    Climbs,
    RatesDemonstrators,
    find_skipped_rungs,
    list_demonstrations,
    make_cases,
    reach_all,
)
from holdback.audit.checks import remark_copies
from holdback.audit.placebos import remark_placebos
from holdback.audit.planted import read_secrets
from holdback.audit.protocols import report_protocols
from holdback.audit.records import Audits, Place, Records, choose, find_audit
from holdback.audit.result import (
    AuditResult,
    FailedRun,
    RecoveryCurve,
    RecoveryPoint,
    RungResult,
)
from holdback.audit.signs.behaviour import Player, find_games, find_signatures
from holdback.extensions import offered
from holdback.lineage import Lineage
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Skip, remark_tasks
from holdback.runs.store import RunRecord, RunStore, Status
from holdback.tasks.task import Split, TaskOffers


def read_result(store: RunStore, audit: str | None = None) -> AuditResult:
    """Compute everything that a report says from a store alone.

    Args:
        store: The runs.
        audit: Digest of the audit to read; the latest by default.

    Raises:
        StoreError: if the store holds no such audit.
    """
    return conclude(Audits(store), audit)


def conclude(audits: Audits, audit: str | None) -> AuditResult:
    """Do what `read_result` does."""
    store = audits.store
    stored = find_audit(store, audit)
    records = audits.open(stored)
    plan = records.plan
    chosen = choose(records)
    climbs = Climbs(records, chosen)
    cases = make_cases(records, climbs, read_secrets(audits, stored.digest))
    runs = [run for spec in records.shared if (run := store.run(spec.digest)) is not None]
    return AuditResult(
        plan=plan,
        findings=reach_all(records, cases, chosen),
        rungs=tuple(_read_rungs(records, chosen)),
        curves=tuple(_read_curves(records)),
        signatures=tuple(
            signature
            for task in plan.audited_tasks
            for signature in find_signatures(
                _read_players(records, climbs, task),
                controls={c.name: records.lineage.controls_for(c.name) for c in records.lineage},
                task=task,
                honest=offered(TaskOffers, records.tasks[task], "honest_moves"),
            )
        ),
        games=tuple(
            game
            for (checkpoint, task), rung in chosen.items()
            for name in dict.fromkeys([plan.displayed.name, rung])
            for game in find_games(
                records.pool((checkpoint, task), name, Split.TEST),
                checkpoint=checkpoint,
                task=task,
                rung=name,
            )
        ),
        failed=tuple(
            FailedRun(label=run.spec.label, reason=run.reason)
            for run in runs
            if run.status is Status.FAILED
        ),
        remarks=tuple(_remark(records, runs)),
        command=stored.command,
        seconds=stored.seconds,
        samples=sum(store.count(run.spec.digest) for run in runs),
        versions=_gather_versions(runs),
        store=str(store.path),
        protocols=tuple(report_protocols(records, chosen)),
        descriptions={
            name: described
            for name, task in records.tasks.items()
            if (described := str(offered(TaskOffers, task, "description")))
        },
        chances={
            name: float(task.chance)
            for name, task in records.tasks.items()
            if task.chance is not None
        },
    )


def _read_rungs(records: Records, chosen: Mapping[Place, str]) -> Iterator[RungResult]:
    first = records.plan.displayed.name
    for place in records.places:
        for split in (Split.SELECT, Split.TEST):
            for rung, measured in records.measure_rungs(place, split).items():
                specs = records.runs(place, rung, split)
                pooled = records.pool(place, rung, split)
                yield RungResult(
                    checkpoint=place[0],
                    task=place[1],
                    unit=records.tasks[place[1]].unit,
                    rung=rung,
                    technique=records.plan.rung(rung).technique,
                    access=records.access(place, rung),
                    split=split,
                    seeds=tuple(spec.seed for spec in specs),
                    estimate=measured.estimate(records.plan.level),
                    outcomes=dict(Counter(str(record.score.outcome) for record in pooled)),
                    displayed=rung == first,
                    chosen=rung == chosen.get(place),
                )


def _read_curves(records: Records) -> Iterator[RecoveryCurve]:
    """Trace capability over demonstrations, on `select`, where every rung has runs."""
    level, split = records.plan.level, Split.SELECT
    for place in records.places:
        task = records.tasks[place[1]]
        displayed = records.measure_rungs(place, split).get(records.plan.displayed.name)
        for demonstrator, rungs in list_demonstrations(records, place).items():
            points = [
                RecoveryPoint(demonstrations=n, seed=spec.seed, estimate=measured.estimate(level))
                for rung, n in rungs.items()
                for spec in records.runs(place, rung, split)
                if (measured := records.measure(place, records.read(spec))) is not None
            ]
            rated = (
                task.rate_demonstrator(demonstrator)
                if isinstance(task, RatesDemonstrators)
                else None
            )
            if points:
                yield RecoveryCurve(
                    checkpoint=place[0],
                    task=place[1],
                    unit=task.unit,
                    demonstrator=demonstrator,
                    split=split,
                    points=tuple(sorted(points, key=lambda p: (p.demonstrations, p.seed))),
                    displayed=None if displayed is None else displayed.estimate(level),
                    demonstrator_capability=None if rated is None else rated.value,
                )


def _read_players(records: Records, climbs: Climbs, task: str) -> dict[str, Player]:
    """Gather how every checkpoint behaves under the ordinary protocol, on both splits."""
    first = records.plan.displayed.name
    players = {}
    for place in records.places:
        if place[1] != task:
            continue
        climb = climbs.find(place, look=records.look(place))
        pooled = [
            record
            for split in (Split.SELECT, Split.TEST)
            for record in records.pool(place, first, split)
        ]
        players[place[0]] = Player(
            records=tuple(pooled),
            displayed=None if climb is None else climb.displayed.value,
            elicited=None if climb is None else climb.elicited.value,
        )
    return players


def _remark(records: Records, runs: Sequence[RunRecord]) -> Iterator[str]:
    plan = records.plan
    yield from _remark_missing(plan.lineage)
    climbed = {spec.rung for spec in records.specs}
    apart = find_skipped_rungs(records.resolved)
    nowhere = {skip.rung for skip in apart}
    skipped = [rung.name for rung in plan.ladder if rung.name not in climbed | nowhere]
    if skipped:
        yield (
            f"access was limited to {plan.access}; not climbed: {', '.join(skipped)}. «None found»"
            " speaks of the rungs that were"
        )
    yield from write_skipped(apart)
    yield from _remark_inapplicable(runs)
    yield from remark_tasks(records.tasks)
    first = plan.displayed.name
    yield from remark_copies(
        {spec.checkpoint: spec.checkpoint_digest for spec in records.specs if spec.rung == first}
    )
    yield from _remark_steering(records)
    specs = records.shared
    failed = [run for run in runs if run.status is Status.FAILED]
    if failed:
        yield f"of {len(specs)} runs {len(failed)} failed and are missing everywhere"
    missing = [spec for spec in specs if not records.store.is_done(spec)]
    if len(missing) > len(failed):
        short = sum(spec.samples - min(spec.samples, _count(records, spec)) for spec in missing)
        # Until rungs are chosen their runs on `test` are not known, and so not counted.
        yield (
            f"of {len(specs)} runs {len(missing) - len(failed)} are unfinished, {short} of"
            f" {sum(spec.samples for spec in specs)} samples are missing; the same command"
            " goes on with them"
        )


def _remark_missing(lineage: Lineage) -> Iterator[str]:
    """Say which matched piece a lineage lacks, and what that costs."""
    targets = [c for c in lineage if not c.is_root and c.name not in lineage.controls]
    if not lineage.controls:
        yield (
            "no control is named, so nothing can be called held back: training-based rungs lift"
            " benign models too; name one in `controls`, such as the checkpoint that the others"
            " were made from"
        )
    for target in targets:
        if target.parent is None:
            yield (
                f"{target.name}: no parent is named, so what there was to lose is not known;"
                " whether it recovered anything cannot be said"
            )
        elif lineage.controls and not lineage.matched_controls_for(target.name):
            yield (
                f"{target.name}: no control is made of the same parent, so none can acquit it; name"
                f" {target.parent} as a control, or a benign checkpoint made from it"
            )


def _remark_steering(records: Records) -> Iterator[str]:
    """Write what steering did beyond random directions, place by place, on `select`."""
    for place in records.places:
        rungs = [records.plan.rung(name) for name in records.rungs(place, Split.SELECT)]
        values = {
            rung.name: [
                measured.value
                for spec in records.runs(place, rung.name, Split.SELECT)
                if (measured := records.measure(place, records.read(spec))) is not None
            ]
            for rung in rungs
            if rung.technique == "steering"
        }
        unit = records.tasks[place[1]].unit
        yield from remark_placebos(place[0], place[1], rungs, values, unit=unit)


def _remark_inapplicable(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Write where rungs had nothing to work on, a sentence a checkpoint."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.status is Status.SKIPPED:
            words = f"{run.spec.rung} on {run.spec.task} ({run.reason})"
            found.setdefault(run.spec.checkpoint, {})[words] = None
    for checkpoint, rungs in found.items():
        yield f"{checkpoint}: not applicable: {'; '.join(rungs)}"


def _count(records: Records, spec: RunSpec) -> int:
    return records.store.count(spec.digest)


def write_skipped(skipped: Sequence[Skip]) -> Iterator[str]:
    """Write what was not climbed for want of access, a sentence a checkpoint and task."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for skip in skipped:
        together.setdefault((skip.checkpoint, skip.task, skip.reason), []).append(skip.rung)
    for (checkpoint, task, reason), rungs in together.items():
        each = "each " if len(rungs) > 1 else ""
        yield f"{checkpoint} on {task}: not climbed: {', '.join(rungs)}: {each}{reason}"


def _gather_versions(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Collect what produced the records; several versions of one thing are all named."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in chain.from_iterable(part.items() for part in run.stretches):
            if name not in ("access", "usage", "diagnosis"):
                found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
