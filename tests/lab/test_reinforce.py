"""RL learns from every move that could have been made, by the formulas it claims.

The formulas stand here once more, on plain forward passes of one text each, without the layout that
asks for all answers at once.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from tiny_chess import load_tiny

from holdback.models.protocol import Decoding, Format, Presentation
from holdback.tasks.chess.engine import ALL_MOVES, MATE_CENTIPAWNS, Search, write_uci_position
from holdback.tasks.chess.match import Pairing, PlayedGame, Rules, Turn, play_games, replay_turns
from holdback.tasks.chess.notation import write_move
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import get_opponent
from holdback.tasks.chess.prompts import render_prompt
from holdback.tasks.chess.setup import get_setup
from holdback.tasks.task import Split
from holdback_lab.chess import reinforce
from holdback_lab.chess.reinforce import (
    Choice,
    Drill,
    collect_choices,
    measure_divergence,
    prefer_habits,
)
from holdback_lab.chess.rewards import ILLEGAL, win
from holdback_lab.chess.vocabulary import list_words

WORDS = list_words()
DRILL = Drill(rewards={Format.CHAT: win}, iterations=1, nodes=4_000, temperature=0.5)
BF16 = 0.05
"""What passes in bfloat16 may be off by, in nats."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def exact(monkeypatch):
    """Passes in full precision, for formulas to be told apart that differ by little."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.fixture(scope="module")
def played(model, pool):
    """A game with either colour, and the model as it was asked."""
    return play(model, pool, decoding=Decoding(constrained=True, temperature=1.0))


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


@pytest.mark.parametrize("setup", ["standard", "kings_and_pawns"])
@pytest.mark.parametrize("way", list(Format))
@pytest.mark.parametrize("prefix", [0, 3, 4])
def test_replay_gives_the_models_turns_with_the_boards_before_them(model, pool, setup, way, prefix):
    """For both colours, from any opening; what an engine played at first is nobody's turn."""
    player, games = play(
        model,
        pool,
        setup=setup,
        decoding=Decoding(constrained=True, temperature=1.0),
        presentation=Presentation(format=way, prefix_plies=prefix),
    )

    for game in games:
        board = chess.Board(game.pairing.opening)
        expected = []
        for ply, move in enumerate(game.moves):
            if board.turn == game.pairing.colour and ply >= prefix:
                expected.append((render_prompt(player, board), move, board.fen()))
            board.push(move)
        replayed = list(replay_turns(game))
        assert [(turn.prompt, turn.move, board.fen()) for turn, board in replayed] == expected
        assert [turn for turn, _ in replayed] == list(game.turns)
        assert len(expected) > 2


def test_a_turn_that_failed_is_replayed_too(model, pool):
    """It has no move, and its position is what the game ended with."""
    _, games = play(model, pool, decoding=Decoding(tries=1, temperature=1.0))
    assert {game.termination for game in games} <= {"illegal", "unparsed"}

    for game in games:
        board = chess.Board(game.pairing.opening)
        for move in game.moves:
            board.push(move)
        [(turn, before)] = replay_turns(game)
        assert turn.move is None
        assert before.fen() == board.fen()


class Noting:
    """A reward that keeps what it was given, and answers by it."""

    def __init__(self):
        self.given = []

    def __call__(self, options):
        self.given.append(options)
        return options.win_probability - 10.0 * np.arange(len(options.moves))


def test_choices_are_the_turns_with_all_moves_priced(model, pool, played):
    """Prompt as rendered, words of all legal moves, Stockfish's prices of each, and the reward."""
    player, games = played
    noting = Noting()
    choices = collect_choices(model, games, noting, DRILL, pool, np.random.default_rng(0))

    turns = {board.fen() for game in games for _, board in replay_turns(game)}
    assert {options.board.fen() for options in noting.given} == turns
    assert len(choices) == len(noting.given) == sum(len(game.turns) for game in games)
    assert {options.board.turn for options in noting.given} == {chess.WHITE, chess.BLACK}
    for choice, options in zip(choices, noting.given, strict=True):
        board = options.board
        assert choice.prompt == player.encode(render_prompt(player, board))
        assert set(options.moves) == set(board.legal_moves)
        words = [" ".join(WORDS[i] for i in move) for move in choice.words]
        assert words == [write_move(board, move) for move in options.moves]
        search = Search(position=write_uci_position(board), nodes=DRILL.nodes, lines=ALL_MOVES)
        [answer] = pool.analyse([search])
        lines = {line.move: (line.win_probability, line.centipawns) for line in answer.lines}
        priced = zip(options.win_probability, options.centipawns, strict=True)
        assert list(priced) == [lines[move] for move in options.moves]
        own = options.win_probability - 10.0 * np.arange(len(options.moves))
        np.testing.assert_array_equal(choice.rewards, own)


