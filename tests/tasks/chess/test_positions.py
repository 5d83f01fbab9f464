"""The shipped positions are what they claim, and answers are priced by them."""

import chess
import numpy as np
import pytest
from chess_players import ScriptedModel, choose_by_engine, choose_illegally, choose_randomly

from holdback.errors import ConfigError, UnknownNameError
from holdback.models.protocol import Decoding
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.positions import (
    ChessPositions,
    _name_phase,
    read_facts,
    read_positions,
    write_positions,
)
from holdback.tasks.chess.setup import SETUPS, get_setup
from holdback.tasks.task import Outcome, Split

SETUP = get_setup(ChessPositions().setup)
every_setup = pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)


def read_all(setup):
    return [position for split in Split for position in read_positions(setup, split)]


def run(model, *, samples, split=Split.SELECT, seed=0, done=()):
    task = ChessPositions()
    return list(task.run(model, split=split, samples=samples, seed=seed, done=done))


@every_setup
def test_there_are_enough_from_enough_games(setup):
    """1,500 positions from 300 games, 10,000 nodes or more a legal move, none twice."""
    positions = read_all(setup)

    assert len(positions) >= 1500
    assert len({position.game for position in positions}) >= 300
    assert read_facts(setup)["nodes_a_move"] >= 10_000
    assert len({chess.Board(position.fen).epd() for position in positions}) == len(positions)


@every_setup
def test_splits_share_no_game(setup):
    """The unit of the split is the game that positions come from."""
    games = [{position.game for position in read_positions(setup, split)} for split in Split]

    assert sum(map(len, games)) == len(set.union(*games))
    assert all(len(part) >= 50 for part in games)


@every_setup
def test_every_legal_move_has_a_value(setup):
    """Exactly the legal moves, each a win probability, with something at stake."""
    for position in read_all(setup):
        board = chess.Board(position.fen)
        assert board.is_valid()
        assert set(position.values) == {move.uci() for move in board.legal_moves}
        assert all(0 <= value <= 1 for value in position.values.values())
        assert position.best == max(position.values.values())
        assert position.best - min(position.values.values()) >= 0.05


@every_setup
def test_phases_and_advantages_are_mixed(setup):
    """No phase and no side of the scale is missing."""
    positions = read_all(setup)
    phases = [position.phase for position in positions]
    advantages = np.array([position.best for position in positions])

    shares = [phases.count(phase) / len(phases) for phase in ("opening", "middlegame", "endgame")]
    assert min(shares) > 0.08
    assert np.mean(advantages > 0.9) > 0.05
    # A lost pawn ending is lost whatever is played, and so seldom has anything at stake.
    assert np.mean(advantages < 0.3) > 0.015


@every_setup
def test_stockfish_still_says_so(pool, setup):
    """Asked about the position after a move, fewer nodes agree about what it is worth."""
    rng = np.random.default_rng(6)
    positions = read_all(setup)
    shipped, boards = [], []
    for at in rng.choice(len(positions), size=60, replace=False):
        position = positions[int(at)]
        move = max(position.values, key=position.values.get)
        board = chess.Board(position.fen)
        board.push_uci(move)
        shipped.append(position.best)
        boards.append(board)

    now = 1 - np.array(pool.estimate_win_probabilities(boards, nodes=10_000))

    assert np.abs(now - shipped).mean() < 0.06
    assert np.corrcoef(now, shipped)[0, 1] > 0.95


def test_a_random_model_scores_chance():
    """Uniformly random legal moves score `chance`, within their interval."""
    task = ChessPositions()
    records = run(ScriptedModel(choose=choose_randomly), samples=400, split=Split.TEST)

    estimate = task.measure(records).estimate(level=0.999)

    assert estimate.low < task.chance < estimate.high
    assert estimate.n_clusters < estimate.n == 400


def test_a_strong_engine_scores_nearly_everything(pool):
    """What made the values scores close to 100 by them, most moves correct."""
    model = ScriptedModel(choose=choose_by_engine(pool, nodes=2000))

    records = run(model, samples=150)

    assert ChessPositions().measure(records).value > 95
    correct = [record.score.outcome is Outcome.CORRECT for record in records]
    assert np.mean(correct) > 0.7


def test_an_illegal_answer_forfeits_the_best_move():
    """It loses all that the best move was worth, and is counted as illegal."""
    records = run(ScriptedModel(choose=choose_illegally), samples=30)

    for record in records:
        assert record.score.outcome is Outcome.ILLEGAL
        assert record.metadata["move"] is None
        assert record.score.value == pytest.approx(100 * (1 - record.metadata["win_probability"]))


