"""Stockfish's answers depend on the question alone, and its death is survived."""

import os
import pickle
import shutil
import signal
from pathlib import Path

import chess
import numpy as np
import pytest
from chess_players import write_mortal_engine

from holdback.errors import EngineError
from holdback.tasks.chess.engine import (
    ALL_MOVES,
    EnginePool,
    Search,
    find_stockfish,
    write_uci_position,
)


@pytest.fixture(scope="module")
def boards():
    rng = np.random.default_rng(5)
    boards = []
    for _ in range(60):
        board = chess.Board()
        for _ in range(int(rng.integers(4, 50))):
            moves = list(board.legal_moves)
            if not moves:
                break
            board.push(moves[int(rng.integers(len(moves)))])
        boards.append(board)
    return boards


def ask(boards, nodes, lines=1):
    return [
        Search(position=write_uci_position(board), nodes=nodes, lines=lines) for board in boards
    ]


@pytest.mark.parametrize("nodes", [1, 50, 400])
def test_answers_do_not_depend_on_order_or_processes(pool, boards, nodes):
    """One process forwards and three processes backwards give the same analyses."""
    searches = ask(boards, nodes) + ask(boards[:20], nodes, lines=4)

    forwards = pool.analyse(searches)
    with EnginePool(processes=3) as three:
        backwards = three.analyse(searches[::-1])[::-1]

    assert forwards == backwards


def test_known_values(pool):
    """A mate in one, a mated king, a stalemate and the start position."""
    mate = chess.Board("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1")
    mated = chess.Board("R5k1/5ppp/8/8/8/8/8/6K1 b - - 0 1")
    stalemate = chess.Board("7k/5Q2/6K1/8/8/8/8/8 b - - 0 1")

    assert pool.find_best_moves([mate], nodes=500) == [chess.Move.from_uci("a1a8")]
    values = pool.estimate_win_probabilities([mate, mated, stalemate, chess.Board()], nodes=500)
    assert values[:3] == [1.0, 0.0, 0.5]
    assert values[3] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(EngineError, match="the game is over"):
        pool.find_best_moves([mated], nodes=10)


def test_every_legal_move_is_estimated(pool, boards):
    """Even where the nodes asked for are too few for a first look at every move."""
    for board, values in zip(boards, pool.estimate_moves(boards, nodes=20), strict=True):
        assert set(values) == set(board.legal_moves)
        assert all(0 <= value <= 1 for value in values.values())


def test_mate_outranks_material(pool):
    """Centipawns order mates above any score, and shorter mates higher."""
    board = chess.Board("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1")

    (analysis,) = pool.analyse(ask([board], 5000, lines=ALL_MOVES))

    assert analysis.lines[0].centipawns == 8863
    assert all(line.centipawns < 8863 for line in analysis.lines[1:])


def test_a_killed_engine_is_restarted(boards):
    """Killed while it works, the pool answers as if nothing had happened."""
    searches = ask(boards * 5, 3000)
    with EnginePool(processes=2) as pool:
        expected = pool.analyse(searches)
        for process in pool.process_ids:
            os.kill(process, signal.SIGKILL)

        assert pool.try_analyse(searches) == expected
        assert len(pool.process_ids) == 2


def test_an_engine_that_always_dies_is_an_error(tmp_path, boards):
    """Only the search that kills it every time fails; nothing hangs and nothing is invented."""
    deadly = "8/8/8/4k3/8/8/4K3/7R"
    script = write_mortal_engine(tmp_path / "engine", deadly)
    with EnginePool(processes=1, path=script) as pool:
        answers = pool.try_analyse(
            ask([*boards[:5], chess.Board(f"{deadly} w - - 0 1"), *boards[5:10]], 50)
        )

        failed = [isinstance(answer, EngineError) for answer in answers]
        assert failed == [False] * 5 + [True] + [False] * 5
        with pytest.raises(EngineError, match="died"):
            pool.analyse(ask([chess.Board(f"{deadly} w - - 0 1")], 50))


def test_a_lost_program_is_raised_and_not_answered(tmp_path, boards):
    """Nobody is told that a search failed where no engine was there to search."""
    script = tmp_path / "engine"
    script.write_text(f'#!/bin/sh\nexec "{find_stockfish()}"\n')
    script.chmod(0o755)
    with EnginePool(processes=2, path=script) as pool:
        assert len(pool.try_analyse(ask(boards[:4], 50))) == 4
        script.unlink()
        for process in pool.process_ids:
            os.kill(process, signal.SIGKILL)

        with pytest.raises(EngineError, match="cannot start Stockfish"):
            pool.try_analyse(ask(boards, 50))


def test_no_stockfish_is_one_line_with_the_fix(monkeypatch, tmp_path):
    """The message says how to get it; a wrong variable is named."""
    monkeypatch.setenv("HOLDBACK_STOCKFISH", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="HOLDBACK_STOCKFISH must name") as wrong:
        find_stockfish()
    monkeypatch.delenv("HOLDBACK_STOCKFISH")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("holdback.tasks.chess.engine._FOLDERS", ())
    with pytest.raises(EngineError, match="apt-get install stockfish") as missing:
        find_stockfish()

    for error in (wrong.value, missing.value):
        assert "\n" not in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_program_that_is_no_engine_is_refused(tmp_path):
    """What ends before `readyok` is not used."""
    with (
        pytest.raises(EngineError, match="died"),
        EnginePool(processes=1, path=find_program("true")),
    ):
        pass
    with (
        pytest.raises(EngineError, match="cannot start"),
        EnginePool(processes=1, path=tmp_path / "none"),
    ):
        pass


def find_program(name):
    found = shutil.which(name)
    assert found is not None
    return Path(found)
