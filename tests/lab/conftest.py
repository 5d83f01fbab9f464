"""Real games by the real generator, priced by the real engine, once for all tests."""

from __future__ import annotations

import chess
import pytest

from holdback.tasks.chess.engine import EnginePool
from holdback_lab.chess.corpus import (
    STRONG_MIX,
    generate_games,
    price_positions,
    read_games,
    read_priced,
)

NODES = 1_500


class Corpus:
    """A few games of full chess in every form that training knows them in."""

    def __init__(self, folder):
        self.nodes = NODES
        self.text = folder / "games.tsv"
        self.prices = folder / "priced"
        start = chess.STARTING_FEN
        generate_games(self.text, start=start, games=6, seed=5, mix=STRONG_MIX, workers=1)
        self.played = read_games(self.text, start=start, mix=STRONG_MIX, workers=1)
        price_positions(self.text, self.prices, start=start, nodes=NODES, workers=1)
        self.priced = read_priced(self.prices)
        self.lines = [line.split("\t") for line in self.text.read_text().splitlines()]

    def replay(self):
        """Give, in order, each position's board, the move played in it, and its line."""
        for line in self.lines:
            board = chess.Board()
            for uci in line[5].split():
                move = chess.Move.from_uci(uci)
                yield board.copy(stack=False), move, line
                board.push(move)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def pool():
    with EnginePool(processes=1) as engines:
        yield engines
