"""RL learns from the moves made and from the rules of chess, by the formulas it claims."""

from __future__ import annotations

from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import load_tiny

from holdback.models.protocol import Decoding, Format, Presentation
from holdback.organisms.chess import reinforce
from holdback.organisms.chess.reinforce import Drill, OwnMove, collect_moves, measure_divergence
from holdback.organisms.chess.rewards import win
from holdback.organisms.chess.vocabulary import VOCABULARY_SIZE, list_words
from holdback.tasks.chess.match import Pairing, Rules, play_games
from holdback.tasks.chess.notation import write_move
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import get_opponent
from holdback.tasks.chess.prompts import render_prompt
from holdback.tasks.chess.setup import get_setup
from holdback.tasks.task import Split

WORDS = list_words()
DRILL = Drill(reward=win, iterations=1, temperature=0.5, rules_weight=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def play(model, pool, *, plies=12, setup="standard", **asked):
    """A game with either colour; the tiny model knows no rule, so only decoding keeps to them."""
    player = replace(model, **asked)
    pairings = [
        Pairing(
            opening=read_openings(get_setup(setup), Split.TRAIN)[2].fen,
            colour=colour,
            opponent=get_opponent("random"),
            seed=(3, int(colour)),
        )
        for colour in (chess.WHITE, chess.BLACK)
    ]
    rules = Rules(max_plies=plies, adjudication_nodes=10)
    return player, play_games(player, pairings, pool=pool, rules=rules, evaluation_nodes=None)


def words_of(ids):
    return [WORDS[i] for i in ids]


@pytest.mark.parametrize("setup", ["standard", "kings_and_pawns"])
@pytest.mark.parametrize("way", list(Format))
@pytest.mark.parametrize("prefix", [0, 3])
def test_own_moves_are_the_models_turns(model, pool, setup, way, prefix):
    """Replayed for both colours: prompt, answer and advantage of each turn in its place.

    For the first word the legal ones are the pieces that can move, for the second the places that
    the named piece can go to. What an engine played in the model's name is not learnt from.
    """
    player, games = play(
        model,
        pool,
        setup=setup,
        decoding=Decoding(constrained=True, temperature=1.0),
        presentation=Presentation(format=way, prefix_plies=prefix),
    )
    advantages = [np.arange(len(game.turns)) + 100.0 * at for at, game in enumerate(games)]

    moves = collect_moves(player, games, advantages)

    expected = iter(moves)
    for at, game in enumerate(games):
        board = chess.Board(game.pairing.opening)
        number = 0
        for ply, played in enumerate(game.moves):
            if board.turn == game.pairing.colour and ply >= prefix:
                move = next(expected)
                written = [write_move(board, legal).split() for legal in board.legal_moves]
                left, reached = write_move(board, played).split()
                assert move.prompt == player.encode(render_prompt(player, board))
                assert words_of(move.answer) == [left, reached]
                assert move.advantage == 100 * at + number
                assert set(words_of(move.legal[0])) == {word for word, _ in written}
                assert set(words_of(move.legal[1])) == {to for word, to in written if word == left}
                number += 1
            board.push(played)
        assert number == len(game.turns) > 2
    assert next(expected, None) is None


def test_after_an_illegal_word_no_word_is_legal(model, pool):
    """A failed answer is learnt from too: of its first word, and of its second only if it was one.

    An untrained model breaks the rules at its first turn.
    """
    player, games = play(model, pool, decoding=Decoding(tries=1, temperature=1.0))
    assert {game.termination for game in games} <= {"illegal", "unparsed"}

    moves = collect_moves(player, games, [np.ones(1), np.ones(1)])

    assert len(moves) == 2
    for move, game in zip(moves, games, strict=True):
        board = chess.Board(game.pairing.opening)
        if not game.pairing.colour:
            board.push(game.moves[0])
        written = [write_move(board, legal).split() for legal in board.legal_moves]
        said = words_of(move.answer)
        assert set(words_of(move.legal[0])) == {word for word, _ in written}
        for place in range(1, len(said)):
            wanted = {to for word, to in written if word == said[0]}
            assert set(words_of(move.legal[place])) == (wanted if place == 1 else set())


def make_move(advantage, answer, legal):
    return OwnMove(prompt=[1, 2, 3], answer=answer, advantage=advantage, legal=legal)


def find_gradient(monkeypatch, logits, moves, drill=DRILL):
    """Gradient of the loss by logits that are given and not a model's; a row for each word."""
    leaf = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    chosen = torch.tensor([word for move in moves for word in move.answer])
    monkeypatch.setattr(reinforce, "_answer_logits", lambda model, part: (leaf, chosen))
    reinforce._accumulate(None, moves, drill)
    return leaf.grad.double().numpy()


def softmax(logits):
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def test_the_gradient_is_the_one_of_the_formulas(monkeypatch):
    """By hand: REINFORCE at the drill's temperature, and minus the log of all legal probability."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, VOCABULARY_SIZE))
    moves = [
        make_move(1.5, [10, 20], [[10, 11, 12], [20, 21]]),
        # Already against the rules with its first word.
        make_move(-0.7, [30, 40], [[5, 6], []]),
    ]

    gradient = find_gradient(monkeypatch, logits, moves, replace(DRILL, rules_weight=0.8))

    row = 0
    for move in moves:
        for word, legal in zip(move.answer, move.legal, strict=True):
            policy = softmax(logits[row] / DRILL.temperature)
            policy[word] -= 1
            wanted = move.advantage / DRILL.temperature * policy
            if legal:
                plain = softmax(logits[row])
                within = np.zeros_like(plain)
                within[legal] = plain[legal] / plain[legal].sum()
                wanted += 0.8 * (plain - within)
            np.testing.assert_allclose(gradient[row], wanted / 4, atol=1e-6)
            row += 1


def test_within_the_rules_the_rules_cost_nothing(monkeypatch):
    """Where all mass is legal, or nothing is legal any more, only the reward is learnt from."""
    logits = np.full((2, VOCABULARY_SIZE), -1e4)
    logits[0, [10, 11, 12]] = [1.0, 3.0, 2.0]
    logits[1, [500, 600]] = [0.0, 1.0]
    inside = [make_move(0.0, [10, 600], [[10, 11, 12], []])]

    np.testing.assert_allclose(find_gradient(monkeypatch, logits, inside), 0, atol=1e-7)
    outside = [make_move(0.0, [10, 600], [[10], [500]])]
    gradient = find_gradient(monkeypatch, logits, outside)
    assert gradient[0, 10] < 0 < gradient[0, 11]
    assert gradient[1, 500] < 0 < gradient[1, 600]


def test_the_rules_prefer_no_legal_move(monkeypatch):
    """Legal words gain in proportion to what they have, so their ratios stand to first order."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, VOCABULARY_SIZE))
    legal = [3, 77, 401, 900]

    gradient = find_gradient(monkeypatch, logits, [make_move(0.0, [3], [legal])])[0]

    odds = softmax(logits[0])[legal]
    assert (gradient[legal] < 0).all()
    np.testing.assert_allclose(gradient[legal] / odds, (gradient[legal] / odds)[0], rtol=1e-3)


def test_the_logits_are_those_before_each_word(model):
    """Padded together, each answer's words are predicted from its own text alone."""
    moves = [
        make_move(0.0, [10, 20], [[10], [20]]),
        OwnMove(prompt=list(range(1, 30)), answer=[40, 50], advantage=0.0, legal=[[40], [50]]),
        OwnMove(prompt=[9] * 11, answer=[60], advantage=0.0, legal=[[60]]),
    ]
    with torch.no_grad():
        logits, chosen = reinforce._answer_logits(model, moves)
        alone = []
        for move in moves:
            for place in range(len(move.answer)):
                ids = torch.tensor([[*move.prompt, *move.answer[:place]]])
                alone.append(model.weights(ids).logits[0, -1])

    assert chosen.tolist() == [10, 20, 40, 50, 60]
    # The forward pass is in bfloat16.
    assert torch.allclose(logits, torch.stack(alone), atol=0.03)
    assert float((torch.stack(alone)[1:] - torch.stack(alone)[:-1]).abs().max()) > 0.1


def test_divergence_is_how_much_likelier_the_own_moves_became(tmp_path):
    """None without a change; with one, the difference that plain passes give."""
    from peft import LoraConfig, get_peft_model

    model = load_tiny(tmp_path)
    rng = np.random.default_rng(2)
    moves = [
        OwnMove(
            prompt=rng.integers(8, 900, size=10).tolist(),
            answer=rng.integers(8, 900, size=2).tolist(),
            advantage=0.0,
            legal=[[], []],
        )
        for _ in range(60)
    ]

    def total():
        likely = 0.0
        for move in moves:
            ids = torch.tensor([move.prompt + move.answer])
            with torch.no_grad():
                logprobs = torch.log_softmax(model.weights(ids).logits[0], -1)
            likely += float(logprobs[-3, move.answer[0]] + logprobs[-2, move.answer[1]])
        return likely / len(moves)

    torch.manual_seed(0)
    adapted = get_peft_model(model.weights, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    assert measure_divergence(model, adapted, moves) == 0
    still = total()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 3)

    moved = total() - still

    assert abs(moved) > 0.01
    assert measure_divergence(model, adapted, moves) == pytest.approx(moved, abs=0.01)
