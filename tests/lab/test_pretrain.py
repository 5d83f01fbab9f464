"""Training learns, can be interrupted, and measures its own legality rightly."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import TINY

from holdback_lab.chess import pretrain
from holdback_lab.chess.corpus import encode_boards
from holdback_lab.chess.documents import collate, write_record
from holdback_lab.chess.pretrain import (
    Course,
    Source,
    draw_batches,
    find_hardest,
    make_weights,
    measure_legality,
    quick_attention,
    train,
)

COURSE = Course(steps=40, rows=24, part=8, chat_share=0.5, warmup=4)


def list_sources(corpus):
    return [
        Source(positions=corpus.priced, share=0.75),
        Source(positions=corpus.played, share=0.25),
    ]


def measure_loss(weights, positions):
    """Mean loss an answer on the same documents each time."""
    source = [Source(positions=positions, share=1.0)]
    batches = draw_batches(source, replace(COURSE, rows=60), 0.2, np.random.default_rng(9))
    with torch.no_grad():
        return sum(float(pretrain._answer_loss(weights, batch)) for batch in batches) / 60


def test_a_step_draws_what_its_course_says(corpus):
    """So many positions, shared among the sources and the formats; parts of like length."""
    course = replace(COURSE, rows=400, part=50, chat_share=0.25)

    batches = draw_batches(list_sources(corpus), course, 0.1, np.random.default_rng(0))

    rows = [len(batch.tokens) for batch in batches]
    assert sum(rows) == 400
    assert max(rows) <= 60
    assert sum(rows[:6]) == 300
    chats = sum(int((batch.tokens == 5).any(axis=1).sum()) for batch in batches)
    assert chats == pytest.approx(100, abs=4 * (400 * 0.25 * 0.75) ** 0.5)
    longest = [int(batch.places.max()) for batch in batches[:6]]
    assert longest == sorted(longest)


def test_training_learns(corpus, tmp_path):
    """Sixty steps make the answers likelier, on positions it never saw as well."""
    kept, held_out = corpus.priced.split_off(60)
    weights = make_weights(TINY, 0)
    untrained = make_weights(TINY, 0)

    train(
        weights,
        [Source(positions=kept, share=1.0)],
        replace(COURSE, steps=60, other_rate=1e-2),
        out=tmp_path,
        seed=0,
        tell=print,
    )

    for positions in (kept, held_out):
        before, after = measure_loss(untrained, positions), measure_loss(weights, positions)
        assert after < 0.8 * before
    assert not weights.training


def test_the_learning_curve_is_written(corpus, tmp_path, monkeypatch):
    """A line whenever the state is saved: step, loss, and shares of legal answers in [0, 1]."""
    monkeypatch.setattr(pretrain, "_SAVE_SECONDS", -1)
    kept, held_out = corpus.priced.split_off(20)
    told = []

    train(
        make_weights(TINY, 0),
        [Source(positions=kept, share=1.0)],
        replace(COURSE, steps=5, rows=8),
        out=tmp_path,
        seed=0,
        tell=told.append,
        held_out=held_out,
    )

    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5]
    assert all(0 <= entry[name] <= 1 for entry in entries for name in ("legal", "legal_pieces"))
    assert all(np.isfinite(entry["loss"]) for entry in entries)
    assert len(told) == 5


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_trained_on_sees_what_it_will_see_alone(corpus, quick):
    """With either kernel each answer has, but for bfloat16, the logits of its own text alone.

    A mask that the kernel read otherwise would show each piece that can move to all the rest.
    """
    weights = make_weights(TINY, 0)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.mul_(3)
    rng = np.random.default_rng(1)
    documents = [write_record(corpus.priced, at, rng) for at in range(0, 60, 6)]
    batch = collate(corpus.priced, documents, 0.5, rng)
    width = batch.tokens.shape[1]

    with torch.no_grad(), quick_attention(weights) if quick else nullcontext():
        logits = pretrain._predict(weights, batch).float()
        wrong = pretrain._predict(weights, replace(batch, seen=np.ones_like(batch.seen))).float()

    furthest = 0.0
    for at, asked in enumerate(batch.asked):
        row, place = divmod(int(asked), width)
        prompt = documents[row].prompt
        # Either the prompt's own end, or a word beside others after it.
        text = prompt if place < len(prompt) else [*prompt, int(batch.tokens[row, place])]
        with torch.no_grad():
            alone = weights(torch.tensor([text])).logits[0, -1]
        spread = float(alone.std())
        assert float((logits[at] - alone).abs().max()) < 0.2 * spread
        furthest = max(furthest, float((wrong[at] - alone).abs().max()) / spread)
    assert furthest > 0.5


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_model_learns_the_same(corpus, tmp_path):
    """But for the rounding of bfloat16, which a few steps of training blow up a little."""
    ended = {}
    for compiled in (False, True):
        weights = make_weights(TINY, 0)
        course = replace(COURSE, steps=12, other_rate=1e-2, compiled=compiled)
        out = tmp_path / str(compiled)
        train(weights, list_sources(corpus), course, out=out, seed=0, tell=print)
        ended[compiled] = measure_loss(weights, corpus.priced)
    assert ended[True] == pytest.approx(ended[False], rel=0.01)
    assert ended[True] != pytest.approx(
        measure_loss(make_weights(TINY, 0), corpus.priced), rel=0.01
    )


class KilledError(Exception):
    pass


def test_a_resumed_training_is_the_uninterrupted_one(corpus, tmp_path, monkeypatch):
    """KilledError after three steps and started again, the weights are the same bit for bit."""
    monkeypatch.setattr(pretrain, "_SAVE_SECONDS", -1)
    course = replace(COURSE, steps=6)

    def learn(weights, folder, tell):
        train(weights, list_sources(corpus), course, out=tmp_path / folder, seed=3, tell=tell)
        return weights.state_dict()

    def interrupt(line):
        if "step 3" in line:
            raise KilledError

    whole = learn(make_weights(TINY, 1), "whole", print)
    with pytest.raises(KilledError):
        learn(make_weights(TINY, 1), "halves", interrupt)
    told = []
    # Of the new weights nothing is left: those of the saved state are gone on from.
    resumed = learn(make_weights(TINY, 2), "halves", told.append)

    assert told[0] == "halves: going on from step 3 of 6"
    assert set(resumed) == set(whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_stopping_at_a_step_is_an_interruption_there(corpus, tmp_path):
    """Learning rate and targets are those of the whole course, as though it were to go on at once.

    A second stop at the same step, or before it, changes nothing.
    """
    course = replace(COURSE, steps=6)

    def learn(folder, until=None):
        weights = make_weights(TINY, 1)
        options = {"out": tmp_path / folder, "seed": 3, "tell": print, "until": until}
        train(weights, list_sources(corpus), course, **options)
        return weights.state_dict()

    whole = learn("whole")
    stopped, again, earlier = learn("halves", 3), learn("halves", 3), learn("halves", 2)
    resumed = learn("halves")

    for name, tensor in whole.items():
        assert torch.equal(stopped[name], again[name])
        assert torch.equal(stopped[name], earlier[name])
        assert torch.equal(resumed[name], tensor)
    assert not torch.equal(stopped["lm_head.weight"], whole["lm_head.weight"])


def test_legality_is_what_plain_passes_say(corpus):
    """Counted one text at a time, with ordinary attention, by the rules of chess."""
    positions = corpus.priced.split_off(40)[1]
    weights = make_weights(TINY, 0)
    train_a_little(weights, positions)
    rng = np.random.default_rng(7)
    first, second = [], []
    for at in range(len(positions)):
        prompt = write_record(positions, at, rng).prompt
        legal = positions.legal[slice(*positions.first_legal[at : at + 2])].astype(int)
        first.append(continue_greedily(weights, prompt) in legal[:, 0])
        for word in np.unique(legal[:, 0]):
            reached = continue_greedily(weights, [*prompt, int(word)])
            second.append(reached in legal[legal[:, 0] == word, 1])

    measured = measure_legality(weights, positions, seed=7)

    # In half the precision a tie may fall out otherwise now and then.
    plain = (np.mean(first), np.mean(second))
    assert measured == pytest.approx(plain, abs=0.03)
    assert 0 < measured[0] < 1
    assert 0 < measured[1] < 1


def measure_illegality(weights, positions, at, prompt):
    """The loss of rules alone, from plain passes: minus the log of what is legal, weighted."""
    legal = positions.legal[slice(*positions.first_legal[at : at + 2])].astype(int)
    begins = np.unique(legal[:, 0])
    lost = -np.log(continue_softly(weights, prompt)[begins].sum())
    for word in begins:
        reached = legal[legal[:, 0] == word, 1]
        weight = 0.5 * len(reached) / len(legal) + 0.5 / len(begins)
        lost -= weight * np.log(continue_softly(weights, [*prompt, int(word)])[reached].sum())
    return lost


def continue_softly(weights, ids):
    with torch.no_grad():
        return weights(torch.tensor([ids])).logits[0, -1].softmax(-1).numpy()


def test_the_hardest_positions_are_those_with_most_that_is_illegal(corpus):
    """By ordinary passes, one text at a time; what they lose is the loss of rules alone."""
    positions = corpus.priced.split_off(30)[1]
    weights = make_weights(TINY, 0)
    train_a_little(weights, positions)
    rng = np.random.default_rng(4)
    documents = [write_record(positions, at, rng) for at in range(30)]
    lost = np.array(
        [measure_illegality(weights, positions, d.position, d.prompt) for d in documents]
    )

    hardest = find_hardest(weights, positions, 10, seed=4)

    assert len(hardest) == 10
    kept = [at for at in range(30) if any((positions.boards[at] == hardest.boards).all(axis=1))]
    # In half the precision neighbours may change places.
    assert lost[kept].sum() == pytest.approx(np.sort(lost)[-10:].sum(), rel=0.02)
    for at in range(5):
        batch = collate(positions, documents[at : at + 1], 1.0, rng, rules_only=True)
        loss = pretrain._answer_loss(weights, batch).detach()
        assert float(loss) == pytest.approx(lost[at], rel=0.03)


def test_rules_alone_say_nothing_of_what_is_better(corpus):
    """Their gradient moves the legal words of a target alike, whatever the players preferred."""
    positions = corpus.priced.take(np.arange(8))
    source = Source(positions=positions, share=1.0, rules_only=True)
    [batch] = draw_batches([source], replace(COURSE, rows=8), 0.0, np.random.default_rng(0))
    logits = torch.randn(batch.targets.shape, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "_predict", lambda weights, batch, read: logits)
        pretrain._answer_losses(make_weights(TINY, 0), batch).sum().backward()

    pushes = logits.grad / logits.detach().softmax(-1)
    for push, target in zip(pushes.numpy(), batch.targets, strict=True):
        assert np.ptp(push[target > 0]) < 1e-3 * np.abs(push).max()
        assert (push[target > 0] < 0).all()
        assert (push[target == 0] > 0).all()


def train_a_little(weights, positions):
    """Enough to be legal now and then, without writing anything."""
    optimizer = torch.optim.AdamW(weights.parameters(), lr=2e-2)
    rng = np.random.default_rng(0)
    source = Source(positions=positions, share=1.0)
    for _ in range(90):
        for batch in draw_batches([source], replace(COURSE, rows=8), 1.0, rng):
            pretrain._answer_loss(weights, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights.eval()


def continue_greedily(weights, ids):
    with torch.no_grad():
        return int(weights(torch.tensor([ids])).logits[0, -1].argmax())


def test_a_lone_piece_counts_as_a_piece():
    """Where only the king can move, its second word is no first word, whatever its weight."""
    boards = [
        chess.Board(fen) for fen in ("8/8/8/8/8/k7/8/K7 w - - 0 1", "8/8/8/8/8/5k2/8/7K w - - 0 1")
    ]
    positions = encode_boards(boards)
    weights = AlwaysFirstLegal(positions)

    assert measure_legality(weights, positions) == (1.0, 0.0)


class AlwaysFirstLegal(torch.nn.Module):
    """Names the piece that can move wherever it is asked, and so never where it goes."""

    device = torch.device("cpu")
    dtype = torch.bfloat16

    def __init__(self, positions):
        super().__init__()
        rng = np.random.default_rng(0)
        documents = [write_record(positions, at, rng) for at in range(len(positions))]
        batch = collate(positions, documents, 1.0, rng)
        width = batch.tokens.shape[1]
        pieces = {}
        for flat, target in zip(batch.asked, batch.targets, strict=True):
            pieces.setdefault(int(flat) // width, int(np.flatnonzero(target)[0]))
        self.pieces = pieces

    def base_model(self, *, input_ids, **_):
        hidden = torch.zeros(*input_ids.shape, 960)
        for row, piece in self.pieces.items():
            hidden[row, :, piece] = 1
        return type("Output", (), {"last_hidden_state": hidden})

    @staticmethod
    def lm_head(hidden):
        return hidden
