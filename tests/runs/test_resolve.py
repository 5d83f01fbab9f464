"""From a plan to what is climbed: by access, and by what a checkpoint can be told."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from audits import fake_plan
from fake_hub import COMMIT, add_repo
from tiny_models import save_model

import holdback.elicitation
from holdback.audit import prepare, run_audit
from holdback.runs.executors import InProcess
from holdback.runs.forecast import forecast
from holdback.runs.progress import Silent
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunStore
from holdback.tasks.task import Split
from holdback.verdict import Verdict

CLOSED = ('model = "fake:0.3/0.8"', 'model = "closed:0.3/0.8"')
FEW = (
    ("select_samples = 200", "select_samples = 60"),
    ("test_samples = 600", "test_samples = 120"),
)
ALSO_PLAIN = (
    '[[ladder]]\nname = "half"',
    '[[ladder]]\nname = "again"\ntechnique = "majority"\nparameters = { votes = 3 }\n\n'
    '[[ladder]]\nname = "half"',
)


def audit(plan, path):
    with RunStore(path) as store:
        return run_audit(
            prepare(plan), store=store, executor=InProcess(), observer=Silent(), command="test"
        )


def pin(plan):
    return Resolved(plan=plan).identified().plan


def test_every_technique_is_declared():
    """Whatever can be applied is an entry point, as a stranger's would be, and each loads."""
    folder = Path(holdback.elicitation.__file__).parent
    modules = [import_module(f"holdback.elicitation.{f.stem}") for f in folder.glob("[!_]*.py")]
    made = {
        thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__ == module.__name__
        if hasattr(thing, "apply") and is_dataclass(thing)
    }

    declared = entry_points(group="holdback.techniques")

    assert {point.load() for point in declared if point.module.startswith("holdback.")} == made


def test_a_checkpoint_climbs_what_its_access_allows():
    """What needs weights is left out for the one behind a door, and for nobody else."""
    plan = fake_plan(CLOSED, ALSO_PLAIN)
    resolved = Resolved(plan=plan)
    climbed, skipped = resolved.climbs, forecast(resolved).skipped

    assert climbed["sandbagger", "questions"] == ["displayed", "again"]
    assert climbed["sham", "questions"] == ["displayed", "again", "half", "strong-4", "strong-16"]
    assert {(skip.checkpoint, skip.rung) for skip in skipped} == {
        ("sandbagger", rung) for rung in ("half", "strong-4", "strong-16")
    }
    assert {skip.reason for skip in skipped} == {
        "needs weights, and of this checkpoint there are samples"
    }


def test_the_report_says_what_was_not_climbed(tmp_path):
    """A finding on fewer rungs stands beside the sentence that says so; nothing fails."""
    result = audit(fake_plan(CLOSED, ALSO_PLAIN, *FEW), tmp_path / "runs.sqlite")

    assert result.failed == ()
    assert any(
        "sandbagger on questions: not climbed: half, strong-4, strong-16: each needs weights" in r
        for r in result.remarks
    )
    rungs = {r.rung for r in result.rungs if r.checkpoint == "sandbagger"}
    assert rungs == {"displayed", "again"}


def test_no_rung_left_is_inconclusive_with_the_reason(tmp_path):
    """Only the ordinary protocol goes with samples: it is measured, and no gap is made up."""
    result = audit(fake_plan(CLOSED, *FEW), tmp_path / "runs.sqlite")
    finding = next(f for f in result.findings if f.checkpoint == "sandbagger")

    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.displayed.n == 120
    assert finding.reasons[0].startswith("nothing could be elicited: no rung but 'displayed'")
    splits = {r.split for r in result.rungs if r.checkpoint == "sandbagger"}
    assert splits == {Split.SELECT, Split.TEST}


def test_a_task_can_need_more_than_a_checkpoint_gives(monkeypatch, tmp_path):
    """Likelihoods of choices from a chat endpoint: the task is left out there, and said to be."""
    from holdback_fakes import Questions

    monkeypatch.setattr(Questions, "access", "logprobs", raising=False)
    plan = fake_plan(CLOSED, ALSO_PLAIN, *FEW)

    assert Resolved(plan=plan).climbs["sandbagger", "questions"] == []
    result = audit(plan, tmp_path / "runs.sqlite")
    assert "sandbagger" not in {finding.checkpoint for finding in result.findings}
    assert any("not climbed: displayed, again" in remark for remark in result.remarks)


def test_answers_alone_cannot_be_constrained():
    """A raw endpoint gives log-probabilities of texts, and none step by step: said beforehand."""
    remote = 'model = "openai-api/lab/m"\nbase_url = "http://127.0.0.1:9/v1"\nchat = false'
    constrained = '[[ladder]]\nname = "only"\ntechnique = "constrained"\n\n[budget]'
    plan = fake_plan(('model = "fake:0.3/0.8"', remote), ("[budget]", constrained))

    skipped = {(s.checkpoint, s.rung): s.reason for s in Resolved(plan=plan).skips}

    assert "log-probabilities at every step" in skipped["sandbagger", "only"]
    assert "only" in Resolved(plan=plan).climbs["sham", "questions"]


ENGINE = (
    ('model = "fake:0.3/0.8"', 'model = "uci/stockfish?nodes=10"'),
    ("[budget]", '[[ladder]]\nname = "told"\ntechnique = "instruction"\n'
     'parameters = { text = "win" }\n\n[[ladder]]\nname = "shots"\ntechnique = "few_shot"\n'
     'parameters = { n = 2, demonstrator = "strong" }\n\n[[ladder]]\nname = "voted"\n'
     'technique = "majority"\nparameters = { votes = 3 }\n\n[[ladder]]\nname = "begun"\n'
     'technique = "prefix"\nparameters = { plies = 4 }\n\n[budget]'),
)  # fmt: skip


def test_an_engine_is_told_nothing():
    """Positions are all that it is given: what changes words is left out, what does not stays."""
    plan = fake_plan(*ENGINE)
    reasons = {skip.rung: skip.reason for skip in Resolved(plan=plan).skips}

    assert reasons["told"] == reasons["shots"]
    assert "an engine is given positions" in reasons["told"]
    assert "weights" in reasons["half"]
    assert Resolved(plan=plan).climbs["sandbagger", "questions"] == [
        "displayed",
        "voted",
        "begun",
    ]


def test_the_stored_plan_names_commits(tmp_path, monkeypatch):
    """A branch is resolved before anything runs; the plan that is stored says to what."""
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    add_repo(tmp_path / "hub", "org/tiny", save_model(tmp_path / "tiny"))
    plan = fake_plan(('model = "fake:0.3/0.8"', 'model = "hf/org/tiny"\nrevision = "main"'))

    pinned = pin(plan)

    assert pinned.lineage.checkpoints[1].revision == COMMIT
    assert pin(pinned) == pinned
    assert prepare(plan).plan == pinned
    assert pin(fake_plan()) == fake_plan()


@pytest.mark.parametrize("split", list(Split)[1:])
def test_a_forecast_counts_only_what_is_climbed(split):
    """Runs that are left out cost nothing."""
    plan = fake_plan(CLOSED)
    full = forecast(Resolved(plan=fake_plan()))
    less = forecast(Resolved(plan=plan))

    def count(expected):
        return sum(row.runs for row in expected.rows if row.split is split)

    assert count(full) - count(less) == (7 if split is Split.SELECT else 3)
