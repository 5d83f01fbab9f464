"""A model's line of text says all that sets it apart, and two that differ are never named alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import make_text_model

from holdback.elicitation.noise import WeightNoise
from holdback.errors import CheckpointError, ConfigError, UnknownNameError
from holdback.models.protocol import Format, Question
from holdback.runs.variants import lend_variant, parse_reference

PLAN = """
[audit]
name = "small"
seed = 7

[lineage]
name = "tiny"

[[lineage.checkpoints]]
name = "one"
stage = "sft"
model = "tiny"
chat = false

[tasks.sums]
kind = "text"
margin = 5.0
select_samples = 2
test_samples = 2
options = { file = "sums.jsonl", shares = { train = 1.0, select = 0.0, test = 0.0 } }

[[ladder]]
name = "displayed"
technique = "displayed"

[[ladder]]
name = "noise-0.01"
technique = "weight_noise"
parameters = { sigma = 0.01 }

[[ladder]]
name = "two-shots"
technique = "few_shot"
parameters = { n = 2 }
"""


@pytest.fixture
def folder(tmp_path):
    model = make_text_model()
    model.weights.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "audit.toml").write_text(PLAN, "utf-8")
    rows = [f'{{"question": "{a} + {a}?", "answer": "{2 * a}"}}\n' for a in range(9)]
    (tmp_path / "sums.jsonl").write_text("".join(rows), "utf-8")
    return tmp_path


def weigh(model):
    return {name: t.clone() for name, t in model.weights.state_dict().items()}


def test_noise_is_the_perturbation_that_an_audit_applies(folder):
    """Same rung, same seed, same plan: the same weights to the bit, and another seed's differ."""
    expected = make_text_model()
    technique = WeightNoise(sigma=0.01)
    with (
        technique.apply(expected, None, np.random.default_rng([7, 3])),
        lend_variant(
            parse_reference(f"one?plan={folder}/audit.toml&rung=noise-0.01&seed=3")
        ) as lent,
        lend_variant(
            parse_reference(f"one?plan={folder}/audit.toml&rung=noise-0.01&seed=4")
        ) as other,
    ):
        planted, got, elsewhere = weigh(expected), weigh(lent), weigh(other)

    assert all(torch.equal(planted[name], got[name]) for name in planted)
    assert not all(torch.equal(planted[name], elsewhere[name]) for name in planted)


def test_rungs_are_applied_in_order(folder):
    """Prefill and completion's header, both in one reference."""
    reference = f'{folder}/tiny?rung=completion&header={{"Elo": "9"}}&rung=prefill&text=It is'
    with lend_variant(parse_reference(reference)) as lent:
        assert lent.presentation.format is Format.COMPLETION
        assert lent.presentation.header == {"Elo": "9"}
        assert lent.presentation.prefill == "It is"
        assert lent.score([Question(prompt="a", continuations=(" b",))])[0][0].logprob < 0


def test_demonstrations_come_from_a_plans_task(folder):
    """Two answered sums before every question; without a plan the error says what to name."""
    with lend_variant(parse_reference(f"one?plan={folder}/audit.toml&rung=two-shots")) as lent:
        shots = lent.presentation.shots

    assert len(shots) == 2
    assert all(user["content"].endswith("?") for user, _ in shots)
    with (
        pytest.raises(ConfigError, match="name an audit file"),
        lend_variant(parse_reference(f"{folder}/tiny?rung=few_shot&n=2")),
    ):
        pass


def test_a_changed_plan_is_another_variant(folder):
    """A name that was logged is refused once its file says something else."""
    path = folder / "audit.toml"
    named = parse_reference(f"one?plan={path}&rung=noise-0.01").name
    assert parse_reference(named).name == named

    path.write_text(PLAN.replace("sigma = 0.01", "sigma = 0.02"), "utf-8")

    with pytest.raises(ConfigError, match="the file has changed"):
        parse_reference(named)
    assert parse_reference(f"one?plan={path}&rung=noise-0.01").name != named


@given(
    st.floats(1e-6, 1, allow_nan=False),
    st.integers(0, 2**32 - 1),
    st.text(st.characters(codec="utf-8", exclude_characters="&%+"), min_size=1).filter(str.strip),
)
def test_names_can_be_read_again(sigma, seed, words):
    """A name leads to the variant that it was made of, whatever the words of its prefill."""
    variant = parse_reference("m", {"rung": "noise", "sigma": sigma, "seed": seed})
    again = parse_reference(variant.name)
    begun = parse_reference("m", {"rung": "prefill", "text": words})

    assert (again.rung, again.seed, again.name) == (variant.rung, seed, variant.name)
    assert begun.rung.parameters == {"text": words}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m?rung=nois&sigma=1", "unknown technique 'nois'"),
        ("m?rung=weight_nois", "Did you mean 'weight_noise'"),
        ("m?rung=nosie", r"Did you mean 'noise'\? Short names: noise for weight_noise"),
        ("m?rung=correct-64", r"needs plan=audit\.toml"),
        ("m?sigma=1", "parameters after rung="),
        ("m?rung", "expected key=value"),
        ("?rung=noise", "expected a checkpoint"),
        ("m?rung=noise&sigmo=1", "sigmo"),
        ("m?rung=noise&sigma=-1", "sigma must be above 0"),
        ("m?rung=noise&sigma=1&seed=x", "whole number"),
        ("m?chat=perhaps", "chat=true or chat=false"),
        ("m?task=sums", "name it with plan="),
        ("m?plan=none.toml", "expected an audit file"),
    ],
)
def test_what_cannot_be_meant_is_refused(reference, message):
    """In one line, before weights are loaded."""
    with pytest.raises(ConfigError, match=message):
        parse_reference(reference)


def test_unknown_parts_of_a_plan_are_refused(folder):
    """Rungs, tasks, and parameters that the file has already set."""
    plan = f"plan={folder}/audit.toml"
    with pytest.raises(UnknownNameError, match=r"Rungs of the plan: displayed, noise-0\.01"):
        parse_reference(f"one?{plan}&rung=noise-0.1")
    with pytest.raises(UnknownNameError, match="Known: sums"):
        parse_reference(f"one?{plan}&task=sum")
    with pytest.raises(ConfigError, match="leave them out"):
        parse_reference(f"one?{plan}&rung=noise-0.01&sigma=2")
    with pytest.raises(CheckpointError), lend_variant(parse_reference(f"{folder}/nothing")):
        pass
