"""Training documents say what the games were, and targets are the distributions they claim."""

from __future__ import annotations

import chess
import numpy as np
import pytest

from holdback.organisms.chess.corpus import STRONG_MIX, WEAK_MIX, generate_games, read_corpus
from holdback.organisms.chess.documents import build_targets, collate, write_chat, write_record
from holdback.organisms.chess.vocabulary import build_tokenizer, list_words
from holdback.tasks.chess.notation import write_move, write_position

START = chess.STARTING_FEN
WORDS = list_words()


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """Real games by the real generator, and their moves."""
    folder = tmp_path_factory.mktemp("games")
    generate_games(folder / "g.tsv", start=START, games=6, seed=5, mix=STRONG_MIX, workers=1)
    corpus = read_corpus(
        folder / "g.tsv", start=START, mix=STRONG_MIX, cache=folder / "g.npz", workers=1
    )
    moves = [line.split("\t")[5].split() for line in (folder / "g.tsv").read_text().splitlines()]
    return corpus, moves


def replay(moves: list[str], plies: int) -> chess.Board:
    board = chess.Board()
    for uci in moves[:plies]:
        board.push_uci(uci)
    return board


def test_generation_resumes_to_the_same_games(tmp_path):
    """Stopped and continued, the corpus is what one call would have written."""
    mix = WEAK_MIX
    generate_games(tmp_path / "once", start=START, games=5, seed=1, mix=mix, workers=1)
    generate_games(tmp_path / "twice", start=START, games=2, seed=1, mix=mix, workers=1)
    generate_games(tmp_path / "twice", start=START, games=5, seed=1, mix=mix, workers=1)
    assert (tmp_path / "once").read_text() == (tmp_path / "twice").read_text()


@pytest.mark.parametrize("ply", [0, 1, 17])
def test_a_document_is_the_position_and_the_moves(games, ply):
    """Record and chat hold exactly what the notation of the tasks writes for the same game."""
    corpus, moves = games
    rng = np.random.default_rng(0)
    board = replay(moves[0], ply)
    expected = write_position(board)
    played = []
    for uci in moves[0][ply : ply + 5]:
        move = board.parse_uci(uci)
        played.append(write_move(board, move))
        board.push(move)

    record, before = write_record(corpus, 0, ply, 5, rng)
    text = " ".join(WORDS[i] for i in record)
    assert text.endswith(f"{expected} {' '.join(played)}")
    assert [" ".join(WORDS[i] for i in record[b + 1 : b + 3]) for b in before] == played

    chat, own = write_chat(corpus, ply, 5, rng)
    said = [WORDS[i] for i in chat]
    assert " ".join(said).count(expected) == 1
    assert [" ".join(said[b + 1 : b + 3]) for b in own] == played[::2]
    assert all(said[b] == "<|assistant|>" and said[b + 3] == "<|end|>" for b in own)


def test_chat_documents_are_what_the_template_renders(games):
    """What tuning sees is what the model is asked, word for word."""
    corpus, moves = games
    tokenizer = build_tokenizer()
    board = replay(moves[1], 3)
    position = write_position(board)
    messages = [{"role": "user", "content": position}]
    for ply in range(3, 6):
        move = board.parse_uci(moves[1][ply])
        role = "assistant" if ply % 2 else "user"
        messages.append({"role": role, "content": write_move(board, move)})
        board.push(move)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    first = int(corpus.first_ply[1]) + 3

    class NoSystem:
        @staticmethod
        def random():
            return 1.0

    ids, _ = write_chat(corpus, first, 3, NoSystem())
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_targets_are_the_distributions_they_claim(games):
    """The first word mixes the played one with legal moves alike; the second likewise, given it."""
    corpus, moves = games
    plies = np.arange(30)
    first, second = build_targets(corpus, plies, 0.5)

    np.testing.assert_allclose(first.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(second.sum(1), 1, atol=1e-5)
    for ply in plies:
        board = replay(moves[0], int(ply))
        legal = [write_move(board, move).split() for move in board.legal_moves]
        played = write_move(board, board.parse_uci(moves[0][ply])).split()
        for index in np.flatnonzero(first[ply]):
            word = WORDS[index]
            share = sum(left == word for left, _ in legal) / len(legal)
            expected = 0.5 * share + 0.5 * (word == played[0])
            assert first[ply, index] == pytest.approx(expected, abs=1e-5)
        reachable = {reached for left, reached in legal if left == played[0]}
        assert {WORDS[i] for i in np.flatnonzero(second[ply])} == reachable


def test_collation_finds_every_own_move(games):
    """The word after each marked place is the move's first, whatever the padding."""
    corpus, _ = games
    rng = np.random.default_rng(0)
    starts = [0, int(corpus.first_ply[1])]
    documents = [write_record(corpus, 0, 0, 4, rng), write_chat(corpus, starts[1], 7, rng)]
    batch = collate(documents, starts, [1, 2])

    flat = batch.tokens.reshape(-1)
    np.testing.assert_array_equal(flat[batch.before_move + 1], corpus.played[batch.plies, 0])
    np.testing.assert_array_equal(flat[batch.before_move + 2], corpus.played[batch.plies, 1])
