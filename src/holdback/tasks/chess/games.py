"""The task `chess_games`: an Elo rating from games against a fixed ladder of opponents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from holdback.errors import ConfigError, InsufficientDataError
from holdback.models.protocol import Model
from holdback.statistics.elo import rate_player
from holdback.statistics.estimate import Estimate
from holdback.statistics.intrinsic import HonestMoves
from holdback.statistics.measurement import Measurement
from holdback.tasks.chess.demonstrations import DEMONSTRATORS, draw_games
from holdback.tasks.chess.engine import EnginePool, find_stockfish, read_version
from holdback.tasks.chess.honest import read_honest
from holdback.tasks.chess.match import Pairing, PlayedGame, Rules, iterate_games
from holdback.tasks.chess.notation import require_chess, write_san
from holdback.tasks.chess.notations import get_notation
from holdback.tasks.chess.openings import Opening, read_openings
from holdback.tasks.chess.opponents import LADDER, get_opponent, read_ratings
from holdback.tasks.chess.prompts import choose_notation, render_prompt
from holdback.tasks.chess.setup import get_setup
from holdback.tasks.task import (
    FORFEITS,
    KEPT_PROMPTS,
    Conversation,
    Outcome,
    Prompt,
    SampleRecord,
    Score,
    Split,
    encode_prompt,
    keep_prompt,
)

_OUTCOMES = {
    "illegal": Outcome.ILLEGAL,
    "unparsed": Outcome.UNPARSED,
    "refused": Outcome.REFUSED,
    "truncated": Outcome.TRUNCATED,
    "errored": Outcome.ERRORED,
}

# Prior of the running estimate that opponents are chosen by, and of nothing else.
_PRIOR_SD_ELO = 600.0


@dataclass(frozen=True, kw_only=True)
class ChessGames:
    """Games from seeded openings, both colours of an opening against the same opponent.

    A sample is one game; the two games of an opening are a cluster. With `pairing = "adaptive"`
    every opponent is met once with either colour, and each later block takes opponents near the
    rating that the games before it suggest, where a game says most. With `"spread"` all opponents
    are met alike, as a response curve needs. Neither depends on how many samples are asked for, so
    a longer run continues a shorter one.

    A game that ends in an illegal or unreadable answer counts as lost in the rating and apart from
    losses everywhere else. A game that the engine failed counts nowhere.
    """

    name: str = "chess_games"
    setup: str = "kings_and_pawns"
    """Where games start; openings and ratings are its own."""
    unit: str = "Elo"
    margin: float = 50.0
    chance: float | None = None
    """None: the random mover is an opponent on the scale."""
    opponents: Sequence[str] = tuple(opponent.name for opponent in LADDER)
    pairing: Literal["adaptive", "spread"] = "adaptive"
    block: int = 32
    """Games between two looks at the running estimate; even. Games of a block move in lock step."""
    rows: int = 64
    """Games in a batch."""
    max_plies: int = 100
    adjudication_nodes: int = 2000
    adjudication_threshold: float = 0.75
    evaluation_nodes: int | None = 100
    """Nodes for the win probabilities stored with a game on `test`; None leaves them out. Games on
    `select` only choose a rung, and go twice as fast without."""
    notation: str = "words"
    """Of prompts and answers: `words`, the shipped lineage's own, or `san`."""
    max_tokens: int | None = None
    """Longest answer; what the notation takes by default. Two words are two tokens in the chess
    lineage's own tokenizer."""
    processes: int | None = None
    """Engines; as many as there are cores by default. No result depends on it."""
    takes_prefix: ClassVar[bool] = True
    strong_demonstrator: ClassVar[str] = "strong"
    weak_demonstrator: ClassVar[str] = "weak"

    def __post_init__(self) -> None:
        if self.block < 2 or self.block % 2 or self.rows < 1:
            raise ConfigError(
                f"{self.name}: block must be even and at least 2, rows at least 1, got"
                f" {self.block} and {self.rows}"
            )
        if self.pairing not in ("adaptive", "spread"):
            raise ConfigError(
                f"{self.name}: pairing must be 'adaptive' or 'spread', got {self.pairing!r}"
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"{self.name}: max_tokens must be at least 1, got {self.max_tokens}")
        if not self.opponents:
            raise ConfigError(f"{self.name}: expected at least one opponent, got none")
        get_setup(self.setup)
        get_notation(self.notation)
        for name in self.opponents:
            get_opponent(name)
        # A bad number shows here, not in the middle of a run.
        _ = self.rules

    @property
    def rules(self) -> Rules:
        """How games end."""
        return Rules(
            max_plies=self.max_plies,
            adjudication_nodes=self.adjudication_nodes,
            adjudication_threshold=self.adjudication_threshold,
        )

    @property
    def description(self) -> str:
        """The protocol in a sentence, as a report prints it."""
        chosen = "near the running estimate" if self.pairing == "adaptive" else "all alike"
        return (
            f"Games against {len(self.opponents)} opponents, {chosen}, from seeded openings with"
            f" both colours; engines limited by nodes; after {self.max_plies} plies"
            f" {self.rules.name}: a win for a side whose win probability by Stockfish at"
            f" {self.adjudication_nodes} nodes is at least {self.adjudication_threshold:.0%}, else"
            f" a draw. Moves are asked for in {get_notation(self.notation).title}. Illegal and"
            " unreadable answers lose and are counted apart."
        )

    @property
    def provenance(self) -> dict[str, str]:
        """The engine that plays here, and the one that the opponents were rated with."""
        return {
            "engine": read_version(find_stockfish()),
            "ratings_engine": read_ratings(get_setup(self.setup)).engine,
        }

    @property
    def honest_moves(self) -> HonestMoves | None:
        """What honest engines lose a move, for intrinsic ratings; for the standard array."""
        return read_honest(get_setup(self.setup))

    def check_machine(self) -> None:
        """Look whether games can be played here.

        Raises:
            ConfigError: without python-chess, with what to do.
            EngineError: without Stockfish, likewise.
        """
        require_chess()
        find_stockfish()

    def check_samples(self, split: Split, samples: int) -> None:
        """Look whether a split has openings for so many games.

        Raises:
            ConfigError: for more than two a shipped opening.
        """
        openings = len(read_openings(get_setup(self.setup), split))
        if samples > 2 * openings:
            raise ConfigError(
                f"{self.name}: split {split} has {openings} openings, so at most {2 * openings}"
                f" games, got samples={samples}"
            )

    def run(
        self,
        model: Model,
        *,
        split: Split,
        samples: int,
        seed: int,
        done: Sequence[SampleRecord] = (),
    ) -> Iterator[SampleRecord]:
        """Play the games that are missing in `done`, block by block.

        Raises:
            ConfigError: for more samples than two a shipped opening.
        """
        openings = self._order_openings(split, samples, seed)
        stored = {record.sample_id: record for record in done}
        nodes = self.evaluation_nodes if split is Split.TEST else None
        finished: list[SampleRecord] = []
        with EnginePool(processes=self.processes) as pool:
            while len(finished) < samples:
                start = len(finished)
                names = self._choose_opponents(finished, seed)
                games = [
                    _Scheduled(split, openings[game // 2], names[(game - start) // 2], game)
                    for game in range(start, min(start + 2 * len(names), samples))
                ]
                missing = [game for game in games if game.sample_id not in stored]
                played = iterate_games(
                    model,
                    [game.pair(seed) for game in missing],
                    pool=pool,
                    rules=self.rules,
                    evaluation_nodes=nodes,
                    rows=self.rows,
                    max_tokens=self.max_tokens,
                    notation=get_notation(self.notation),
                )
                for at, game in played:
                    record = self._record(model, missing[at], game, nodes)
                    stored[record.sample_id] = record
                    yield record
                finished += [stored[game.sample_id] for game in games]

    def preview(self, model: Model, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        """Render what begins the games that the model begins; the others start with a reply.

        Under `prefix_plies` these are the positions that the engine's first moves start from.
        """
        import chess

        turns = (self.max_plies + 1) // 2
        notation = choose_notation(model, get_notation(self.notation))
        prompts = []
        for opening in self._order_openings(split, samples, seed)[: (samples + 1) // 2]:
            text = render_prompt(model, chess.Board(opening.fen), notation)
            prompts.append(
                Prompt(
                    sample_id=f"{split}-{opening.number:04d}-w",
                    text=text,
                    token_ids=encode_prompt(model, text),
                    max_tokens=self.max_tokens or notation.count_tokens(model.presentation.format),
                    most_sent=turns * model.decoding.tries * model.decoding.votes,
                )
            )
        return prompts

    def measure(self, records: Sequence[SampleRecord]) -> Measurement:
        """Rate the player by maximum likelihood, clustered by opening.

        Raises:
            InsufficientDataError: if no game was finished.
        """
        rated = [record for record in records if record.score.value is not None]
        if not rated:
            raise InsufficientDataError(
                f"{self.name}: a rating needs at least one finished game, got none of"
                f" {len(records)}"
            )
        return rate_player(
            [record.score.value or 0.0 for record in rated],
            [record.metadata["opponent_elo"] for record in rated],
            [record.cluster for record in rated],
            draw_parameter=read_ratings(get_setup(self.setup)).draw_parameter,
        )

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draw `n` shipped games that `strong` or `weak` played from `train` openings."""
        return draw_games(get_setup(self.setup), demonstrator, n, rng, get_notation(self.notation))

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        """Rating of the opponent that plays the demonstrator's moves; None if there is none."""
        if demonstrator not in DEMONSTRATORS:
            return None
        return read_ratings(get_setup(self.setup)).elo[DEMONSTRATORS[demonstrator]]

    def _order_openings(self, split: Split, samples: int, seed: int) -> list[Opening]:
        self.check_samples(split, samples)
        openings = read_openings(get_setup(self.setup), split)
        order = np.random.default_rng((seed, 1)).permutation(len(openings))
        return [openings[int(at)] for at in order]

    def _choose_opponents(self, finished: Sequence[SampleRecord], seed: int) -> list[str]:
        """Choose an opponent for each pair of the next block, from the games before it alone."""
        if not finished or self.pairing == "spread":
            # Golden-section order: the first few of a block spread over the ladder as well.
            order = np.argsort(np.arange(len(self.opponents)) * 0.618034 % 1, kind="stable")
            rounds = 1
            if self.pairing == "spread":
                rounds = max(1, self.block // (2 * len(self.opponents)))
            return [self.opponents[int(at)] for at in order] * rounds
        ratings = read_ratings(get_setup(self.setup)).elo
        elo = np.array([ratings[name].value for name in self.opponents])
        expected = 1 / (1 + 10 ** ((elo - _estimate_running(finished, ratings)) / 400))
        # The information of a game is s(1 - s); squared, so that most games are near.
        share = (expected * (1 - expected)) ** 2
        counts = _apportion(share / share.sum(), self.block // 2)
        names = [
            name for name, count in zip(self.opponents, counts, strict=True) for _ in range(count)
        ]
        np.random.default_rng((seed, 2, len(finished))).shuffle(names)
        return names

    def _record(
        self,
        model: Model,
        scheduled: _Scheduled,
        game: PlayedGame,
        evaluation_nodes: int | None,
    ) -> SampleRecord:
        ended = {1.0: Outcome.CORRECT, 0.5: Outcome.DRAWN, 0.0: Outcome.WRONG}
        outcome = _OUTCOMES.get(game.termination) or ended[game.score or 0.0]
        failed = outcome in FORFEITS
        result = _write_result(game)
        ratings = read_ratings(get_setup(self.setup))
        metadata: dict[str, Any] = {
            "opponent": scheduled.opponent,
            "opponent_elo": ratings.elo[scheduled.opponent].value,
            "draw_parameter": ratings.draw_parameter,
            "colour": "white" if game.pairing.colour else "black",
            "result": result,
            "termination": game.termination,
            "rules": self.rules.name,
            "opening": scheduled.opening.number,
            "opening_fen": scheduled.opening.fen,
            "moves": " ".join(move.uci() for move in game.moves),
            "san": write_san(scheduled.opening.fen, game.moves),
            "plies": len(game.moves),
            "prefix_moves": game.stood_in,
            "tries": [turn.tries for turn in game.turns],
        }
        if evaluation_nodes is not None:
            metadata["evaluation_nodes"] = evaluation_nodes
            metadata["win_probability"] = [
                round(turn.before, 4) for turn in game.turns if turn.before is not None
            ]
            metadata["lost"] = [
                round(turn.before - turn.after, 4)
                for turn in game.turns
                if turn.before is not None and turn.after is not None
            ]
        if game.error:
            metadata["error"] = game.error
        if game.turns and scheduled.game < KEPT_PROMPTS:
            metadata |= keep_prompt(model, game.turns[0].prompt)
        return SampleRecord(
            sample_id=scheduled.sample_id,
            cluster=scheduled.cluster,
            score=Score(
                value=game.score,
                outcome=outcome,
                answer=game.turns[-1].answer if failed else result,
            ),
            metadata=metadata,
        )


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """One game of the schedule."""

    split: Split
    opening: Opening
    opponent: str
    game: int
    """Number in the schedule; even ones are the model's white games."""

    @property
    def cluster(self) -> str:
        return f"{self.split}-{self.opening.number:04d}"

    @property
    def sample_id(self) -> str:
        return f"{self.cluster}-{'b' if self.game % 2 else 'w'}-{self.opponent}"

    def pair(self, seed: int) -> Pairing:
        opponent = get_opponent(self.opponent)
        return Pairing(
            opening=self.opening.fen,
            # White is True, as in python-chess.
            colour=self.game % 2 == 0,
            opponent=opponent,
            # By what the game is, not when it is played: rungs and checkpoints that meet the same
            # opponent in the same opening then meet the same dice.
            seed=(seed, self.opening.number, self.game % 2, LADDER.index(opponent)),
        )


def _write_result(game: PlayedGame) -> str:
    if game.score is None:
        return "*"
    if game.score == 0.5:
        return "1/2-1/2"
    return "1-0" if (game.score == 1) is game.pairing.colour else "0-1"


def _estimate_running(records: Sequence[SampleRecord], ratings: Mapping[str, Estimate]) -> float:
    """Most probable rating under a wide prior in the middle of the ladder: always finite."""
    middle = float(np.median([estimate.value for estimate in ratings.values()]))
    grid = np.arange(middle - 2000, middle + 2001, 10.0)
    logs = -(((grid - middle) / _PRIOR_SD_ELO) ** 2) / 2
    for record in records:
        if record.score.value is None:
            continue
        gain = (grid - record.metadata["opponent_elo"]) * math.log(10) / 400
        # log s and log(1 - s) of the logistic curve, a draw being half of each.
        logs -= record.score.value * np.logaddexp(0, -gain)
        logs -= (1 - record.score.value) * np.logaddexp(0, gain)
    return float(grid[int(np.argmax(logs))])


def _apportion(shares: np.ndarray[Any, np.dtype[np.float64]], seats: int) -> list[int]:
    """Whole numbers in proportion to `shares`, by largest remainders."""
    exact = shares * seats
    counts = np.floor(exact).astype(int)
    rest = np.argsort(-(exact - counts), kind="stable")[: seats - int(counts.sum())]
    counts[rest] += 1
    return [int(count) for count in counts]
