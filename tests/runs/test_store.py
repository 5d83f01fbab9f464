"""The run store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdback.errors import StoreError
from holdback.runs.records import RunSpec
from holdback.runs.store import VERSION, RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Score, Split

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.builds(
    SampleRecord,
    sample_id=st.text(max_size=20),
    cluster=st.text(max_size=20),
    score=st.builds(
        Score,
        value=st.none() | finite,
        outcome=st.sampled_from(Outcome),
        answer=st.text(max_size=50),
    ),
    metadata=st.dictionaries(st.text(max_size=10), json_values, max_size=4),
)


def make_spec(**changes: object) -> RunSpec:
    fields = {
        "checkpoint": "base",
        "checkpoint_digest": "c0ffee",
        "task": "questions",
        "task_digest": "7a5c",
        "rung": "displayed",
        "technique": "plain",
        "parameters": {"share": 0.5},
        "split": Split.SELECT,
        "seed": 0,
        "samples": 10,
    }
    return RunSpec(**{**fields, **changes})


def make_record(index: int, *, value: float = 1.0) -> SampleRecord:
    return SampleRecord(
        sample_id=f"s{index}",
        cluster=f"c{index}",
        score=Score(value=value, outcome=Outcome.CORRECT, answer="yes"),
        metadata={"index": index},
    )


def fill(path: Path, *, samples: int = 5, **changes: object) -> RunSpec:
    spec = make_spec(**changes)
    with RunStore(path) as store:
        store.begin(spec, {})
        store.append(spec.digest, [make_record(i) for i in range(samples)])
        store.finish(spec, Status.DONE, seconds=1.0)
    return spec


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.sqlite"


@given(st.lists(records, max_size=5, unique_by=lambda record: record.sample_id))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_record_comes_back_as_it_went_in(tmp_path, stored):
    """Records survive the store whole and in order, whatever text a model wrote."""
    path = tmp_path / "round.sqlite"
    path.unlink(missing_ok=True)
    spec = make_spec()

    with RunStore(path) as store:
        store.begin(spec, {})
        store.append(spec.digest, stored)
        read = store.records(spec.digest)
        counted = store.verify()

    assert read == stored
    assert counted == len(stored)


def test_a_spec_comes_back_with_its_digest(path):
    """What identifies a run survives the store."""
    spec = fill(path, split=Split.TEST, parameters={"n": 4, "deep": {"list": [1, 2.5, None]}})

    with RunStore(path) as store:
        record = store.run(spec.digest)

    assert record is not None
    assert record.spec == spec
    assert record.spec.digest == spec.digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_json_and_sql_would_bend(path, value):
    """A NaN score would come back as «says nothing»; the whole block is refused instead."""
    spec = fill(path, samples=1)

    with RunStore(path) as store:
        with pytest.raises(ValueError, match="finite"):
            store.append(spec.digest, [make_record(7), make_record(8, value=value)])
        assert store.count(spec.digest) == 1


def test_a_sample_is_stored_once(path):
    """Two processes that run the same thing do no harm: the first record stays."""
    spec = fill(path, samples=3)

    with RunStore(path) as store:
        store.append(spec.digest, [make_record(i, value=0.0) for i in range(5)])
        values = [record.score.value for record in store.records(spec.digest)]
        store.verify()

    assert values == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_a_longer_run_continues_a_shorter_one(path):
    """Samples are not part of a run's identity; being done is judged by how many are there."""
    fill(path, samples=10)

    with RunStore(path) as store:
        assert store.is_done(make_spec(samples=10))
        assert store.is_done(make_spec(samples=4))
        assert not store.is_done(make_spec(samples=11))
        assert not store.is_done(make_spec(seed=1))


