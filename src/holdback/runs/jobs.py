"""Doing what a plan asks for: a job goes in, events come out.

A job is everything that one technique, applied once to one checkpoint, is scored on. It is plain
data, and whoever performs it builds models, tasks and techniques from its plan.
"""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import holdback
from holdback.elicitation.shelf import shelving
from holdback.elicitation.technique import Access
from holdback.errors import (
    HoldbackError,
    LimitReachedError,
    NotApplicableError,
    SamplesLostError,
)
from holdback.extensions import offered
from holdback.lineage import Lineage
from holdback.models.protocol import Model, ModelOffers
from holdback.models.registry import find_access, load_checkpoint
from holdback.runs.preview import find_sameness
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Task, TaskOffers

_BLOCK_RECORDS = 64
_BLOCK_SECONDS = 1.0
_MOST_LOST_IN_A_ROW = 64
_PLANTING = 2**32 + 1
"""Stream of the audit's seed that secrets are planted from; no rung has so large a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Runs that differ in their split only, with what is already stored of each."""

    resolved: Resolved
    specs: tuple[RunSpec, ...]
    done: Mapping[str, tuple[SampleRecord, ...]]
    shelf: Path | None = None
    """Folder of the adapters that the audit's rungs have trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A run has its model and its task and begins."""

    run: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A run has more records."""

    run: str
    records: tuple[SampleRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run is done, or failed or was skipped for `reason`; `details` is a failure's traceback."""

    run: str
    status: Status
    seconds: float
    reason: str = ""
    details: str = ""
    usage: Mapping[str, Any] | None = None
    """What an endpoint was asked for it, retries included; None where nothing was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capped:
    """A run met a cap of the environment's; it is neither done nor failed, and goes on later."""

    run: str
    reason: str


Event: TypeAlias = Started | Scored | Ended | Capped


def make_jobs(
    specs: Sequence[RunSpec], *, resolved: Resolved, store: RunStore, shelf: Path | None = None
) -> list[Job]:
    """Group runs that share a technique applied to a checkpoint.

    Samples that errored count as missing: they are tried again.

    One checkpoint after the other, so that its weights are loaded about once a worker, and within
    one the ladder from its costly end, so that the workers finish together.
    """
    checkpoints = [checkpoint.name for checkpoint in resolved.lineage]
    rungs = [rung.name for rung in resolved.plan.ladder]
    groups: dict[tuple[int, int, str, int], list[RunSpec]] = {}
    for spec in specs:
        key = (checkpoints.index(spec.checkpoint), -rungs.index(spec.rung), spec.task, spec.seed)
        groups.setdefault(key, []).append(spec)
    return [
        Job(
            resolved=resolved,
            specs=tuple(group),
            done={spec.digest: tuple(_read_done(store, spec.digest)) for spec in group},
            shelf=shelf,
        )
        for _, group in sorted(groups.items(), key=lambda item: item[0])
    ]


def _read_done(store: RunStore, run: str) -> list[SampleRecord]:
    return [r for r in store.records(run) if r.score.outcome is not Outcome.ERRORED]


class Workbench:
    """What one process keeps between jobs: the tasks, and the weights of the last checkpoint."""

    def __init__(self) -> None:
        self._resolved: Resolved | None = None
        self._checkpoint = ""
        self._model: Model | None = None

    def perform(self, job: Job) -> Iterator[Event]:
        """Do one job. Any exception becomes the reason for which its runs failed."""
        pending = list(job.specs)
        clock, meter = _Clock(), _Meter()
        first = job.specs[0]
        try:
            resolved = self._take_resolved(job.resolved)
            task, technique = resolved.tasks[first.task], resolved.technique(first.rung)
            rng = np.random.default_rng([resolved.plan.seed, first.seed])
            provenance: dict[str, Any] = {
                **describe_machine(),
                "access": technique.access.name.lower(),
                **offered(TaskOffers, task, "provenance"),
            }
            with ExitStack() as lent:
                with shelving(job.shelf):
                    model = self._take_model(resolved, first.checkpoint)
                    meter.watch(model)
                    elicited = lent.enter_context(technique.apply(model, task, rng))
                if technique.access <= Access.LOGPROBS:
                    _require_difference(resolved, first, model, elicited)
                diagnosis = offered(ModelOffers, elicited, "diagnosis")
                if diagnosis is not None:
                    provenance["diagnosis"] = dict(diagnosis)
                while pending:
                    spec = pending[0]
                    yield Started(run=spec.digest, provenance=provenance)
                    for block in _score(task, elicited, spec, job):
                        yield Scored(run=spec.digest, records=block)
                    if meter.capped:
                        yield Capped(run=spec.digest, reason=meter.capped)
                        return
                    del pending[0]
                    yield Ended(
                        run=spec.digest,
                        status=Status.DONE,
                        seconds=clock.lap(),
                        usage=meter.lap(),
                    )
        except LimitReachedError as error:
            yield Capped(run=pending[0].digest, reason=_in_one_line(error))
        except NotApplicableError as error:
            for spec in pending:
                yield Ended(
                    run=spec.digest,
                    status=Status.SKIPPED,
                    seconds=clock.lap(),
                    reason=" ".join(str(error).split()),
                    usage=meter.lap(),
                )
        except Exception as error:
            # The technique may not have restored what it changed. A service that went silent was
            # not changed, and what is known of its silence saves the next runs the waiting.
            if not isinstance(error, SamplesLostError):
                self._model = None
            for spec in pending:
                yield Ended(
                    run=spec.digest,
                    status=Status.FAILED,
                    seconds=clock.lap(),
                    reason=_in_one_line(error),
                    details=traceback.format_exc(),
                    usage=meter.lap(),
                )

    def _take_resolved(self, resolved: Resolved) -> Resolved:
        """Keep what a plan's names stand for from one job to the next."""
        known = self._resolved
        if known is None or (resolved.plan, resolved.digests) != (known.plan, known.digests):
            self._resolved, self._model = resolved, None
            return resolved
        return known

    def _take_model(self, resolved: Resolved, name: str) -> Model:
        if self._model is None or self._checkpoint != name:
            # Let go of one before loading the next: both may not fit.
            self._model = None
            model = _load_with_parent(resolved.lineage, name)
            _plant(model, resolved)
            self._model, self._checkpoint = model, name
        return self._model


