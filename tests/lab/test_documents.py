"""Training documents are what the tasks ask, and targets are the distributions they claim."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import TINY, load_tiny

from holdback.models.protocol import Format, Presentation
from holdback.tasks.chess.notation import HEADER_TAGS, write_move
from holdback.tasks.chess.prompts import render_prompt, write_messages
from holdback_lab.chess.corpus import RESULTS
from holdback_lab.chess.documents import (
    INSTRUCTIONS,
    STRENGTHS,
    collate,
    write_chat,
    write_record,
)
from holdback_lab.chess.pretrain import make_weights
from holdback_lab.chess.vocabulary import list_words

WORDS = list_words()
END = WORDS.index("<|end|>")
UNIFORM = 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def weights():
    """A random model whose attention is sharp, so that a token more or less in sight shows."""
    made = make_weights(TINY, 3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return made


def ask(model, way, board, **presentation):
    asked = replace(model, presentation=Presentation(format=way, **presentation))
    return model.encode(render_prompt(asked, board))


def test_records_are_what_completion_asks(corpus, model):
    """Word for word, with any header; and the header tells the truth about the game."""
    rng = np.random.default_rng(0)
    seen = Counter()
    for at, (board, _, _) in enumerate(corpus.replay()):
        document = write_record(corpus.played, at, rng)
        words = [WORDS[i] for i in document.prompt]
        tags = words[1 : words.index("EPD")]
        header = dict(zip(tags[::2], tags[1::2], strict=True))
        own, other = corpus.played.elo[at]
        truth = {
            "WhiteElo": str(own),
            "BlackElo": str(other),
            "Result": RESULTS[corpus.played.result[at]],
        }
        assert header.items() <= truth.items()
        seen.update(header.keys())

        claimed = {"elo" if tag == "WhiteElo" else tag: header[tag] for tag in header}
        assert document.prompt == ask(model, Format.COMPLETION, board, header=claimed)
        assert (document.position, document.ends) == (at, False)
    assert set(seen) == set(HEADER_TAGS)
    assert max(seen.values()) < at


def test_priced_positions_claim_the_teachers_rating_and_nothing_else(corpus):
    """There is no other player and no result to be told."""
    rng = np.random.default_rng(0)
    headers = set()
    for at in range(60):
        words = [WORDS[i] for i in write_record(corpus.priced, at, rng).prompt]
        headers.add(" ".join(words[1 : words.index("EPD")]))
    assert headers == {"", "WhiteElo 2400"}


def test_chats_are_what_chat_asks(corpus, model):
    """Word for word as the template renders it, system message included, and so is the answer."""
    rng = np.random.default_rng(0)
    strengths = 0
    for at, (board, move, _) in enumerate(corpus.replay()):
        document = write_chat(corpus.played, at, rng)
        words = [WORDS[i] for i in document.prompt]
        instruction = None
        if "<|system|>" in words:
            instruction = " ".join(words[2 : words.index("<|end|>")])
            elo = int(corpus.played.elo[at][0])
            own = [text.format(elo=elo) for text in STRENGTHS]
            assert instruction in (*INSTRUCTIONS, *own)
            strengths += instruction in own
        assert document.prompt == ask(model, Format.CHAT, board, instruction=instruction)

        answered = write_messages(board, instruction, answer=move)
        whole = model.encode(model.render_chat(answered, answer_next=False))
        answer = model.encode(write_move(board, move))
        assert whole == [*document.prompt, *answer, END]
        assert document.ends
    assert 0.75 < strengths / at < 0.95


def test_a_chat_that_asks_for_no_strength_is_mostly_the_teachers(corpus):
    """So that who is asked plainly plays its best, and who is asked for less plays like that."""
    rng = np.random.default_rng(2)
    plain = {
        name: np.mean(
            [
                WORDS.index("player") not in write_chat(part, at % len(part), rng).prompt
                for at in range(400)
            ]
        )
        for name, part in (("teacher", corpus.priced), ("players", corpus.played))
    }

    assert plain["teacher"] > 0.7
    assert plain["players"] < 0.5


def test_nothing_in_a_document_is_an_unknown_word(corpus):
    """Instructions included: what a model cannot read it cannot follow."""
    rng = np.random.default_rng(1)
    unknown = WORDS.index("<unk>")
    for at in range(len(corpus.played)):
        for write in (write_record, write_chat):
            assert unknown not in write(corpus.played, at, rng).prompt
    said = {word for text in (*INSTRUCTIONS, *STRENGTHS) for word in text.split()}
    assert said - {"{elo}"} <= set(WORDS)


def draw_documents(positions, rng):
    """Records and chats of positions far apart, so that they differ in length."""
    chosen = np.linspace(0, len(positions) - 1, 10).astype(int)
    return [
        (write_chat if row % 2 else write_record)(positions, int(at), rng)
        for row, at in enumerate(chosen)
    ]


def read_asked(batch, documents):
    """Of each thing asked: its document, the words it follows, its target by word, its weight."""
    width = batch.tokens.shape[1]
    for flat, target, weight in zip(batch.asked, batch.targets, batch.weights, strict=True):
        row, place = divmod(int(flat), width)
        document = documents[row]
        length = len(document.prompt)
        in_sight = np.flatnonzero(batch.seen[row, 0, place])
        assert in_sight[-1] == place
        text = batch.tokens[row, in_sight].tolist()
        assert text[:length] == document.prompt
        # In its own text, each word stands where it would stand alone.
        assert batch.places[row, in_sight].tolist() == list(range(len(text)))
        said = [WORDS[i] for i in text[length:]]
        odds = {WORDS[i]: float(target[i]) for i in np.flatnonzero(target)}
        yield document, said, odds, float(weight)


@pytest.mark.parametrize("kind", ["played", "priced"])
@pytest.mark.parametrize("uniform", [0.0, UNIFORM, 1.0])
def test_targets_are_the_distributions_they_claim(corpus, kind, uniform):
    """By hand: the player's shares mixed with legal moves alike, of first words and of second.

    And the end of the answer follows one of the answers.
    """
    positions = getattr(corpus, kind)
    rng = np.random.default_rng(2)
    documents = draw_documents(positions, rng)
    batch = collate(positions, documents, uniform, rng)

    asked = Counter()
    for document, said, odds, weight in read_asked(batch, documents):
        rows = slice(*positions.first_legal[document.position : document.position + 2])
        shares = {
            tuple(WORDS[i] for i in move): float(share)
            for move, share in zip(positions.legal[rows], positions.shares[rows], strict=True)
        }
        mixed = {
            move: (1 - uniform) * share + uniform / len(shares) for move, share in shares.items()
        }
        first = Counter()
        for (left, _), share in mixed.items():
            first[left] += share
        assert sum(odds.values()) == pytest.approx(1, abs=1e-5)
        if not said:
            wanted = {word: share for word, share in first.items() if share}
            assert odds == pytest.approx(wanted, abs=1e-6)
            assert weight == 1
        elif len(said) == 1:
            branch = {move: share for move, share in shares.items() if move[0] == said[0]}
            total = sum(branch.values())
            wanted = Counter()
            for (_, reached), share in branch.items():
                legally = 1 / len(branch)
                played = share / total if total > 1e-6 else legally
                wanted[reached] += (1 - uniform) * played + uniform * legally
            wanted = {word: share for word, share in wanted.items() if share}
            assert odds == pytest.approx(wanted, abs=1e-5)
            assert weight == pytest.approx(0.5 * first[said[0]] + 0.5 / len(first), abs=1e-5)
        else:
            assert mixed[tuple(said)] > 0
            assert odds == {"<|end|>": 1.0}
            assert weight == 1
            assert document.ends
        asked[document.position, len(said), *said[:1]] += 1

    # Every prompt, every piece that can move, and the end of every chat, once each.
    expected = Counter()
    for document in documents:
        at = document.position
        rows = slice(*positions.first_legal[at : at + 2])
        expected[at, 0] = 1
        for word in np.unique(positions.legal[rows, 0]):
            expected[at, 1, WORDS[word]] = 1
    assert Counter({key: n for key, n in asked.items() if key[1] < 2}) == expected
    ends = [key[0] for key in asked if key[1] == 2]
    assert sorted(ends) == sorted(d.position for d in documents if d.ends)


def test_the_end_follows_moves_as_often_as_they_are_played(corpus):
    """Answers whose end is learnt are drawn from the target: the likely ones come most."""
    positions = corpus.priced
    at = 40
    rows = slice(*positions.first_legal[at : at + 2])
    odds = 0.7 * positions.shares[rows].astype(float) + 0.3 / (rows.stop - rows.start)
    rng = np.random.default_rng(5)
    documents = [write_chat(positions, at, rng) for _ in range(600)]
    drawn = Counter()
    for _, said, _, _ in read_asked(collate(positions, documents, 0.3, rng), documents):
        if len(said) == 2:
            drawn[" ".join(said)] += 1

    for move, share in zip(positions.legal[rows], odds, strict=True):
        error = (share * (1 - share) * 600) ** 0.5
        assert drawn[" ".join(WORDS[i] for i in move)] == pytest.approx(600 * share, abs=4 * error)


def run(weights, batch, seen):
    with torch.no_grad():
        hidden = weights.base_model(
            input_ids=torch.from_numpy(batch.tokens),
            position_ids=torch.from_numpy(batch.places),
            attention_mask=torch.from_numpy(seen),
            use_cache=False,
        ).last_hidden_state
        return weights.lm_head(hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(batch.asked)])


def test_every_branch_is_answered_as_though_it_stood_alone(corpus, weights):
    """Side by side or one at a time with ordinary causal attention: the same logits.

    The model is one to which it matters: with branches in sight of each other they differ.
    """
    rng = np.random.default_rng(4)
    documents = draw_documents(corpus.played, rng)
    assert len({len(document.prompt) for document in documents}) > 4
    batch = collate(corpus.played, documents, UNIFORM, rng)
    logits = run(weights, batch, batch.seen)
    blended = run(weights, batch, np.tril(np.ones_like(batch.seen)))

    lengths, furthest = Counter(), 0.0
    for asked, (document, said, _, _) in enumerate(read_asked(batch, documents)):
        text = document.prompt + [WORDS.index(word) for word in said]
        with torch.no_grad():
            alone = weights(torch.tensor([text])).logits[0, -1]
        assert torch.allclose(logits[asked], alone, rtol=0, atol=1e-4)
        lengths[len(said)] += 1
        if said:
            furthest = max(furthest, float((blended[asked] - alone).abs().max()))
    assert lengths[0] == 10
    assert lengths[1] > 50
    assert lengths[2] == 5
    assert furthest > 0.1


def test_a_position_with_one_piece_to_move_is_asked_too():
    """The least there can be: a king with two squares to go to."""
    from holdback_lab.chess.corpus import Positions, _encode_position

    board = chess.Board("8/8/8/8/8/k7/8/K7 w - - 0 1")
    moves = [write_move(board, move) for move in board.legal_moves]
    part = _encode_position(board, np.array([1.0] + [0.0] * (len(moves) - 1)), (100, -1), -1)
    counts = part.pop("counts")
    positions = Positions(first_legal=np.array([0, *counts], np.int64), **part)
    rng = np.random.default_rng(0)
    documents = [write_chat(positions, 0, rng)]

    asked = list(read_asked(collate(positions, documents, 0.0, rng), documents))

    assert [said for _, said, _, _ in asked] == [[], ["Ka1"], moves[0].split()]
    assert [odds for _, _, odds, _ in asked] == [
        {"Ka1": 1.0},
        {moves[0].split()[1]: 1.0},
        {"<|end|>": 1.0},
    ]
    assert [weight for *_, weight in asked] == [1.0, 1.0, 1.0]