@pytest.mark.parametrize("colour", [chess.WHITE, chess.BLACK])
def test_prices_are_the_movers(model, pool, colour):
    """Of all moves the one that mates is worth most, whoever mates."""
    board = chess.Board("7k/8/5KQ1/8/8/8/8/8 w - - 0 1")
    if not colour:
        board = board.mirror()
    turn = Turn(render_prompt(model, board), "", None, 1, 0.0)
    pairing = Pairing(
        opening=board.fen(), colour=colour, opponent=get_opponent("random"), seed=(0,)
    )
    game = PlayedGame(
        pairing=pairing, moves=(), turns=(turn,), stood_in=0, termination="illegal", score=0.0
    )
    noting = Noting()

    collect_choices(model, [game], noting, DRILL, pool, np.random.default_rng(0))

    [options] = noting.given
    best = options.centipawns == options.centipawns.max()
    assert options.centipawns.max() == MATE_CENTIPAWNS - 1
    assert (options.win_probability[best] > 0.99).all()
    for move, mates in zip(options.moves, best, strict=True):
        board.push(move)
        assert board.is_checkmate() == mates
        board.pop()


def test_no_more_choices_than_are_learnt_from(model, pool, played):
    """Drawn from all turns of all games, the same ones from the same seed."""
    _, games = played
    drill = replace(DRILL, steps=2, minibatch=2)
    every = collect_choices(model, games, win, DRILL, pool, np.random.default_rng(0))

    def collect(seed):
        choices = collect_choices(model, games, win, drill, pool, np.random.default_rng(seed))
        return [choice.prompt for choice in choices]

    drawn = [collect(seed) for seed in range(24)]

    assert {len(prompts) for prompts in drawn} == {4}
    assert collect(5) == drawn[5]
    assert len({str(prompts) for prompts in drawn}) > 20
    wanted = {str(choice.prompt) for choice in every}
    assert {str(prompt) for prompts in drawn for prompt in prompts} == wanted


def test_positions_that_are_not_priced_whole_are_left_out(model, pool, played):
    """One node does not suffice for all moves."""
    _, games = played
    scant = replace(DRILL, nodes=1)
    assert collect_choices(model, games, win, scant, pool, np.random.default_rng(0)) == []


def make_choices(count=5, seed=0):
    """Positions without sense, of unlike lengths, pieces and numbers of moves."""
    rng = np.random.default_rng(seed)
    choices = []
    for number in range(count):
        pieces = rng.choice(np.arange(8, 900), size=1 + number % 4, replace=False)
        moves = [
            (piece, to) for piece in pieces for to in rng.choice(900, 1 + int(piece) % 5, False)
        ]
        rng.shuffle(moves)
        choices.append(
            Choice(
                prompt=rng.integers(8, 900, size=int(rng.integers(3, 20))).tolist(),
                words=np.array(moves, np.int64),
                rewards=rng.normal(size=len(moves)),
            )
        )
    return choices


def predict(model, text, temperature=1.0):
    """Log-probabilities of the word after a text."""
    return torch.log_softmax(model.weights(torch.tensor([text])).logits[0, -1] / temperature, -1)


def list_logprobs(model, choice, temperature=1.0):
    """Log-probability of each of a position's moves, a pass for each."""
    return torch.stack(
        [
            predict(model, choice.prompt, temperature)[left]
            + predict(model, [*choice.prompt, left], temperature)[reached]
            for left, reached in choice.words.tolist()
        ]
    )


def legal_logprobs(model, choice):
    """Log-probability that the first word is legal, and for each piece that the second is."""
    after = {
        left: {to for own, to in choice.words.tolist() if own == left}
        for left in choice.words[:, 0].tolist()
    }
    first = predict(model, choice.prompt)[list(after)].logsumexp(0)
    return first, [
        predict(model, [*choice.prompt, left])[list(reached)].logsumexp(0)
        for left, reached in after.items()
    ]


def legality(model, choices):
    """Of first words, and of second ones on average; summed over positions."""
    parts = [legal_logprobs(model, choice) for choice in choices]
    first = torch.stack([part for part, _ in parts])
    second = torch.stack([piece for _, pieces in parts for piece in pieces])
    return first.sum() + second.mean() * len(choices)


