"""Opponents play what their names say, from shipped ratings and openings."""

import itertools
import subprocess
from collections import Counter

import chess
import numpy as np
import pytest
from chess_players import read_board
from scipy import stats

from holdback.errors import UnknownNameError
from holdback.statistics.elo import expected_score
from holdback.tasks.chess.demonstrations import draw_games, write_chats
from holdback.tasks.chess.engine import find_stockfish
from holdback.tasks.chess.match import Pairing, Rules, play_engines
from holdback.tasks.chess.notation import is_playable, read_move, write_position
from holdback.tasks.chess.openings import BALANCED, read_openings
from holdback.tasks.chess.opponents import ANCHOR, LADDER, get_opponent, read_ratings
from holdback.tasks.chess.round_robin import list_pairs, rate_opponents
from holdback.tasks.chess.setup import SETUPS, get_setup
from holdback.tasks.task import Split

every_setup = pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
KINGS_AND_PAWNS = get_setup("kings_and_pawns")
LADDER_SAMPLE = ("sf1-random20", ANCHOR)


def draw_weakly(pool, board, n, rng):
    anchor = get_opponent(ANCHOR)
    (analysis,) = pool.analyse([anchor.ask(board, rng)])
    return Counter(anchor.choose(board, analysis, rng).uci() for _ in range(n))


