"""Every technique lends an elicited model and gives the model back as it was."""

from __future__ import annotations

import warnings
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import load_tiny

import holdback.elicitation.chain
import holdback.elicitation.finetune
import holdback.elicitation.noise
import holdback.elicitation.prompting
import holdback.elicitation.sampling
import holdback.elicitation.steering  # noqa: F401  (registers its techniques)
from holdback.elicitation.finetune import mask_conversation
from holdback.elicitation.technique import make_technique
from holdback.errors import ConfigError, UnknownNameError
from holdback.models.protocol import Format
from holdback.plan import Rung
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.prompts import render_prompt

RUNGS = [
    Rung(name="displayed", technique="displayed"),
    Rung(name="instruction", technique="instruction", parameters={"text": "play your best ."}),
    Rung(name="completion", technique="completion"),
    Rung(name="header", technique="completion", parameters={"header": {"elo": "1900"}}),
    Rung(name="prefix", technique="prefix", parameters={"plies": 4}),
    Rung(name="constrained", technique="constrained"),
    Rung(name="majority", technique="majority", parameters={"votes": 5}),
    Rung(name="noise", technique="weight_noise", parameters={"sigma": 0.1}),
    Rung(
        name="finetune",
        technique="finetune",
        parameters={"demonstrator": "strong", "n": 2, "rank": 4, "steps": 2},
    ),
    Rung(
        name="chain",
        technique="chain",
        parameters={
            "links": [
                {"technique": "weight_noise", "sigma": 0.1},
                {"technique": "majority", "votes": 3},
            ]
        },
    ),
    Rung(name="temperature", technique="temperature", parameters={"value": 1.2}),
    Rung(
        name="steering",
        technique="steering",
        parameters={"coefficient": 0.5, "pairs": 1, "right": "strong", "wrong": "weak"},
    ),
]


@pytest.fixture
def model(tmp_path):
    return load_tiny(tmp_path)


def photograph(model) -> dict[str, bytes]:
    """Every tensor of the model, bit by bit."""
    return {name: t.numpy().tobytes() for name, t in model.weights.state_dict().items()}


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_restores_the_model_bit_for_bit(model, rung, fails):
    """After a rung, and after an exception under it, the model is exactly what it was."""
    before = photograph(model)
    asked = (model.presentation, model.decoding)

    try:
        with make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)):
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass

    assert photograph(model) == before
    assert (model.presentation, model.decoding) == asked


@pytest.mark.parametrize("rung", [RUNGS[7], RUNGS[8]], ids=lambda rung: rung.name)
def test_weight_techniques_change_what_the_model_says(model, rung):
    """Inside the context the outputs differ: a rung that does nothing would be a false null."""
    ids = torch.arange(30)[None]
    with torch.no_grad():
        plain = model.weights(ids).logits
        with make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)) as lent:
            elicited = lent.weights(ids).logits

    assert not torch.allclose(plain, elicited)


def test_same_seed_same_elicited_model(model):
    """Noise and fine-tuning are functions of the generator they are handed."""
    ids = torch.arange(30)[None]
    for rung in (RUNGS[7], RUNGS[8]):
        seen = []
        for seed in (1, 1, 2):
            rng = np.random.default_rng(seed)
            with torch.no_grad(), make_technique(rung).apply(model, ChessGames(), rng) as lent:
                seen.append(lent.weights(ids).logits)
        assert torch.equal(seen[0], seen[1])
        assert not torch.equal(seen[0], seen[2])


def test_labels_are_the_answers_and_nothing_else(model):
    """The loss falls on the assistant's words and its end marker, not on what it was told."""
    chat = ChessGames().demonstrate("strong", 1, np.random.default_rng(0))[0]
    ids, labels = mask_conversation(model, chat)

    learned = model.tokenizer.decode([label for label in labels if label != -100])
    said = [m["content"] for m in chat if m["role"] == "assistant"]
    assert learned.split() == " ".join(f"{content} <|end|>" for content in said).split()
    assert len(ids) == len(labels)
    assert model.tokenizer.decode(ids).split() == model.render_chat(chat, answer_next=False).split()


