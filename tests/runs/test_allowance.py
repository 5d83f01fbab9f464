"""Caps are hard: never passed, nothing lost, and the same call without them goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audits import fake_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from holdback.audit import prepare, run_audit
from holdback.errors import ConfigError, LimitReachedError
from holdback.runs.allowance import Allowance
from holdback.runs.execution import execute
from holdback.runs.executors import InProcess, LocalWorkers
from holdback.runs.jobs import Scored
from holdback.runs.progress import Silent
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import Split

FEW = (
    ("select_samples = 200", "select_samples = 12"),
    ("test_samples = 600", "test_samples = 20"),
)
TOKENS_A_SAMPLE = 10
"""Of the fake questions: eight that are read and two that may be answered."""


class Counting(Silent):
    def __init__(self) -> None:
        self.samples = 0

    def note(self, spec, event):
        if isinstance(event, Scored):
            self.samples += len(event.records)


def audit(path, *, plan=None, executor=None, **caps):
    counting, allowance = Counting(), Allowance(**caps)
    with RunStore(path) as store, executor or InProcess() as performing:
        result = run_audit(
            prepare(plan or fake_plan(*FEW)),
            store=store,
            executor=performing,
            observer=counting,
            command="test",
            allowance=allowance,
        )
        store.verify()
    return result, counting.samples, allowance


def test_samples_stop_at_the_cap_and_go_on_without_it(tmp_path):
    """Exactly so many, in pieces of any size; the end is that of an audit in one go."""
    whole, total, untouched = audit(tmp_path / "whole.sqlite")
    path = tmp_path / "cut.sqlite"

    spent = []
    for cap in (1, 17, 100):
        result, samples, allowance = audit(path, samples=cap)
        spent.append(samples)
        assert allowance.reached == f"--max-samples {cap}"
        assert any("are unfinished" in remark for remark in result.remarks)
    result, samples, allowance = audit(path)

    assert untouched.reached == allowance.reached == ""
    assert spent == [1, 17, 100]
    assert sum(spent) + samples == total
    assert result.findings == whole.findings


def test_workers_stop_at_the_cap_too(tmp_path):
    """Granted before the work is given out: no number of processes passes it."""
    _, samples, allowance = audit(tmp_path / "runs.sqlite", executor=LocalWorkers(2), samples=17)

    assert (samples, allowance.reached) == (17, "--max-samples 17")


# Every technique of it says how it asks.
BOUNDED = (
    *FEW,
    ('[[ladder]]\nname = "half"\ntechnique = "fake_unlock"\nparameters = { share = 0.5 }\n', ""),
    ('skip = ["half"]', ""),
)


def test_a_cap_that_suffices_is_not_reached(tmp_path):
    """As many samples as there are to be had: the audit is whole."""
    plan = fake_plan(*BOUNDED)
    _, total, _ = audit(tmp_path / "a.sqlite", plan=plan)
    result, samples, allowance = audit(
        tmp_path / "b.sqlite",
        plan=plan,
        samples=total,
        tokens=total * TOKENS_A_SAMPLE,
        minutes=60,
    )

    assert (samples, allowance.reached) == (total, "")
    assert not any("unfinished" in remark for remark in result.remarks)


def test_tokens_are_never_passed(tmp_path):
    """Bounds are granted before anything is asked."""
    plan = fake_plan(*BOUNDED)

    _, samples, allowance = audit(tmp_path / "runs.sqlite", plan=plan, tokens=255)

    assert samples == 255 // TOKENS_A_SAMPLE
    assert allowance.reached == "--max-tokens 255"


def test_tokens_that_nobody_can_bound_are_refused(tmp_path):
    """A technique that does not say how it asks: no cap is pretended."""
    with pytest.raises(ConfigError, match=r"--max-tokens: the tokens of .* half .*--max-samples"):
        audit(tmp_path / "runs.sqlite", tokens=100_000)


def test_time_stops_between_blocks(tmp_path):
    """No time left: nothing is begun; what a later command finds missing it does."""
    path = tmp_path / "runs.sqlite"
    _, samples, allowance = audit(path, minutes=0)
    assert (samples, allowance.reached) == (0, "--max-minutes 0")

    slow = fake_plan(*FEW, ("margin = 3", "margin = 3\noptions = { delay_seconds = 0.4 }"))
    _, samples, allowance = audit(path, plan=slow, minutes=3 / 60)
    assert 0 < samples < 12
    assert allowance.reached == "--max-minutes 0.05"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 200))
def test_grants_add_up(sizes, cap):
    """Whatever is asked for, what is granted is the cap or all of it, in order."""
    plan = fake_plan()
    resolved = Resolved(plan=plan, digests={"base": "d"})
    (first, *_) = resolved.list_runs({("base", "questions"): ["displayed"]}, Split.SELECT)
    specs = [replace(first, seed=i, samples=size) for i, size in enumerate(sizes)]
    allowance = Allowance(samples=cap)

    granted = allowance.grant(specs, resolved=resolved, done={})

    assert sum(spec.samples for spec in granted) == min(cap, sum(sizes))
    assert bool(allowance.reached) == (cap < sum(sizes))
    assert all(spec.samples == sizes[spec.seed] for spec in granted[:-1])


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 11), st.integers(1, 12))
def test_a_short_run_after_a_cut_off_longer_one_is_no_long_one(tmp_path_factory, cut, short):
    """A run cut off in its middle and then asked for less is done with less, and not with all.

    Otherwise `--quick`, or a cap, after an interruption would make half a run pass for a whole.
    """
    plan = fake_plan(*FEW)
    resolved = prepare(plan)
    (spec,) = resolved.list_runs({("base", "questions"): ["displayed"]}, Split.SELECT)
    with RunStore(tmp_path_factory.mktemp("s") / "runs.sqlite") as store:
        store.begin(spec, {})
        bench = InProcess()
        for samples in (cut, short):
            execute(
                [replace(spec, samples=samples)],
                resolved=resolved,
                store=store,
                executor=bench,
                observer=Silent(),
            )
        assert store.is_done(spec) == (max(cut, short) >= spec.samples)
        execute([spec], resolved=resolved, store=store, executor=bench, observer=Silent())
        assert store.count(spec.digest) == 12
        assert store.is_done(spec)


def test_a_providers_cap_stops_and_fails_nothing(tmp_path, monkeypatch):
    """What the environment allows is used up: the runs are unfinished, not failed."""
    from holdback_fakes import Plain

    def stop(self, model, task, rng):
        raise LimitReachedError("expected to stay below the cap of 5 tokens")

    path = tmp_path / "runs.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(Plain, "apply", stop)
        result, _, allowance = audit(path)
    assert "cap of 5 tokens" in allowance.reached
    assert result.failed == ()

    result, _, allowance = audit(path)
    assert allowance.reached == ""
    assert result.failed == ()


def test_what_an_endpoint_was_asked_is_stored_with_the_run(tmp_path, monkeypatch):
    """Requests and retries by run, one entry a session, read from the model's own count."""
    import holdback_fakes

    from holdback.models.connection import Usage

    usage = Usage()

    def load(checkpoint):
        model = holdback_fakes.load_fake(checkpoint)
        object.__setattr__(model, "usage", usage)
        return model

    real = holdback_fakes.Questions.run

    def run(self, model, **options):
        for record in real(self, model, **options):
            usage.requests += 1
            usage.retries["429"] += 2
            yield record

    monkeypatch.setattr(holdback_fakes.Questions, "run", run)
    monkeypatch.setattr("holdback.runs.jobs.load_checkpoint", load)
    path = tmp_path / "runs.sqlite"
    audit(path, samples=5)
    audit(path)

    with RunStore(path) as store:
        runs = [store.run(spec.digest) for spec in store.audits()[0].specs]
    sessions = [
        [part["usage"] for part in run.stretches if "usage" in part]
        for run in runs
        if run.status is Status.DONE
    ]
    assert {sum(part["requests"] for part in each) for each in sessions} == {12, 20}
    assert max(len(each) for each in sessions) == 2
    assert all(part["retries"] == {"429": 2 * part["requests"]} for e in sessions for part in e)