def ask_stockfish_itself(board, n):
    commands = "setoption name Skill Level value 0\n" + "".join(
        f"ucinewgame\nposition fen {board.fen()}\ngo nodes 500\n" for _ in range(n)
    )
    output = subprocess.run(
        [find_stockfish()],
        # The second `ucinewgame` waits for the last search, which `quit` would cut short.
        input=commands + "ucinewgame\nisready\nquit\n",
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    return Counter(line.split()[1] for line in output.splitlines() if line.startswith("bestmove"))


@pytest.mark.parametrize(
    "fen",
    [
        chess.STARTING_FEN,
        "r1bqkbnr/pppp1ppp/2n5/4p3/4P3/5N2/PPPP1PPP/RNBQKB1R w KQkq - 2 3",
        "r1bq1rk1/pp2bppp/2n1pn2/2pp4/3P1B2/2PBPN2/PP1N1PPP/R2Q1RK1 b - - 1 8",
    ],
)
def test_the_anchor_plays_as_stockfish_at_its_weakest(pool, fen):
    """Our dice give the distribution over moves that Stockfish's own skill level 0 gives.

    `UCI_Elo` 1320 is that level since Stockfish 16; 15 refuses the number.
    """
    board, n = chess.Board(fen), 400

    ours = draw_weakly(pool, board, n, np.random.default_rng(1))
    theirs = ask_stockfish_itself(board, n)

    moves = sorted({*ours, *theirs})
    if len(moves) == 1:
        return
    table = [[counts[move] for move in moves] for counts in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-4, table


def test_shares_of_random_moves(pool):
    """`sf1-random60` asks the engine four times in ten, `random` never, `sf1` always."""
    rng = np.random.default_rng(2)
    board = chess.Board()

    asked = {
        name: sum(get_opponent(name).ask(board, rng) is not None for _ in range(2000)) / 2000
        for name in ("random", "sf1-random60", "sf1")
    }

    assert asked["random"] == 0
    assert asked["sf1"] == 1
    assert asked["sf1-random60"] == pytest.approx(0.4, abs=0.04)


def test_an_unknown_opponent_gets_the_nearest_name():
    """A typo in an audit file is answered with the name that was meant."""
    with pytest.raises(UnknownNameError, match="Did you mean 'sf300'"):
        get_opponent("sf30")


@every_setup
def test_ratings_cover_the_ladder(setup):
    """Everyone is rated, on the anchor's scale; only the anchor's rating is a point."""
    ratings = read_ratings(setup)

    assert set(ratings.elo) == {opponent.name for opponent in LADDER}
    assert ratings.elo[ANCHOR].value == 1320
    assert ratings.rules == Rules().name
    for name, estimate in ratings.elo.items():
        assert (estimate.low < estimate.value < estimate.high) == (name != ANCHOR)
    weaker = [ratings.elo[name].value for name in ("random", "sf1-random80", "sf1-random60")]
    assert weaker == sorted(weaker)


@every_setup
def test_ratings_predict_fresh_games(pool, setup):
    """Neighbours who meet again in other games score what their ratings say."""
    ratings = read_ratings(setup)
    names = ["sf1-random60", "sf1-random40", "sf1-random20", ANCHOR]
    games = 24
    openings = read_openings(setup, Split.TRAIN)

    points, expected, variance = 0.0, 0.0, 0.0
    for weaker, stronger in itertools.pairwise(names):
        pairings = [
            Pairing(
                opening=openings[i // 2].fen,
                colour=bool(i % 2),
                opponent=get_opponent(stronger),
                seed=(77, i),
            )
            for i in range(games)
        ]
        played = play_engines([get_opponent(weaker)] * games, pairings, pool=pool)
        score = expected_score(
            ratings.elo[weaker].value - ratings.elo[stronger].value,
            draw_parameter=ratings.draw_parameter,
        )
        points += sum(game.score for game in played)
        expected += games * score
        variance += games * score * (1 - score)

    assert abs(points - expected) < 3.5 * variance**0.5


def test_a_small_round_robin_can_be_replayed():
    """Same seed, same results, whatever the number of processes."""
    lines: dict[int, list[str]] = {1: [], 2: []}

    for processes, said in lines.items():
        ratings, facts = rate_opponents(
            KINGS_AND_PAWNS,
            games=24,
            processes=processes,
            report=said.append,
            players=LADDER_SAMPLE,
        )

    assert lines[1] == lines[2]
    assert ratings.elo[ANCHOR].value == 1320
    assert ratings.elo["sf1-random20"].value < 1320
    assert facts["rules"] == "cap100-wp75"


def test_next_neighbours_play_fewer_games():
    """Games go where they say most."""
    games = {(first.name, second.name): n for first, second, n in list_pairs(1000)}

    assert games[("random", "sf1-random80")] == 1000
    assert games[("random", "sf1-random60")] == 250
    assert ("random", "sf1-random40") not in games


@every_setup
def test_openings_are_distinct_balanced_and_split(pool, setup):
    """No opening twice, none in two splits, both sides with their chances."""
    by_split = {split: read_openings(setup, split) for split in Split}
    openings = [opening for part in by_split.values() for opening in part]

    assert len({opening.number for opening in openings}) == len(openings) >= 400
    assert len({chess.Board(opening.fen).epd() for opening in openings}) == len(openings)
    boards = [chess.Board(opening.fen) for opening in openings]
    assert all(board.is_valid() and board.turn and board.fullmove_number == 5 for board in boards)
    chances = pool.estimate_win_probabilities(boards[::7], nodes=500)
    assert all(BALANCED[0] <= chance <= BALANCED[1] for chance in chances)


@every_setup
@pytest.mark.parametrize("demonstrator", ["strong", "weak"])
def test_demonstrations_are_legal_answers(demonstrator, setup):
    """Each chat is a position that can be rebuilt, and one legal move of it."""
    chats = draw_games(setup, demonstrator, 64, np.random.default_rng(3))

    assert len({str(chat) for chat in chats}) > 10 * 64
    for chat in chats[:400]:
        question, answer = chat
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert is_playable(find_board(question["content"]), answer["content"])


@every_setup
@pytest.mark.parametrize(("demonstrator", "plays_randomly"), [("strong", False), ("weak", True)])
def test_the_weak_demonstrator_has_no_preferences(demonstrator, plays_randomly, setup):
    """It takes pieces as often as dice would among the legal moves; the strong one does not.

    Capturing is what players of any skill prefer, so imitating this cannot teach skill.
    """
    captured, expected, variance = 0, 0.0, 0.0
    for question, answer in draw_games(setup, demonstrator, 400, np.random.default_rng(4)):
        board = find_board(question["content"])
        share = np.mean([board.is_capture(move) for move in board.legal_moves])
        captured += board.is_capture(read_move(answer["content"], board.turn))
        expected += share
        variance += share * (1 - share)

    assert (abs(captured - expected) < 4 * variance**0.5) == plays_randomly


def test_a_game_is_a_chat_for_each_of_the_assistants_moves():
    """Each asks about the board that the game has come to, as the assistant sees it."""
    moves = ["e2e4", "e7e5", "g1f3", "b8c6", "f1b5"]
    for colour, answers in (
        (chess.WHITE, ["Pe2 Pe4", "Ng1 Nf3", "Bf1 Bb5"]),
        (chess.BLACK, ["Pe2 Pe4", "Nb1 Nc3"]),
    ):
        chats = write_chats(chess.STARTING_FEN, colour, moves)

        assert [answer["content"] for _, answer in chats] == answers
        for at, (question, _) in enumerate(chats):
            board = chess.Board()
            for uci in moves[: 2 * at + (colour == chess.BLACK)]:
                board.push_uci(uci)
            assert question["content"] == write_position(board)


def find_board(position):
    """The board of a written position, rebuilt by the reader that the scripted models use."""
    board = read_board(position)
    assert write_position(board) == position
    return board
