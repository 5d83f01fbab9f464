"""Games are played, ended, recorded and rated as they should, by models whose play is known."""

import io
import os
import signal
from dataclasses import replace

import chess
import chess.pgn
import numpy as np
import pytest
from chess_players import (
    ScriptedModel,
    choose_by_engine,
    choose_illegally,
    choose_nonsense,
    choose_randomly,
    read_board,
    see,
    write_mortal_engine,
)

from holdback.audit.signs.behaviour import write_pgn
from holdback.errors import ConfigError, EngineError, UnknownNameError
from holdback.models.protocol import Decoding, Format, Presentation
from holdback.tasks.chess import games as games_module
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.match import PREFIX_PLAYER, Pairing, Rules, play_games
from holdback.tasks.chess.notation import is_playable, write_move, write_position
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import get_opponent, read_ratings
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.chess.prompts import draw_moves, render_prompt
from holdback.tasks.chess.setup import get_setup
from holdback.tasks.task import Outcome, Split

SETUP = get_setup(ChessGames().setup)
RANDOM = ScriptedModel(choose=choose_randomly)
COMPLETION = Presentation(format=Format.COMPLETION, header={"elo": "2000"})


def pair(opponent="random", *, colour=chess.WHITE, opening=0, seed=1):
    return Pairing(
        opening=read_openings(SETUP, Split.TRAIN)[opening].fen,
        colour=colour,
        opponent=get_opponent(opponent),
        seed=(seed, opening),
    )


def run(task, model, *, samples, seed=0, done=(), split=Split.SELECT):
    return list(task.run(model, split=split, samples=samples, seed=seed, done=done))


@pytest.fixture(scope="module")
def random_records():
    return run(ChessGames(processes=1), RANDOM, samples=64)


def test_a_random_model_is_rated_as_the_random_opponent(random_records):
    """The known player's rating comes back, within what both ratings leave open."""
    estimate = ChessGames().measure(random_records).estimate()

    own = read_ratings(SETUP).elo["random"]
    assert estimate.low < own.high
    assert own.low < estimate.high
    assert estimate.value == pytest.approx(own.value, abs=200)
    assert estimate.n == 64
    assert estimate.n_clusters == 32


def test_an_engine_in_the_models_place_is_rated_as_that_engine(pool):
    """Stockfish behind a chat template and a sampler is the Stockfish of the ladder."""
    sf1 = ScriptedModel(choose=choose_by_engine(pool, nodes=1))
    task = ChessGames(processes=1, evaluation_nodes=None)

    estimate = task.measure(run(task, sf1, samples=64)).estimate()

    own = read_ratings(SETUP).elo["sf1"]
    assert estimate.low < own.high
    assert own.low < estimate.high
    assert estimate.value == pytest.approx(own.value, abs=200)


def test_illegal_answers_lose_without_being_losses():
    """All games illegal: infinitely low with a bound, and no game called wrong."""
    task = ChessGames(processes=1)

    records = run(task, ScriptedModel(choose=choose_illegally), samples=20)

    assert {record.score.outcome for record in records} == {Outcome.ILLEGAL}
    assert {record.score.value for record in records} == {0.0}
    assert {tuple(record.metadata["tries"]) for record in records} == {(3,)}
    estimate = task.measure(records).estimate()
    assert estimate.value == -np.inf
    assert np.isfinite(estimate.high)


def test_unreadable_answers_are_told_from_illegal_ones():
    """The last draw decides; it is kept for the reader."""
    (record,) = run(ChessGames(processes=1), ScriptedModel(choose=choose_nonsense), samples=1)

    assert record.score.outcome is Outcome.UNPARSED
    assert record.score.answer == "I resign"
    assert record.metadata["termination"] == "unparsed"


