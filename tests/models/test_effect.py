"""A change that changes nothing is an error, not a null result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_tokenizer, save_adapter, save_model

import holdback.elicitation.finetune
import holdback.elicitation.noise  # noqa: F401  (registers its technique)
from holdback.elicitation.technique import make_technique
from holdback.errors import CheckpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.effect import answer_fixed, require_effect
from holdback.models.loading import load_weights
from holdback.models.local import LocalModel
from holdback.plan import Rung
from holdback.tasks.chess.games import ChessGames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("effect") / "model")


def make(folder, **fields) -> Checkpoint:
    return Checkpoint(name="m", stage=Stage.SFT, model=f"hf/{folder}", **fields)


def test_fixed_answers_see_any_change():
    """One number in one matrix moves them; the same weights give the same bits."""
    model = make_model("llama").eval()
    before = answer_fixed(model)
    require_effect(before, answer_fixed(make_model("llama", seed=1).eval()), "another model")

    with pytest.raises(CheckpointError, match="nothing changes no output"):
        require_effect(before, answer_fixed(model), "nothing")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 0.5
    require_effect(before, answer_fixed(model), "one weight")


def test_noise_below_the_number_format_is_an_error():
    """A σ of a millionth is rounded away in bfloat16; the weights are restored all the same."""
    model = LocalModel(
        name="m", weights=make_model("llama").to(torch.bfloat16).eval(), tokenizer=make_tokenizer()
    )
    before = {name: tensor.clone() for name, tensor in model.weights.state_dict().items()}
    rung = Rung(name="n", technique="weight_noise", parameters={"sigma": 1e-7})

    with (
        pytest.raises(CheckpointError, match="weight_noise with sigma = 1e-07 changes no output"),
        make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)),
    ):
        pytest.fail("the rung was climbed")

    assert all(t.equal(before[name]) for name, t in model.weights.state_dict().items())


def test_noise_that_breaks_the_model_is_an_error():
    """Outputs that are no numbers any more are no outputs."""
    model = LocalModel(
        name="m", weights=make_model("llama").to(torch.float16).eval(), tokenizer=make_tokenizer()
    )
    rung = Rung(name="n", technique="weight_noise", parameters={"sigma": 3e4})

    with (
        pytest.raises(CheckpointError, match="expected finite logits, got NaN or infinity"),
        make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)),
    ):
        pytest.fail("the rung was climbed")


def test_a_fine_tuning_that_moves_nothing_is_an_error():
    """A learning rate below what float32 can add: no output changes, and the rung says so."""
    model = LocalModel(name="m", weights=make_model("llama").eval(), tokenizer=make_tokenizer())
    rung = Rung(
        name="f",
        technique="finetune",
        parameters={
            "demonstrator": "strong",
            "n": 1,
            "steps": 1,
            "rank": 2,
            "learning_rate": 1e-30,
        },
    )

    with (
        pytest.raises(CheckpointError, match="finetune on 1 examples changes no output"),
        make_technique(rung).apply(model, ChessGames(), np.random.default_rng(0)),
    ):
        pytest.fail("the rung was climbed")


def test_weights_without_finite_outputs_are_refused(folder, tmp_path):
    """NaN in a file of weights is named before an hour of unreadable answers."""
    model = make_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    make_tokenizer().save_pretrained(tmp_path / "broken")

    with pytest.raises(CheckpointError, match=r"broken: expected finite logits, got NaN"):
        load_weights(make(tmp_path / "broken"))


def test_an_adapter_that_the_number_format_loses_is_refused(folder, tmp_path):
    """Small updates vanish when they are added to bfloat16 weights; in float32 they do not."""
    adapter = str(save_adapter(tmp_path / "faint", scale=2e-4))

    load_weights(make(folder, adapter=adapter))
    with pytest.raises(CheckpointError, match=r"is lost when it is merged: .*\"float32\""):
        load_weights(make(folder, adapter=adapter, dtype="bfloat16"))


def test_a_strong_adapter_survives_half_precision(folder, tmp_path):
    """What the format can hold is taken: merged in bfloat16 it does what it does in float32."""
    adapter = str(save_adapter(tmp_path / "strong"))
    exact, _ = load_weights(make(folder, adapter=adapter))
    half, _ = load_weights(make(folder, adapter=adapter, dtype="bfloat16"))
    plain, _ = load_weights(make(folder))

    off = (answer_fixed(half) - answer_fixed(exact)).norm()
    assert off < 0.1 * (answer_fixed(exact) - answer_fixed(plain)).norm()
