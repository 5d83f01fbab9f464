"""The half-trained model's games are games by the rules, and are made once."""

from __future__ import annotations

import chess
import pytest
from tiny_chess import load_tiny

from holdback_lab.chess import own_games
from holdback_lab.chess.corpus import price_positions, read_priced
from holdback_lab.chess.own_games import collect_own_turns, play_own_games


@pytest.mark.parametrize(
    "start", [chess.STARTING_FEN, "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"]
)
def test_own_games_can_be_priced_and_are_made_once(tmp_path, pool, start, monkeypatch):
    """Every move is legal from the start position, and prices are asked as of others' games."""
    model, out = load_tiny(tmp_path / "tiny"), tmp_path / "own.tsv"
    options = {"start": start, "games": 4, "seed": 1, "pool": pool}
    monkeypatch.setattr(own_games, "LADDER", own_games.LADDER[:4])

    play_own_games(model, out, **options)

    written = out.read_text()
    lines = [line.split("\t")[5].split() for line in written.splitlines()]
    assert len(lines) == len({tuple(line) for line in lines}) == 4
    boards = set()
    for line in lines:
        board = chess.Board(start)
        for uci in line:
            if board.legal_moves.count() > 1:
                boards.add(board.epd())
            board.push(board.parse_uci(uci))
        assert len(line) > 8
    price_positions(out, tmp_path / "priced", start=start, nodes=1500, workers=1)
    assert 0.7 * len(boards) < len(read_priced(tmp_path / "priced")) <= len(boards)
    play_own_games(model, out, **{**options, "seed": 2})
    assert out.read_text() == written


def test_own_turns_are_the_models_and_nothing_is_left_out(tmp_path, pool, monkeypatch):
    """As many as it made moves, half of them as Black; those with one answer count as well."""
    model = load_tiny(tmp_path / "tiny")
    start = "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"
    played = []
    play_games = own_games.play_games

    def watch(*arguments, **options):
        played.extend(play_games(*arguments, **options))
        return played

    monkeypatch.setattr(own_games, "play_games", watch)

    boards = collect_own_turns(model, start=start, games=6, seed=1, pool=pool)

    assert len(boards) == sum(len(game.turns) for game in played)
    assert len({board.epd() for board in boards}) > 0.9 * len(boards)
    assert {game.pairing.opponent.name for game in played} == {
        "random",
        "sf1-random80",
        "sf1-random60",
    }
    black = sum(not board.turn for board in boards)
    assert 0.25 * len(boards) < black < 0.75 * len(boards)
    assert all(any(board.legal_moves) for board in boards)


def test_a_mate_ends_the_random_plies():
    """Seldom, but in thousands of games: there is nothing to move then."""
    board = own_games._open_randomly("7k/8/5KQ1/8/8/8/8/8 w - - 0 1", Mating())

    assert board.is_checkmate()
    assert len(board.move_stack) == 1


class Mating:
    """Dice that want eight plies, the first of them g6-g7 mate."""

    def integers(self, n):
        if n == 9:
            return 8
        moves = [move.uci() for move in chess.Board("7k/8/5KQ1/8/8/8/8/8 w - - 0 1").legal_moves]
        return moves.index("g6g7")
