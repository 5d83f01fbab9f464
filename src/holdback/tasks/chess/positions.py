"""The task `chess_positions`: one move in each of many positions, priced by Stockfish."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from holdback.errors import ConfigError
from holdback.models.protocol import Model
from holdback.statistics.estimate import Estimate
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement
from holdback.tasks.chess.demonstrations import DEMONSTRATORS, draw_games
from holdback.tasks.chess.engine import ALL_MOVES, EnginePool, Search, write_uci_position
from holdback.tasks.chess.match import Pairing, play_engines
from holdback.tasks.chess.notation import require_chess
from holdback.tasks.chess.notations import get_notation
from holdback.tasks.chess.openings import make_openings
from holdback.tasks.chess.opponents import LADDER, get_opponent
from holdback.tasks.chess.prompts import Answer, choose_notation, draw_moves, render_prompt
from holdback.tasks.chess.setup import Setup, get_setup
from holdback.tasks.questions import QuestionTask
from holdback.tasks.task import (
    Conversation,
    Outcome,
    Prompt,
    SampleRecord,
    Score,
    Split,
    encode_prompt,
    keep_prompt,
)

if TYPE_CHECKING:
    import chess

WITHIN = 0.02
"""Win probability that a move may lose and still count as correct."""

_FILE = "positions.tsv.xz"
_SPLITS = (Split.TRAIN, Split.TRAIN, *[Split.SELECT] * 3, *[Split.TEST] * 5)

# Positions where every move keeps about the same win probability say nothing about a player.
_LEAST_AT_STAKE = 0.05
_SCREENING_NODES = 3000
_CANDIDATES = 30
_POSITIONS_A_PHASE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A position with the worth of every legal move."""

    number: int
    """Line of the shipped file, from 0."""
    split: Split
    game: int
    """Source game; the unit by which splits are made and errors are clustered."""
    fen: str
    values: Mapping[str, float]
    """Move in coordinate notation to the mover's win probability after it, in [0, 1]."""

    @property
    def id(self) -> str:
        """Of its sample."""
        return f"{self.split}-{self.number:04d}"

    @property
    def cluster(self) -> str:
        """Its game's."""
        return f"{self.split}-game{self.game:04d}"

    @property
    def best(self) -> float:
        """Win probability under the best move: the mover's own advantage."""
        return max(self.values.values())

    phase: str
    """`opening`, `middlegame` or `endgame`, by the pieces left on the board."""


