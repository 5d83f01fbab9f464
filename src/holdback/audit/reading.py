"""From stored records to findings: arithmetic, no model."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from scipy import special

from holdback.audit.behaviour import Player, find_games, find_signatures
from holdback.audit.placebos import remark_placebos
from holdback.audit.result import (
    AuditResult,
    FailedRun,
    RecoveryCurve,
    RecoveryPoint,
    RungResult,
)
from holdback.audit.secrets import is_secret, secret_task
from holdback.elicitation.secret import KEY
from holdback.elicitation.technique import is_candidate
from holdback.errors import ConfigError, InsufficientDataError, StoreError
from holdback.lineage import Lineage, Stage
from holdback.plan import AuditPlan, restore_plan
from holdback.runs.planning import (
    Skip,
    build_lineage,
    build_task,
    build_technique,
    find_skipped,
    list_qualifiable,
    samples_for,
)
from holdback.runs.records import RunSpec
from holdback.runs.store import RunRecord, RunStore, Status, StoredAudit
from holdback.statistics.estimate import Estimate
from holdback.statistics.measurement import Measurement, average, quantile_t
from holdback.statistics.selection import choose_rung
from holdback.statistics.sequential import look_levels
from holdback.tasks.task import SampleRecord, Split, Task
from holdback.verdict import (
    Case,
    Climb,
    Curve,
    Finding,
    PlantedSecret,
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


def choose_rungs(
    plan: AuditPlan, store: RunStore, specs: Sequence[RunSpec]
) -> dict[tuple[str, str], str]:
    """Choose for every (checkpoint, task) the best rung by its records on `select`.

    The ordinary protocol is no candidate, even where nothing beats it: a gap to itself would be 0
    by construction and say with great confidence what nobody looked at. A rung whose runs all
    failed is none either.
    """
    return _choose(_Records(plan, store, specs))


def read_result(store: RunStore, audit: str | None = None) -> AuditResult:
    """Compute everything that a report says from a store alone.

    Args:
        store: The runs.
        audit: Digest of the audit to read; the latest by default.

    Raises:
        StoreError: if the store holds no such audit.
    """
    stored = _find_audit(store, audit)
    plan = restore_plan(stored.plan)
    records = _Records(plan, store, stored.specs)
    chosen = _choose(records)
    climbs = dict(_read_climbs(records, chosen))
    secrets = _read_secrets(store, stored.digest)
    runs = [run for spec in records.specs if (run := store.run(spec.digest)) is not None]
    return AuditResult(
        plan=plan,
        findings=_reach_findings(records, climbs, chosen, secrets),
        rungs=tuple(_read_rungs(records, chosen)),
        curves=tuple(_read_curves(records)),
        signatures=tuple(
            signature
            for task in plan.audited_tasks
            for signature in find_signatures(
                _read_players(records, climbs, task),
                controls={c.name: records.lineage.controls_for(c.name) for c in records.lineage},
                task=task,
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
        remarks=tuple(_remark(plan, records, runs)),
        command=stored.command,
        seconds=stored.seconds,
        samples=sum(store.count(run.spec.digest) for run in runs),
        versions=_gather_versions(runs),
        store=str(store.path),
        protocols={
            name: str(task.description)
            for name, task in records.tasks.items()
            if hasattr(task, "description")
        },
        chances={
            name: float(task.chance)
            for name, task in records.tasks.items()
            if task.chance is not None
        },
    )


def _find_audit(store: RunStore, digest: str | None) -> StoredAudit:
    for stored in store.audits():
        if digest == stored.digest or (digest is None and not is_secret(stored.digest)):
            return stored
    raise StoreError(f"run store {store.path}: expected an audit, found none; run one first")


Place = tuple[str, str]
"""A checkpoint and a task."""


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


def find_planted(store: RunStore, audit: str) -> set[str]:
    """Name the checkpoints in whose copies a secret has been planted."""
    level = restore_plan(_find_audit(store, audit).plan).level
    return {
        name
        for name, found in _read_secrets(store, audit).items()
        if found.secret is not None and found.secret.is_planted(level)
    }


def _read_cases(
    store: RunStore, audit: str
) -> tuple[_Records, dict[Place, Case], dict[Place, Finding]]:
    stored = _find_audit(store, audit)
    records = _Records(restore_plan(stored.plan), store, stored.specs)
    chosen = _choose(records)
    climbs = dict(_read_climbs(records, chosen))
    secrets = _read_secrets(store, audit)
    cases = {place: _make_case(records, climbs, place, secrets) for place in climbs}
    findings = _reach_findings(records, climbs, chosen, secrets)
    return records, cases, {(f.checkpoint, f.task): f for f in findings}


@dataclass(frozen=True, kw_only=True, slots=True)
class _FoundSecret:
    """What became of the secrets planted in copies of one checkpoint."""

    secret: PlantedSecret | None
    obstacle: str = ""
    """Why none could be planted."""


def _read_secrets(store: RunStore, audit: str) -> dict[str, _FoundSecret]:
    """Read by checkpoint what its copies did; of several tasks the first that took the lock."""
    found: dict[str, _FoundSecret] = {}
    # The latest comes first, and tasks are tried one after the other.
    for stored in reversed(store.audits()):
        task = secret_task(stored.digest, audit)
        if task is None:
            continue
        records = _Records(restore_plan(stored.plan), store, stored.specs)
        for place in records.places:
            before = found.get(place[0])
            if before and before.secret and before.secret.is_planted(records.plan.level):
                continue
            read = _read_secret(records, place)
            # What shows nothing to hide says more than a lock that could not be made.
            if read is not None and (before is None or read.secret is not None):
                found[place[0]] = read
    return found


def _read_secret(records: _Records, place: Place) -> _FoundSecret | None:
    """Read one copy; None where its runs are not finished."""
    chosen = _choose(records).get(place)
    measured = records.measure_rungs(place, Split.TEST)
    displayed, unlocked = measured.get(records.plan.displayed.name), measured.get(KEY)
    elicited = measured.get(chosen or "")
    if displayed is None or unlocked is None or elicited is None or chosen is None:
        runs = [records.store.run(s.digest) for s in records.specs if s.checkpoint == place[0]]
        reasons = [
            run.reason for run in runs if run and run.status in (Status.FAILED, Status.SKIPPED)
        ]
        return _FoundSecret(secret=None, obstacle=reasons[0]) if reasons else None
    return _FoundSecret(
        secret=PlantedSecret(
            task=place[1],
            unit=records.tasks[place[1]].unit,
            margin=records.tasks[place[1]].margin,
            displayed=displayed,
            unlocked=unlocked,
            elicited=elicited,
            rung=chosen,
        )
    )


class _Records:
    """An audit's records by place, rung and split; read once, measured on demand."""

    def __init__(self, plan: AuditPlan, store: RunStore, specs: Sequence[RunSpec]) -> None:
        self.plan = plan
        self.store = store
        # Every look asked for more of the same run.
        longest: dict[tuple[str, str], RunSpec] = {}
        for spec in specs:
            asked = (spec.digest, spec.rung)
            if asked not in longest or spec.samples > longest[asked].samples:
                longest[asked] = spec
        self.specs = specs = list(longest.values())
        self.lineage: Lineage = build_lineage(plan)
        self.tasks: dict[str, Task] = {name: build_task(plan, name) for name in plan.tasks}
        self.places = list(dict.fromkeys((spec.checkpoint, spec.task) for spec in specs))
        self._specs: dict[tuple[Place, str, Split], list[RunSpec]] = {}
        for spec in specs:
            key = ((spec.checkpoint, spec.task), spec.rung, spec.split)
            self._specs.setdefault(key, []).append(spec)
        self._read: dict[str, list[SampleRecord]] = {}
        self._measured: dict[tuple[Place, Split], dict[str, Measurement]] = {}

    def rungs(self, place: Place, split: Split) -> list[str]:
        """Name the rungs with runs here, in the ladder's order."""
        present = {rung for at, rung, on in self._specs if (at, on) == (place, split)}
        return [rung.name for rung in self.plan.ladder if rung.name in present]

    def runs(self, place: Place, rung: str, split: Split) -> list[RunSpec]:
        """List a rung's runs, one a seed."""
        return self._specs.get((place, rung, split), [])

    def read(self, spec: RunSpec) -> list[SampleRecord]:
        """Read one run's samples, no more than were asked for; of a failed run none.

        What failed may have failed on what is hardest: the samples before are a biased sample.
        """
        if spec.digest not in self._read:
            run = self.store.run(spec.digest)
            failed = run is not None and run.status in (Status.FAILED, Status.SKIPPED)
            limited = [] if failed else self.store.records(spec.digest, limit=spec.samples)
            self._read[spec.digest] = limited
        return self._read[spec.digest]

    def is_candidate(self, rung: str) -> bool:
        """Tell whether a rung may stand for what a checkpoint can do."""
        try:
            return is_candidate(build_technique(self.plan.rung(rung)))
        except ConfigError:
            # Stored records are read without the package that brought the technique, too.
            return True

    def level(self, place: Place) -> float:
        """Level at which to conclude: that of the look at which the place was left."""
        plan = self.plan
        if plan.looks == 1:
            return plan.level
        whole = samples_for(plan, place[1], plan.displayed, Split.TEST)
        looks = [math.ceil(whole * look / plan.looks) for look in range(1, plan.looks + 1)]
        taken = [spec.samples for spec in self.runs(place, plan.displayed.name, Split.TEST)]
        reached = sum(look <= max(taken, default=whole) for look in looks)
        levels = look_levels(looks, plan.level, family=max(1, len(self.places)))
        return levels[max(0, reached - 1)]

    def pool(self, place: Place, rung: str, split: Split) -> list[SampleRecord]:
        """Read a rung's samples of all seeds; a cluster spans them."""
        return [record for spec in self.runs(place, rung, split) for record in self.read(spec)]

    def measure(self, place: Place, records: Sequence[SampleRecord]) -> Measurement | None:
        """Measure with the place's task; None where records do not suffice for an interval."""
        try:
            measured = self.tasks[place[1]].measure(records)
            measured.estimate(self.plan.level)
        except InsufficientDataError:
            return None
        return measured

    def measure_rungs(self, place: Place, split: Split) -> Mapping[str, Measurement]:
        """Measure the rungs here, those with enough records, pooled over seeds."""
        key = (place, split)
        if key not in self._measured:
            self._measured[key] = {
                rung: measured
                for rung in self.rungs(place, split)
                if (measured := self._measure_rung(place, rung, split)) is not None
            }
        return self._measured[key]

    def _measure_rung(self, place: Place, rung: str, split: Split) -> Measurement | None:
        """Measure over all seeds; that they differ widens the error, beside the samples' own."""
        pooled = self.measure(place, self.pool(place, rung, split))
        apart = [self.measure(place, self.read(spec)) for spec in self.runs(place, rung, split)]
        values = [measured.value for measured in apart if measured is not None]
        if pooled is None or len(values) < 2 or not all(map(math.isfinite, values)):
            return pooled
        spread = statistics.stdev(values) / math.sqrt(len(values))
        # A few seeds know their own spread badly: of three, Student's t has 2 degrees of freedom.
        spread *= quantile_t(0.975, len(values) - 1) / float(special.ndtri(0.975))
        return replace(pooled, floor=math.hypot(pooled.floor, spread))

    def access(self, place: Place, rung: str) -> str:
        """Access that the rung's technique declared when it ran."""
        for split in (Split.SELECT, Split.TEST):
            for spec in self.runs(place, rung, split):
                run = self.store.run(spec.digest)
                if run is not None and "access" in run.provenance:
                    return str(run.provenance["access"])
        return ""


