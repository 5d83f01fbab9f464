"""Running a plan: in this process and in others, through failures and interruptions."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from audits import fake_plan

from holdback.runs.execution import execute, find_shelf
from holdback.runs.executors import InProcess, LocalWorkers
from holdback.runs.jobs import Scored
from holdback.runs.progress import Silent
from holdback.runs.resolve import Resolved
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
    resolved = Resolved(plan=plan).identified()
    return resolved.list_runs(resolved.climbs, Split.SELECT)


def run(plan, path, *, executor=None, observer=None):
    specs = select_runs(plan)
    with RunStore(path) as store, executor or InProcess() as performing:
        execute(
            specs,
            resolved=Resolved(plan=plan).identified(),
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


@pytest.mark.parametrize(("lost", "status"), [(1, Status.DONE), (7, Status.FAILED)])
def test_what_errored_is_tried_again(tmp_path, monkeypatch, lost, status):
    """One lost sample or most of them: stored as errored, never as done for ever."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"
    task = type(Resolved(plan=plan).tasks["questions"])
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
    assert kept.count(Outcome.ERRORED) == lost * len(specs)
    if status is Status.FAILED:
        assert "7 of 12 samples errored, first q5: the engine died" in runs[0].reason

    run(plan, path)

    assert {record.status for record in read_runs(path, specs)} == {Status.DONE}
    for stored in read(path, specs).values():
        assert len({record.sample_id for record in stored}) == len(stored) == 12
        assert Outcome.ERRORED not in {record.score.outcome for record in stored}
    with RunStore(path) as store:
        # What errored stays in the chain, behind which the answers stand.
        assert store.verify() == (12 + lost) * len(specs)


def test_a_store_of_before_takes_another_try(tmp_path):
    """Version 1 kept every sample for ever: its rows and their chain stay, and answers may join."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"
    specs = run(plan, path)
    before = read(path, specs)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP INDEX answered")
        raw.execute("DROP INDEX samples_of_run")
        raw.execute("PRAGMA user_version = 1")

    with RunStore(path) as store:
        store.verify()
    assert read(path, specs) == before
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (2,)


def test_two_audits_of_a_store_keep_their_adapters_apart(tmp_path):
    """Each has a shelf of its own: the one that ends first deletes nothing of the other."""
    with RunStore(tmp_path / "runs.sqlite") as store:
        assert find_shelf(store, "a" * 64) != find_shelf(store, "b" * 64)


def test_the_techniques_access_is_stored(tmp_path):
    """A report says what access a rung took without building the technique again."""
    plan, path = fake_plan(*FEW), tmp_path / "runs.sqlite"
    specs = run(plan, path)

    access = {record.spec.rung: record.provenance["access"] for record in read_runs(path, specs)}

    assert access["displayed"] == "samples"
    assert access["half"] == "weights"