@dataclass(frozen=True, kw_only=True)
class ChessPositions(QuestionTask[Position]):
    """One answer a position, asked as a turn of a game is.

    A sample's value is 100 less the points of win probability that the move lost against the best
    one. An illegal or unreadable answer forfeits the game and so loses all of the best move's; it
    is counted apart all the same.
    """

    name: str = "chess_positions"
    setup: str = "kings_and_pawns"
    """Set-up of the games that the positions are from."""
    notation: str = "words"
    """Of prompts and answers: `words`, the shipped lineage's own, or `san`."""
    max_tokens: int | None = None
    """Longest answer; what the notation takes by default. Two words are two tokens in the chess
    lineage's own tokenizer."""
    strong_demonstrator: ClassVar[str] = "strong"
    weak_demonstrator: ClassVar[str] = "weak"

    def __post_init__(self) -> None:
        if self.rows < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ConfigError(
                f"{self.name}: rows and max_tokens must be at least 1, got {self.rows} and"
                f" {self.max_tokens}"
            )
        get_setup(self.setup)
        get_notation(self.notation)

    @property
    def chance(self) -> float | None:
        """What uniformly random legal moves score on `test`."""
        return self._rate_guessing().value

    @property
    def description(self) -> str:
        """The protocol in a sentence, as a report prints it."""
        facts = read_facts(get_setup(self.setup))
        return (
            "One move in each position; 100 less the points of win probability lost against the"
            f" best move, by {facts['engine']} at {facts['nodes_a_move']} nodes a legal move."
            f" Moves are asked for in {get_notation(self.notation).title}. Illegal and unreadable"
            " answers lose all of it and are counted apart."
        )

    @property
    def provenance(self) -> dict[str, str]:
        """What priced the positions."""
        facts = read_facts(get_setup(self.setup))
        return {"positions_engine": f"{facts['engine']}, {facts['nodes_a_move']} nodes a move"}

    def check_machine(self) -> None:
        """Look whether positions can be asked here.

        Raises:
            ConfigError: without python-chess, with what to do.
        """
        require_chess()

    def in_split(self, split: Split) -> Sequence[Position]:
        """Read the positions of a split."""
        return read_positions(get_setup(self.setup), split)

    def run_batch(
        self, model: Model, batch: Sequence[Position], *, seed: int, kept: Collection[str]
    ) -> Iterator[SampleRecord]:
        """Ask for a move in each of a batch of positions."""
        import chess

        answers = draw_moves(
            model,
            [chess.Board(position.fen) for position in batch],
            seeds=[(seed, 2, position.number) for position in batch],
            notation=get_notation(self.notation),
            max_tokens=self.max_tokens,
        )
        for position, answer in zip(batch, answers, strict=True):
            asked = keep_prompt(model, answer.prompt) if position.id in kept else {}
            yield _record(position, answer, asked)

    def preview(self, model: Model, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        """Render what `run` would ask."""
        import chess

        notation = choose_notation(model, get_notation(self.notation))
        prompts = []
        for position in self.choose(split, samples=samples, seed=seed):
            text = render_prompt(model, chess.Board(position.fen), notation)
            prompts.append(
                Prompt(
                    sample_id=position.id,
                    text=text,
                    token_ids=encode_prompt(model, text),
                    max_tokens=self.max_tokens or notation.count_tokens(model.presentation.format),
                    most_sent=model.decoding.tries * model.decoding.votes,
                )
            )
        return prompts

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draw `n` shipped games that `strong` or `weak` played from `train` openings."""
        return draw_games(get_setup(self.setup), demonstrator, n, rng, get_notation(self.notation))

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        """What the demonstrator would score on `test`, where that is known: for random moves.

        The expectation over its dice is exact; the interval is for the choice of positions.
        """
        if demonstrator not in DEMONSTRATORS:
            return None
        share = get_opponent(DEMONSTRATORS[demonstrator]).random_share
        return self._rate_guessing().estimate() if share == 1 else None

    def _rate_guessing(self) -> Measurement:
        """Score on `test` of uniformly random legal moves."""
        positions = read_positions(get_setup(self.setup), Split.TEST)
        return clustered_mean(
            [100 * (1 - p.best + float(np.mean(list(p.values.values())))) for p in positions],
            [str(p.game) for p in positions],
            support=(0.0, 100.0),
        )


@cache
def read_positions(setup: Setup, split: Split) -> tuple[Position, ...]:
    """Read the shipped positions of one split."""
    positions = []
    for number, line in enumerate(_read_lines(setup)[1:]):
        game, fen, priced = line.split("\t")
        if _SPLITS[int(game) % len(_SPLITS)] is split:
            pairs = (pair.split("=") for pair in priced.split())
            values = {move: int(value) / 2000 for move, value in pairs}
            positions.append(
                Position(
                    number=number,
                    split=split,
                    game=int(game),
                    fen=fen,
                    values=values,
                    phase=_name_phase(setup, fen),
                )
            )
    return tuple(positions)


def read_facts(setup: Setup) -> dict[str, object]:
    """Read how the shipped positions were made: engine, nodes, seed."""
    facts: dict[str, object] = json.loads(_read_lines(setup)[0])
    return facts


def write_positions(
    path: Path,
    *,
    setup: Setup,
    games: int = 480,
    nodes: int = 10_000,
    processes: int | None = None,
    seed: int = 23,
) -> None:
    """Make the shipped file anew.

    Args:
        path: Where to write it.
        setup: Where the games start.
        games: Source games; each gives up to two positions of each phase.
        nodes: Nodes for each legal move of a position. The moves share them (MultiPV), so that
            all are searched to the same depth.
        processes: Engines; as many as there are cores by default.
        seed: Of openings, players and choices.
    """
    rng = np.random.default_rng(seed)
    # Long searches: a table of 1 MiB would be overwritten many times.
    with EnginePool(processes=processes, hash_mb=16) as pool:
        facts = {"engine": pool.version, "nodes_a_move": nodes, "hash_mb": 16, "seed": seed}
        chosen = _choose_positions(setup, games, pool, rng)
        searches = [
            Search(
                position=write_uci_position(board),
                nodes=nodes * board.legal_moves.count(),
                lines=ALL_MOVES,
            )
            for _, board in chosen
        ]
        answers = pool.analyse(searches)
    lines = [json.dumps(facts)]
    for (game, board), answer in zip(chosen, answers, strict=True):
        # Screening was shallow: what seemed at stake need not be.
        worth = [line.win_probability for line in answer.lines]
        if max(worth) - min(worth) < _LEAST_AT_STAKE:
            continue
        # Win probabilities are multiples of 1/2000: permille of wins and half of the draws.
        priced = " ".join(
            f"{line.move.uci()}={round(2000 * line.win_probability)}"
            for line in answer.lines
            if line.move is not None
        )
        lines.append(f"{game}\t{board.fen()}\t{priced}")
    path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))


def _choose_positions(
    setup: Setup, games: int, pool: EnginePool, rng: np.random.Generator
) -> list[tuple[int, chess.Board]]:
    """Play games between opponents of mixed strength; take a few positions of each."""
    import chess

    openings = make_openings(setup, games, pool=pool, rng=rng)
    # The strongest is slow and its games end the same way; the random mover's are seldom chess.
    weights = np.array([0.5 if player.name in ("random", "sf2000") else 1 for player in LADDER])
    players = [LADDER[int(i)] for i in rng.choice(len(LADDER), games, p=weights / weights.sum())]
    others = [LADDER[int(i)] for i in rng.choice(len(LADDER), games, p=weights / weights.sum())]
    pairings = [
        Pairing(
            opening=opening,
            colour=bool(rng.integers(2)),
            opponent=other,
            seed=(int(rng.integers(2**32)),),
        )
        for opening, other in zip(openings, others, strict=True)
    ]
    candidates: list[tuple[int, chess.Board]] = []
    for number, game in enumerate(play_engines(players, pairings, pool=pool)):
        plies = set(
            rng.choice(len(game.moves), size=min(_CANDIDATES, len(game.moves)), replace=False)
        )
        board = chess.Board(game.pairing.opening)
        for ply, move in enumerate(game.moves):
            if ply in plies:
                candidates.append((number, board.copy(stack=False)))
            board.push(move)
    # Shuffled, so that the first few of a game that are good enough are not its first moves.
    candidates = [candidates[int(at)] for at in rng.permutation(len(candidates))]
    chosen: list[tuple[int, chess.Board]] = []
    taken: Counter[tuple[int, str]] = Counter()
    seen: set[str] = set()
    values = pool.estimate_moves([board for _, board in candidates], nodes=_SCREENING_NODES)
    for (number, board), worth in zip(candidates, values, strict=True):
        at_stake = max(worth.values()) - min(worth.values())
        part = (number, _name_phase(setup, board.fen()))
        if (
            at_stake >= _LEAST_AT_STAKE
            and taken[part] < _POSITIONS_A_PHASE
            and board.epd() not in seen
        ):
            taken[part] += 1
            seen.add(board.epd())
            chosen.append((number, board))
    return sorted(chosen, key=lambda found: (found[0], found[1].ply()))


@cache
def _read_lines(setup: Setup) -> list[str]:
    stored = setup.locate(_FILE).read_bytes()
    return lzma.decompress(stored).decode().splitlines()


def _name_phase(setup: Setup, fen: str) -> str:
    """By the share of pieces and pawns that are left: 5/6, and a half."""
    left = _count_pieces(fen) / _count_pieces(setup.fen)
    return "opening" if left >= 5 / 6 else "middlegame" if left > 1 / 2 else "endgame"


def _count_pieces(fen: str) -> int:
    """Count pieces and pawns without the kings."""
    return sum(symbol.isalpha() for symbol in fen.split(maxsplit=1)[0]) - 2


def _record(position: Position, answer: Answer, asked: Mapping[str, Any]) -> SampleRecord:
    worth = 0.0 if answer.move is None else position.values[answer.move.uci()]
    lost = round(position.best - worth, 4)
    outcome = answer.failure or (Outcome.CORRECT if lost <= WITHIN else Outcome.WRONG)
    # What the player did not do says nothing about it.
    said = {"error": answer.error} if answer.error else {"lost": lost}
    return SampleRecord(
        sample_id=position.id,
        cluster=position.cluster,
        score=Score(
            value=None if answer.error else 100 * (1 - lost), outcome=outcome, answer=answer.text
        ),
        metadata={
            "game": position.game,
            "fen": position.fen,
            "phase": position.phase,
            "win_probability": position.best,
            "move": None if answer.move is None else answer.move.uci(),
            "best": max(position.values, key=lambda move: position.values[move]),
            "tries": answer.tries,
            **said,
            **asked,
        },
    )
