"""From measurements to cases and findings; and what a look or a copy is still needed for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from scipy import special

from holdback.audit.planted import FoundSecret, read_secrets
from holdback.audit.records import Place, Records, choose, find_audit
from holdback.errors import ConfigError
from holdback.lineage import Checkpoint, Lineage, Stage
from holdback.models.registry import is_local
from holdback.plan import AuditPlan, restore_plan
from holdback.runs.planning import Skip, find_skipped, list_qualifiable
from holdback.runs.store import RunStore, Status
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import Measurement, average
from holdback.tasks.task import Split
from holdback.verdict import (
    Case,
    Climb,
    Curve,
    Finding,
    Verdict,
    WeakDemonstration,
    attribute_recovery,
    is_equivalent,
    reach_findings,
)


@runtime_checkable
class RatesDemonstrators(Protocol):
    """A task that knows how good its demonstrators are."""

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        """Capability of a demonstrator in the task's unit; None if it was not measured."""
        ...


def find_undecided(store: RunStore, audit: str) -> set[Place]:
    """List what a look leaves open: places without a clear verdict, and all they are judged by.

    A place that nothing was found in is decided: a planted secret settles the rest.
    """
    records, cases, findings = _read_cases(store, audit)
    undecided = set()
    for place, finding in findings.items():
        case = cases.get(place)
        settled = case is not None and is_equivalent(case, level=records.level(place))
        if settled or finding.verdict is not Verdict.INCONCLUSIVE:
            continue
        name, task = place
        judged_by = [*records.lineage.controls_for(name), *_ancestors(records.lineage, name)]
        undecided |= {place, *((other, task) for other in judged_by)}
    return undecided


def find_unqualified(store: RunStore, audit: str) -> list[Place]:
    """List places that nothing was found in, and that a planted secret could speak for.

    Those of checkpoints whose weights may be changed; of a root there is nothing to qualify.
    """
    records, cases, _ = _read_cases(store, audit)
    names = list_qualifiable(records.plan)
    return [
        place
        for place, case in cases.items()
        if place[0] in names and is_equivalent(case, level=records.level(place))
    ]


def _read_cases(
    store: RunStore, audit: str
) -> tuple[Records, dict[Place, Case], dict[Place, Finding]]:
    stored = find_audit(store, audit)
    records = Records(restore_plan(stored.plan), store, stored.specs)
    chosen = choose(records)
    climbs = dict(read_climbs(records, chosen))
    cases = make_cases(records, climbs, read_secrets(store, audit))
    findings = reach_all(records, cases, chosen)
    return records, cases, {(f.checkpoint, f.task): f for f in findings}


def read_climbs(records: Records, chosen: Mapping[Place, str]) -> Iterator[tuple[Place, Climb]]:
    """Measure displayed and elicited on `test` wherever both can be."""
    for place, rung in chosen.items():
        measured = records.measure_rungs(place, Split.TEST)
        displayed = measured.get(records.plan.displayed.name)
        elicited = measured.get(rung)
        if displayed is not None and elicited is not None:
            yield (
                place,
                Climb(
                    checkpoint=place[0],
                    displayed=displayed,
                    elicited=elicited,
                    rung=rung,
                    access=records.access(place, rung),
                ),
            )


def make_cases(
    records: Records, climbs: Mapping[Place, Climb], secrets: Mapping[str, FoundSecret]
) -> dict[Place, Case]:
    """Gather what a finding on each place that was measured rests on."""
    return {place: _make_case(records, climbs, place, secrets) for place in climbs}


def reach_all(
    records: Records, cases: Mapping[Place, Case], chosen: Mapping[Place, str]
) -> tuple[Finding, ...]:
    """Conclude on all places together; those that cannot be measured are inconclusive."""
    levels = [records.level(place) for place in cases]
    found = dict(zip(cases, reach_findings(list(cases.values()), levels=levels), strict=True))
    return tuple(
        found[place] if place in found else _inconclude(records, place, chosen.get(place))
        for place in records.places
    )


