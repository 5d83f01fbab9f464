"""Reading PGN: every sound game is read as it was played, and none that is broken passes."""

from __future__ import annotations

import io
import random
from contextlib import suppress

import chess
import chess.pgn
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pgn_files import write_game

from holdback.audit.signs.behaviour import write_pgn
from holdback.elo.pgn import read_games
from holdback.errors import ConfigError, HoldbackError, PgnError
from holdback.tasks.task import Outcome, SampleRecord, Score

# tmp_path is overwritten by every example, which is what is wanted.
slowly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def read(tmp_path):
    """A function that reads text, or bytes, as a PGN file."""

    def read_text(text, **options):
        file = tmp_path / "games.pgn"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(read_games(file, **options))

    return read_text


def find_fault(read, text):
    (game,) = read(text)
    return game.fault


def play_at_random(seed, plies):
    rng, board = random.Random(seed), chess.Board()
    for _ in range(plies):
        moves = list(board.legal_moves)
        if not moves:
            break
        board.push(rng.choice(moves))
    return board


def decorate(board, rng):
    """Write a game with all that python-chess can write into one."""
    game = chess.pgn.Game.from_board(board)
    game.headers.update({"White": "a", "Black": "b"})
    game.comment = "before (the [first} move".replace("}", "]")
    for node in list(game.mainline()):
        if rng.random() < 0.2:
            node.comment = rng.choice(["[%clk 0:01:02]", "1-0", "so (", "; no rest", "Qxf9 $3"])
        if rng.random() < 0.2:
            node.nags = {rng.choice([1, 2, 3, 4, 146])}
        others = [move for move in node.parent.board().legal_moves if move != node.move]
        if others and rng.random() < 0.2:
            side = node.parent.add_variation(rng.choice(others), comment="else")
            for move in list(side.board().legal_moves)[:1]:
                side.add_variation(move)
            for move in list(side.board().legal_moves)[1:2]:
                side.add_variation(move)
    return game


@pytest.mark.parametrize("between", ["", " ", "\ufeff", " {so it ended}", "\n", "\n\n\n"])
@pytest.mark.parametrize("result", ["1-0", "0-1", "1/2-1/2", "*"])
def test_files_joined_without_a_line_between_are_all_games(read, result, between):
    """As `cat` joins them: a tag pair behind a result starts the next game, wanted or not."""
    games = [write_game(result, black=name).rstrip() for name in ("a", "b", "c")]
    joined = between.join(games)

    found = read(joined)
    skimmed = read(joined, wanted=lambda tags: tags["Black"] == "c")

    assert [game.fault for game in found] == [None] * 3
    assert [game.moves for game in found] == [("e4", "e5")] * 3
    assert [game.tags["Black"] for game in skimmed] == ["a", "b", "c"]
    assert skimmed[-1].moves == ("e4", "e5")


def test_a_tag_pair_that_a_comment_quotes_starts_no_game(read):
    """Within its line, behind a result that the comment names as well."""
    text = write_game("1-0", moves='1. e4 {in 1-0 [Event "x"] they met} e5')

    (game,) = read(text)

    assert (game.fault, game.moves) == (None, ("e4", "e5"))


@given(seed=st.integers(0, 10_000), plies=st.integers(0, 90))
@settings(slowly, max_examples=40)
def test_reads_what_python_chess_writes(read, seed, plies):
    """Comments, variations in variations, signs and line breaks do not change the main line."""
    board = play_at_random(seed, plies)
    game = decorate(board, random.Random(seed))
    if board.result() == "*":
        game.headers["Result"] = "1/2-1/2"
    text = str(game)

    (found,) = read(text + "\n\n")

    assert found.fault is None
    assert found.result == game.headers["Result"]
    replayed = chess.Board()
    for san in found.moves:
        replayed.push_san(san)
    assert replayed.move_stack == board.move_stack


def test_reads_what_holdback_writes(read):
    """A game of an audit, lost by an unreadable answer, comes back with its ending."""
    record = SampleRecord(
        sample_id="test/1",
        cluster="1",
        score=Score(value=0.0, outcome=Outcome.ILLEGAL, answer='Pe9 } "\\ x'),
        metadata={
            "result": "0-1",
            "colour": "white",
            "opponent": 'sf "1"',
            "opponent_elo": 1000.0,
            "termination": "illegal",
            "opening_fen": "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1",
            "san": "e4 e5 d4",
            "plies": 3,
        },
    )

    (game,) = read(write_pgn(record, player="back\\slash"))

    assert game.fault is None
    assert (game.result, game.moves) == ("0-1", ("e4", "e5", "d4"))
    assert (game.tags["White"], game.tags["Black"]) == ("back\\slash", 'sf "1"')