def test_fine_tuning_learns_its_demonstrations(model):
    """More steps on one game make that game likelier: the gradient reaches the adapter."""
    task = ChessGames()
    chat = task.demonstrate("strong", 1, np.random.default_rng(3))[0]
    ids, labels = mask_conversation(model, chat)

    def loss(lent) -> float:
        with torch.no_grad():
            out = lent.weights(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        return float(out.loss)

    losses = [loss(model)]
    for steps in (4, 32):
        rung = Rung(
            name="f",
            technique="finetune",
            parameters={"demonstrator": "strong", "n": 1, "steps": steps, "learning_rate": 0.01},
        )
        with make_technique(rung).apply(model, task, np.random.default_rng(3)) as lent:
            losses.append(loss(lent))
    assert losses[2] < losses[1] < losses[0]


def test_fine_tuned_models_are_asked_in_the_format_they_were_tuned_in(model):
    """In chat, whatever the checkpoint's own format is: its prompt is the demonstrations'."""
    asked = replace(
        model,
        presentation=replace(model.presentation, format=Format.COMPLETION, instruction="play well"),
    )
    with make_technique(RUNGS[8]).apply(asked, ChessGames(), np.random.default_rng(0)) as lent:
        assert render_prompt(lent, chess.Board()) == render_prompt(model, chess.Board())
        assert render_prompt(lent, chess.Board()) != render_prompt(asked, chess.Board())


def test_an_instruction_that_the_tokenizer_does_not_know_is_refused(model):
    """It would be read as a row of unknown words, and fail for another reason than it says."""
    rung = Rung(name="x", technique="instruction", parameters={"text": "Play brilliantly"})

    with (
        pytest.raises(ConfigError, match="'tiny' knows, got text = 'Play brilliantly'"),
        make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)),
    ):
        pass


def test_a_header_that_the_tokenizer_does_not_know_is_refused(model):
    """Ratings go in hundreds: «2450» would read as <unk>, and the rung as the one without it."""
    rung = Rung(name="x", technique="completion", parameters={"header": {"elo": "2450"}})

    with (
        pytest.raises(ConfigError, match="'tiny' knows, got elo = '2450'"),
        make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)),
    ):
        pass


def test_a_chain_is_its_links_one_inside_the_other(model):
    """The weights of the one, the decoding of the other; it needs and draws what either does."""
    both = make_technique(RUNGS[9])
    alone = make_technique(RUNGS[7])
    with alone.apply(model, ChessGames(), np.random.default_rng(4)) as noisy:
        weights = photograph(noisy)
    with both.apply(model, ChessGames(), np.random.default_rng(4)) as lent:
        assert photograph(lent) == weights
        assert lent.decoding.votes == 3

    assert both.access == alone.access > make_technique(RUNGS[6]).access
    assert both.draws
    assert not make_technique(
        Rung(name="c", technique="chain", parameters={"links": [{"technique": "completion"}]})
    ).draws


def test_a_chain_without_links_or_with_wrong_ones_is_refused():
    """Before anything runs, with the link and what is wrong with it."""
    for links, said in (
        ([], "one at least"),
        ([{"votes": 3}], "technique"),
        ([{"technique": "constraned"}], "Did you mean 'constrained'"),
        ([{"technique": "weight_noise", "sigmas": 1}], "chain link 1.*sigmas"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=said):
            make_technique(Rung(name="c", technique="chain", parameters={"links": links}))


def test_leaves_torchs_own_stream_alone(model):
    """Whoever draws from torch's global generator draws the same, a rung in between or not.

    Nor does a rung print warnings that nobody can act on.
    """
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    for rung in RUNGS:
        lent = make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0))
        with warnings.catch_warnings(action="error"), lent:
            pass

    assert torch.equal(torch.rand(3), expected)


def test_wrong_names_and_parameters_are_one_clear_line():
    """A typo in an audit file is answered with the name or the parameter that was meant."""
    with pytest.raises(UnknownNameError, match="Did you mean 'finetune'"):
        make_technique(Rung(name="x", technique="fine_tune"))
    with pytest.raises(ConfigError, match="sigmas"):
        make_technique(Rung(name="x", technique="weight_noise", parameters={"sigmas": 1}))
    with pytest.raises(ConfigError, match="sigma must be above 0"):
        make_technique(Rung(name="x", technique="weight_noise", parameters={"sigma": 0.0}))
