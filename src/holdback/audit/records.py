"""An audit's records by place, rung and split, and what they measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy import special

from holdback.audit.secrets import is_secret
from holdback.elicitation.technique import offers
from holdback.errors import ConfigError, InsufficientDataError, StoreError
from holdback.plan import dump_plan, restore_plan
from holdback.runs.forecast import count_tests
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore, Status, StoredAudit
from holdback.statistics.measurement import Measurement, quantile_t
from holdback.statistics.selection import choose_rung
from holdback.statistics.sequential import look_levels
from holdback.tasks.task import SampleRecord, Split

Place = tuple[str, str]
"""A checkpoint and a task."""


class Records:
    """An audit's records by place, rung and split; read once, measured on demand."""

    def __init__(self, resolved: Resolved, store: RunStore, specs: Sequence[RunSpec]) -> None:
        self.resolved = resolved
        self.plan = resolved.plan
        self.lineage = resolved.lineage
        self.tasks = resolved.tasks
        self.store = store
        # Every look asked for more of the same run, and checkpoints of the same bytes share theirs.
        longest: dict[tuple[str, ...], RunSpec] = {}
        for spec in specs:
            asked = (spec.checkpoint, spec.task, spec.rung, spec.digest)
            if asked not in longest or spec.samples > longest[asked].samples:
                longest[asked] = spec
        self.specs = specs = list(longest.values())
        self.places = list(dict.fromkeys((spec.checkpoint, spec.task) for spec in specs))
        self._specs: dict[tuple[Place, str, Split], list[RunSpec]] = {}
        for spec in specs:
            key = ((spec.checkpoint, spec.task), spec.rung, spec.split)
            self._specs.setdefault(key, []).append(spec)
        self._read: dict[tuple[str, int], list[SampleRecord]] = {}
        self._measured: dict[tuple[Place, Split, int | None], dict[str, Measurement]] = {}

    @property
    def shared(self) -> list[RunSpec]:
        """Each run once, though several checkpoints, tasks or rungs may have asked for it."""
        return list({spec.digest: spec for spec in self.specs}.values())

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
        # Rungs alike but for their numbers of samples share a run, and read what they asked for.
        key = (spec.digest, spec.samples)
        if key not in self._read:
            run = self.store.run(spec.digest)
            failed = run is not None and run.status in (Status.FAILED, Status.SKIPPED)
            limited = [] if failed else self.store.records(spec.digest, limit=spec.samples)
            self._read[key] = limited
        return self._read[key]

    def is_whole(self, place: Place, rung: str) -> bool:
        """Tell whether a rung was asked for all its samples on `select`."""
        samples = self.resolved.count_samples(place[1], rung, Split.SELECT)
        return all(spec.samples >= samples for spec in self.runs(place, rung, Split.SELECT))

    def is_candidate(self, rung: str) -> bool:
        """Tell whether a rung may stand for what a checkpoint can do."""
        try:
            return offers(self.resolved.technique(rung)).is_candidate
        except ConfigError:
            # Stored records are read without the package that brought the technique, too.
            return True

    def look(self, place: Place) -> int:
        """Count the looks that a place has taken, from 1."""
        looks = self._count_samples(place)
        taken = [spec.samples for spec in self.runs(place, self.plan.displayed.name, Split.TEST)]
        return max(1, sum(look <= max(taken, default=looks[-1]) for look in looks))

    def level(self, place: Place) -> float:
        """Level at which to conclude: that of the look at which the place was left."""
        plan = self.plan
        if plan.looks == 1:
            return plan.level
        levels = look_levels(self._count_samples(place), plan.level, family=self.tests)
        return levels[self.look(place) - 1]

    def _count_samples(self, place: Place) -> list[int]:
        """Samples on `test` at each look."""
        plan = self.plan
        whole = self.resolved.count_samples(place[1], plan.displayed.name, Split.TEST)
        return [math.ceil(whole * look / plan.looks) for look in range(1, plan.looks + 1)]

    @property
    def tests(self) -> int:
        """Tests that the plan corrects for."""
        return max(1, count_tests(self.plan))

    def pool(
        self, place: Place, rung: str, split: Split, *, look: int | None = None
    ) -> list[SampleRecord]:
        """Read a rung's samples of all seeds; a cluster spans them.

        With `look` no more than there were at it, so that a verdict reached then stays what it was
        though others that are compared with it go on.
        """
        return [
            record
            for spec in self.runs(place, rung, split)
            for record in self.read(spec)[: self._limit(place, rung, look)]
        ]

    def _limit(self, place: Place, rung: str, look: int | None) -> int | None:
        plan = self.plan
        if look is None or look >= plan.looks:
            return None
        samples = self.resolved.count_samples(place[1], rung, Split.TEST)
        return math.ceil(samples * look / plan.looks)

    def measure(self, place: Place, records: Sequence[SampleRecord]) -> Measurement | None:
        """Measure with the place's task; None where records do not suffice for an interval."""
        try:
            measured = self.tasks[place[1]].measure(records)
            measured.estimate(self.plan.level)
        except InsufficientDataError:
            return None
        return measured

    def measure_rungs(
        self, place: Place, split: Split, *, look: int | None = None
    ) -> Mapping[str, Measurement]:
        """Measure the rungs here, those with enough records, pooled over seeds."""
        key = (place, split, look)
        if key not in self._measured:
            self._measured[key] = {
                rung: measured
                for rung in self.rungs(place, split)
                if (measured := self._measure_rung(place, rung, split, look)) is not None
            }
        return self._measured[key]

    def _measure_rung(
        self, place: Place, rung: str, split: Split, look: int | None
    ) -> Measurement | None:
        """Measure over all seeds; that they differ widens the error, beside the samples' own."""
        pooled = self.measure(place, self.pool(place, rung, split, look=look))
        limit = self._limit(place, rung, look)
        apart = [
            self.measure(place, self.read(spec)[:limit]) for spec in self.runs(place, rung, split)
        ]
        values = [measured.value for measured in apart if measured is not None]
        if pooled is None or len(values) < 2 or not all(map(math.isfinite, values)):
            return pooled
        spread = statistics.stdev(values) / math.sqrt(len(values))
        # A few seeds know their own spread badly: of three, Student's t has 2 degrees of freedom.
        spread *= quantile_t(0.975, len(values) - 1) / float(special.ndtri(0.975))
        return replace(pooled, unseen_error=math.hypot(pooled.unseen_error, spread))

    def access(self, place: Place, rung: str) -> str:
        """Access that the rung's technique declared when it ran."""
        for split in (Split.SELECT, Split.TEST):
            for spec in self.runs(place, rung, split):
                run = self.store.run(spec.digest)
                if run is not None and "access" in run.provenance:
                    return str(run.provenance["access"])
        return ""