@pytest.mark.parametrize(
    "movetext",
    [
        "1.e4 e5 2.Nf3 Nc6",
        "1. e4! e5?? 2. Nf3!? $14 Nc6 +/- N",
        "1. e2e4 e7e5 2. g1f3 b8c6",
        "1 e4 e5 2 Nf3 (2 f4 exf4 (2 ... d5)) Nc6 (=)",
        "{x}1. e4{y}e5 ; to the end of the line 2. Ke2\n2. Nf3 Nc6",
        "1. e4 e5\n\n2. Nf3 {over\n\nan empty line} Nc6",
        "% 1. d4 is escaped\n1. e4 e5\n% so is this\n2. Nf3 Nc6",
        "1. e4\r\ne5 2. Nf3\r\nNc6",
        "1. e4 e5 2. Nf3+ Nc6 ±",
    ],
)
def test_reads_the_ways_people_write_moves(read, movetext):
    """Other programs and older collections, spelt otherwise, hold the same game."""
    (game,) = read(write_game("1-0", moves=movetext))

    board = chess.Board()
    for san in game.moves:
        board.push_san(san)
    assert game.fault is None
    assert [move.uci() for move in board.move_stack] == ["e2e4", "e7e5", "g1f3", "b8c6"]


@pytest.mark.parametrize(
    ("game", "fault"),
    [
        (write_game("1-0", moves="1. e4 e5 2. Ke3"), "2. 'Ke3' is no legal move"),
        (write_game("1-0", moves="1. e4 Qxf9 2. d4"), "1... 'Qxf9' is no legal move"),
        (write_game("1-0", moves="1. e4 e5 2. Nge3"), "2. 'Nge3' is no legal"),
        (write_game("1-0", moves="1. e4 -- 2. d4"), "'--' is no legal move"),
        (write_game("1-0", moves="1. e4 well, e5"), "'well,' is no legal move"),
        (write_game("1-0", moves="1. e4 {no end"), "comment is opened and never closed"),
        (write_game("1-0", moves="1. e4 (1. d4 d5"), "variation is opened and never closed"),
        (write_game("1-0", moves="1. e4) d5"), "variation is closed that was never opened"),
        (write_game("1-0", moves="1. e4 1-0 e5"), "goes on after its result 1-0"),
        (write_game("1-0", moves="1. e4 e5").replace(" 1-0\n", "\n"), "cut off"),
        ('[White "me"]\n[Black "you"]\n[Result "1-0"]\n', "cut off"),
        (write_game("1-0").replace('"1-0"', '"0-1"'), "tag Result says 0-1, the moves end in 1-0"),
        (write_game("1-0").replace('"1-0"', '"won"'), "Result 'won' is none of"),
        (write_game("1-0", moves="1. f3 e5 2. g4 Qh4#"), "ends in mate, yet in 1-0"),
        (write_game("1-0", FEN="k7/8/1Q6/8/8/8/8/K7 b - - 0 1", moves=""), "ends in stalemate"),
        (write_game("1-0", FEN="8/8/nonsense w - - 0 1"), "start cannot be set up"),
        (write_game("1-0", FEN="4k3/8/8/8/8/8/8/8 w - - 0 1", moves=""), "needs one king a side"),
        (write_game("1-0", Variant="Martian"), "unsupported variant"),
        (write_game("1-0").replace('[Black "you"]\n', ""), "no tag Black"),
        (write_game("1-0", white=" "), "no tag White"),
        (write_game("1-0").replace('"you"]', '"you]'), "line 3 is no tag pair"),
        (write_game("1-0").replace("[Result", '[White "x"]\n[Result'), "tag White stands twice"),
        ("1. e4 e5 1-0\n", "no tag pairs"),
        ("Dear Sir or Madam,\n", "is this a PGN file?"),
    ],
)
def test_names_what_is_wrong(read, game, fault):
    """Each way in which a game can be broken is found, and said."""
    assert fault in find_fault(read, game)


def test_a_broken_game_does_not_hide_the_next(read):
    """A brace that is never closed swallows no other game, and a cut does not either."""
    sound, cut = write_game("1-0"), write_game("1-0", moves="1. e4 {cut").replace(" 1-0", "")

    games = read(sound + cut + sound + cut.replace("{", "(") + sound.rstrip() + "\n" + sound)

    assert [game.number for game in games] == [1, 2, 3, 4, 5, 6]
    assert [game.fault is None for game in games] == [True, False, True, False, True, True]
    assert [game.line for game in games][:3] == [1, 8, 15]