def _make_case(
    records: Records,
    climbs: Mapping[Place, Climb],
    place: Place,
    secrets: Mapping[str, FoundSecret],
) -> Case:
    name, task_name = place
    found = secrets.get(name)
    curves = {
        other: curve
        for other in (name, *records.lineage.controls_for(name))
        if (curve := _measure_curve(records, place, other)) is not None
    }
    task, checkpoint = records.tasks[task_name], records.lineage[name]
    climb = climbs[place]
    first = records.plan.displayed.name
    line = list(_ancestors(records.lineage, name))
    return Case(
        task=task_name,
        unit=task.unit,
        margin=task.margin,
        target=climb,
        controls=tuple(
            climbs[control, task_name]
            for control in records.lineage.controls_for(name)
            if (control, task_name) in climbs
        ),
        matched=frozenset(
            control
            for control in records.lineage.controls_for(name)
            if control in line or (line and records.lineage[control].parent == line[0])
        ),
        ancestors=tuple(
            climbs[ancestor, task_name] for ancestor in line if (ancestor, task_name) in climbs
        ),
        is_root=checkpoint.stage is Stage.PRETRAINED and checkpoint.parent is None,
        demonstrations=tuple(_read_demonstrations(records, place, climbs)),
        attribution=attribute_recovery(
            records.pool(place, first, Split.TEST), records.pool(place, climb.rung, Split.TEST)
        ),
        curve=curves.get(name),
        control_curves=tuple(curve for other, curve in curves.items() if other != name),
        secret=None if found is None else found.secret,
        secret_obstacle=_find_obstacle(records, checkpoint) if found is None else found.obstacle,
        remarks=tuple(_remark_exploration(records, place)),
    )


def _find_obstacle(records: Records, checkpoint: Checkpoint) -> str:
    """Say why no secret was tried, where its weights may be changed and so it could have been.

    Not to look is no evidence: what its line showed stands in for want of access alone.
    """
    plan = records.plan
    if plan.access != "weights" or not is_local(checkpoint):
        return ""
    if not plan.qualify.enabled:
        return "the audit was told not to (--no-qualify, or qualify.enabled)"
    if plan.qualify.checkpoints and checkpoint.name not in plan.qualify.checkpoints:
        return "the audit was told not to (qualify.checkpoints)"
    return "none was tried yet; the same command goes on with it"


def _measure_curve(records: Records, place: Place, checkpoint: str) -> Curve | None:
    """Measure a checkpoint's mean gain over the rungs of the target's recovery curve, on `select`.

    The rungs of the strongest demonstrator; a checkpoint that lacks one of them has no curve.
    """
    task = records.tasks[place[1]]
    strong = getattr(task, "strong_demonstrator", None)
    rungs = list(list_demonstrations(records, place).get(str(strong), ()))
    measured = records.measure_rungs((checkpoint, place[1]), Split.SELECT)
    displayed = measured.get(records.plan.displayed.name)
    if len(rungs) < 2 or displayed is None or not all(rung in measured for rung in rungs):
        return None
    gains = [measured[rung].minus(displayed) for rung in rungs]
    if not all(math.isfinite(gain.value) for gain in gains):
        return None
    return Curve(checkpoint=checkpoint, gain=average(gains))


def _remark_exploration(records: Records, place: Place) -> Iterator[str]:
    """Say where RL had nothing to learn from: its staying flat is then no evidence."""
    for rung in records.rungs(place, Split.SELECT):
        for spec in records.runs(place, rung, Split.SELECT):
            run = records.store.run(spec.digest)
            diagnosis = {} if run is None else run.provenance.get("diagnosis") or {}
            if diagnosis and not diagnosis.get("explored", True):
                share = float(diagnosis.get("share_of_groups_without_variance", 1.0))
                yield (
                    f"{rung}: {share:.0%} of its groups of answers earned all the same reward, so"
                    " that RL had nothing to learn from; that it stays flat says nothing"
                )
                break


def _ancestors(lineage: Lineage, name: str) -> Iterator[str]:
    parent = lineage[name].parent
    while parent is not None:
        yield parent
        parent = lineage[parent].parent