class Audits:
    """The audits of a store; what a plan's names stand for is found once and kept."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._resolved: dict[str, Resolved] = {}

    def keep(self, resolved: Resolved) -> None:
        """Take what is resolved already for the audits of its plan."""
        self._resolved[dump_plan(resolved.plan)] = resolved

    def open(self, stored: StoredAudit) -> Records:
        """Open the records of an audit as they are now."""
        if stored.plan not in self._resolved:
            self._resolved[stored.plan] = Resolved(plan=restore_plan(stored.plan))
        return Records(self._resolved[stored.plan], self.store, stored.specs)


def choose(records: Records) -> dict[Place, str]:
    """Name the best rung of each place on `select`, of those that may be chosen."""
    chosen = {}
    for place in records.places:
        where = place[0], records.plan.tasks[place[1]].choose_on or place[1]
        climbed = records.plan.rungs_for(*place)
        candidates = {
            rung: measured
            for rung, measured in records.measure_rungs(where, Split.SELECT).items()
            if rung != records.plan.displayed.name
            and records.is_candidate(rung)
            and rung in {each.name for each in climbed}
        }
        # What was left behind on fewer samples stays behind, though the best sank afterwards.
        went_on = {
            rung: found for rung, found in candidates.items() if records.is_whole(where, rung)
        }
        candidates = went_on or candidates
        if candidates:
            chosen[place] = choose_rung(candidates)
    return chosen


def find_audit(store: RunStore, digest: str | None) -> StoredAudit:
    """Find an audit by its digest, or the latest that is none of copies.

    Raises:
        StoreError: if the store holds no such audit.
    """
    for stored in store.audits():
        if digest == stored.digest or (digest is None and not is_secret(stored.digest)):
            return stored
    raise StoreError(f"run store {store.path}: expected an audit, found none; run one first")