def test_a_failed_run_is_tried_again_whatever_it_holds(path):
    """What it holds is not read, so having enough of it is no reason to leave it at that."""
    spec = make_spec(samples=2)
    with RunStore(path) as store:
        store.begin(spec, {})
        store.append(spec.digest, [make_record(0), make_record(1)])
        store.finish(spec, Status.FAILED, seconds=1.0, reason="the worker died")
        assert not store.is_done(spec)
        assert not store.is_done(make_spec(samples=1))

        store.begin(spec, {})
        store.finish(spec, Status.DONE, seconds=1.0)
        assert store.is_done(spec)


def test_a_task_with_fewer_samples_is_done(path):
    """A run that ended with fewer samples than were asked for is not tried again for ever."""
    fill(path, samples=3)

    with RunStore(path) as store:
        assert store.is_done(make_spec(samples=10))


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE samples SET value = 0 WHERE sequence = 3", "record 3: found sample 's2'"),
        ("UPDATE samples SET metadata = '{}' WHERE sequence >= 4", "record 4: found sample 's3'"),
        ("UPDATE samples SET outcome = 'wrong' WHERE sequence = 1", "record 1: found sample 's0'"),
        ("DELETE FROM samples WHERE sequence = 2", "record 2: found sample 's2'"),
        ("DELETE FROM samples WHERE sequence = 5", "record 5: expected 5 records, found 4"),
        ("UPDATE runs SET spec = replace(spec, 'plain', 'other')", "run base"),
    ],
)
def test_verify_names_the_first_altered_record(path, statement, where):
    """A value changed, a row removed or a run relabelled afterwards is found and named."""
    fill(path)
    with RunStore(path) as store:
        assert store.verify() == 5
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()

    with RunStore(path) as store, pytest.raises(StoreError, match=where):
        store.verify()


def test_refuses_another_version_and_changes_nothing(path):
    """A store of another Holdback is refused in one line, byte for byte as it was."""
    fill(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match=f"expected version {VERSION}, got version") as caught:
        RunStore(path)

    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_refuses_a_file_that_is_no_database(path):
    """A path typed wrong does not destroy what lies there."""
    path.write_text("a diary, not a database; " * 100)

    with pytest.raises(StoreError, match="cannot use"):
        RunStore(path)

    assert path.read_text().startswith("a diary")


def test_refuses_another_database(path):
    """Somebody else's SQLite file gets no tables of ours."""
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE diary (entry TEXT)")
    db.close()

    with pytest.raises(StoreError, match="another SQLite database"):
        RunStore(path)


def test_reading_makes_no_file(path):
    """A report over a store that is not there says so, and does not leave an empty one."""
    with pytest.raises(StoreError, match="found none"):
        RunStore(path, create=False)

    assert not path.exists()


def test_writers_from_several_processes(path):
    """Blocks from processes that write at once all arrive, and the chain holds."""
    program = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_store import RunStore, make_record, make_spec
spec = make_spec(seed=int(sys.argv[2]))
with RunStore(Path(sys.argv[1])) as store:
    store.begin(spec, {})
    for block in range(20):
        store.append(spec.digest, [make_record(5 * block + i) for i in range(5)])
"""
    folders = [str(Path(__file__).parent), *sys.path]
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(seed), *folders])
        for seed in range(3)
    ]
    codes = [writer.wait(timeout=60) for writer in writers]

    with RunStore(path) as store:
        counts = [store.count(make_spec(seed=seed).digest) for seed in range(3)]
        assert (codes, counts) == ([0, 0, 0], [100, 100, 100])
        assert store.verify() == 300


def test_an_audit_keeps_its_plan_and_its_runs(path):
    """A report needs the store alone: plan, command and list of runs are in it."""
    spec = fill(path)
    with RunStore(path) as store:
        store.begin_audit("one", plan="{}", command="holdback audit one")
        store.begin_audit("two", plan="{}", command="holdback audit two")
        store.enlist("two", [spec])
        store.enlist("two", [spec, make_spec(seed=1)])
        store.add_seconds("two", 1.5)
        store.add_seconds("two", 2.0)
        latest, earlier = store.audits()

    assert (latest.digest, earlier.digest) == ("two", "one")
    assert latest.specs == (spec, make_spec(seed=1))
    assert latest.seconds == 3.5