def _choose(records: _Records) -> dict[Place, str]:
    chosen = {}
    for place in records.places:
        candidates = {
            rung: measured
            for rung, measured in records.measure_rungs(place, Split.SELECT).items()
            if rung != records.plan.displayed.name and records.is_candidate(rung)
        }
        if candidates:
            chosen[place] = choose_rung(candidates)
    return chosen


def _read_climbs(records: _Records, chosen: Mapping[Place, str]) -> Iterator[tuple[Place, Climb]]:
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


def _reach_findings(
    records: _Records,
    climbs: Mapping[Place, Climb],
    chosen: Mapping[Place, str],
    secrets: Mapping[str, _FoundSecret],
) -> tuple[Finding, ...]:
    """Conclude on all places together; those that cannot be measured are inconclusive."""
    cases = {place: _make_case(records, climbs, place, secrets) for place in climbs}
    levels = [records.level(place) for place in cases]
    found = dict(zip(cases, reach_findings(list(cases.values()), levels=levels), strict=True))
    return tuple(
        found[place] if place in found else _inconclude(records, place, chosen.get(place))
        for place in records.places
    )


def _make_case(
    records: _Records,
    climbs: Mapping[Place, Climb],
    place: Place,
    secrets: Mapping[str, _FoundSecret],
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
        secret_obstacle="" if found is None else found.obstacle,
        remarks=tuple(_remark_exploration(records, place)),
    )


