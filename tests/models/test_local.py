"""Answers are what a plain forward pass over the whole text gives."""

from __future__ import annotations

from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import load_tiny

from holdback.errors import ConfigError
from holdback.models.protocol import Decoding, Request, StopReason
from holdback.tasks.chess.notation import write_move, write_position
from holdback.tasks.chess.prompts import write_messages


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


def draw(model, prompts, *, temperature=0.0, max_tokens=2, allowed=None):
    """Continue prompts, each with the seed of its place."""
    asked = replace(model, decoding=Decoding(temperature=temperature))
    return asked.generate(
        [
            Request(prompt=prompt, max_tokens=max_tokens, seed=(at,), allowed=allowed)
            for at, prompt in enumerate(prompts)
        ]
    )


def test_rows_of_unequal_length_equal_plain_forward_passes(model):
    """Every answer equals the cacheless one, whatever the others' lengths, and twins agree."""
    after_e4 = chess.Board()
    after_e4.push_uci("e2e4")
    bare = chess.Board("8/8/4k3/8/8/4K3/4P3/8 w - - 0 1")
    texts = [start_text(board) for board in (chess.Board(), bare, after_e4, bare, bare)]
    for _ in range(4):
        answers = draw(model, texts)
        for text, answer in zip(texts, answers, strict=True):
            said, logprob = continue_plainly(model, text, 2)
            assert answer.text == said
            assert sum(answer.logprobs) == pytest.approx(logprob, abs=1e-4)
        texts = [f"{text} {answer.text}" for text, answer in zip(texts, answers, strict=True)]


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
    allowed = (first, f"{first} {second}")

    answers = draw(model, [text] * n, temperature=temperature, max_tokens=4, allowed=allowed)

    texts = [answer.text for answer in answers]
    assert set(texts) == set(allowed)
    assert {answer.stop_reason for answer in answers} == {StopReason.STOP}
    longer = texts.count(f"{first} {second}") / n
    assert abs(longer - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_constrained_answers_are_always_allowed(model):
    """Constrained decoding cannot leave the list, and reaches every entry of it."""
    board = chess.Board()
    moves = tuple(write_move(board, move) for move in board.legal_moves)

    answers = draw(model, [start_text(board)] * 400, temperature=1.0, allowed=moves)

    assert {answer.text for answer in answers} == set(moves)
    with pytest.raises(ConfigError, match="expected allowed continuations, got none"):
        draw(model, [start_text(board)], allowed=())


def test_constrained_and_free_answers_share_a_batch(model):
    """Whoever is bound binds nobody else."""
    text = start_text(chess.Board())
    asked = replace(model, decoding=Decoding(temperature=0))
    bound = Request(prompt=text, max_tokens=2, seed=(0,), allowed=("Pa2 Pa3",))
    free = replace(bound, allowed=None)

    mixed = asked.generate([bound, free, bound])

    assert [answer.text for answer in mixed] == ["Pa2 Pa3", draw(model, [text])[0].text, "Pa2 Pa3"]


def test_a_draw_depends_on_its_own_seed_only(model):
    """The same prompt and seed give the same draw, alone or in a batch."""
    hot = replace(model, decoding=Decoding(temperature=1.0))
    requests = [Request(prompt=start_text(chess.Board()), max_tokens=2, seed=(n,)) for n in (0, 1)]

    together = hot.generate(requests * 2)
    alone = [hot.generate([request])[0] for request in requests * 2]

    assert [answer.text for answer in alone] == [answer.text for answer in together]


def test_temperature_samples_the_softmax(model):
    """At temperature 1 the frequencies of first words match the model's probabilities."""
    text = start_text(chess.Board())
    n = 4000
    answers = draw(model, [text] * n, temperature=1.0, max_tokens=1)
    with torch.no_grad():
        expected = model.weights(torch.tensor([model.encode(text)])).logits[0, -1].softmax(-1)
    likeliest = int(expected.argmax())
    word = model.tokenizer.decode([likeliest])
    p = float(expected[likeliest])

    share = np.mean([answer.text == word for answer in answers])

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