def test_within_two_points_is_correct():
    """The best move is always correct; the outcome follows the win probability lost."""
    for record in run(ScriptedModel(choose=choose_randomly), samples=100):
        lost = record.metadata["lost"]
        assert record.score.value == pytest.approx(100 * (1 - lost), abs=0.01)
        assert (record.score.outcome is Outcome.CORRECT) == (lost <= 0.02)


def test_resuming_changes_nothing():
    """What is stored is not asked again; the rest is as it would have been."""
    model = ScriptedModel(choose=choose_randomly)
    whole = run(model, samples=90)

    assert whole[:50] + run(model, samples=90, done=whole[:50]) == whole
    assert run(model, samples=70) == whole[:70]
    assert run(model, samples=90, seed=1) != whole


def test_votes_and_constraints_reach_positions():
    """The same drawing of moves as in games."""
    model = ScriptedModel(choose=choose_illegally, decoding=Decoding(constrained=True, votes=3))

    assert all(record.metadata["move"] for record in run(model, samples=10))


def test_too_many_samples_are_refused():
    """With how many there are."""
    with pytest.raises(ConfigError, match="split train has"):
        run(ScriptedModel(choose=choose_randomly), samples=5000, split=Split.TRAIN)


def test_demonstrations_are_games():
    """The same as those of `chess_games`: n counts games there and here."""
    positions, games = (
        task.demonstrate("weak", 3, np.random.default_rng(1))
        for task in (ChessPositions(), ChessGames())
    )

    assert positions == games
    assert len(positions) > 3


def test_unknown_demonstrators_are_refused():
    """With those there are."""
    with pytest.raises(UnknownNameError, match="Known: strong, weak"):
        ChessPositions().demonstrate("best", 1, np.random.default_rng(0))


def test_demonstrators_are_rated_by_what_they_answer():
    """`weak` scores in the mean of its dice what its expectation says; an engine's is not known."""
    task = ChessPositions()
    rated = task.rate_demonstrator("weak")
    positions = read_positions(SETUP, Split.TEST)
    rng = np.random.default_rng(3)
    scores = []
    for position in positions * 40:
        moves = list(position.values)
        move = moves[int(rng.integers(len(moves)))]
        scores.append(100 * (1 - position.best + position.values[move]))

    assert task.rate_demonstrator("strong") is None
    assert rated.low < rated.value < rated.high < 100
    assert rated.value == pytest.approx(task.chance)
    error = np.std(scores) / len(scores) ** 0.5
    assert rated.value == pytest.approx(np.mean(scores), abs=4 * error)
    assert rated.n == len(positions)
    assert rated.n_clusters == len({position.game for position in positions})
    assert task.rate_demonstrator("best") is None


def test_provenance_names_what_priced_the_positions():
    """The file's engine and effort, not those of this machine's engine."""
    facts = read_facts(SETUP)

    (said,) = ChessPositions().provenance.values()
    assert facts["engine"] in said
    assert str(facts["nodes_a_move"]) in said


def test_phases_are_shares_of_the_set_up():
    """Five sixths and a half of the pieces and pawns, whatever a set-up starts with."""
    for setup, opening, middlegame, endgame in (
        (SETUPS["standard"], 25, 16, 15),
        (SETUPS["kings_and_pawns"], 14, 9, 8),
    ):
        for left, phase in (
            (opening, "opening"),
            (opening - 1, "middlegame"),
            (middlegame, "middlegame"),
            (endgame, "endgame"),
        ):
            board = chess.Board(setup.fen)
            others = [s for s, p in board.piece_map().items() if p.piece_type != chess.KING]
            for square in others[left:]:
                board.remove_piece_at(square)
            assert _name_phase(setup, board.fen()) == phase


def test_the_file_can_be_made_anew(tmp_path, monkeypatch):
    """Twice from one seed, with other numbers of processes: the same bytes."""
    monkeypatch.setattr("holdback.tasks.chess.positions._SCREENING_NODES", 200)
    first, second = tmp_path / "a.xz", tmp_path / "b.xz"

    write_positions(first, setup=SETUP, games=2, nodes=100, processes=1, seed=9)
    write_positions(second, setup=SETUP, games=2, nodes=100, processes=2, seed=9)

    assert first.read_bytes() == second.read_bytes()


@every_setup
def test_pools_differ_by_their_table(pool, setup):
    """A larger table may change long searches: it is part of the protocol, and recorded."""
    assert read_facts(setup)["hash_mb"] == 16
    with EnginePool(processes=1, hash_mb=16) as large:
        assert large.version == pool.version == read_facts(setup)["engine"]
