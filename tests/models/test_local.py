"""Sessions give what a plain forward pass over the whole text gives."""

from __future__ import annotations

import chess
import numpy as np
import pytest
import torch
from tiny_chess import load_tiny

from holdback.models.protocol import Decoding
from holdback.tasks.chess.notation import write_move, write_position
from holdback.tasks.chess.prompts import write_messages

GREEDY = Decoding(temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def start_text(board: chess.Board) -> str:
    return f"<bos> {write_position(board)}"


def continue_plainly(model, text: str, tokens: int) -> tuple[str, float]:
    """Greedy continuation and its log-probability from full forward passes, no cache."""
    ids = torch.tensor([model.encode(text)])
    total = 0.0
    drawn: list[int] = []
    with torch.no_grad():
        for _ in range(tokens):
            logprobs = torch.log_softmax(model.weights(ids).logits[0, -1].double(), -1)
            token = int(logprobs.argmax())
            total += float(logprobs[token])
            drawn.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return model.tokenizer.decode(drawn), total


def rngs(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(n)]


def test_rows_of_unequal_length_equal_plain_forward_passes_as_rows_leave(model):
    """Every proposal equals the cacheless one, whatever the other rows' lengths and departures."""
    after_e4 = chess.Board()
    after_e4.push_uci("e2e4")
    bare = chess.Board("8/8/4k3/8/8/4K3/4P3/8 w - - 0 1")
    texts = [start_text(board) for board in (chess.Board(), bare, after_e4)]
    sessions = model.open_sessions(texts)
    live = [0, 1, 2]
    for step in range(6):
        if step == 2:
            sessions.close([0])
            live = [1, 2]
        outputs = sessions.propose(live, decoding=GREEDY, rngs=rngs(len(live)), max_tokens=2)
        for row, output in zip(live, outputs, strict=True):
            text, logprob = continue_plainly(model, texts[row], 2)
            assert output.text == text
            assert output.logprob == pytest.approx(logprob, abs=1e-4)
        # What is appended need not be what was proposed.
        grown = {row: " Pe2 Pe4" if row % 2 else f" {outputs[-1].text}" for row in live}
        sessions.extend(grown)
        for row, text in grown.items():
            texts[row] += text


def test_a_choice_that_begins_another_leaves_both_to_the_model(model):
    """Castling short is the beginning of castling long: each is drawn as often as it is likely."""
    n, text = 600, start_text(chess.Board())
    first, second = model.decode(model.encode(text)[-2:]).split()
    with torch.no_grad():
        after = model.weights(torch.tensor([model.encode(f"{text} {first}")])).logits[0, -1]
    (token,) = model.encode(second)
    # Sharper than the tiny model is, so that neither is rare.
    temperature = 0.3
    share = float(torch.softmax(after.double() / temperature, -1)[token])
    sessions = model.open_sessions([text] * n)

    outputs = sessions.propose(
        range(n),
        decoding=Decoding(temperature=temperature),
        rngs=rngs(n),
        max_tokens=4,
        allowed=[[first, f"{first} {second}"]] * n,
    )
    texts = [output.text for output in outputs]

    assert set(texts) == {first, f"{first} {second}"}
    longer = texts.count(f"{first} {second}") / n
    assert abs(longer - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_constrained_proposals_are_always_allowed(model):
    """Constrained decoding cannot leave the list, and reaches every entry of it."""
    board = chess.Board()
    moves = [write_move(board, move) for move in board.legal_moves]
    sessions = model.open_sessions([start_text(board)])
    n = 400

    outputs = sessions.propose(
        [0] * n,
        decoding=Decoding(temperature=1.0),
        rngs=rngs(n),
        max_tokens=2,
        allowed=[moves] * n,
    )

    assert {output.text for output in outputs} == set(moves)


def test_a_draw_depends_on_its_own_seed_only(model):
    """The same row and seed give the same draw, alone or in a batch."""
    texts = [start_text(chess.Board())] * 4
    hot = Decoding(temperature=1.0)
    together = model.open_sessions(texts).propose(
        [0, 1, 2, 3], decoding=hot, rngs=rngs(4), max_tokens=2
    )

    alone = [
        model.open_sessions(texts[:1]).propose([0], decoding=hot, rngs=[rng], max_tokens=2)[0]
        for rng in rngs(4)
    ]

    assert [output.text for output in alone] == [output.text for output in together]


def test_temperature_samples_the_softmax(model):
    """At temperature 1 the frequencies of first words match the model's probabilities."""
    text = start_text(chess.Board())
    n = 4000
    outputs = model.open_sessions([text]).propose(
        [0] * n, decoding=Decoding(temperature=1.0), rngs=rngs(n), max_tokens=1
    )
    with torch.no_grad():
        expected = model.weights(torch.tensor([model.encode(text)])).logits[0, -1].softmax(-1)
    likeliest = int(expected.argmax())
    word = model.tokenizer.decode([likeliest])
    p = float(expected[likeliest])

    share = np.mean([output.text == word for output in outputs])

    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5 + 1e-3)


def test_chat_template_and_tokenizer_round_trip(model):
    """What the template renders, the tokenizer reads word by word, without unknown words."""
    after_e4 = chess.Board()
    after_e4.push_uci("e2e4")
    first = write_messages(
        chess.Board(), "play your best moves .", answer=chess.Move.from_uci("e2e4")
    )
    text = model.render_chat([*first, *write_messages(after_e4)], answer_next=True)

    assert model.tokenizer.unk_token_id not in model.encode(text)
    assert model.tokenizer.decode(model.encode(text)) == " ".join(text.split())
    assert text.endswith("<|assistant|>")
