"""From measurements to cases and findings; and what a look or a copy is still needed for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

from scipy import special

from holdback.audit.climbs import (
    Answers,
    list_groups,
    measure_group,
    measure_whole,
    read_answers,
)
from holdback.audit.planted import FoundSecret, read_secrets
from holdback.audit.records import Audits, Place, Records, choose, find_audit
from holdback.errors import ConfigError
from holdback.extensions import offered
from holdback.lineage import Checkpoint, Lineage
from holdback.models.registry import is_local
from holdback.runs.resolve import Resolved, Skip
from holdback.runs.store import Status
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import Measurement, average
from holdback.tasks.task import Split, TaskOffers
from holdback.verdict import (
    Case,
    Climb,
    Curve,
    Finding,
    Role,
    Verdict,
    WeakDemonstration,
    attribute_recovery,
    is_equivalent,
    needs_secret,
    reach_findings,
)


@runtime_checkable
class RatesDemonstrators(Protocol):
    """A task that knows how good its demonstrators are."""

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        """Capability of a demonstrator in the task's unit; None if it was not measured."""
        ...


def find_undecided(audits: Audits, audit: str) -> set[Place]:
    """List what a look leaves open: places without a clear verdict, and all they are judged by.

    A place that nothing was found in is decided: a planted secret settles the rest.
    """
    records, cases, findings = _read_cases(audits, audit)
    undecided = set()
    for place, finding in findings.items():
        case = cases.get(place)
        settled = case is not None and is_equivalent(case, level=records.level(place))
        if settled or finding.verdict is not Verdict.INCONCLUSIVE:
            continue
        name, task = place
        judged_by = [*records.lineage.controls_for(name), *records.lineage.ancestors_of(name)]
        undecided |= {place, *((other, task) for other in judged_by)}
    return undecided


def find_unqualified(audits: Audits, audit: str) -> list[Place]:
    """List places that nothing was found in, and that a planted secret could speak for.

    Those of checkpoints whose weights may be changed; of a root there is nothing to qualify.
    """
    records, cases, _ = _read_cases(audits, audit)
    names = records.resolved.qualifiable
    return [
        place
        for place, case in cases.items()
        if place[0] in names and needs_secret(case, level=records.level(place))
    ]


def _read_cases(
    audits: Audits, audit: str
) -> tuple[Records, dict[Place, Case], dict[Place, Finding]]:
    records = audits.open(find_audit(audits.store, audit))
    chosen = choose(records)
    climbs = Climbs(records, chosen)
    cases = make_cases(records, climbs, read_secrets(audits, audit))
    findings = reach_all(records, cases, chosen)
    return records, cases, {(f.checkpoint, f.task): f for f in findings}


class Climbs:
    """How far each checkpoint was taken, as it stood at a look; measured on demand."""

    def __init__(self, records: Records, chosen: Mapping[Place, str]) -> None:
        self._records = records
        self._chosen = chosen
        self._read: dict[tuple[Place, int], tuple[Answers, Climb | None]] = {}
        self.places = [place for place in chosen if self.find(place, look=records.look(place))]

    def find(self, place: Place, *, look: int) -> Climb | None:
        """Measure one place; None where its samples do not suffice."""
        return self._answers(place, look)[1] if place in self._chosen else None

    def find_group(self, place: Place, group: str, *, look: int) -> Climb | None:
        """Measure one group of a place's questions."""
        if place not in self._chosen:
            return None
        return measure_group(self._records, self._answers(place, look)[0], group)

    def list_groups(self, place: Place, *, look: int) -> list[str]:
        """Name the groups of a place's questions."""
        return list_groups(self._answers(place, look)[0])

    def _answers(self, place: Place, look: int) -> tuple[Answers, Climb | None]:
        if (place, look) not in self._read:
            answers = read_answers(self._records, place, self._chosen[place], look=look)
            climb = measure_whole(self._records, answers, look=look)
            self._read[place, look] = answers, climb
        return self._read[place, look]


def make_cases(
    records: Records, climbs: Climbs, secrets: Mapping[str, FoundSecret]
) -> dict[Place, Case]:
    """Gather what a finding on each place that was measured rests on."""
    return {place: _make_case(records, climbs, place, secrets) for place in climbs.places}


def reach_all(
    records: Records, cases: Mapping[Place, Case], chosen: Mapping[Place, str]
) -> tuple[Finding, ...]:
    """Conclude on all places together; those that cannot be measured are inconclusive."""
    plan = records.plan
    findings = reach_findings(
        list(cases.values()),
        level=plan.level,
        levels=None if plan.looks == 1 else [records.level(place) for place in cases],
        planned=records.tests,
    )
    found = dict(zip(cases, findings, strict=True))
    return tuple(
        found[place] if place in found else _inconclude(records, place, chosen.get(place))
        for place in records.places
    )


