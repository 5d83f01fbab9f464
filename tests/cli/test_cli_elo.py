"""`holdback elo` from the command line: what it prints, how fast, and how it fails."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import chess
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgn_files import join, write_game, write_match, write_ratings
from typer.testing import CliRunner

from holdback.cli import main

KEYS = "player elo games wins draws losses forfeits verdict misfit_p".split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with games and ratings in it, 100 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    games = [
        *write_match(12, 4, 6, opponent="weak"),
        *write_match(5, 4, 14, opponent="strong one"),
        *write_match(0, 0, 3, opponent="weak", Termination="illegal move"),
        *write_match(2, 0, 0, opponent="weak", Termination="Time forfeit"),
        write_game("*", black="weak"),
    ]
    (tmp_path / "games.pgn").write_text(join(games))
    (tmp_path / "ratings.toml").write_text(write_ratings({"weak": 1000, "strong one": 1300}))
    return tmp_path


def call(*arguments: str):
    words = ["elo", "games.pgn", "--ratings", "ratings.toml", *arguments]
    return CliRunner().invoke(main, words, catch_exceptions=False)


def fail(*arguments: str, code: int) -> str:
    """Run a command that must fail with one line."""
    ended = call(*arguments)
    assert ended.exit_code == code
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("holdback: ")
    return line


def test_words_that_are_not_understood_stand_in_the_notes(here):
    """With the number of their games; `normal` and an empty tag are none."""
    words = {"exit code 3": 3, "Normal": 2, "": 1}
    games = [
        g for w, n in words.items() for g in write_match(1, 0, n, opponent="weak", Termination=w)
    ]
    (here / "games.pgn").write_text(join(games))

    told = " ".join(call().stdout.split())

    assert "Termination not understood, counted as played: 'exit code 3' (4)." in told


def test_json_has_the_keys_that_were_promised(here):
    """One object on stdout; the keys of the documentation come first."""
    ended = call("--json")

    found = json.loads(ended.stdout)
    assert ended.exit_code == 0
    assert list(found)[: len(KEYS)] == KEYS
    assert (found["player"], found["verdict"]) == ("me", "measured")
    assert found["elo"].keys() == {"value", "low", "high"}
    assert found["elo"]["low"] < found["elo"]["value"] < found["elo"]["high"]
    counts = [found[key] for key in ("games", "wins", "draws", "losses", "forfeits")]
    assert counts == [50, 17, 8, 20, 3]
    assert 0 < found["misfit_p"] < 1
    assert (found["unfinished"], found["wins_by_forfeit"]) == (1, 2)


def test_the_table_fits_a_hundred_columns(here):
    """Rating first, opponents strongest first, then what was counted apart."""
    ended = call()

    lines = ended.stdout.splitlines()
    assert ended.exit_code == 0
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("me: ")
    assert "Elo [" in lines[0]
    assert ended.stdout.index("strong one") < ended.stdout.index("weak")
    assert "Lost by forfeit, apart from the rating: illegal move 3." in lines
    assert any("2 won by the opponent's forfeit, 1 unfinished" in line for line in lines)


def test_only_forfeits_is_not_weakness(here):
    """A player all of whose losses are forfeits gets no number, in words and in JSON."""
    (here / "games.pgn").write_text(
        join(write_match(0, 0, 30, opponent="weak", Termination="Black: illegal move"))
    )

    shown, found = call(), json.loads(call("--json").stdout)

    assert shown.exit_code == 0
    assert "me: skill not measured" in shown.stdout
    assert "Not measured: no game was decided by play" in shown.stdout
    assert found["verdict"] == "not_measured"
    assert found["elo"] == {"value": None, "low": None, "high": None}
    assert (found["forfeits"], found["losses"], found["misfit_p"]) == (30, 0, None)


def test_a_bound_is_printed_as_one(here):
    """All lost over the board is `<` a number, not a number."""
    (here / "games.pgn").write_text(join(write_match(0, 0, 30, opponent="weak")))

    assert call().stdout.startswith("me: < 608 Elo")


def test_hostile_names_cannot_move_the_cursor(here):
    """Terminal escapes in a PGN are shown, not obeyed."""
    text = (here / "games.pgn").read_text().replace("weak", "we\x1b[31mak\u202e")
    (here / "games.pgn").write_text(text, encoding="utf-8")

    shown = call("--skip-unrated", "--player", "me").stdout
    error = fail("--player", "me", code=2)

    assert "\x1b" not in shown + error
    assert "\u202e" not in shown + error


def test_bad_input_is_one_line_and_a_code(here):
    """Each kind of bad input: what was expected, where, the fix; nothing on stdout."""
    assert "Did you mean 'weak'?" in fail("--player", "weka", code=2)
    assert "missing.toml: cannot be read" in fail("--ratings", "missing.toml", code=2)
    assert "encoding of text" in fail("--encoding", "base64", code=2)
    (here / "ratings.toml").write_text(write_ratings({"weak": 1000}))
    assert "'strong one' (23 games)" in fail("--player", "me", code=2)
    assert call("--player", "me", "--skip-unrated").exit_code == 0
    (here / "ratings.toml").write_text("[ratings\n")
    assert "ratings.toml: is not TOML" in fail(code=2)


def test_a_broken_game_is_one_line_and_a_code(here):
    """It is named with its file, number and line, and so is the way around it."""
    with (here / "games.pgn").open("a") as file:
        file.write(write_game("1-0", black="weak", moves="1. e4 e5 2. Ke3"))
        file.write(write_game("1-0", black="weak", moves="1. e4 e5").replace(" 1-0", ""))

    line = fail(code=1)

    assert "games.pgn: game 52 (line 363) is broken: 2. 'Ke3' is no legal move" in line
    assert "--skip-broken" in line
    assert json.loads(call("--skip-broken", "--json").stdout)["broken"] == 2
    (here / "games.pgn").write_text("")
    assert "expected games in PGN, got a file without one" in fail(code=1)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)), st.integers(0, 500))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_files_never_end_in_a_traceback(here, put, at):
    """With any bytes written into it, a file is rated or refused in one line."""
    whole = join(write_match(2, 1, 2, opponent="weak")).encode()
    (here / "games.pgn").write_bytes(whole[:at] + put + whole[at + len(put) :])

    ended = call("--json")

    if ended.exit_code:
        assert len(ended.stderr.splitlines()) == 1
    else:
        assert json.loads(ended.stdout)["games"] <= 5


def write_long_game(rng: random.Random, number: int) -> str:
    board, moves = chess.Board(), []
    for ply in range(50):
        legal = list(board.legal_moves)
        if not legal:
            break
        move = rng.choice(legal)
        moves.append((f"{ply // 2 + 1}. " if ply % 2 == 0 else "") + board.san(move))
        board.push(move)
    result = board.result() if board.is_game_over() else ["1-0", "0-1", "1/2-1/2"][number % 3]
    return write_game(result, black="weak", moves=" ".join(moves))


def test_ten_thousand_games_take_seconds(here):
    """Every move of 10,000 games of 50 plies is checked, in about 7 s of one core."""
    rng = random.Random(0)
    some = [write_long_game(rng, number) for number in range(50)]
    (here / "games.pgn").write_text(join(some * 200))

    start = time.process_time()
    ended = call("--json")

    assert json.loads(ended.stdout)["games"] == 10_000
    assert time.process_time() - start < 30


def test_the_example_of_the_documentation_is_what_it_prints(monkeypatch):
    """docs/elo.md shows what its command prints; the player, an engine, gets its known rating."""
    root = Path(__file__).parents[2]
    monkeypatch.setenv("COLUMNS", "100")
    page = (root / "docs" / "elo.md").read_text(encoding="utf-8")
    files = [str(root / "examples" / "elo" / name) for name in ("games.pgn", "ratings.toml")]

    shown = CliRunner().invoke(main, ["elo", files[0], "--ratings", files[1]]).stdout
    found = CliRunner().invoke(main, ["elo", files[0], "--ratings", files[1], "--json"]).stdout

    assert [line.rstrip() for line in shown.splitlines() if line.strip()] == [
        line.rstrip()
        for line in page.partition("```text\n")[2].partition("```")[0].splitlines()
        if line.strip()
    ]
    assert json.loads(found)["elo"]["value"] == pytest.approx(1790, abs=1)


def test_help_needs_no_chess(here):
    """`holdback elo --help` starts in a moment on a machine without python-chess."""
    program = (
        "import sys\nfrom holdback.cli import main\n"
        "try: main(['elo', '--help'])\nfinally: assert 'chess' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "GAMES.pgn" in ended.stdout
