"""The ladder of opponents, from the random mover up, and what they play."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from holdback.errors import UnknownNameError
from holdback.statistics.estimate import Estimate
from holdback.tasks.chess.engine import Analysis, Search, write_uci_position
from holdback.tasks.chess.setup import Setup

if TYPE_CHECKING:
    import chess

ANCHOR = "sf-elo1320"
ANCHOR_ELO = 1320.0


class Mover(Protocol):
    """Whoever makes its moves from an engine's searches and dice of ours."""

    @property
    def name(self) -> str:
        """As results call it."""
        ...

    def ask(self, board: chess.Board, rng: np.random.Generator) -> Search | None:
        """Give the search that its next move needs; None if it needs none."""
        ...

    def choose(
        self, board: chess.Board, analysis: Analysis | None, rng: np.random.Generator
    ) -> chess.Move:
        """Choose the move, given the answer to `ask`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Opponent:
    """A player made of Stockfish and dice. All randomness is ours, so every game can be replayed.

    `sf-elo1320` is `UCI_Elo` 1320, the weakest strength that Stockfish offers, rebuilt: Stockfish
    rolls its dice from the clock, and versions before 16 refuse 1320. Stockfish's own rule at
    that strength is to search one ply deep, take the four best moves, and pick by `_pick_weakly`;
    nodes and time do not matter to it. tests/tasks/chess/test_opponents.py holds the two against
    each other.
    """

    name: str
    nodes: int = 0
    """Nodes a move; 0 moves at random."""
    random_share: float = 0.0
    """Probability of a uniformly random legal move instead of the engine's."""
    picks_weakly: bool = False

    def ask(self, board: chess.Board, rng: np.random.Generator) -> Search | None:
        """Give the search that its next move needs; None if it moves at random."""
        if self.nodes == 0 or (self.random_share and rng.random() < self.random_share):
            return None
        return Search(
            position=write_uci_position(board),
            nodes=self.nodes,
            depth=1 if self.picks_weakly else None,
            lines=4 if self.picks_weakly else 1,
        )

    def choose(
        self, board: chess.Board, analysis: Analysis | None, rng: np.random.Generator
    ) -> chess.Move:
        """Choose the move, given the answer to `ask`."""
        if analysis is None:
            moves = list(board.legal_moves)
            return moves[int(rng.integers(len(moves)))]
        if self.picks_weakly:
            return _pick_weakly(analysis, rng)
        return analysis.move


def _pick_weakly(analysis: Analysis, rng: np.random.Generator) -> chess.Move:
    """Pick among the best moves as Stockfish does at skill level 0.

    A move's score is raised by 120/128 of what it lacks to the best, and by a random part of the
    spread of the moves (at most a third of a pawn, by Stockfish 15.1's units).

    Source: `Skill::pick_best` in Stockfish's search.cpp; `UCI_Elo` 1320 is level 0 since version
    16, by the calibration in `Skill` of its search.h.
    """
    weakness = 120
    best = analysis.lines[0].centipawns
    spread = min(best - analysis.lines[-1].centipawns, 35)
    raised = []
    for line in analysis.lines:
        dice = int(rng.integers(weakness))
        push = (weakness * (best - line.centipawns) + spread * dice) / 128
        raised.append(line.centipawns + push)
    # The last of equals wins, as there.
    at = len(raised) - 1 - int(np.argmax(raised[::-1]))
    move = analysis.lines[at].move
    return move if move is not None else analysis.move


LADDER = (
    Opponent(name="random", random_share=1.0),
    *(
        Opponent(name=f"sf1-random{share}", nodes=1, random_share=share / 100)
        for share in (80, 60, 40, 20)
    ),
    Opponent(name="sf1", nodes=1),
    Opponent(name="sf50", nodes=50),
    Opponent(name="sf300", nodes=300),
    Opponent(name="sf2000", nodes=2000),
    Opponent(name=ANCHOR, nodes=2000, picks_weakly=True),
)
"""All opponents, the anchor last; `read_ratings` says how strong they are."""


def get_opponent(name: str) -> Opponent:
    """Look up an opponent of the ladder.

    Raises:
        UnknownNameError: if the ladder has none of that name.
    """
    for opponent in LADDER:
        if opponent.name == name:
            return opponent
    raise UnknownNameError.among("opponent", name, [opponent.name for opponent in LADDER])


@dataclass(frozen=True, kw_only=True, slots=True)
class OpponentRatings:
    """What the committed round robin found."""

    elo: Mapping[str, Estimate]
    draw_parameter: float
    """Davidson's ν of the round robin; ratings are comparable under one ν only."""
    engine: str
    rules: str
    seed: int


@cache
def read_ratings(setup: Setup) -> OpponentRatings:
    """Read the committed ratings; `holdback organisms rate-opponents` makes them anew."""
    stored = json.loads(setup.locate("opponents.json").read_text())
    return OpponentRatings(
        elo={name: Estimate(**fields) for name, fields in stored["elo"].items()},
        draw_parameter=stored["draw_parameter"],
        engine=stored["engine"],
        rules=stored["rules"],
        seed=stored["seed"],
    )
