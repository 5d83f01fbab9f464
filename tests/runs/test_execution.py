"""Running a plan: in this process and in others, through failures and interruptions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from audits import fake_plan

from holdback.runs.execution import InProcess, LocalWorkers, Scored, execute
from holdback.runs.planning import (
    build_ladder,
    build_lineage,
    build_task,
    climb,
    identify_checkpoints,
    identify_task,
    plan_runs,
)
from holdback.runs.progress import Silent
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Outcome, Split

FEW = (
    ("select_samples = 200", "select_samples = 12"),
    ("test_samples = 600", "test_samples = 20"),
)


class Counting(Silent):
    """Counts what was run, and stops like Ctrl-C after so many blocks."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.samples = 0
        self.blocks = 0
        self.stop_after = stop_after

    def note(self, spec, event):
        if isinstance(event, Scored):
            self.samples += len(event.records)
            self.blocks += 1
            if self.blocks == self.stop_after:
                raise KeyboardInterrupt


def select_runs(plan):
    return plan_runs(
        plan,
        climb(plan, build_ladder(plan)),
        Split.SELECT,
        digests=identify_checkpoints(build_lineage(plan)),
        task_digests={name: identify_task(plan, build_task(plan, name)) for name in plan.tasks},
    )


def run(plan, path, *, executor=None, observer=None):
    specs = select_runs(plan)
    with RunStore(path) as store, executor or InProcess() as performing:
        execute(
            specs,
            plan=plan,
            store=store,
            executor=performing,
            observer=observer or Silent(),
        )
    return specs


def read(path, specs):
    with RunStore(path) as store:
        store.verify()
        return {spec.digest: store.records(spec.digest) for spec in specs}


def read_runs(path, specs):
    with RunStore(path) as store:
        return [record for spec in specs if (record := store.run(spec.digest)) is not None]


def test_runs_everything_and_nothing_twice(tmp_path):
    """The same call again finds all in the store."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"

    first, second = Counting(), Counting()
    specs = run(plan, path, observer=first)
    run(plan, path, observer=second)

    assert first.samples == len(specs) * 12
    assert second.samples == 0


def test_workers_find_what_one_process_finds(tmp_path):
    """The order of execution and the number of processes change no record."""
    plan = fake_plan(*FEW)

    alone = read(tmp_path / "one.sqlite", run(plan, tmp_path / "one.sqlite"))
    several = read(
        tmp_path / "two.sqlite", run(plan, tmp_path / "two.sqlite", executor=LocalWorkers(2))
    )

    assert alone == several


def test_an_interrupted_run_goes_on(tmp_path):
    """Ctrl-C in the middle leaves whole blocks, and the same call ends with the same records."""
    plan = fake_plan(*FEW)
    whole = read(tmp_path / "whole.sqlite", run(plan, tmp_path / "whole.sqlite"))
    path = tmp_path / "cut.sqlite"

    for stop_after in (1, 3, 2):
        with suppress(KeyboardInterrupt):
            run(plan, path, observer=Counting(stop_after=stop_after))
    specs = run(plan, path)

    assert read(path, specs) == whole


@pytest.mark.parametrize("executor", [InProcess(), LocalWorkers(2)], ids=["here", "workers"])
def test_a_crash_fails_one_run_and_no_other(tmp_path, executor):
    """A technique with a bug is recorded with its reason; what does not use it is done."""
    plan = fake_plan(
        *FEW,
        ('technique = "fake_unlock"\nparameters = { share = 0.5 }', 'technique = "fake_crash"'),
    )
    path = tmp_path / "runs.sqlite"

    specs = run(plan, path, executor=executor)

    records = read_runs(path, specs)
    failed = [record for record in records if record.status is Status.FAILED]
    done = [record for record in records if record.status is Status.DONE]
    assert {record.spec.rung for record in failed} == {"half"}
    assert {record.reason for record in failed} == {"ZeroDivisionError: planted bug"}
    assert "Traceback" in failed[0].details
    assert len(done) == 4 * 7


def test_a_worker_that_dies_is_replaced(tmp_path):
    """A process killed from outside costs the runs it was at, and no others."""
    plan = fake_plan(
        *FEW,
        (
            'technique = "fake_unlock"\nparameters = { share = 0.5 }',
            'technique = "fake_die"\ncheckpoints = ["sham"]',
        ),
    )
    path = tmp_path / "runs.sqlite"

    specs = run(plan, path, executor=LocalWorkers(2))

    with RunStore(path) as store:
        assert sum(store.is_done(spec) for spec in specs) == len(specs) - 1
    failed = [record for record in read_runs(path, specs) if record.status is Status.FAILED]
    assert [record.spec.label for record in failed] == ["sham · questions · half · select · seed 0"]
    assert "exit code -9" in failed[0].reason


@pytest.mark.parametrize(("lost", "status"), [(6, Status.DONE), (7, Status.FAILED)])
def test_a_run_that_lost_most_of_its_samples_is_tried_again(tmp_path, monkeypatch, lost, status):
    """A dead engine is no measurement: nothing that errored is stored, and the next call asks."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"
    task = type(build_task(plan, "questions"))
    healthy = task.run

    def sick(self, model, **options):
        for at, record in enumerate(healthy(self, model, **options)):
            score = replace(record.score, value=None, outcome=Outcome.ERRORED)
            died = replace(record, score=score, metadata={"error": "the engine died"})
            yield died if at >= 12 - lost else record

    with monkeypatch.context() as patched:
        patched.setattr(task, "run", sick)
        specs = run(plan, path)
    runs = read_runs(path, specs)
    assert {record.status for record in runs} == {status}
    kept = [r.score.outcome for stored in read(path, specs).values() for r in stored]
    if status is Status.DONE:
        assert kept.count(Outcome.ERRORED) == lost * len(specs)
        return
    assert Outcome.ERRORED not in kept
    assert "7 of 12 samples errored, first q5: the engine died" in runs[0].reason

    run(plan, path)

    assert {record.status for record in read_runs(path, specs)} == {Status.DONE}
    assert {len(stored) for stored in read(path, specs).values()} == {12}


def test_the_techniques_access_is_stored(tmp_path):
    """A report says what access a rung took without building the technique again."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"
    specs = run(plan, path)

    access = {record.spec.rung: record.provenance["access"] for record in read_runs(path, specs)}

    assert access["displayed"] == "samples"
    assert access["half"] == "weights"
