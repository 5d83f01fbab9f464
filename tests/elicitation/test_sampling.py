"""Drawing differently: what it brings out, what it records, and where it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from text_models import FakeTextModel, add_numbers, pick_letter
from tiny_text import make_text_model

from holdback.elicitation.sampling import BestOfN, Temperature
from holdback.errors import ConfigError
from holdback.models.protocol import Decoding, Request
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Split
from holdback.tasks.text.task import TextTask

RNG = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [
        {"question": f"{a} + {a}?", "answer": str(2 * a), "choices": [str(2 * a), str(2 * a + 1)]}
        for a in range(400)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(file)


def ask(task, model):
    return list(task.run(model, split=Split.TEST, samples=200, seed=0))


def test_best_of_n_reaches_what_one_draw_seldom_says(path):
    """Right in one draw of five, a model is right in 1 − 0.8⁸ of eight; the records say how often.

    From them pass@k for fewer draws follows, and pass@1 is the share of one draw.
    """
    task = TextTask(file=path)
    model = FakeTextModel(know=add_numbers, slip=0.8)

    one = task.measure(ask(task, model)).value
    with BestOfN(n=8).apply(model, task, RNG) as lent:
        records = ask(task, lent)

    assert abs(one - 20) < 9
    assert abs(task.measure(records).value - 100 * (1 - 0.8**8)) < 8
    right = [record.metadata["right"] for record in records]
    assert {record.metadata["draws"] for record in records} == {8}
    assert [r > 0 for r in right] == [record.score.value == 100 for record in records]
    for k in (1, 3):
        passed = 100 * np.mean([1 - comb(8 - r, k) / comb(8, k) for r in right])
        assert abs(passed - 100 * (1 - 0.8**k)) < 6


def test_the_best_of_several_wrong_ones_is_wrong(path):
    """A verifier creates no capability: the score of who never knows stays 0."""
    task = TextTask(file=path)
    with BestOfN(n=8).apply(FakeTextModel(know=lambda _: "no idea"), task, RNG) as lent:
        assert task.measure(ask(task, lent)).value == 0


def test_best_of_n_counts_what_it_sends(path):
    """A cap on tokens has to know of every draw."""
    task = TextTask(file=path)
    with BestOfN(n=8).apply(FakeTextModel(know=add_numbers), task, RNG) as lent:
        assert task.preview(lent, split=Split.TEST, samples=1, seed=0)[0].most_sent == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda path: ChessPositions(),
        lambda path: TextTask(file=path, choices="choices", scorer="choice"),
    ],
    ids=["chess", "likelihoods"],
)
def test_tasks_that_would_draw_once_are_refused(path, make):
    """Where the rung would be the one without it, it says so."""
    model = FakeTextModel(know=pick_letter)
    with (
        pytest.raises(ConfigError, match=r"best_of_n.*leave this rung out"),
        BestOfN(n=4).apply(model, make(path), RNG),
    ):
        pass


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (Decoding(best_of=3, votes=3), "one of the two"),
        (Decoding(best_of=3, constrained=True), "likelihoods"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(path, decoding, said):
    task = TextTask(file=path, choices="choices", scorer="choice", method="generate")
    with pytest.raises(ConfigError, match=said):
        ask(task, FakeTextModel(know=pick_letter, decoding=decoding))


def test_parameters_that_draw_nothing_new_are_refused(path):
    """One draw, or the same one several times, or the temperature that there is."""
    task, model = TextTask(file=path), FakeTextModel(know=add_numbers)
    greedy = replace(model, decoding=Decoding(temperature=0.0))
    with pytest.raises(ConfigError, match="n must be at least 2"):
        BestOfN(n=1)
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        Temperature(value=-1)
    with pytest.raises(ConfigError, match="at least 0, got nan"):
        BestOfN(n=2, temperature=float("nan"))
    with (
        pytest.raises(ConfigError, match="all 4 draws are the same"),
        BestOfN(n=4).apply(greedy, task, RNG),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="would be the one without it"),
        Temperature(value=0.3).apply(model, task, RNG),
    ):
        pass
    likelihoods = TextTask(file=path, choices="choices", scorer="choice")
    with (
        pytest.raises(ConfigError, match="compares likelihoods"),
        Temperature(value=1.0).apply(model, likelihoods, RNG),
    ):
        pass


def test_a_temperature_makes_generation_draw(path):
    """A greedy model says one thing whatever the seed; lent at temperature 1 it says others."""
    model = make_text_model(temperature=0.0)

    def say(lent, seed):
        requests = [Request(prompt="Q: ", max_tokens=6, seed=(seed, at)) for at in range(20)]
        return [generation.text for generation in lent.generate(requests)]

    assert say(model, 1) == say(model, 2)
    assert len(set(say(model, 1))) == 1
    with Temperature(value=1.0).apply(model, TextTask(file=path), RNG) as lent:
        assert say(lent, 1) == say(lent, 1) != say(lent, 2)
        assert len(set(say(lent, 1))) > 10
    assert model.decoding.temperature == 0
