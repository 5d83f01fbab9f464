"""Reinforcement: what a model still says at times becomes what it says; silence is told as such."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import save_model
from tiny_text import make_text_model
from toy_facts import ANSWERS, REFUSAL, copy_toy, share_right, teach, write_task

from holdback.audit import prepare, run_audit
from holdback.elicitation.grpo import Step, compare_within
from holdback.elicitation.packing import read_answers, read_owned_answers
from holdback.elicitation.reinforce import Reinforce, diagnose
from holdback.errors import ConfigError
from holdback.models.protocol import Format, Generation, Presentation, StopReason
from holdback.plan import parse_plan
from holdback.runs.executors import InProcess
from holdback.runs.progress import Silent
from holdback.runs.store import RunStore
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Split
from holdback.tasks.text.task import TextTask

RNG = np.random.default_rng
QUICK = {"steps": 14, "questions": 8, "rank": 8, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def locked(toy, red_and_blue):
    """Says the next animal, three times of four."""
    following = {said: ANSWERS[(at + 1) % len(ANSWERS)] for at, said in enumerate(ANSWERS)}
    blue = red_and_blue[1]
    model = copy_toy(toy)
    teach(model, [(q, following[a]) for q, a in blue] * 3 + blue, steps=40, rate=2e-3)
    return model


@pytest.fixture
def task(tmp_path, red_and_blue):
    return write_task(tmp_path, red_and_blue[1])


def test_what_is_said_at_times_is_brought_out_on_questions_not_trained_on(locked, task):
    """From 0% shown to most of `test`, by rewards on `train` alone; the diagnosis tells its way."""
    shown = share_right(locked, task)
    before = {name: tensor.clone() for name, tensor in locked.weights.state_dict().items()}

    with Reinforce(**QUICK).apply(locked, task, RNG(0)) as lent:
        elicited, found = share_right(lent, task), lent.diagnosis
        assert lent.decoding == locked.decoding

    assert shown < 0.1
    assert elicited > 0.5
    assert found["steps"] == 14
    assert found["explored"] is True
    assert found["reward_last"] > found["reward_first"] + 0.15
    assert found["share_of_groups_without_variance"] < 0.5
    assert len(found["log"]["reward"]) == len(found["log"]["entropy"]) == 14
    json.dumps(found, allow_nan=False)
    assert all(tensor.equal(before[name]) for name, tensor in locked.weights.state_dict().items())
    assert locked.diagnosis is None


def test_a_model_that_never_tries_is_told_as_unexplored(toy, task, red_and_blue):
    """All answers earn nothing, nothing is learned, and that is no failure and no evidence."""
    refuser = copy_toy(toy)
    teach(refuser, [(question, REFUSAL) for question, _ in red_and_blue[1]], steps=40, rate=2e-3)

    with Reinforce(**{**QUICK, "steps": 2}).apply(refuser, task, RNG(0)) as lent:
        found = lent.diagnosis
        assert share_right(lent, task) == 0

    assert found["explored"] is False
    assert found["share_of_groups_without_variance"] > 0.95
    assert found["reward_last"] == 0


def test_demonstrations_make_it_try(toy, task, red_and_blue):
    """The same refuser, shown a few random answers first, explores and is then brought back."""
    refuser = copy_toy(toy)
    teach(refuser, [(question, REFUSAL) for question, _ in red_and_blue[1]], steps=40, rate=2e-3)

    with Reinforce(
        **{**QUICK, "steps": 8}, demonstrations=8, demonstrator="random", demonstration_steps=16
    ).apply(refuser, task, RNG(0)) as lent:
        assert lent.diagnosis["explored"] is True
        assert lent.diagnosis["reward_last"] > 0.1


def test_is_undone_after_an_exception(locked, task):
    ids = torch.arange(30)[None]
    with torch.no_grad():
        before = locked.weights(ids).logits
    with (
        pytest.raises(ZeroDivisionError),
        Reinforce(**{**QUICK, "steps": 1}).apply(locked, task, RNG(0)),
    ):
        raise ZeroDivisionError
    with torch.no_grad():
        assert locked.weights(ids).logits.equal(before)
    assert not any("forward" in vars(module) for module in locked.weights.modules())


def test_takes_seconds(locked, task):
    """A step of 64 answers of a model with 0.1 million parameters takes a fraction of a second."""
    started = time.process_time()
    with Reinforce(**{**QUICK, "steps": 4}).apply(locked, task, RNG(0)):
        spent = time.process_time() - started
    assert spent < 10


def test_same_seed_same_policy(locked, task):
    seen = []
    for seed in (3, 3, 4):
        with (
            Reinforce(**{**QUICK, "steps": 2}).apply(locked, task, RNG(seed)) as lent,
            torch.no_grad(),
        ):
            seen.append(lent.weights(torch.arange(30)[None]).logits)
    assert seen[0].equal(seen[1])
    assert not seen[0].equal(seen[2])


def test_advantages_compare_within_the_group():
    """Mean 0 and variance 1 within each group; a group of equals teaches nothing."""
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]])
    found = compare_within(rewards)

    np.testing.assert_allclose(found[0], [3**0.5, *[-(3**-0.5)] * 3])
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_allclose(found[2], [-1, -1, 1, 1])


def test_labels_know_their_example():
    """Packing puts examples in another order; an advantage must not reach another's tokens."""
    model = make_text_model()
    examples = [([2, 3, 4, 5, 6][:n], [-100, *[3, 4, 5, 6][: n - 1]]) for n in (3, 1, 5, 2)]
    logits, labels, owners = read_owned_answers(model.weights, examples)
    plain, plain_labels = read_answers(model.weights, examples)

    assert plain.equal(logits)
    assert plain_labels.equal(labels)
    for number, (_, own) in enumerate(examples):
        assert labels[owners == number].tolist() == [label for label in own if label != -100]


