"""What `plan --time` measures enters its forecast."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from audits import fake_plan

from holdback.elicitation.technique import Access
from holdback.errors import CheckpointError
from holdback.plan import Rung
from holdback.runs.forecast import forecast
from holdback.runs.resolve import Resolved
from holdback.runs.timing import apply_timings, time_techniques

SLOW_SECONDS = 0.3
APPLIED: list[int] = []


@dataclass(frozen=True, kw_only=True)
class SlowTeach:
    """Takes its time before the model is lent."""

    n: int
    demonstrator: str = "strong"
    steps: int = 1
    access = Access.WEIGHTS
    draws = False

    @contextmanager
    def apply(self, model, task, rng):
        APPLIED.append(self.n)
        if self.steps > 2:
            raise CheckpointError("no output changed")
        time.sleep(SLOW_SECONDS * self.steps)
        yield model


def add_rungs(*rungs: str):
    text = "\n\n".join(
        f'[[ladder]]\nname = "{name}"\ntechnique = "slow_teach"\nparameters = {{ {given} }}'
        for name, given in (rung.split(": ") for rung in rungs)
    )
    return fake_plan(("[budget]", f"{text}\n\n[budget]"))


def minutes(plan, name):
    rows = forecast(Resolved(plan=plan)).rows
    return sum(row.minutes / row.runs for row in rows if row.rung == name and row.split == "select")


def test_training_is_timed_once_and_forecast():
    """By the rung with the most demonstrations, for all that differ in these alone."""
    plan = add_rungs("few: n = 4", "many: n = 64", "longer: n = 4, steps = 2")
    APPLIED.clear()

    applications = time_techniques(Resolved(plan=plan))
    timed = apply_timings(plan, [], applications)

    found = {done.rungs: done.seconds for done in applications}
    assert found["few", "many"] == pytest.approx(SLOW_SECONDS, rel=0.5)
    assert found["longer",] == pytest.approx(2 * SLOW_SECONDS, rel=0.5)
    assert APPLIED == [64, 4]
    for name, seconds in (("few", found["few", "many"]), ("longer", found["longer",])):
        assert 60 * (minutes(timed, name) - minutes(plan, name)) == pytest.approx(seconds)


def test_what_the_file_says_stands():
    """Rungs whose time is written are not applied for it."""
    plan = fake_plan()
    rungs = {rung.name for rung in plan.ladder if rung.seconds}

    applications = time_techniques(Resolved(plan=plan))

    assert rungs
    assert not rungs & {name for done in applications for name in done.rungs}
    assert apply_timings(plan, [], applications).rung("strong-4").seconds == 5


def test_what_cannot_be_applied_is_said():
    """Its time is missing with the reason, and the others' are there."""
    plan = add_rungs("broken: n = 4, steps = 3", "few: n = 4")

    done = {d.rungs[0]: d for d in time_techniques(Resolved(plan=plan))}

    assert done["broken"].seconds is None
    assert "no output changed" in done["broken"].reason
    assert done["few"].seconds is not None
    assert isinstance(plan.rung("few"), Rung)