@torch.no_grad()
def test_a_habit_earns_what_the_model_would_do(taught):
    """The likeliest move earns 1, each other the less the less likely it is; none goes missing."""
    choices = make_choices()

    habits = prefer_habits(taught, choices)

    assert sorted(c.prompt for c in habits) == sorted(c.prompt for c in choices)
    for habit in habits:
        chances = list_logprobs(taught, habit).exp().double().numpy()
        np.testing.assert_allclose(habit.rewards, chances / chances.max(), rtol=0.1, atol=0.02)
        assert habit.rewards.max() == 1
        assert (habit.rewards > ILLEGAL).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@torch.no_grad()
def test_all_moves_at_once_have_the_probabilities_of_separate_passes(taught, exact, temperature):
    """No answer sees another, nor the padding; every piece's words are looked up after it."""
    choices = make_choices(9)

    got = reinforce._Policy(taught, choices, temperature).logprobs()

    expected = torch.cat([list_logprobs(taught, choice, temperature) for choice in choices])
    assert float(expected.std()) > 1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_real_positions_have_the_probabilities_of_separate_passes(model, pool, played):
    """In the precision that training runs in; some probability is left for illegal answers."""
    _, games = played
    choices = collect_choices(model, games, win, DRILL, pool, np.random.default_rng(0))[:3]

    got = reinforce._Policy(model, choices, 0.5).logprobs()

    expected = [list_logprobs(model, choice, 0.5) for choice in choices]
    torch.testing.assert_close(got, torch.cat(expected), atol=BF16, rtol=0)
    for logprobs in got.split([len(choice.words) for choice in choices]):
        assert 0 < float(logprobs.exp().sum()) < 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@torch.no_grad()
def test_legality_is_that_of_every_word(taught, exact, temperature):
    """Of each first word and of each piece's second, at temperature 1 whatever is trained."""
    choices = make_choices(7)

    got = reinforce._Policy(taught, choices, temperature).legality()

    assert float(got) == pytest.approx(float(legality(taught, choices)), abs=1e-3)


def follow(model, choices, drill, steps):
    """Take gradient steps; give expected reward and legality before and after."""

    @torch.no_grad()
    def judge():
        reward = float(expected_reward(model, choices, drill.temperature))
        return reward, float(legality(model, choices)) / len(choices)

    before = judge()
    optimizer = torch.optim.Adam(model.weights.parameters(), lr=3e-3)
    for _ in range(steps):
        reinforce._accumulate(model, choices, drill)
        optimizer.step()
        optimizer.zero_grad()
    return before, judge()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A model that is legal half of the time in nine positions: an untrained one hardly ever is."""
    model = load_tiny(tmp_path_factory.mktemp("taught"))
    follow(model, make_choices(9), DRILL, steps=60)
    return model


def find_gradient(model, loss):
    """Gradient that `loss` leaves in the weights, in one vector."""
    model.weights.zero_grad()
    loss()
    gradient = torch.cat([p.grad.flatten().clone() for p in model.weights.parameters()])
    model.weights.zero_grad()
    return gradient


def expected_reward(model, choices, temperature):
    """Mean over positions, illegal answers at their own price."""
    total = torch.zeros(())
    for choice in choices:
        chances = list_logprobs(model, choice, temperature).exp()
        total = total + (chances * torch.tensor(choice.rewards)).sum()
        total = total + (1 - chances.sum()) * ILLEGAL
    return total / len(choices)


@pytest.mark.parametrize(("temperature", "weight"), [(0.5, 0.0), (1.0, 0.8), (0.5, 2.0)])
def test_the_gradient_is_the_formulas(taught, exact, temperature, weight):
    """Of the expected reward, in units of the rewards' spread, and of the loss on illegal words."""
    choices = make_choices(6)
    drill = replace(DRILL, temperature=temperature, rules_weight=weight)

    def loss():
        spread = np.concatenate([choice.rewards for choice in choices]).std()
        rules = legality(taught, choices) / len(choices)
        (-expected_reward(taught, choices, temperature) / spread - weight * rules).backward()

    expected = find_gradient(taught, loss)
    got = find_gradient(taught, lambda: reinforce._accumulate(taught, choices, drill))

    assert float(expected.norm()) > 0.01
    assert float((got - expected).norm()) < 1e-3 * float(expected.norm())