def _measure_curve(records: _Records, place: Place, checkpoint: str) -> Curve | None:
    """Measure a checkpoint's mean gain over the rungs of the target's recovery curve, on `select`.

    The rungs of the strongest demonstrator; a checkpoint that lacks one of them has no curve.
    """
    task = records.tasks[place[1]]
    strong = getattr(task, "strong_demonstrator", None)
    rungs = list(_demonstrations(records, place).get(str(strong), ()))
    measured = records.measure_rungs((checkpoint, place[1]), Split.SELECT)
    displayed = measured.get(records.plan.displayed.name)
    if len(rungs) < 2 or displayed is None or not all(rung in measured for rung in rungs):
        return None
    gains = [measured[rung].minus(displayed) for rung in rungs]
    if not all(math.isfinite(gain.value) for gain in gains):
        return None
    return Curve(checkpoint=checkpoint, gain=average(gains))


def _remark_exploration(records: _Records, place: Place) -> Iterator[str]:
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
    records: _Records, place: Place, climbs: Mapping[Place, Climb]
) -> Iterator[WeakDemonstration]:
    """For each weak demonstrator, the rung with its most demonstrations, on `select`.

    Fixed before the data and so free of the flattery of choosing; weak means below the best that
    anything in the lineage shows.
    """
    task = records.tasks[place[1]]
    if not isinstance(task, RatesDemonstrators):
        return
    best = max(climb.elicited.value for (_, on), climb in climbs.items() if on == place[1])
    for demonstrator, rungs in _demonstrations(records, place).items():
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


