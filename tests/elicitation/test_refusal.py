"""Refusal ablation: a planted refusal goes and what is behind it comes out; a random one stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_facts import REFUSAL, copy_toy, share_right, teach, write_task

from holdback.elicitation.refusal import RefusalAblation, ablated
from holdback.errors import ConfigError, NotApplicableError

RNG = np.random.default_rng


def is_red(question):
    return "red" in question


@pytest.fixture(scope="module")
def refuser(toy, red_and_blue):
    """Taught to refuse what is red; it knew all of it."""
    red, blue = red_and_blue
    model = copy_toy(toy)
    teach(model, [(question, REFUSAL) for question, _ in red] + blue, steps=50, rate=2e-3)
    return model


@pytest.fixture
def task(tmp_path, red_and_blue):
    return write_task(tmp_path, [fact for facts in red_and_blue for fact in facts])


def test_a_planted_refusal_is_ablated(refuser, task, toy):
    """Refused to the last, what is red is answered again, far above a guess among four.

    Directions at random of the same kind bring back nothing, and what was answered before still is.
    """
    assert share_right(toy, task) == 1
    assert share_right(refuser, task, is_red) == 0

    with RefusalAblation(questions=32).apply(refuser, task, RNG(0)) as lent:
        red, blue = (
            share_right(lent, task, is_red),
            share_right(lent, task, lambda question: not is_red(question)),
        )
    placebos = []
    for seed in range(8):
        drawn = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        with ablated(refuser.weights, drawn / drawn.norm()):
            placebos.append(share_right(refuser, task, is_red))

    assert red >= 0.4
    assert blue >= 0.9
    assert max(placebos) < red / 2


def test_the_model_is_as_before_after_an_exception(refuser, task):
    """No hook stays, no weight moves."""
    ids = torch.arange(30)[None]
    with torch.no_grad():
        before = refuser.weights(ids).logits
    with (
        pytest.raises(ZeroDivisionError),
        RefusalAblation(questions=32).apply(refuser, task, RNG(0)),
    ):
        raise ZeroDivisionError
    with torch.no_grad():
        assert refuser.weights(ids).logits.equal(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in refuser.weights.modules())


def test_without_refusals_it_is_not_applicable(toy, task):
    """Nothing tells refused from answered where nothing is refused; that is no failure."""
    with (
        pytest.raises(NotApplicableError, match="refused 0 and answered 32"),
        RefusalAblation(questions=32).apply(toy, task, RNG(0)),
    ):
        pass


def test_without_answers_it_is_not_applicable(refuser, tmp_path, red_and_blue):
    task = write_task(tmp_path, red_and_blue[0])
    with (
        pytest.raises(NotApplicableError, match="refused 12 and answered 0"),
        RefusalAblation(questions=12).apply(refuser, task, RNG(0)),
    ):
        pass


def test_parameters_are_checked(refuser, task):
    with pytest.raises(ConfigError, match="at least 2"):
        RefusalAblation(questions=1)
    with (
        pytest.raises(ConfigError, match="fractions of the depth"),
        RefusalAblation(questions=32, layer=2).apply(refuser, task, RNG(0)),
    ):
        pass
