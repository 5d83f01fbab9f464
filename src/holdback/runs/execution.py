"""Running what a plan asks for: jobs go out, events come back, one process writes them down.

A job is everything that one technique, applied once to one checkpoint, is scored on. It is plain
data, and whoever performs it builds models, tasks and techniques from its plan. Records travel
back to the process that holds the store: were workers to write themselves, those of a killed audit
would go on writing beside the workers of the one that was started after it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

import holdback
from holdback.elicitation.shelf import shelving
from holdback.elicitation.technique import Access
from holdback.errors import LimitReachedError, NotApplicableError, SamplesLostError
from holdback.lineage import Lineage
from holdback.models.protocol import Model
from holdback.models.registry import find_access, load_checkpoint
from holdback.plan import AuditPlan
from holdback.runs.allowance import Allowance
from holdback.runs.planning import build_lineage, build_task, build_technique
from holdback.runs.preview import find_sameness
from holdback.runs.records import RunSpec
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Task

_BLOCK_RECORDS = 64
_BLOCK_SECONDS = 1.0
_MOST_LOST_IN_A_ROW = 64
_PLANTING = 2**32 + 1
"""Stream of the audit's seed that secrets are planted from; no rung has so large a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Runs that differ in their split only, with what is already stored of each."""

    plan: AuditPlan
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


