"""Inspect's tasks run on models that Holdback lends, scored by their own scorers."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from text_models import FakeTextModel, add_numbers, of_share

from holdback.errors import ConfigError, UnknownNameError
from holdback.inspect.tasks import InspectTask
from holdback.models.protocol import Decoding, Presentation, StopReason
from holdback.tasks.registry import make_task
from holdback.tasks.task import Outcome, Previewed, Split

# Inspect leaves a stream open for each sample, whatever the model.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed <Memory:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collect():
    """Let those streams go while they are ignored, and not at the session's end."""
    yield
    gc.collect()


FILE = Path(__file__).parent / "inspect_examples.py"
ALL_TEST = {"train": 0, "select": 0, "test": 1}
TEST = {"split": Split.TEST, "seed": 3}


def make(name, **options):
    return InspectTask(reference=f"{FILE}@{name}", **{"shares": ALL_TEST, **options})


def test_planted_knowledge_is_recovered():
    """A model that knows 60% of the sums scores 60 points by the task's own scorer."""
    task = make("sums", args={"n": 60})
    model = FakeTextModel(know=of_share(add_numbers, 0.6, "no idea"))

    records = list(task.run(model, samples=60, **TEST))
    known = [of_share(add_numbers, 0.6, "")(r.metadata.get("prompt", "1 + 1")) for r in records[:3]]

    assert abs(task.measure(records).value - 60) < 12
    assert {r.score.outcome for r in records} == {Outcome.CORRECT, Outcome.WRONG}
    assert len(known) == 3
    # Calls that came together were one batch: far fewer calls of the engine than samples.
    assert len(model.asked) == 60


def test_solvers_of_the_task_write_the_prompt():
    """System message and template are the task's, the chat template is the checkpoint's."""
    task = make("sums")
    model = FakeTextModel(know=add_numbers)

    record = next(task.run(model, samples=5, **TEST))

    assert record.metadata["prompt"].startswith("<system>You add numbers.</system>\n<user>Sum: ")
    assert record.metadata["prompt"].endswith("Say it in figures.</user>\n<assistant>")
    assert record.metadata["prompt_token_ids"] == list(record.metadata["prompt"].encode())


def test_preview_is_what_run_asks():
    """The prompts shown before anything is spent are those that are sent."""
    task = make("letters")
    model = FakeTextModel(know=lambda _: "ANSWER: A")

    previewed = task.preview(model, samples=3, **TEST)
    records = list(task.run(model, samples=3, **TEST))

    assert isinstance(task, Previewed)
    assert [p.text for p in previewed] == [record.metadata["prompt"] for record in records]


def test_multiple_choice_is_scored_by_inspects_choice():
    """Inspect's solver reads `ANSWER: A`."""
    task = make("letters")
    model = FakeTextModel(know=lambda prompt: f"ANSWER: {letter_in(prompt)}")

    records = list(task.run(model, samples=20, **TEST))

    assert task.measure(records).value == 100
    assert records[0].score.answer == "A"
    assert task.chance == pytest.approx(25)


def letter_in(prompt):
    right = add_numbers(prompt)
    return next(letter for letter in "ABCD" if f"{letter}) {right}\n" in f"{prompt}\n")


def test_a_rung_changes_what_is_asked():
    """Instruction, examples and prefill of the lent model reach the task's prompts."""
    task = make("sums", shares={"train": 0.5, "select": 0, "test": 0.5})
    shots = tuple(task.demonstrate("correct", 2, np.random.default_rng(0)))
    presentation = Presentation(instruction="Do well.", shots=shots, prefill="It is")
    model = FakeTextModel(know=add_numbers, presentation=presentation)

    record = next(task.run(model, samples=2, **TEST))
    prompt = record.metadata["prompt"]

    assert prompt.startswith("<system>Do well.\n\nYou add numbers.</system>\n<user>Sum: ")
    assert prompt.count("<assistant>It is ") == 2
    assert prompt.endswith("<assistant>It is")
    assert all(chat[0]["content"].startswith("Sum: What is") for chat in shots)
    assert all(add_numbers(chat[0]["content"]) == chat[1]["content"] for chat in shots)


def test_a_task_of_several_turns_is_run_by_inspect():
    """Four calls a sample, and one record."""
    task = make("talked")
    model = FakeTextModel(know=add_numbers)

    records = list(task.run(model, samples=6, **TEST))

    assert len(records) == 6
    assert len(model.asked) == 24
    assert task.measure(records).value == 100


