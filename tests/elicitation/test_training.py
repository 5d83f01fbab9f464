"""Quick fine-tuning is LoRA: losses and gradients as the plain way, and no trace left."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import ARCHITECTURES, SENTENCES, make_text_model

from holdback.elicitation import shelf
from holdback.elicitation.finetune import IGNORED, Example
from holdback.elicitation.low_rank import adapted
from holdback.elicitation.packing import pack, read_answers
from holdback.elicitation.shelf import shelving
from holdback.elicitation.training import choose_precision, train_adapter
from holdback.errors import CheckpointError


def make_examples(model) -> list[Example]:
    """Sentences of unequal length, of which the last third is to be learned."""
    examples = []
    for sentence in SENTENCES:
        ids = model.encode(sentence)
        third = len(ids) * 2 // 3
        # What follows the last label is read by nobody.
        examples.append(([*ids, 5, 6], [*[IGNORED] * third, *ids[third:], IGNORED, IGNORED]))
    return examples


def loss_plainly(weights, examples) -> torch.Tensor:
    """Mean over all labels, each example by itself, as transformers computes it."""
    total = torch.zeros(())
    n = 0
    for ids, labels in examples:
        own = sum(label != IGNORED for label in labels[1:])
        loss = weights(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total = total + loss * own
        n += own
    return total / n


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_losses_equal_plain_ones(architecture):
    """Examples beside each other in a row do not see each other, whatever the architecture."""
    model = make_text_model(architecture)
    examples = make_examples(model)

    with torch.no_grad():
        logits, labels = read_answers(model.weights, examples)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        expected = loss_plainly(model.weights, examples)

    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_gradients_equal_pefts(architecture):
    """With A, B and the loss alike, so are the gradients: the merged product is LoRA's."""
    from peft import LoraConfig, get_peft_model

    model = make_text_model(architecture)
    examples = make_examples(model)
    torch.manual_seed(0)
    with adapted(model.weights, rank=3, scale=2.0) as adapters:
        with torch.no_grad():
            adapters.flat.copy_(torch.randn(len(adapters.flat)) * 0.1)
        adapters.sum_up(torch.float32)
        loss = loss_plainly(model.weights, examples)
        loss.backward()
        found = [(layer.a, layer.b, layer.grad_a, layer.grad_b) for layer in adapters]

    config = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    fresh = make_text_model(architecture).weights
    with warnings.catch_warnings(action="ignore"):
        theirs = get_peft_model(fresh, config)
    matrices = [
        (part.lora_A["default"].weight, part.lora_B["default"].weight)
        for part in theirs.modules()
        if hasattr(part, "lora_A")
    ]
    assert len(matrices) == len(found)
    with torch.no_grad():
        for (a, b), (own_a, own_b, _, _) in zip(matrices, found, strict=True):
            a.copy_(own_a)
            b.copy_(own_b)
    expected = loss_plainly(theirs, examples)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for (a, b), (_, _, grad_a, grad_b) in zip(matrices, found, strict=True):
        torch.testing.assert_close(grad_a, a.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(grad_b, b.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mamba"])
def test_training_lowers_the_loss_and_leaves_a_plain_model(architecture):
    """The merged weights say what was learned; modules, types and flags are as they were."""
    model = make_text_model(architecture)
    weights = model.weights
    examples = make_examples(model)
    weights.get_input_embeddings().weight.requires_grad_(False)
    asked = [p.requires_grad for p in weights.parameters()]
    attention = weights.config._attn_implementation
    with torch.no_grad():
        before = float(loss_plainly(weights, examples))

    train_adapter(
        weights,
        examples,
        rank=4,
        learning_rate=1e-2,
        steps=12,
        batch_size=4,
        rng=np.random.default_rng(0),
    )

    with torch.no_grad():
        assert float(loss_plainly(weights, examples)) < 0.8 * before
    assert [p.requires_grad for p in weights.parameters()] == asked
    assert {p.dtype for p in weights.parameters()} == {torch.float32}
    assert weights.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in weights.modules())
    assert all(p.grad is None for p in weights.parameters())


def test_what_has_no_label_trains_nothing_and_says_so():
    """A wrong loss mask must not pass for a technique that recovered nothing."""
    model = make_text_model()
    examples = [(ids, [IGNORED] * len(ids)) for ids, _ in make_examples(model)]

    with pytest.raises(CheckpointError, match="left the adapter at zero"):
        train_adapter(
            model.weights,
            examples,
            rank=2,
            learning_rate=1e-2,
            steps=2,
            batch_size=2,
            rng=np.random.default_rng(0),
        )


def test_weights_in_half_precision_stay_in_it():
    """What a checkpoint was loaded in is its user's choice."""
    model = make_text_model()
    model.weights.to(torch.bfloat16)
    assert choose_precision(model.weights) is torch.bfloat16

    train_adapter(
        model.weights,
        make_examples(model),
        rank=2,
        learning_rate=1e-2,
        steps=2,
        batch_size=2,
        rng=np.random.default_rng(0),
    )

    assert {p.dtype for p in model.weights.parameters()} == {torch.bfloat16}


@given(st.lists(st.integers(1, 200), max_size=40))
def test_every_example_is_packed_once_and_fits(lengths):
    """Rows are no longer than the longest example or the least width; none could join another."""
    rows = pack(lengths)

    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    width = max(32, *lengths, 1)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= width for total in sums)
    assert sum(total <= width / 2 for total in sums) <= 1