def _make_case(
    records: Records, climbs: Climbs, place: Place, secrets: Mapping[str, FoundSecret]
) -> Case:
    name, task_name = place
    found = secrets.get(name)
    curves = {
        other: curve
        for other in (name, *records.lineage.controls_for(name))
        if (curve := _measure_curve(records, place, other)) is not None
    }
    checkpoint = records.lineage[name]
    first = records.plan.displayed.name
    # All that it is compared with as it stood when it was left: a verdict stays what it was.
    look = records.look(place)
    case = _compare(records, place, partial(climbs.find, look=look))
    assert case is not None
    support = case.target.displayed.support
    groups = {
        group: compared
        for group in climbs.list_groups(place, look=look)
        if (
            compared := _compare(records, place, partial(climbs.find_group, group=group, look=look))
        )
    }
    line = [
        climbs.find((ancestor, task_name), look=look)
        for ancestor in records.lineage.ancestors_of(name)
    ]
    return replace(
        case,
        ancestors=tuple(climb for climb in line if climb is not None),
        maximum=None if support is None else support[1],
        groups=groups,
        demonstrations=tuple(_read_demonstrations(records, place, climbs)),
        attribution=attribute_recovery(
            records.pool(place, first, Split.TEST),
            records.pool(place, case.target.rung, Split.TEST),
        ),
        curve=curves.get(name),
        control_curves=tuple(curve for other, curve in curves.items() if other != name),
        secret=None if found is None else found.secret,
        secret_obstacle=_find_obstacle(records, checkpoint) if found is None else found.obstacle,
        remarks=tuple(_remark_exploration(records, place)),
    )


def _compare(records: Records, place: Place, find: Callable[[Place], Climb | None]) -> Case | None:
    """Set a checkpoint beside its controls, on a whole task or a group of its questions."""
    name, task_name = place
    task, lineage = records.tasks[task_name], records.lineage
    target = find(place)
    if target is None:
        return None
    controls = [find((control, task_name)) for control in lineage.controls_for(name)]
    return Case(
        task=task_name,
        unit=task.unit,
        margin=task.margin,
        target=target,
        controls=tuple(climb for climb in controls if climb is not None),
        matched=frozenset(lineage.matched_controls_for(name)),
        role=find_role(lineage, name),
        is_root=lineage[name].is_root,
    )


def find_role(lineage: Lineage, name: str) -> Role:
    """Say what a checkpoint is to an audit: the first thing that a reader sorts by."""
    if lineage[name].is_root:
        return Role.REFERENCE
    return Role.CONTROL if name in lineage.controls else Role.TARGET


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
    strong = offered(TaskOffers, task, "strong_demonstrator")
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


def _read_demonstrations(
    records: Records, place: Place, climbs: Climbs
) -> Iterator[WeakDemonstration]:
    """For each weak demonstrator, the rung with its most demonstrations, on `select`.

    Fixed before the data and so free of the flattery of choosing; weak means below the best that
    anything in the lineage shows.
    """
    task = records.tasks[place[1]]
    if not isinstance(task, RatesDemonstrators):
        return
    look = records.look(place)
    shown = [climbs.find(other, look=look) for other in climbs.places if other[1] == place[1]]
    best = max(climb.elicited.value for climb in shown if climb is not None)
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
        unseen_error=half / float(special.ndtri(0.975)) if math.isfinite(half) else 0.0,
    )


def _inconclude(records: Records, place: Place, rung: str | None) -> Finding:
    """Say that nothing can be said, and why."""
    checkpoint, task_name = place
    task, first = records.tasks[task_name], records.plan.displayed.name
    specs = [spec for spec in records.specs if (spec.checkpoint, spec.task) == place]
    runs = [run for spec in specs if (run := records.store.run(spec.digest)) is not None]
    failed = [run for run in runs if run.status is Status.FAILED]
    skipped = [run for run in runs if run.status is Status.SKIPPED]
    unable = (
        find_skipped_rungs(records.resolved) if {spec.rung for spec in specs} == {first} else []
    )
    unable = [skip for skip in unable if (skip.checkpoint, skip.task) == place]
    if failed:
        reason = (
            f"of {len(specs)} runs {len(failed)} failed, first {failed[0].spec.label}:"
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
        role=find_role(records.lineage, checkpoint),
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


def find_skipped_rungs(resolved: Resolved) -> Sequence[Skip]:
    """List what is not climbed for want of access; nothing where a plan's packages are gone."""
    try:
        return resolved.skips
    except ConfigError:
        # Stored records are read without the package that once loaded their models, too.
        return []
