"""Seeded openings: eight random plies that leave both sides their chances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.setup import Setup
from holdback.tasks.task import Split

if TYPE_CHECKING:
    import chess

RANDOM_PLIES = 8
BALANCE_NODES = 500
BALANCED = (0.35, 0.65)
"""Win probability of the side to move that counts as balanced."""

_FILE = "openings.txt"
# Of each ten openings in the file; a split keeps its openings when the file grows.
_SPLITS = (Split.TRAIN, Split.TRAIN, *[Split.SELECT] * 3, *[Split.TEST] * 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """A position to start from, white to move."""

    number: int
    """Line of the shipped file, from 0; also what decides its split."""
    fen: str


@cache
def read_openings(setup: Setup, split: Split) -> tuple[Opening, ...]:
    """Read the shipped openings of one split."""
    lines = setup.locate(_FILE).read_text().splitlines()
    return tuple(
        Opening(number=number, fen=fen)
        for number, fen in enumerate(lines)
        if _SPLITS[number % len(_SPLITS)] is split
    )


def make_openings(setup: Setup, n: int, *, pool: EnginePool, rng: np.random.Generator) -> list[str]:
    """Make `n` distinct openings as FEN, in the order they were found.

    Random plies from the set-up, kept where Stockfish finds them balanced.
    """
    openings: dict[str, str] = {}
    while len(openings) < n:
        boards = [_play_randomly(setup, rng) for _ in range(256)]
        chances = pool.estimate_win_probabilities(boards, nodes=BALANCE_NODES)
        for board, chance in zip(boards, chances, strict=True):
            if BALANCED[0] <= chance <= BALANCED[1]:
                openings.setdefault(board.epd(), board.fen())
    return list(openings.values())[:n]


def write_openings(path: Path, *, setup: Setup, n: int = 600, seed: int = 20) -> None:
    """Make the shipped file anew."""
    with EnginePool() as pool:
        openings = make_openings(setup, n, pool=pool, rng=np.random.default_rng(seed))
    path.write_text("".join(f"{fen}\n" for fen in openings))


def _play_randomly(setup: Setup, rng: np.random.Generator) -> chess.Board:
    """Play random plies until some game gets through them without ending."""
    import chess

    while True:
        board = chess.Board(setup.fen)
        for _ in range(RANDOM_PLIES):
            moves = list(board.legal_moves)
            if not moves:
                break
            board.push(moves[int(rng.integers(len(moves)))])
        if len(board.move_stack) == RANDOM_PLIES and any(board.legal_moves):
            board.clear_stack()
            return board
