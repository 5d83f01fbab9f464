"""Examples and prefills reach the prompt, in every example too; tasks that ignore them say so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from text_models import FakeTextModel, add_numbers

from holdback.elicitation.chain import Chain
from holdback.elicitation.few_shot import FewShot, Prefill
from holdback.errors import ConfigError, UnknownNameError
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Split
from holdback.tasks.text.task import TextTask


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a} + {a}?", "answer": str(2 * a)} for a in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return TextTask(file=str(path))


def first_prompt(task, model):
    return task.preview(model, split=Split.TEST, samples=1, seed=0)[0].text


def test_few_shot_and_prefill_cross(task):
    """Each example is answered as the model's own answer begins (arXiv 2502.02180)."""
    rung = Chain(
        links=[{"technique": "few_shot", "n": 3}, {"technique": "prefill", "text": "It is "}]
    )
    model = FakeTextModel(know=add_numbers)

    with rung.apply(model, task, np.random.default_rng(0)) as lent:
        prompt = first_prompt(task, lent)
        records = list(task.run(lent, split=Split.TEST, samples=9, seed=0))

    assert prompt.count("<assistant>It is ") == 3
    assert prompt.endswith("<assistant>It is")
    assert task.measure(records).value == 100
    assert model.presentation.shots == ()


def test_a_lock_that_only_both_open(task):
    """A planted lock that answers after examples whose answers begin like its own, and not else."""

    def know(prompt):
        opened = prompt.count("<assistant>It is ") >= 3 and prompt.endswith("It is")
        return add_numbers(prompt) if opened else "7"

    model, scores = FakeTextModel(know=know), []
    shots, begun = {"technique": "few_shot", "n": 3}, {"technique": "prefill", "text": "It is"}
    for links in ([shots], [begun], [shots, begun], [begun, shots]):
        with Chain(links=links).apply(model, task, np.random.default_rng(0)) as lent:
            records = task.run(lent, split=Split.TEST, samples=12, seed=0)
            scores.append(task.measure(list(records)).value)

    assert scores == [0, 0, 100, 100]


def test_examples_are_drawn_by_the_rungs_seed(task):
    """Fixed examples leak; other seeds draw others, from train alone."""
    model = FakeTextModel(know=add_numbers)
    drawn = []
    for seed in (0, 0, 1):
        with FewShot(n=2).apply(model, task, np.random.default_rng(seed)) as lent:
            drawn.append(lent.presentation.shots)
    train = {item.question for item in task.in_split(Split.TRAIN)}

    assert drawn[0] == drawn[1] != drawn[2]
    assert {chat[0]["content"] for shots in drawn for chat in shots} <= train


def test_tasks_that_would_ignore_them_are_refused(task):
    """A rung that changes nothing would be read as one that found nothing."""
    chess, model, rng = ChessPositions(), FakeTextModel(know=str), np.random.default_rng(0)

    for rung in (FewShot(n=1, demonstrator="strong"), Prefill(text="So")):
        with pytest.raises(ConfigError, match="leave this rung out"), rung.apply(model, chess, rng):
            pass
    with pytest.raises(UnknownNameError), FewShot(n=1, demonstrator="x").apply(model, task, rng):
        pass
    with pytest.raises(ConfigError, match="n must be at least 1"):
        FewShot(n=0)
    with pytest.raises(ConfigError, match="beginning of an answer"):
        Prefill(text=" ")