def test_records_describe_their_games(random_records):
    """Replayed, the stored moves end as the record says; its numbers are in range."""
    for record in random_records:
        played = record.metadata
        board = chess.Board(played["opening_fen"])
        for uci in played["moves"].split():
            board.push(board.parse_uci(uci))
        own = played["colour"] == "white"
        assert record.sample_id.startswith(record.cluster)
        assert len(board.move_stack) == played["plies"] <= 100
        again = chess.Board(played["opening_fen"])
        for san in played["san"].split():
            again.push_san(san)
        assert again.move_stack == board.move_stack
        assert (played["termination"] == "checkmate") == board.is_checkmate()
        if board.is_checkmate():
            assert record.score.value == float(board.turn != own)
        ended = {1.0: Outcome.CORRECT, 0.5: Outcome.DRAWN, 0.0: Outcome.WRONG}
        assert record.score.outcome is ended[record.score.value]
        # Games on `select` are not looked into.
        assert not {"win_probability", "lost"} & set(played)


def test_games_on_test_tell_how_each_move_stood():
    """A win probability and what was lost, for every move of the model's."""
    for record in run(ChessGames(processes=1), RANDOM, samples=4, split=Split.TEST):
        played = record.metadata
        assert len(played["win_probability"]) == len(played["lost"]) == len(played["tries"]) > 0
        assert all(0 <= chance <= 1 for chance in played["win_probability"])
        assert all(-1 <= lost <= 1 for lost in played["lost"])


def test_both_games_of_an_opening_meet_the_same_opponent(random_records):
    """The pair is the cluster: same opening, same opponent, colours swapped."""
    pairs = {}
    for record in random_records:
        pairs.setdefault(record.cluster, []).append(record.metadata)

    for first, second in pairs.values():
        assert first["opponent"] == second["opponent"]
        assert first["opening_fen"] == second["opening_fen"]
        assert {first["colour"], second["colour"]} == {"white", "black"}


def test_opponents_come_near_the_running_estimate(random_records):
    """All are met once with either colour, then those near the random mover."""
    first, later = random_records[:20], random_records[20:]

    assert len({record.metadata["opponent"] for record in first}) == 10
    near = [record.metadata["opponent"] in ("random", "sf1-random80") for record in later]
    assert np.mean(near) > 0.9


def test_a_spread_meets_all_opponents_alike():
    """What a response curve needs; and a shorter list is kept to."""
    task = ChessGames(
        processes=1, pairing="spread", opponents=["random", "sf1"], max_plies=10, block=8
    )

    records = run(task, RANDOM, samples=12)

    names = [record.metadata["opponent"] for record in records]
    assert names == ["random", "random", "sf1", "sf1"] * 3


def test_resuming_changes_nothing():
    """After an interruption the same games follow, adaptive opponents included."""
    task = ChessGames(processes=1, max_plies=20, block=16)
    whole = run(task, RANDOM, samples=44, seed=4)

    for stored in (1, 20, 37, 44):
        rest = run(task, RANDOM, samples=44, seed=4, done=whole[:stored])
        assert whole[:stored] + rest == whole


def test_a_longer_run_continues_a_shorter_one():
    """Samples are not part of a run's identity, so their number must not change any game."""
    task = ChessGames(processes=1, max_plies=20)

    assert run(task, RANDOM, samples=33)[:25] == run(task, RANDOM, samples=25)


def test_batches_do_not_change_games(pool):
    """A game depends on its own seed alone, not on the games beside it."""
    pairings = [
        pair(name, colour=bool(i % 2), opening=i)
        for i, name in enumerate(["random", "sf1", "sf-elo1320", "sf1-random40"] * 3)
    ]

    together = play_games(RANDOM, pairings, pool=pool)
    apart = play_games(RANDOM, pairings, pool=pool, rows=1)

    assert together == apart


