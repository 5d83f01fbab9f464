"""Scores equal those of one plain forward pass a continuation, however much is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import ARCHITECTURES, SENTENCES, make_text_model

from holdback.errors import CheckpointError, ConfigError
from holdback.models.engine.passes import heeds_masks
from holdback.models.engine.scoring import Limits, pair_tokens, score_questions
from holdback.models.engine.token_trees import Pair, grow_trees, plan_prefixes
from holdback.models.protocol import Question

SHOTS = "\n\n".join(SENTENCES) + "\n\n"
CHOICES = (" one of them", " none of these", " none", " the quick brown dog", "?")
QUESTIONS = [
    *(Question(prompt=SHOTS + line, continuations=CHOICES) for line in SENTENCES),
    *(Question(prompt=line[:20], continuations=(" A", " B", " C")) for line in SENTENCES),
    Question(prompt="", continuations=(" A", "The quick")),
    Question(prompt="Answer: ", continuations=("A", "forty-seven")),
    Question(prompt="the ri", continuations=("ver", "ght")),
]


def score_plainly(model, question: Question) -> list[tuple[float, int, bool]]:
    """One whole forward pass a continuation: no cache, no batch, no mask."""
    plain = []
    for pair in pair_tokens(model, [question])[0]:
        ids = torch.from_numpy(pair.tokens).long()
        with torch.no_grad():
            logits = model.weights(input_ids=ids[None, :-1], use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.double(), -1)[pair.start - 1 :]
        wanted = ids[pair.start :]
        total = float(logprobs[torch.arange(len(wanted)), wanted].sum())
        plain.append((total, len(wanted), bool((logprobs.argmax(-1) == wanted).all())))
    return plain


def flatten(scored) -> list[tuple[float, int, bool]]:
    return [(one.logprob, one.tokens, one.greedy) for own in scored for one in own]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_plain_passes(architecture):
    """For every architecture, with windows narrower than the texts and with soft caps."""
    model = make_text_model(architecture)
    expected = [one for question in QUESTIONS for one in score_plainly(model, question)]

    seen = flatten(model.score(QUESTIONS))

    assert [one[1:] for one in seen] == [one[1:] for one in expected]
    np.testing.assert_allclose(
        [one[0] for one in seen], [one[0] for one in expected], atol=1e-4, rtol=0
    )


def test_what_heeds_masks_is_found_out():
    """Attention does, recurrence does not; nothing is assumed by name alone."""
    heeds = {name: heeds_masks(make_text_model(name).weights) for name in ARCHITECTURES}

    assert heeds == {name: name != "mamba" for name in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mamba"])
def test_the_batch_size_changes_nothing(architecture):
    """1, 8 and 64 rows at a time give the same scores in float32."""
    model = make_text_model(architecture)

    seen = [
        flatten(score_questions(model, QUESTIONS, Limits(rows=rows, tokens=100_000)))
        for rows in (1, 8, 64)
    ]

    for other in seen[1:]:
        assert [one[1:] for one in other] == [one[1:] for one in seen[0]]
        np.testing.assert_allclose(
            [one[0] for one in other], [one[0] for one in seen[0]], atol=2e-5
        )


def test_weights_changed_in_place_are_read_anew():
    """Nothing of a call outlives it: techniques edit the weights between calls."""
    model = make_text_model()
    before = flatten(model.score(QUESTIONS))
    with torch.no_grad():
        for tensor in model.weights.parameters():
            tensor.mul_(1.1)

    after = flatten(model.score(QUESTIONS))

    assert all(abs(a[0] - b[0]) > 1e-3 for a, b in zip(after, before, strict=True))
    expected = [one for question in QUESTIONS for one in score_plainly(model, question)]
    np.testing.assert_allclose([one[0] for one in after], [one[0] for one in expected], atol=1e-4)


def test_shared_tokens_are_computed_once():
    """Few shots once for all samples, a prompt once for all its continuations."""
    model = make_text_model()
    questions = [
        Question(prompt=SHOTS * 2 + f"{line} {n}", continuations=CHOICES)
        for n in range(8)
        for line in SENTENCES
    ]
    pairs = [pair for own in pair_tokens(model, questions) for pair in own]
    computed = []
    handle = model.weights.get_input_embeddings().register_forward_hook(
        lambda _, args, __: computed.append(args[0].numel())
    )

    model.score(questions)

    handle.remove()
    assert sum(computed) * 20 < sum(len(pair.tokens) for pair in pairs)


def test_only_needed_logits_are_computed():
    """A question whose answers are one token each needs one row of logits."""
    model = make_text_model()
    assert heeds_masks(model.weights)
    rows = []
    handle = model.weights.get_output_embeddings().register_forward_hook(
        lambda _, __, output: rows.append(output.shape[-2])
    )
    question = Question(prompt=SENTENCES[0], continuations=("!", "?", "z"))

    model.score([question] * 3)

    handle.remove()
    assert all(len(pair.tokens) == pair.start + 1 for pair in pair_tokens(model, [question])[0])
    assert sum(rows) == 3


def test_tokens_are_split_where_lm_eval_splits_them():
    """Spaces at the prompt's end belong to the continuation; nothing is added, no second BOS."""
    model = make_text_model()
    (spaced,), (plain,), (begun,), (empty,) = pair_tokens(
        model,
        [
            Question(prompt="Answer: ", continuations=("one",)),
            Question(prompt="Answer:", continuations=(" one",)),
            Question(prompt="<s>Answer:", continuations=(" one",)),
            Question(prompt="", continuations=(" one",)),
        ],
    )

    assert spaced.tokens.tolist() == plain.tokens.tolist() == model.encode("Answer: one")
    assert spaced.start == plain.start == len(model.encode("Answer:"))
    assert begun.tokens.tolist() == [0, *model.encode("Answer: one")]
    assert empty.tokens.tolist() == [0, *model.encode(" one")]
    assert empty.start == 1