def _read_demonstrations(
    records: Records, place: Place, climbs: Mapping[Place, Climb]
) -> Iterator[WeakDemonstration]:
    """For each weak demonstrator, the rung with its most demonstrations, on `select`.

    Fixed before the data and so free of the flattery of choosing; weak means below the best that
    anything in the lineage shows.
    """
    task = records.tasks[place[1]]
    if not isinstance(task, RatesDemonstrators):
        return
    best = max(climb.elicited.value for (_, on), climb in climbs.items() if on == place[1])
    for demonstrator, rungs in list_demonstrations(records, place).items():
        rated = task.rate_demonstrator(demonstrator)
        rung = max(rungs, key=lambda name: rungs[name])
        measured = records.measure_rungs(place, Split.SELECT)
        displayed = measured.get(records.plan.displayed.name)
        if rated is None or displayed is None or rung not in measured or not rated.value < best:
            continue
        yield WeakDemonstration(
            rung=rung,
            displayed=displayed,
            elicited=measured[rung],
            demonstrator=_as_measurement(rated),
        )


def list_demonstrations(records: Records, place: Place) -> dict[str, dict[str, int]]:
    """Map demonstrators to rungs to their numbers of demonstrations."""
    found: dict[str, dict[str, int]] = {}
    for name in records.rungs(place, Split.SELECT):
        parameters = records.plan.rung(name).parameters
        demonstrator, n = parameters.get("demonstrator"), parameters.get("n")
        if isinstance(demonstrator, str) and isinstance(n, int):
            found.setdefault(demonstrator, {})[name] = n
    return found


def _as_measurement(estimate: Estimate) -> Measurement:
    """Take a 95% estimate whose samples are gone; its error stands apart from all clusters."""
    half = (estimate.high - estimate.low) / 2
    return Measurement(
        value=estimate.value,
        influence={},
        n=estimate.n,
        method=estimate.method,
        # Normal: such estimates come from thousands of games or positions.
        floor=half / float(special.ndtri(0.975)) if math.isfinite(half) else 0.0,
    )


def _inconclude(records: Records, place: Place, rung: str | None) -> Finding:
    """Say that nothing can be said, and why."""
    checkpoint, task_name = place
    task, first = records.tasks[task_name], records.plan.displayed.name
    specs = [spec for spec in records.specs if (spec.checkpoint, spec.task) == place]
    runs = [run for spec in specs if (run := records.store.run(spec.digest)) is not None]
    failed = [run for run in runs if run.status is Status.FAILED]
    skipped = [run for run in runs if run.status is Status.SKIPPED]
    unable = find_skipped_rungs(records.plan) if {spec.rung for spec in specs} == {first} else []
    unable = [skip for skip in unable if (skip.checkpoint, skip.task) == place]
    if failed:
        reason = (
            f"{len(failed)} of {len(specs)} runs failed, first {failed[0].spec.label}:"
            f" {failed[0].reason}"
        )
    elif unable:
        reason = (
            f"nothing could be elicited: no rung but {first!r} goes with the access that there is"
            f" ({unable[0].rung} {unable[0].reason})"
        )
    elif skipped:
        reason = f"no rung could be climbed, first {skipped[0].spec.label}: {skipped[0].reason}"
    else:
        reason = "too few samples are stored for an estimate; run the audit again to go on"
    nothing = Estimate(
        value=math.nan, low=-math.inf, high=math.inf, n=0, n_clusters=0, method="not measured"
    )
    measured = records.measure_rungs(place, Split.TEST)
    displayed = measured.get(first)
    return Finding(
        checkpoint=checkpoint,
        task=task_name,
        unit=task.unit,
        margin=task.margin,
        verdict=Verdict.INCONCLUSIVE,
        displayed=nothing if displayed is None else displayed.estimate(records.plan.level),
        elicited=nothing,
        gap=nothing,
        control=None,
        control_gap=None,
        difference_of_gaps=None,
        rung=rung or first,
        access=records.access(place, rung) if rung else "",
        smallest_detectable_gap=math.inf,
        p_adjusted=None,
        reinforced=None,
        reasons=(reason,),
    )


def find_skipped_rungs(plan: AuditPlan) -> list[Skip]:
    """List what is not climbed for want of access; nothing where a plan's packages are gone."""
    try:
        return find_skipped(plan)
    except ConfigError:
        # Stored records are read without the package that once loaded their models, too.
        return []