class Executor(Protocol):
    """Whoever performs jobs: this process, others on this machine, a cluster."""

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs, in any order, and yield what happens as it happens.

        A job that fails yields `Ended` for each of its runs and does not stop the others.
        Closing the iterator stops the work.
        """
        ...


class Observer(Protocol):
    """Whoever wants to know how far the runs are."""

    def expect(self, specs: Sequence[RunSpec], *, stored: int) -> None:
        """Hear which runs are to come and how many of their samples are already stored."""
        ...

    def note(self, spec: RunSpec, event: Event) -> None:
        """Hear of one event, after it was stored."""
        ...


def execute(
    specs: Sequence[RunSpec],
    *,
    plan: AuditPlan,
    store: RunStore,
    executor: Executor,
    observer: Observer,
    allowance: Allowance | None = None,
    shelf: Path | None = None,
) -> None:
    """Run what is not in the store yet. What fails is stored as failed, and tried again next time.

    Interrupted at any moment, or stopped by the `allowance`, the store holds whole blocks of
    records and the same call goes on from there.
    """
    allowance = allowance or Allowance()
    missing: dict[str, RunSpec] = {}
    for spec in specs:
        # Rungs alike but for their numbers of samples are one run, of the most.
        known = missing.get(spec.digest)
        if not store.is_done(spec) and (known is None or known.samples < spec.samples):
            missing[spec.digest] = spec
    jobs = make_jobs(list(missing.values()), plan=plan, store=store, shelf=shelf)
    jobs = [kept for job in jobs if (kept := _cut(job, allowance)).specs]
    pending = {spec.digest: spec for job in jobs for spec in job.specs}
    stored = sum(len(job.done[spec.digest]) for job in jobs for spec in job.specs)
    observer.expect(list(pending.values()), stored=stored)
    unfinished = set(pending)
    if unfinished and allowance.is_over():
        return
    with closing(executor.run(jobs)) as events:
        for event in events:
            spec = pending[event.run]
            match event:
                case Started():
                    store.begin(spec, event.provenance)
                case Scored():
                    store.append(event.run, event.records)
                case Ended():
                    if store.run(event.run) is None:
                        store.begin(spec, describe_machine())
                    elif event.usage:
                        store.note_usage(event.run, event.usage)
                    store.finish(
                        spec,
                        event.status,
                        seconds=event.seconds,
                        reason=event.reason,
                        details=event.details,
                    )
                    unfinished.discard(event.run)
                case Capped():
                    allowance.reached = event.reason
                    return
            observer.note(spec, event)
            if unfinished and allowance.is_over():
                return


def _cut(job: Job, allowance: Allowance) -> Job:
    return replace(job, specs=tuple(allowance.grant(job.specs, plan=job.plan, done=job.done)))


def make_jobs(
    specs: Sequence[RunSpec], *, plan: AuditPlan, store: RunStore, shelf: Path | None = None
) -> list[Job]:
    """Group runs that share a technique applied to a checkpoint.

    Samples that errored count as missing: they are tried again.

    One checkpoint after the other, so that its weights are loaded about once a worker, and within
    one the ladder from its costly end, so that the workers finish together.
    """
    checkpoints = [checkpoint.name for checkpoint in plan.lineage.checkpoints]
    rungs = [rung.name for rung in plan.ladder]
    groups: dict[tuple[int, int, str, int], list[RunSpec]] = {}
    for spec in specs:
        key = (checkpoints.index(spec.checkpoint), -rungs.index(spec.rung), spec.task, spec.seed)
        groups.setdefault(key, []).append(spec)
    return [
        Job(
            plan=plan,
            specs=tuple(group),
            done={spec.digest: tuple(_read_done(store, spec.digest)) for spec in group},
            shelf=shelf,
        )
        for _, group in sorted(groups.items(), key=lambda item: item[0])
    ]


def _read_done(store: RunStore, run: str) -> list[SampleRecord]:
    return [r for r in store.records(run) if r.score.outcome is not Outcome.ERRORED]


def find_shelf(store: RunStore, audit: str) -> Path:
    """Say where the adapters that an audit trains are kept until it is done."""
    return store.path.with_name(f"{store.path.stem}.adapters") / audit[:16]


class Workbench:
    """What one process keeps between jobs: the tasks, and the weights of the last checkpoint."""

    def __init__(self) -> None:
        self._plan: AuditPlan | None = None
        self._tasks: dict[str, Task] = {}
        self._checkpoint = ""
        self._model: Model | None = None

    def perform(self, job: Job) -> Iterator[Event]:
        """Do one job. Any exception becomes the reason for which its runs failed."""
        pending = list(job.specs)
        clock, meter = _Clock(), _Meter()
        first = job.specs[0]
        try:
            self._lay_out(job.plan)
            task = self._take_task(first.task)
            technique = build_technique(job.plan.rung(first.rung))
            rng = np.random.default_rng([job.plan.seed, first.seed])
            provenance: dict[str, Any] = {
                **describe_machine(),
                "access": technique.access.name.lower(),
                **getattr(task, "provenance", {}),
            }
            with ExitStack() as lent:
                with shelving(job.shelf):
                    model = self._take_model(first.checkpoint)
                    meter.watch(model)
                    elicited = lent.enter_context(technique.apply(model, task, rng))
                if technique.access <= Access.LOGPROBS:
                    _require_difference(job.plan, first, task, model, elicited)
                diagnosis = getattr(elicited, "diagnosis", None)
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

    def _lay_out(self, plan: AuditPlan) -> None:
        if plan != self._plan:
            self._plan, self._tasks, self._model = plan, {}, None

    def _take_task(self, name: str) -> Task:
        assert self._plan is not None
        if name not in self._tasks:
            self._tasks[name] = build_task(self._plan, name)
        return self._tasks[name]

    def _take_model(self, name: str) -> Model:
        assert self._plan is not None
        if self._model is None or self._checkpoint != name:
            # Let go of one before loading the next: both may not fit.
            self._model = None
            model = _load_with_parent(build_lineage(self._plan), name)
            self._plant(model)
            self._model, self._checkpoint = model, name
        return self._model

    def _plant(self, model: Model) -> None:
        """Lock what was just loaded, if the plan is one whose checkpoints carry a secret."""
        assert self._plan is not None
        secret = self._plan.secret
        if secret is None:
            return
        from holdback.elicitation.secret import plant_secret

        rng = np.random.default_rng([self._plan.seed, _PLANTING])
        plant_secret(model, self._take_task(secret.task), secret, rng)


def _require_difference(
    plan: AuditPlan, spec: RunSpec, task: Task, model: Model, elicited: Model
) -> None:
    """Skip a rung that would measure the ordinary protocol once more, under another name."""
    if spec.rung == plan.displayed.name:
        return
    reason = find_sameness(plan, task, model, elicited, split=spec.split, samples=spec.samples)
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


class InProcess:
    """Performs jobs here, one after the other."""

    def __init__(self) -> None:
        self._bench = Workbench()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bench = Workbench()

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs in their order."""
        for job in jobs:
            yield from self._bench.perform(job)