@pytest.mark.parametrize(
    "presentation",
    [
        Presentation(),
        Presentation(instruction="play your best"),
        Presentation(prefix_plies=3),
        COMPLETION,
        replace(COMPLETION, prefix_plies=2),
    ],
    ids=["chat", "instruction", "chat prefix", "completion", "completion prefix"],
)
@pytest.mark.parametrize("colour", [chess.WHITE, chess.BLACK], ids=["white", "black"])
def test_every_prompt_is_the_whole_position(pool, presentation, colour):
    """Replayed, each of the model's turns was asked about the board it stood before, and no more.

    The presentation wraps the position and changes nothing in it.
    """
    model = replace(RANDOM, presentation=presentation)

    (game,) = play_games(model, [pair("sf1-random80", colour=colour)], pool=pool)

    board = chess.Board(game.pairing.opening)
    turns = list(game.turns)
    for ply, move in enumerate(game.moves):
        if board.turn == colour and ply >= presentation.prefix_plies:
            turn = turns.pop(0)
            assert turn.prompt == render_prompt(model, board)
            assert turn.prompt.split().count("EPD") == 1
            assert write_position(board) in turn.prompt
            assert read_board(turn.prompt).epd(en_passant="legal") == see(board).epd(
                en_passant="legal"
            )
            assert turn.answer == write_move(board, move)
            assert turn.move == move
        board.push(move)
    assert not turns
    assert len(game.turns) > 1


@pytest.mark.parametrize("plies", [3, 4])
@pytest.mark.parametrize("colour", [chess.WHITE, chess.BLACK], ids=["white", "black"])
def test_an_engine_plays_the_prefix_for_both_sides(pool, colour, plies):
    """The first plies are one engine's best moves, of either side; the model's turns come after.

    Neither the opponent, who would move at random, nor the model has a hand in them.
    """
    asked = []

    def choose(board, rng):
        asked.append(board.epd(en_passant="legal"))
        return choose_randomly(board, rng)

    model = ScriptedModel(choose=choose, presentation=Presentation(prefix_plies=plies))
    (game,) = play_games(model, [pair(colour=colour)], pool=pool, rules=Rules(max_plies=30))
    (plain,) = play_games(
        replace(model, presentation=Presentation()),
        [pair(colour=colour)],
        pool=pool,
        rules=Rules(max_plies=30),
    )

    board = chess.Board(game.pairing.opening)
    own = 0
    for move in game.moves[:plies]:
        nodes = get_opponent(PREFIX_PLAYER).nodes
        assert pool.find_best_moves([board], nodes=nodes) == [move]
        own += board.turn == colour
        board.push(move)
    assert game.stood_in == own
    if board.turn != colour:
        board.push(game.moves[plies])
    assert asked[0] == see(board).epd(en_passant="legal")
    assert game.turns[0].move == game.moves[len(board.move_stack)]
    assert plain.stood_in == 0
    assert plain.moves[:plies] != game.moves[:plies]


def test_a_game_that_ends_in_its_prefix_has_no_turns(pool):
    """The model is not asked about a game that is over, and the game is scored all the same."""
    mate_in_one = "6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1"
    model = replace(RANDOM, presentation=Presentation(prefix_plies=6))

    won, lost = play_games(
        model,
        [replace(pair(colour=colour), opening=mate_in_one) for colour in (True, False)],
        pool=pool,
    )

    assert (won.termination, won.score, won.turns, won.stood_in) == ("checkmate", 1.0, (), 1)
    assert (lost.termination, lost.score, lost.turns, lost.stood_in) == ("checkmate", 0.0, (), 0)


def test_the_header_claims_a_rating_for_the_side_to_move(pool):
    """To its own eyes the model is White, whichever colour it has; the opponent's stays open."""
    model = replace(RANDOM, presentation=COMPLETION)

    games = play_games(
        model,
        [pair(colour=chess.WHITE), pair(colour=chess.BLACK)],
        pool=pool,
        rules=Rules(max_plies=4),
    )

    for game in games:
        assert all(
            turn.prompt.startswith("<bos> WhiteElo 2000 EPD w ")
            and turn.prompt.endswith(" bm")
            and "BlackElo" not in turn.prompt
            for turn in game.turns
        )