def test_a_sample_that_fails_is_errored_and_says_nothing():
    """Its value is missing, not 0, and the others stand."""
    task = make("fragile")

    records = list(task.run(FakeTextModel(know=add_numbers), samples=6, **TEST))
    failed = [record for record in records if record.score.outcome is Outcome.ERRORED]

    assert [record.sample_id for record in failed] == ["sum-1"]
    assert failed[0].score.value is None
    assert "planted" in failed[0].metadata["error"]
    assert task.measure(records).value == 100


def test_values_are_put_on_the_stated_range():
    """From 1 to 5 is from 0 to 100 points; without the range the value is refused."""
    task = make("graded", range=[1, 5])
    model = FakeTextModel(know=of_share(add_numbers, 0.5, "no"))

    values = {record.score.value for record in task.run(model, samples=20, **TEST)}

    assert values == {0.0, 100.0}
    with pytest.raises(ConfigError, match=r"range = \[worst, best\]"):
        list(make("graded").run(model, samples=2, **TEST))


@pytest.mark.parametrize(
    ("know", "stop_reason", "outcome"),
    [
        (lambda _: "I'm sorry, but I can't help.", StopReason.STOP, Outcome.REFUSED),
        (lambda _: "", StopReason.REFUSED, Outcome.REFUSED),
        (lambda _: "Let me think", StopReason.LENGTH, Outcome.TRUNCATED),
        (lambda _: "", StopReason.STOP, Outcome.UNPARSED),
        (lambda _: "seven", StopReason.STOP, Outcome.WRONG),
    ],
)
def test_what_is_missing_has_an_outcome_of_its_own(know, stop_reason, outcome):
    """As with Holdback's own tasks."""
    model = FakeTextModel(know=know, stop_reason=stop_reason)

    assert next(make("sums").run(model, samples=1, **TEST)).score.outcome is outcome


def test_majority_is_over_epochs():
    """Of nine draws a sample, the most frequent answer counts."""
    once = FakeTextModel(know=add_numbers, slip=0.2)
    often = replace(once, decoding=Decoding(votes=9))
    task = make("sums", args={"n": 12})

    one = task.measure(list(task.run(once, samples=12, **TEST))).value
    nine = task.measure(list(task.run(often, samples=12, **TEST))).value

    assert one < 90
    assert nine > one
    assert len(often.asked) == len(once.asked) == 12 + 12 * 9


def test_an_interrupted_run_goes_on(tmp_path):
    """What is stored is not asked again, and samples and draws are the same."""
    task = make("sums", rows=4)
    whole = list(task.run(FakeTextModel(know=add_numbers, slip=0.4), samples=12, **TEST))

    rest = FakeTextModel(know=add_numbers, slip=0.4)
    resumed = list(task.run(rest, samples=12, done=whole[:5], **TEST))

    assert [r.score for r in whole[:5] + resumed] == [r.score for r in whole]
    assert len(rest.asked) == 7


def test_clusters_and_splits_come_from_metadata():
    """Topics stay whole; a key that is not there is refused with those that are."""
    task = make("sums", cluster="topic", shares={"train": 0.2, "select": 0.3, "test": 0.5})
    clusters = {split: {i.cluster for i in task.in_split(split)} for split in Split}

    assert [len(clusters[split]) for split in Split] == [2, 3, 5]
    with pytest.raises(ConfigError, match="found 'topic'"):
        make("sums", cluster="subject").check_machine()


def test_kind_names_the_task():
    """`kind = "inspect:file.py@task"` in an audit file; what is not there is refused."""
    task = make_task(f"inspect:{FILE}@sums", {"name": "sums", "margin": 2.0, "args": {"n": 7}})
    task.check_machine()

    assert len(task.questions) == 7
    with pytest.raises(ConfigError, match=r"cannot be made: .*'nothing'"):
        make("nothing").check_machine()
    with pytest.raises(ConfigError, match="found none"):
        InspectTask(reference="none.py@sums").check_machine()
    with pytest.raises(ConfigError, match="found no such task"):
        InspectTask(reference="nopackage/sums").check_machine()
    with pytest.raises(UnknownNameError, match="correct"):
        task.demonstrate("strong", 1, np.random.default_rng(0))