class LocalWorkers:
    """Performs jobs in spawned processes on this machine, each with one thread.

    A context manager: between two calls of `run` the processes stay, with what they imported and
    loaded, until its end. A process that dies fails its job and is replaced.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._idle:
            self._idle.pop().dismiss()

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs, the next one always by the first worker that is free."""
        waiting = list(jobs)
        crew: dict[Connection, _Worker] = {}

        def engage() -> None:
            worker = self._idle.pop() if self._idle else _Worker()
            crew[worker.connection] = worker
            worker.give(_pick(waiting, worker.checkpoint))

        try:
            for _ in range(min(self._workers, len(waiting))):
                engage()
            while crew:
                for connection in wait(list(crew)):
                    assert isinstance(connection, Connection)
                    worker = crew[connection]
                    try:
                        event = connection.recv()
                    except (EOFError, OSError, pickle.UnpicklingError):
                        del crew[connection]
                        yield from worker.bury()
                        if waiting:
                            engage()
                        continue
                    if event is not None:
                        worker.heed(event)
                        yield event
                    elif waiting:
                        worker.give(_pick(waiting, worker.checkpoint))
                    else:
                        self._idle.append(crew.pop(connection))
        finally:
            for worker in crew.values():
                worker.stop()


def make_executor(workers: int) -> InProcess | LocalWorkers:
    """Choose by number of workers: this process for one, spawned ones for more."""
    return InProcess() if workers == 1 else LocalWorkers(workers)


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


class _Worker:
    """A spawned process as its employer sees it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.checkpoint = ""
        self._unfinished: list[str] = []
        self._since = time.monotonic()

    def give(self, job: Job) -> None:
        self.checkpoint = job.specs[0].checkpoint
        self._unfinished = [spec.digest for spec in job.specs]
        self._since = time.monotonic()
        try:
            self.connection.send(job)
        except OSError:
            # It died while idle; the pipe's end says so next, and the job is failed there.
            return

    def heed(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._unfinished.remove(event.run)

    def bury(self) -> Iterator[Event]:
        self._process.join()
        for run in self._unfinished:
            yield Ended(
                run=run,
                status=Status.FAILED,
                seconds=time.monotonic() - self._since,
                reason=f"the worker process died with exit code {self._process.exitcode}"
                " (killed, or out of memory?)",
            )

    def dismiss(self) -> None:
        self.connection.close()
        self._process.join()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    # Ctrl-C reaches the whole group; the employer decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before torch is imported, so that its pools are made with one thread.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    bench = Workbench()
    try:
        while True:
            for event in bench.perform(connection.recv()):
                connection.send(event)
            connection.send(None)
    except (EOFError, OSError):
        # Dismissed, or the employer is gone: nobody is left to tell.
        return


def _pick(waiting: list[Job], checkpoint: str) -> Job:
    """Take the next job, of the worker's own checkpoint if there is one."""
    own = (i for i, job in enumerate(waiting) if job.specs[0].checkpoint == checkpoint)
    return waiting.pop(next(own, 0))


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
        seed=job.plan.seed,
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
        self._usage = getattr(model, "usage", None)
        self._before = None if self._usage is None else self._usage.copy()

    def lap(self) -> Mapping[str, Any] | None:
        if self._usage is None:
            return None
        taken: Mapping[str, Any] = self._usage.since(self._before).describe()
        self._before = self._usage.copy()
        return taken


def _in_one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