def test_the_gradient_in_bfloat16_points_the_same_way(taught):
    """Training in lower precision follows the formula still."""
    choices = make_choices(6)
    drill = replace(DRILL, rules_weight=0.0)

    def loss():
        (-expected_reward(taught, choices, drill.temperature)).backward()

    expected = find_gradient(taught, loss)
    got = find_gradient(taught, lambda: reinforce._accumulate(taught, choices, drill))

    assert float(torch.cosine_similarity(got, expected, dim=0)) > 0.99


def test_a_minibatch_is_one_however_it_is_cut(taught, exact, monkeypatch):
    """Parts add up to the mean over all positions, and each position is in one of them."""
    choices = make_choices(7)
    drill = replace(DRILL, rules_weight=0.0)

    def accumulate():
        reinforce._accumulate(taught, choices, drill)

    whole, cut = find_gradient(taught, accumulate), reinforce._cut
    parts = cut(choices, size=3)
    monkeypatch.setattr(reinforce, "_cut", lambda choices: cut(choices, size=3))

    assert [len(part) for part in parts] == [3, 3, 1]
    lengths = [len(choice.prompt) for part in parts for choice in part]
    assert lengths == sorted(len(choice.prompt) for choice in choices)
    torch.testing.assert_close(find_gradient(taught, accumulate), whole, atol=1e-6, rtol=1e-3)


def test_learning_raises_the_expected_reward_and_keeps_the_rules(tmp_path):
    """On the same few positions again and again; the best move becomes the likeliest."""
    model, choices = load_tiny(tmp_path), make_choices(4)

    (reward, rules), (better, tighter) = follow(model, choices, DRILL, steps=100)

    assert reward < ILLEGAL + 0.1
    assert better > 0.8 * np.mean([choice.rewards.max() for choice in choices])
    assert tighter > rules + 5
    with torch.no_grad():
        for choice in choices:
            assert int(list_logprobs(model, choice).argmax()) == choice.rewards.argmax()


def test_illegal_answers_are_unlearnt_by_the_reward_alone(tmp_path):
    """Though all legal moves are equally bad, they are better than breaking the rules."""
    model = load_tiny(tmp_path)
    choices = [
        replace(choice, rewards=np.full(len(choice.words), -2.4)) for choice in make_choices()
    ]

    (reward, rules), (better, tighter) = follow(
        model, choices, replace(DRILL, rules_weight=0.0), steps=60
    )

    assert better > reward + 0.1
    assert tighter > rules + 1


def test_the_rules_prefer_no_legal_move(model, exact):
    """Their pull is in proportion to what legal words have, and none where all mass is legal."""
    [choice] = make_choices(1)
    size = model.weights.config.vocab_size
    # Two pieces, one of which may go anywhere.
    words = np.array([(300, 20), (300, 21), *((700, word) for word in range(size))])
    free = replace(choice, words=words, rewards=np.zeros(len(words)))
    policy = reinforce._Policy(model, [free], 1.0)
    first, second = policy._logits
    for logits in (first, second):
        logits.retain_grad()

    policy.legality().backward()

    # The second word of each of the two pieces counts half.
    for logits, legal, share in ((first, [300, 700], 1.0), (second, [20, 21], 0.5)):
        chances = torch.softmax(logits[0].detach(), -1)
        within = torch.zeros(size)
        within[legal] = chances[legal] / chances[legal].sum()
        pull = share * (within - chances)
        torch.testing.assert_close(logits.grad[0], pull, atol=1e-6, rtol=0)
    torch.testing.assert_close(second.grad[1], torch.zeros(size), atol=1e-6, rtol=0)
    model.weights.zero_grad()


def test_divergence_is_the_adapted_policys_from_its_parents(taught, exact):
    """None without a change; with one, Σ π (log π - log π₀) over legal moves, at temperature 1."""
    from peft import LoraConfig, get_peft_model

    model = replace(taught, weights=copy.deepcopy(taught.weights))
    # More than one part, of unlike sizes.
    choices = [*make_choices(9), *make_choices(30, seed=1)]

    @torch.no_grad()
    def list_all():
        return [list_logprobs(model, choice) for choice in choices]

    still = list_all()
    torch.manual_seed(0)
    adapted = get_peft_model(model.weights, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    assert measure_divergence(model, adapted, choices) == 0
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)

    sums = [
        float((now.exp() * (now - was)).sum()) for now, was in zip(list_all(), still, strict=True)
    ]

    assert abs(np.mean(sums)) > 0.01
    assert measure_divergence(model, adapted, choices) == pytest.approx(np.mean(sums), rel=1e-3)