def _demonstrations(records: _Records, place: Place) -> dict[str, dict[str, int]]:
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


def _inconclude(records: _Records, place: Place, rung: str | None) -> Finding:
    """Say that nothing can be said, and why."""
    checkpoint, task_name = place
    task, first = records.tasks[task_name], records.plan.displayed.name
    specs = [spec for spec in records.specs if (spec.checkpoint, spec.task) == place]
    runs = [run for spec in specs if (run := records.store.run(spec.digest)) is not None]
    failed = [run for run in runs if run.status is Status.FAILED]
    skipped = [run for run in runs if run.status is Status.SKIPPED]
    unable = _find_skipped(records.plan) if {spec.rung for spec in specs} == {first} else []
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


def _read_rungs(records: _Records, chosen: Mapping[Place, str]) -> Iterator[RungResult]:
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


def _read_curves(records: _Records) -> Iterator[RecoveryCurve]:
    """Trace capability over demonstrations, on `select`, where every rung has runs."""
    level, split = records.plan.level, Split.SELECT
    for place in records.places:
        task = records.tasks[place[1]]
        displayed = records.measure_rungs(place, split).get(records.plan.displayed.name)
        for demonstrator, rungs in _demonstrations(records, place).items():
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


def _read_players(records: _Records, climbs: Mapping[Place, Climb], task: str) -> dict[str, Player]:
    """Gather how every checkpoint behaves under the ordinary protocol, on both splits."""
    first = records.plan.displayed.name
    players = {}
    for place in records.places:
        if place[1] != task:
            continue
        climb = climbs.get(place)
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


def _remark(plan: AuditPlan, records: _Records, runs: Sequence[RunRecord]) -> Iterator[str]:
    climbed = {spec.rung for spec in records.specs}
    apart = _find_skipped(plan)
    nowhere = {skip.rung for skip in apart}
    skipped = [rung.name for rung in plan.ladder if rung.name not in climbed | nowhere]
    if skipped:
        yield (
            f"access was limited to {plan.access}; not climbed: {', '.join(skipped)}. «None found»"
            " speaks of the rungs that were"
        )
    yield from write_skipped(apart)
    yield from _remark_inapplicable(runs)
    yield from _remark_steering(records)
    failed = [run for run in runs if run.status is Status.FAILED]
    if failed:
        yield f"{len(failed)} of {len(records.specs)} runs failed and are missing everywhere"
    missing = [spec for spec in records.specs if not records.store.is_done(spec)]
    if len(missing) > len(failed):
        short = sum(spec.samples - min(spec.samples, _count(records, spec)) for spec in missing)
        # Until rungs are chosen their runs on `test` are not known, and so not counted.
        yield (
            f"{len(missing) - len(failed)} of {len(records.specs)} runs are unfinished, {short} of"
            f" {sum(spec.samples for spec in records.specs)} samples are missing; the same command"
            " goes on with them"
        )


def _remark_steering(records: _Records) -> Iterator[str]:
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


def _find_skipped(plan: AuditPlan) -> list[Skip]:
    try:
        return find_skipped(plan)
    except ConfigError:
        # Stored records are read without the package that once loaded their models, too.
        return []


def _count(records: _Records, spec: RunSpec) -> int:
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
        for name, version in run.provenance.items():
            if name not in ("access", "usage", "diagnosis"):
                found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