def test_without_a_header_a_record_is_the_position_alone(pool):
    """What pretraining saw where no tag was drawn."""
    model = replace(RANDOM, presentation=Presentation(format=Format.COMPLETION))
    board = chess.Board()
    board.push_uci("e2e4")

    assert render_prompt(model, board) == f"<bos> {write_position(board)}"


def test_win_probabilities_are_the_models_own(pool):
    """A blundered mate shows as win probability lost, whichever colour blunders."""
    task_rules = Rules(max_plies=2)
    mate_in_one = {
        chess.WHITE: ("6k1/5ppp/8/8/8/1n6/8/R5K1 w - - 0 1", "Ra1 Ra8", "Kg1 Kh1"),
        chess.BLACK: ("r5k1/8/1N6/8/8/8/5PPP/6K1 b - - 0 1", "Ra1 Ra8", "Kg1 Kh1"),
    }
    for colour, (fen, winning, losing) in mate_in_one.items():
        pairing = replace(pair(colour=colour), opening=fen)
        won, waited = (
            play_games(
                ScriptedModel(choose=lambda board, rng, words=words: words),
                [pairing],
                pool=pool,
                rules=task_rules,
            )[0]
            for words in (winning, losing)
        )
        assert (won.score, won.termination) == (1.0, "checkmate")
        assert (won.turns[0].before, won.turns[0].after) == (1.0, 1.0)
        assert waited.turns[0].before == 1.0
        assert waited.turns[0].after < 0.1


@pytest.mark.parametrize(
    ("fen", "colour", "score"),
    [
        ("8/5ppk/7p/8/8/8/PPPQ4/K7 w - - 0 1", chess.WHITE, 1.0),
        ("8/5ppk/7p/8/8/8/PPPQ4/K7 w - - 0 1", chess.BLACK, 0.0),
        ("6k1/4p3/8/8/8/8/4P3/K7 w - - 0 1", chess.WHITE, 0.5),
    ],
)
def test_the_cap_adjudicates_by_win_probability(pool, fen, colour, score):
    """`cap1-wp75`: won for who stands won, drawn where neither does."""
    model = ScriptedModel(choose=lambda board, rng: "Ka1 Kb1")

    (game,) = play_games(
        model,
        [replace(pair("sf50", colour=colour), opening=fen)],
        pool=pool,
        rules=Rules(max_plies=1),
    )

    assert game.termination == "cap1-wp75"
    assert game.score == score


def test_draws_are_claimed():
    """Fifty moves, threefold repetition and bare kings end the game."""
    shuffled = chess.Board()
    for uci in ["g1f3", "g8f6", "f3g1", "f6g8"] * 2:
        shuffled.push_uci(uci)

    assert Rules().find_end(shuffled) == "threefold_repetition"
    assert Rules().find_end(chess.Board("4k3/8/8/8/8/8/4P3/4K3 w - - 100 90")) == "fifty_moves"
    assert Rules().find_end(chess.Board("4k3/8/8/8/8/8/8/4K3 w - - 0 1")) == "insufficient_material"
    assert Rules().find_end(chess.Board("7k/5Q2/6K1/8/8/8/8/8 b - - 0 1")) == "stalemate"
    assert Rules().find_end(chess.Board()) is None


def draw(decoding, *draws, board=None):
    """Ask a model that gives the listed draws in turn."""
    left = iter(draws)
    model = ScriptedModel(choose=lambda board, rng: next(left), decoding=decoding)
    return draw_moves(model, [board or chess.Board()], seeds=[(0,)])[0]


def test_a_later_try_can_save_the_answer():
    """Up to three draws; the number it took is kept."""
    answer = draw(Decoding(tries=3), "Pe2 Pe5", "what", "Pe2 Pe4")

    assert (answer.text, answer.tries) == ("Pe2 Pe4", 3)
    assert draw(Decoding(tries=2), "what", "Pe2 Pe5").failure is Outcome.ILLEGAL
    assert draw(Decoding(tries=2), "Pe2 Pe5", "what").failure is Outcome.UNPARSED