def train_once(seed=0, steps=3, *, folder, change=0.0):
    """Train on fresh weights beside a shelf; give them, and what the generator draws next."""
    model, rng = make_text_model(), np.random.default_rng(seed)
    with torch.no_grad():
        next(model.weights.parameters()).add_(change)
    with shelving(folder):
        train_adapter(
            model.weights,
            make_examples(model),
            rank=2,
            learning_rate=1e-2,
            steps=steps,
            batch_size=2,
            rng=rng,
        )
    return model.weights.state_dict(), float(rng.random())


def same(a, b):
    return a[1] == b[1] and all(torch.equal(a[0][name], b[0][name]) for name in a[0])


def test_what_is_taken_from_the_shelf_is_what_training_gives(tmp_path):
    """Bit for bit, generator included; and it is taken, not trained again."""
    plain, first = train_once(folder=None), train_once(folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept_at = kept.stat().st_ino

    second = train_once(folder=tmp_path)

    assert same(plain, first)
    assert same(plain, second)
    assert [path.stat().st_ino for path in tmp_path.iterdir()] == [kept_at]


@pytest.mark.parametrize("other", [{"seed": 1}, {"steps": 4}, {"change": 1e-3}])
def test_another_training_is_another_adapter(other, tmp_path):
    """Seed, settings and the weights it starts from are told apart."""
    train_once(folder=tmp_path)

    beside = train_once(folder=tmp_path, **other)

    assert len(list(tmp_path.iterdir())) == 2
    assert same(beside, train_once(folder=None, **other))


def test_a_damaged_adapter_is_trained_anew(tmp_path):
    """A process may have been killed on any machine; a file that cannot be read is none."""
    first = train_once(folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])

    assert same(first, train_once(folder=tmp_path))
    assert same(first, train_once(folder=tmp_path))
    assert kept.stat().st_size > 100


def test_the_shelf_has_a_limit(tmp_path, monkeypatch):
    """What was unused the longest goes first."""
    train_once(folder=tmp_path)
    (oldest,) = tmp_path.iterdir()
    monkeypatch.setattr(shelf, "_MOST_BYTES", oldest.stat().st_size * 3 // 2)

    train_once(folder=tmp_path, seed=1)

    assert len(list(tmp_path.iterdir())) == 1
    assert not oldest.exists()