def test_texts_that_cannot_be_scored_are_one_clear_line():
    """Too long for the context, or a choice without text."""
    model = make_text_model()
    with pytest.raises(ConfigError, match=r"'llama' reads 256 tokens.*fewer shots"):
        model.score([Question(prompt=SHOTS * 20, continuations=(" A",))])
    with pytest.raises(ConfigError, match="one token at least, got ''"):
        model.score([Question(prompt="Answer:", continuations=("",))])


def test_a_model_that_gives_no_numbers_is_named():
    """NaN logits are an error that says what to do, never a score."""
    model = make_text_model()
    with torch.no_grad():
        model.weights.model.norm.weight.fill_(torch.nan)

    with pytest.raises(CheckpointError, match=r"'llama': expected finite logits, got NaN"):
        model.score(QUESTIONS)


token_lists = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=8)


@given(token_lists, st.data())
def test_trees_hold_every_text_once(texts, data):
    """Walking from each asked token to the root spells its own text's beginning."""
    pairs = [
        Pair(tokens=np.array(text, dtype=np.int32), start=data.draw(st.integers(1, len(text) - 1)))
        for text in texts
    ]
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {i: [] for i in range(len(pairs))}
    for tree in grow_trees(pairs, range(len(pairs))):
        n = len(tree.tokens)
        seen = np.tri(n, dtype=bool)
        seen[tree.trunk :, tree.trunk :] = tree.ancestors
        for at, target, owner in zip(tree.asked, tree.targets, tree.owners, strict=True):
            way = np.flatnonzero(seen[at])
            assert tree.places[way].tolist() == list(range(len(way)))
            found[int(owner)].append((tuple(tree.tokens[way].tolist()), int(target)))
        assert tree.free <= tree.asked.min()

    for i, pair in enumerate(pairs):
        text = pair.tokens.tolist()
        expected = [(tuple(text[:at]), text[at]) for at in range(pair.start, len(text))]
        assert found[i] == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_prefix_groups_share_what_they_say(kinds):
    """Every row is in one group, and begins as the others of its group do."""
    rows = [
        np.array([kind] * 300 + [part] * 200 + [i], dtype=np.int32)
        for i, (kind, part) in enumerate(kinds)
    ]

    groups = plan_prefixes(rows)

    assert sorted(row for group in groups for row in group.rows) == list(range(len(rows)))
    saved = 0
    for group in groups:
        starts = {tuple(rows[row][: group.length].tolist()) for row in group.rows}
        assert len(starts) == 1
        saved += group.length * (len(group.rows) - 1) if group.length else 0
    # No coarser or finer division by what they have in common saves more.
    for key in (lambda kind: kind[0], lambda kind: kind):
        length = 300 if key((0, 1)) == 0 else 500
        sizes = [sum(key(kind) == value for kind in kinds) for value in set(map(key, kinds))]
        other = sum(length * (n - 1) - 512 for n in sizes if length * (n - 1) > 512)
        cost = 512 * sum(group.length > 0 for group in groups)
        assert saved - cost >= other