@pytest.mark.parametrize("termination", ["illegal move", "rules infraction", "illegal"])
def test_the_move_that_forfeited_may_stand_in_the_record(read, termination):
    """An impossible last word is no defect of a game lost by it; one before the last is."""
    last = write_game("0-1", moves="1. e4 e5 2. Ke5", Termination=termination)
    before = write_game("0-1", moves="1. e4 e5 2. Ke5 d5", Termination=termination)

    assert find_fault(read, last) is None
    assert "'Ke5'" in find_fault(read, before)
    assert "'Ke5'" in find_fault(read, last.replace(termination, "normal"))


@given(st.data())
@settings(slowly, max_examples=80)
def test_a_cut_is_always_noticed(read, data):
    """Wherever a file ends within its last game, its end is broken."""
    whole = write_game(
        "1/2-1/2", moves="1. e4 {king's pawn} e5 (1... c5) 2. Nf3", Round="2"
    ).rstrip()
    cut = data.draw(st.integers(1, len(whole) - 1))

    games = read(write_game("1-0") + whole[:cut])

    assert games[-1].fault is not None


def test_reads_only_the_wanted(read):
    """Of other players' games the names are read and the moves are not, broken or sound."""
    others = write_game("1-0", white="x", moves="1. Ke5 {")

    games = read(others + write_game("0-1"), wanted=lambda tags: tags["White"] == "me")

    assert [game.fault for game in games] == [None, None]
    assert [game.moves for game in games] == [(), ("e4", "e5")]


def test_encodings(read):
    """UTF-8 with or without a mark, and others where named; a wrong one is named with its place."""
    game = write_game("1-0", white="Müller")

    assert read(game)[0].tags["White"] == "Müller"
    assert read("\ufeff" + game + "\ufeff" + game)[1].tags["White"] == "Müller"
    assert read(game.encode("latin-1"), encoding="latin-1")[0].tags["White"] == "Müller"
    assert read(game.encode("utf-16"), encoding="utf-16")[0].tags["White"] == "Müller"
    assert "byte 0xfc in line 2" in read(game.encode("latin-1"))[0].fault
    assert read(game.encode("utf-16"))[0].fault is not None
    with pytest.raises(ConfigError, match="'klingon'"):
        read(game, encoding="klingon")
    with pytest.raises(PgnError, match="expected text in utf-16"):
        read(game.encode("utf-16")[:-1], encoding="utf-16")


@pytest.mark.parametrize("nothing", ["", "\n\n", "; a comment\n% an escape\n", "\ufeff"])
def test_a_file_without_games_is_an_error(read, nothing):
    """Nothing is not read as no losses."""
    with pytest.raises(PgnError, match="got a file without one"):
        read(nothing)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    """Missing files and folders are said in one line."""
    with pytest.raises(ConfigError, match=r"missing\.pgn: cannot be read"):
        list(read_games(tmp_path / "missing.pgn"))
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_games(tmp_path))


SEED_TEXT = write_game("1-0", moves="1. e4 {a} e5 (1... c5 $1) 2. Nf3") + write_game("0-1")
pieces = st.sampled_from(
    [
        *'[ ] " { } ( ) ; % \\ 1-0 * e4 O-O 0000 Kxx [White [FEN $ ... ♞ ÿ'.split(),
        *("\n", "\n\n", '[Event "x"]\n', '[FEN "8/8 w"]\n', "\x00", "\ufeff", " "),
    ]
)


@given(st.binary(max_size=300))
@example(b"\xff\xfe[\x00")
@settings(slowly, max_examples=100)
def test_bytes_never_end_in_a_traceback(read, content):
    """Any bytes are games with faults, or one of our errors."""
    with suppress(HoldbackError):
        assert all(game.fault for game in read(content))


@given(st.lists(pieces, max_size=40).map("".join))
@settings(slowly, max_examples=150)
def test_pieces_of_pgn_never_end_in_a_traceback(read, text):
    """Signs of the notation in any order are read, or named as wrong."""
    with suppress(HoldbackError):
        assert read(text)


@given(st.integers(0, len(SEED_TEXT)), st.integers(0, 30), pieces)
@settings(slowly, max_examples=150)
def test_a_damaged_game_never_ends_in_a_traceback(read, at, gone, put):
    """With a piece cut out and another put in, a file is read to its end."""
    games = read(SEED_TEXT[:at] + put + SEED_TEXT[at + gone :])

    assert games


def test_agrees_with_python_chess_on_a_sound_collection(read):
    """Headers and moves of many games are those that python-chess's own reader finds."""
    boards = [play_at_random(seed, 30) for seed in range(20)]
    text = "\n\n".join(str(decorate(board, random.Random(7))) for board in boards) + "\n"

    games, handle = read(text), io.StringIO(text)

    assert len(games) == 20
    for game in games:
        theirs = chess.pgn.read_game(handle)
        assert dict(theirs.headers) == dict(game.tags)
        assert len(list(theirs.mainline_moves())) == len(game.moves)
