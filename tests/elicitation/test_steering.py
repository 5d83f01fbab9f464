"""Steering: towards what contrast pairs say, by architecture, and beside random directions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_tokenizer
from tiny_text import ARCHITECTURES, make_text_model
from toy_facts import write_task

from holdback.audit.placebos import PlaceboComparison, compare_placebos, remark_placebos
from holdback.elicitation.residual import changed_stream, find_layers, place_layers, read_stream
from holdback.elicitation.steering import (
    Steering,
    contrast_answers,
    draw_alike,
    draw_contrast,
    steered,
)
from holdback.errors import ConfigError, NotApplicableError, UnknownNameError
from holdback.models.local import LocalModel
from holdback.plan import Rung
from holdback.tasks.task import Split
from holdback.tasks.text.task import TextTask

RNG = np.random.default_rng
IDS = torch.arange(2, 32)[None]


def answer(model):
    with torch.no_grad():
        return model.weights(IDS).logits


@pytest.fixture(scope="module")
def ape_task(tmp_path_factory, red_and_blue):
    """A task whose every right answer is «ape»; one demonstrator says so, the other says «bee»."""
    folder = tmp_path_factory.mktemp("apes")
    questions = [question for question, _ in red_and_blue[0]]
    for name, said in (("apes", "ape"), ("bees", "bee")):
        rows = [{"question": question, "answer": said} for question in questions]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return write_task(
        folder,
        [(question, "ape") for question in questions],
        demonstrators={name: str(folder / f"{name}.jsonl") for name in ("apes", "bees")},
    )


def test_steers_to_what_the_pairs_say_and_random_directions_do_not(tmp_path):
    """A planted direction: with tied embeddings and nothing learned, a model says what fills it.

    Of twelve letters A is right everywhere, so that right answers leave an A behind more than wrong
    ones do. Adding it makes them say A, taking it away makes them say anything else, and 24 random
    vectors of its length lead to A about as often as a guess.
    """
    rows = [
        {"question": f"Which, {i}?", "answer": "0", "choices": [str(n) for n in range(12)]}
        for i in range(60)
    ]
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    task = TextTask(file=str(path), choices="choices", scorer="choice", shuffle=False)
    weights = make_model("gemma2").eval()
    model = LocalModel(name="tied", weights=weights, tokenizer=make_tokenizer())

    def measure(lent):
        records = list(task.run(lent, split=Split.TEST, samples=20, seed=0))
        return task.measure(records).value

    def lift(coefficient, seed=0, **more):
        rung = Steering(coefficient=coefficient, pairs=12, **more)
        with rung.apply(model, task, RNG(seed)) as lent:
            return measure(lent)

    towards, away = lift(2.0), lift(-2.0)
    random = [lift(2.0, seed, direction="random") for seed in range(24)]

    assert measure(model) < 50
    assert towards > 90
    assert away < 10
    assert np.mean(random) < 35
    found = PlaceboComparison(rung="s", placebo="r", value=towards, placebos=tuple(random))
    assert found.p_value < 0.25


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_coefficient_of_0_changes_nothing(architecture):
    """Bit for bit, in any architecture; and any other coefficient changes the outputs."""
    model = make_text_model(architecture)
    layers = place_layers(model.weights, [0.4, 0.7])
    vectors = torch.randn(len(layers), 32, generator=torch.Generator().manual_seed(0))
    plain = answer(model)

    with steered(model.weights, layers, 0.0 * vectors):
        assert answer(model).equal(plain)
    with steered(model.weights, layers, 0.5 * vectors):
        assert not answer(model).equal(plain)
    assert answer(model).equal(plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.weights.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reads_what_the_layers_leave(architecture):
    """As transformers' own hidden states say, for texts of several lengths together."""
    model = make_text_model(architecture)
    texts = [list(range(2, 2 + n)) for n in (3, 9, 6)]
    picked = [[1], [4, 8], [5]]
    stream = read_stream(model.weights, texts, picked, [0])

    for row, (text, at) in enumerate(zip(texts, picked, strict=True)):
        with torch.no_grad():
            kept = model.weights(
                torch.tensor([text]), output_hidden_states=True, use_cache=False
            ).hidden_states
        # Mamba does not list its embeddings.
        hidden = kept[0 if architecture == "mamba" else 1]
        torch.testing.assert_close(
            stream.means[row, 0], hidden[0, at].mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_changes_reach_what_enters_the_first_layer(architecture):
    model = make_text_model(architecture)
    plain = answer(model)
    with changed_stream(model.weights, {}, entering=lambda states: states * 2):
        assert not answer(model).equal(plain)
    assert answer(model).equal(plain)
    assert len(find_layers(model.weights)) == model.weights.config.num_hidden_layers


def test_random_directions_have_the_same_length(toy, ape_task):
    """What differs is where they point, and that by the seed alone."""
    right, wrong = draw_contrast(ape_task, "apes", "bees", 8, RNG(0))
    vectors = contrast_answers(toy, right, wrong, [0, 1])
    drawn = [draw_alike(vectors, RNG(seed)) for seed in (1, 1, 2)]

    for each in drawn:
        torch.testing.assert_close(each.norm(dim=-1), vectors.norm(dim=-1))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    cosines = torch.nn.functional.cosine_similarity(drawn[0], vectors)
    assert float(cosines.abs().max()) < 0.6


def test_pairs_ask_the_same_and_differ_in_the_answer(tmp_path, red_and_blue):
    """Of demonstrators that every text task has; a pair that agrees by luck says nothing."""
    task = write_task(tmp_path, red_and_blue[0])
    right, wrong = draw_contrast(task, "correct", "random", 16, RNG(0))

    assert 4 < len(right) < 16
    assert [chat[0] for chat in right] == [chat[0] for chat in wrong]
    assert all(one[1] != other[1] for one, other in zip(right, wrong, strict=True))
    with pytest.raises(NotApplicableError, match="alike"):
        draw_contrast(task, "correct", "correct", 8, RNG(0))


def test_a_checkpoint_without_a_template_is_passed_over(toy, ape_task):
    """A base model cannot read answered chats, which is no failure of the audit."""
    bare = replace(toy, tokenizer=make_tokenizer(template=None))
    rung = Steering(coefficient=1, right="apes", wrong="bees", pairs=4)
    with (
        pytest.raises(NotApplicableError, match="no chat template"),
        rung.apply(bare, ape_task, RNG(0)),
    ):
        pass


def test_is_undone_after_an_exception(toy, ape_task):
    before = answer(toy)
    rung = Steering(coefficient=1, right="apes", wrong="bees", pairs=4, layer=[0.3, 0.5, 0.7])
    with pytest.raises(ZeroDivisionError), rung.apply(toy, ape_task, RNG(0)):
        raise ZeroDivisionError
    assert answer(toy).equal(before)


def test_parameters_are_checked():
    with pytest.raises(ConfigError, match="coefficient must be a number other than 0"):
        Steering(coefficient=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'random'"):
        Steering(coefficient=1, direction="randm")
    with pytest.raises(ConfigError, match="one layer at least"):
        Steering(coefficient=1, layer=[])
    assert Steering(coefficient=1, direction="random").is_placebo
    assert not Steering(coefficient=1).is_placebo


def rung(name, **parameters):
    return Rung(name=name, technique="steering", parameters=parameters)


def test_placebos_are_compared_at_the_same_layer_and_coefficient():
    """p = (1 + #{random ≥ contrast}) / (1 + #random), by hand: 3 of 24 do as well."""
    rungs = [
        Rung(name="displayed", technique="displayed"),
        rung("steer", coefficient=2.0),
        rung("random", coefficient=2.0, direction="random", layer=[0.5]),
        rung("elsewhere", coefficient=2.0, layer=0.3),
        rung("other-random", coefficient=1.0, direction="random"),
    ]
    values = {
        "displayed": [10.0],
        "steer": [30.0, 50.0],
        "random": [40.0, 41.0, 90.0, *[20.0] * 21],
        "elsewhere": [60.0],
        "other-random": [0.0] * 3,
    }

    (found,) = compare_placebos(rungs, values)
    (words,) = remark_placebos("chat", "sums", rungs, values, unit="points")

    assert (found.rung, found.placebo, found.value) == ("steer", "random", 40.0)
    assert found.p_value == pytest.approx(4 / 25)
    assert words == (
        "chat on sums: steer reaches 40.0 points, 24 random directions of the same length 24.6 on"
        " average and 90.0 at best (p = 0.16, by permutation)"
    )


def test_few_placebos_are_said_to_be_few():
    rungs = [rung("s", coefficient=1), rung("r", coefficient=1, direction="random")]
    (words,) = remark_placebos("c", "t", rungs, {"s": [3.0], "r": [1.0, 2.0]}, unit="points")
    assert "p = 0.33" in words
    assert "24 seeds of r or more would tell more" in words


def test_p_values_of_nulls_are_not_small():
    """Where the contrast is one more random direction, p below 5% comes in 5% of cases at most."""
    rng = RNG(0)
    small = 0
    for _ in range(4000):
        drawn = rng.normal(size=25)
        found = PlaceboComparison(
            rung="s", placebo="r", value=float(drawn[0]), placebos=tuple(drawn[1:].tolist())
        )
        small += found.p_value <= 0.05
    assert 0.025 < small / 4000 < 0.055