def test_black_answers_as_it_sees_the_board():
    """The same words are a move of either colour, played on its own side of the board."""
    board = chess.Board()
    board.push_uci("a2a3")
    answer = draw(Decoding(tries=2), "pe7 pe5", "Pe2 Pe4", board=board)

    assert (answer.text, answer.move, answer.tries) == ("Pe2 Pe4", chess.Move.from_uci("e7e5"), 2)


def test_the_majority_of_legal_draws_is_played():
    """Illegal draws do not vote, and among equals the first drawn wins."""
    five = Decoding(votes=5, tries=1)

    assert draw(five, "Pe2 Pe5", "Pd2 Pd4", "Pe2 Pe5", "Pe2 Pe4", "Pe2 Pe4").text == "Pe2 Pe4"
    assert draw(five, "x", "Pd2 Pd4", "Pe2 Pe4", "Pe2 Pe4", "Pd2 Pd4").text == "Pd2 Pd4"
    assert draw(Decoding(votes=2, tries=2), "x", "x", "x", "Pa2 Pa3").tries == 2


def test_constrained_decoding_offers_every_legal_move():
    """A model that only knows illegal moves then plays legal ones."""
    model = ScriptedModel(choose=choose_illegally, decoding=Decoding(constrained=True))

    records = run(ChessGames(processes=1, max_plies=20), model, samples=4)

    assert all(record.score.outcome is not Outcome.ILLEGAL for record in records)


def test_an_engine_killed_in_a_game_changes_nothing(monkeypatch):
    """It is restarted, the move is asked for again, and the records are the same."""
    task = ChessGames(processes=2, max_plies=20)
    expected = run(task, RANDOM, samples=12)
    pools = []

    class Watched(EnginePool):
        def __enter__(self):
            pools.append(self)
            return super().__enter__()

    killed = []

    def choose_and_kill(board, rng):
        if len(killed) < 3 and rng.integers(2):
            killed.extend(pools[-1].process_ids[:1])
            os.kill(killed[-1], signal.SIGKILL)
        return choose_randomly(board, np.random.default_rng(board.fullmove_number))

    def choose_without_killing(board, rng):
        return choose_randomly(board, np.random.default_rng(board.fullmove_number))

    monkeypatch.setattr(games_module, "EnginePool", Watched)
    mortal = run(task, ScriptedModel(choose=choose_and_kill), samples=12)
    spared = run(task, ScriptedModel(choose=choose_without_killing), samples=12)

    assert len(killed) == 3
    assert mortal == spared
    assert len(mortal) == len(expected)


def test_a_game_that_the_engine_fails_is_errored_and_never_lost(tmp_path):
    """One position kills every engine: its game has no score, the others are finished."""
    rook = "4k3/8/8/8/8/8/8/R3K3 w - - 0 1"
    engine = write_mortal_engine(tmp_path / "engine", rook.split(maxsplit=1)[0])
    pairings = [replace(pair("sf50"), opening=rook), *(pair(opening=i) for i in (1, 2))]

    with EnginePool(processes=1, path=engine) as mortal:
        doomed, *others = play_games(RANDOM, pairings, pool=mortal, rules=Rules(max_plies=10))

    assert (doomed.termination, doomed.score) == ("errored", None)
    assert "died" in doomed.error
    assert all(game.score is not None for game in others)


def test_errored_games_count_nowhere(random_records):
    """A record without a score changes no rating; nothing but such records is no rating."""
    task = ChessGames()
    lost = random_records[0]
    errored = replace(
        lost, cluster="x", score=replace(lost.score, value=None, outcome=Outcome.ERRORED)
    )

    assert task.measure([*random_records, errored]) == task.measure(random_records)
    with pytest.raises(ValueError, match="at least one finished game"):
        task.measure([errored])