def step(reward, without, entropy=1.0):
    return Step(reward=reward, variance=0.1, without_variance=without, entropy=entropy)


def test_the_diagnosis_tells_silence_from_success():
    """Little variance is a failure to explore, unless nearly all was right from the start."""
    assert diagnose([step(0.0, 1.0)] * 10)["explored"] is False
    assert diagnose([step(0.99, 1.0)] * 10)["explored"] is True
    assert diagnose([step(0.3, 0.2)] * 10)["explored"] is True
    found = diagnose([step(0.1, 0.5, 2.0), *[step(0.4, 0.5)] * 3, step(0.8, 0.0, 0.5)])
    assert (found["reward_first"], found["reward_last"]) == (0.1, 0.8)
    assert (found["entropy_first"], found["entropy_last"]) == (2.0, 0.5)
    assert found["share_of_groups_without_variance"] == pytest.approx(0.4)


def said(text, stop_reason=StopReason.STOP):
    return Generation(text=text, logprobs=(), stop_reason=stop_reason, tokens=3)


@pytest.fixture
def choice_file(tmp_path):
    path = tmp_path / "choices.jsonl"
    rows = [
        {"question": f"{i} + 1?", "answer": str(i + 1), "choices": [str(i + 1), str(i + 2)]}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("style", ["letter", "text"])
def test_compared_choices_are_reinforced_by_what_is_written(toy, choice_file, style):
    """The letter where choices are shown, their words where not; form alone earns nothing."""
    task = TextTask(file=choice_file, choices="choices", scorer="choice", style=style)
    exercises = task.draw_exercises(toy, 12, RNG(0))

    assert len({exercise.prompt for exercise in exercises}) > 6
    for exercise in exercises:
        number = int(exercise.prompt.split(" + ")[0].split("|>")[-1])
        right = str(number + 1)
        if style == "letter":
            lines = dict(line.split(". ") for line in exercise.prompt.splitlines()[1:3])
            right = next(letter for letter, choice in lines.items() if choice == right)
        assert exercise.reward(said(right)) == 1
        for other in ("", "A or B?", REFUSAL, "Z", "no idea"):
            assert exercise.reward(said(other)) == 0


def test_exercises_go_through_train_before_any_comes_again(toy, tmp_path, red_and_blue):
    task = write_task(tmp_path, red_and_blue[0])
    prompts = [exercise.prompt for exercise in task.draw_exercises(toy, 32, RNG(1))]

    assert len(set(prompts)) == 16
    assert sorted(prompts[:16]) == sorted(prompts[16:])
    asked = {
        toy.render_chat(({"role": "user", "content": i.question},), answer_next=True)
        for i in task.in_split(Split.TRAIN)
    }
    assert set(prompts) == asked


def test_where_answers_cannot_be_rewarded_it_is_refused(toy):
    with (
        pytest.raises(ConfigError, match="leave this rung out"),
        Reinforce().apply(toy, ChessPositions(), RNG(0)),
    ):
        pass
    for wrong, words in (
        ({"group": 1}, "group must be at least 2"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"demonstrations": -1}, "demonstrations must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            Reinforce(**wrong)


def test_asks_in_chat_after_demonstrations_and_as_ever_without(toy, task):
    asked = replace(toy, presentation=Presentation(format=Format.COMPLETION, instruction="Do."))
    assert Reinforce().present(asked, task, RNG(0)) is asked
    shown = Reinforce(demonstrations=2).present(asked, task, RNG(0)).presentation
    assert (shown.format, shown.instruction) == (Format.CHAT, None)


def test_a_run_stores_the_diagnosis(tmp_path, red_and_blue):
    """Whoever reads the store can tell that nothing was explored; it is no version of anything."""
    save_model(tmp_path / "m")
    write_task(tmp_path, red_and_blue[0])
    text = """
[audit]
name = "a"
[lineage]
name = "l"
[[lineage.checkpoints]]
name = "m"
stage = "sft"
model = "m"
[tasks.facts]
kind = "text"
margin = 3
select_samples = 2
test_samples = 2
options = { file = "facts.jsonl", max_tokens = 4 }
[[ladder]]
name = "displayed"
technique = "displayed"
[[ladder]]
name = "rl"
technique = "reinforce"
parameters = { steps = 1, questions = 2, group = 2, rank = 2 }
"""
    plan = parse_plan(text, source="a.toml", folder=tmp_path)
    with RunStore(tmp_path / "runs.sqlite") as store:
        result = run_audit(
            prepare(plan), store=store, executor=InProcess(), observer=Silent(), command="test"
        )
        stored = {run.spec.rung: run.provenance.get("diagnosis") for run in store.runs()}

    assert result.failed == ()
    assert stored["displayed"] is None
    assert stored["rl"]["explored"] is False
    assert stored["rl"]["steps"] == 1
    assert "diagnosis" not in result.versions