def _plant(model: Model, resolved: Resolved) -> None:
    """Lock what was just loaded, if the plan is one whose checkpoints carry a secret."""
    secret = resolved.plan.secret
    if secret is None:
        return
    from holdback.elicitation.secret import plant_secret

    rng = np.random.default_rng([resolved.plan.seed, _PLANTING])
    plant_secret(model, resolved.tasks[secret.task], secret, rng)


def _require_difference(resolved: Resolved, spec: RunSpec, model: Model, elicited: Model) -> None:
    """Skip a rung that would measure the ordinary protocol once more, under another name."""
    if spec.rung == resolved.plan.displayed.name:
        return
    reason = find_sameness(
        resolved, spec.task, model, elicited, split=spec.split, samples=spec.samples
    )
    if reason:
        raise NotApplicableError(reason)


def _load_with_parent(lineage: Lineage, name: str) -> Model:
    """Load a checkpoint; local weights are told how to load those that they were made from."""
    model = load_checkpoint(lineage[name])
    parent = lineage[name].parent
    if parent is None or find_access(lineage[parent]) != "weights":
        return model
    if not hasattr(model, "load_parent"):
        return model
    told: Any = model
    return replace(told, load_parent=partial(load_checkpoint, lineage[parent]))  # type: ignore[no-any-return]


def describe_machine() -> dict[str, str]:
    """Say what software and machine produce records here."""
    described = {
        "holdback": holdback.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in ("torch", "transformers", "chess"):
        # Only what was used: nothing is imported for its version.
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            described[name] = str(version)
    return described


def _score(task: Task, model: Model, spec: RunSpec, job: Job) -> Iterator[tuple[SampleRecord, ...]]:
    """Run a task, in blocks small enough to lose and large enough to store at once.

    What errored comes last. It is missing from what is measured, and tried again by the next
    command.

    Raises:
        SamplesLostError: if more than half of the samples errored, or so many in a row that nobody
            seems to be there; what else there is was yielded before.
    """
    block: list[SampleRecord] = []
    lost: list[SampleRecord] = []
    in_a_row = 0
    flushed = time.monotonic()
    # The audit's seed draws the samples, the same for all runs: that is what pairs them.
    records = task.run(
        model,
        split=spec.split,
        samples=spec.samples,
        seed=job.resolved.plan.seed,
        done=job.done.get(spec.digest, ()),
    )
    try:
        for record in records:
            is_lost = record.score.outcome is Outcome.ERRORED
            (lost if is_lost else block).append(record)
            in_a_row = in_a_row + 1 if is_lost else 0
            if in_a_row >= _MOST_LOST_IN_A_ROW:
                break
            if len(block) >= _BLOCK_RECORDS or time.monotonic() - flushed > _BLOCK_SECONDS:
                yield tuple(block)
                block, flushed = [], time.monotonic()
    except Exception:
        # What was scored before the failure is as good as ever.
        if block:
            yield tuple(block)
        raise
    if block or lost:
        yield (*block, *lost)
    if 2 * len(lost) > spec.samples or in_a_row >= _MOST_LOST_IN_A_ROW:
        raise SamplesLostError(
            f"{len(lost)} of {spec.samples} samples errored, first {lost[0].sample_id}:"
            f" {lost[0].metadata.get('error', 'no reason was recorded')}"
        )


class _Clock:
    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        return elapsed


class _Meter:
    """Reads what a model behind an endpoint was asked, by its `usage`."""

    def __init__(self) -> None:
        self._usage: Any = None
        self._before: Any = None

    @property
    def capped(self) -> str:
        """The cap that kept the model's requests from being sent; empty while none has."""
        return "" if self._usage is None else str(self._usage.capped)

    def watch(self, model: Model) -> None:
        self._usage = offered(ModelOffers, model, "usage")
        self._before = None if self._usage is None else self._usage.copy()

    def lap(self) -> Mapping[str, Any] | None:
        if self._usage is None:
            return None
        taken: Mapping[str, Any] = self._usage.since(self._before).describe()
        self._before = self._usage.copy()
        return taken


def _in_one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    if words and isinstance(error, HoldbackError):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