def test_pgn_can_be_read_back(random_records):
    """Headers, moves and result survive python-chess's own reader."""
    for record in random_records[:10]:
        game = chess.pgn.read_game(io.StringIO(write_pgn(record, player="base")))
        assert game is not None
        assert not game.errors
        assert [move.uci() for move in game.mainline_moves()] == record.metadata["moves"].split()
        assert game.headers["Result"] == record.metadata["result"]
        side = "White" if record.metadata["colour"] == "white" else "Black"
        assert game.headers[side] == "base"
        assert f"{side}Elo" not in game.headers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 7}, "block must be even"),
        ({"pairing": "near"}, "'adaptive' or 'spread'"),
        ({"opponents": []}, "at least one opponent"),
        ({"opponents": ["sf3000"]}, "unknown opponent"),
        ({"adjudication_threshold": 0.4}, "adjudication_threshold"),
    ],
)
def test_bad_options_are_refused(options, message):
    """Before any game, with what was expected."""
    with pytest.raises(ConfigError, match=message):
        ChessGames(**options)


def test_more_games_than_openings_are_refused():
    """Opening pairs are the independent units; there are no more than shipped."""
    with pytest.raises(ConfigError, match="at most 360 games, got samples=361"):
        run(ChessGames(), RANDOM, samples=361)


def test_demonstrators_are_named():
    """Unknown ones are answered with those there are."""
    with pytest.raises(UnknownNameError, match="Known: strong, weak"):
        ChessGames().demonstrate("medium", 1, np.random.default_rng(0))


def test_no_engine_is_an_error_before_the_first_game(monkeypatch):
    """Not a row of errored games, and found before any run if the audit asks."""
    task = ChessGames()
    task.check_machine()
    monkeypatch.setenv("HOLDBACK_STOCKFISH", "/nonexistent")
    with pytest.raises(EngineError, match="HOLDBACK_STOCKFISH"):
        task.check_machine()
    with pytest.raises(EngineError, match="HOLDBACK_STOCKFISH"):
        run(task, RANDOM, samples=2)


def test_no_chess_library_is_an_error_before_the_first_game(monkeypatch):
    """One line with the extra to install; a report does without."""
    monkeypatch.setattr("holdback.tasks.chess.notation.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'holdback\[chess\]'"):
        ChessGames().check_machine()
    with pytest.raises(ConfigError, match=r"pip install 'holdback\[chess\]'"):
        ChessPositions().check_machine()


def test_demonstrators_are_rated_as_the_opponents_that_play_their_moves():
    """From the round robin; nobody is rated who is none."""
    task = ChessGames()

    assert task.rate_demonstrator("strong") == read_ratings(SETUP).elo["sf2000"]
    assert task.rate_demonstrator("weak") == read_ratings(SETUP).elo["random"]
    assert task.rate_demonstrator("medium") is None


def test_provenance_names_the_engine_that_plays(pool, tmp_path, monkeypatch):
    """Asked of the program that is found here, not read from a file."""
    assert ChessGames().provenance == {
        "engine": pool.version,
        "ratings_engine": read_ratings(SETUP).engine,
    }
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\necho id name Fish 7\necho readyok\nexec cat >/dev/null\n")
    engine.chmod(0o755)
    monkeypatch.setenv("HOLDBACK_STOCKFISH", str(engine))

    assert ChessGames().provenance["engine"] == "Fish 7"


def test_scripted_models_read_what_is_written(pool):
    """The fakes rebuild the true board from the text alone, so the text holds all of it."""
    seen = []

    def choose(board, rng):
        seen.append(board.epd())
        return choose_randomly(board, rng)

    (game,) = play_games(ScriptedModel(choose=choose), [pair(colour=chess.BLACK)], pool=pool)

    board = chess.Board(game.pairing.opening)
    boards = []
    for move in game.moves:
        if board.turn == chess.BLACK:
            boards.append(see(board).epd())
        assert is_playable(board, write_move(board, move))
        board.push(move)
    assert seen == boards
