"""Chess games in lock step: a model, or an engine in its place, against opponents.

All games of a batch move together, so that the model answers for all of them in one pass and every
Stockfish process is busy. What happens in a game depends on its own pairing and seed alone, never
on the games beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from holdback.errors import ConfigError, EngineError, HoldbackError
from holdback.models.protocol import Model
from holdback.tasks.chess.engine import Analysis, EnginePool, Search, write_uci_position
from holdback.tasks.chess.notations import WORDS, Notation
from holdback.tasks.chess.opponents import Mover, Opponent, get_opponent
from holdback.tasks.chess.prompts import draw_moves

if TYPE_CHECKING:
    import chess

PREFIX_PLAYER = "sf300"
"""Who plays the first moves, of both sides alike, where the presentation asks for it."""

# Streams of a game's seed, one for each player.
_MODEL, _OPPONENT = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """One game to play."""

    opening: str
    """FEN that it starts from."""
    colour: chess.Color
    """The model's."""
    opponent: Opponent
    seed: tuple[int, ...]
    """Of the model's draws and of the opponent's dice, apart from each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How games end beside mate, stalemate and bare kings.

    Fifty moves and threefold repetition are claimed as soon as they can be. After `max_plies`
    plies, counted from the opening, Stockfish's win probability decides, by the rule that `name`
    names: `cap100-wp75` is a win for a side at 75% or more, and else a draw.
    """

    max_plies: int = 100
    adjudication_nodes: int = 2000
    adjudication_threshold: float = 0.75

    def __post_init__(self) -> None:
        if self.max_plies < 1 or not 0.5 < self.adjudication_threshold <= 1:
            raise ConfigError(
                "chess rules: expected max_plies >= 1 and 0.5 < adjudication_threshold <= 1, got"
                f" {self.max_plies} and {self.adjudication_threshold}"
            )

    @property
    def name(self) -> str:
        """Name of the adjudication, as reported."""
        return f"cap{self.max_plies}-wp{100 * self.adjudication_threshold:.0f}"

    def find_end(self, board: chess.Board) -> str | None:
        """Name what ends the game here; None if it goes on. The move cap is not looked at."""
        if not any(board.legal_moves):
            return "checkmate" if board.is_check() else "stalemate"
        if board.is_insufficient_material():
            return "insufficient_material"
        if board.halfmove_clock >= 100:
            return "fifty_moves"
        if board.is_repetition(3):
            return "threefold_repetition"
        return None


@dataclass(slots=True)
class Turn:
    """One answer of the model. It failed where `move` is None, and the game ended there."""

    prompt: str
    """The whole text it answered, as rendered."""
    answer: str
    move: chess.Move | None
    tries: int
    logprob: float
    """Of the answer's tokens, in nats at temperature 1."""
    before: float | None = None
    """Its win probability before the move, by Stockfish; None if not evaluated."""
    after: float | None = None
    """The same after the move; None if it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedGame:
    """A finished game."""

    pairing: Pairing
    moves: tuple[chess.Move, ...]
    """Of both sides, from the opening."""
    turns: tuple[Turn, ...]
    """The model's; moves that an engine made in its place have none."""
    stood_in: int
    """Moves that an engine made in the model's place, at the start."""
    termination: str
    """`checkmate` … `threefold_repetition`, the rules' name, or why the model's answer could not
    be played: `illegal`, `unparsed`, `refused`, `truncated`; `errored` if an engine failed."""
    score: float | None
    """1, ½ or 0 for the model; None if an engine failed."""
    error: str = ""


def play_games(
    model: Model,
    pairings: Sequence[Pairing],
    *,
    pool: EnginePool,
    rules: Rules | None = None,
    evaluation_nodes: int | None = 100,
    rows: int = 64,
    max_tokens: int | None = None,
    notation: Notation = WORDS,
) -> list[PlayedGame]:
    """Let the model play all pairings, `rows` games at a time, as its presentation says.

    With `presentation.prefix_plies` one engine plays that many plies first, of both sides, so that
    its strength does not count as the model's. An answer that cannot be played, after
    `decoding.tries`, loses.

    Args:
        model: The player.
        pairings: The games.
        pool: Engines of the opponents and of the evaluation.
        rules: How games end; `Rules()` by default.
        evaluation_nodes: Nodes for the win probability before and after each of the model's
            moves; None to leave it out.
        rows: Games in a batch.
        max_tokens: Longest answer; what the notation takes by default.
        notation: Of prompts and answers.
    """
    games = iterate_games(
        model,
        pairings,
        pool=pool,
        rules=rules,
        evaluation_nodes=evaluation_nodes,
        rows=rows,
        max_tokens=max_tokens,
        notation=notation,
    )
    return [game for _, game in games]


def iterate_games(
    model: Model,
    pairings: Sequence[Pairing],
    *,
    pool: EnginePool,
    rules: Rules | None = None,
    evaluation_nodes: int | None = 100,
    rows: int = 64,
    max_tokens: int | None = None,
    notation: Notation = WORDS,
) -> Iterator[tuple[int, PlayedGame]]:
    """Play as `play_games` does, batch by batch; yields each game with its pairing's index.

    Should the model fail, as one behind an endpoint may in the middle, the games that are over by
    then come first and the error after them.
    """
    stand_in = get_opponent(PREFIX_PLAYER)
    table = _Table(model, pool, rules or Rules(), evaluation_nodes, max_tokens, notation)
    for start in range(0, len(pairings), rows):
        games = [
            _Game(pairing, stand_in, model.presentation.prefix_plies)
            for pairing in pairings[start : start + rows]
        ]
        for at, game in table.play(games):
            yield start + at, game


def play_engines(
    players: Sequence[Mover],
    pairings: Sequence[Pairing],
    *,
    pool: EnginePool,
    rules: Rules | None = None,
) -> list[PlayedGame]:
    """Let engines play in the model's place, one of `players` a pairing."""
    table = _Table(None, pool, rules or Rules(), None)
    games = [
        _Game(pairing, player, None) for player, pairing in zip(players, pairings, strict=True)
    ]
    return [game for _, game in table.play(games)]


def replay_turns(game: PlayedGame) -> Iterator[tuple[Turn, chess.Board]]:
    """Go through the model's turns, each with the board before it."""
    import chess

    board = chess.Board(game.pairing.opening)
    turns = iter(game.turns)
    stood_in = game.stood_in
    for move in [*game.moves, None]:
        if board.turn == game.pairing.colour:
            if stood_in:
                stood_in -= 1
            elif (turn := next(turns, None)) is not None:
                yield turn, board.copy(stack=False)
        if move is not None:
            board.push(move)


class _Game:
    """A game under way."""

    def __init__(self, pairing: Pairing, stand_in: Mover, prefix_plies: int | None) -> None:
        import chess

        self.pairing = pairing
        self.board = chess.Board(pairing.opening)
        self.engine_rng = np.random.default_rng((*pairing.seed, _OPPONENT))
        self.stand_in = stand_in
        self.plays_all = prefix_plies is None
        self.stood_in = 0
        self.prefix_plies = prefix_plies or 0
        self.turns: list[Turn] = []
        self.termination: str | None = None
        self.score: float | None = None
        self.error = ""

    @property
    def own_turn(self) -> bool:
        return self.board.turn == self.pairing.colour

    def engine_to_move(self) -> Mover | None:
        """Whose move it is: an engine, or None for the model."""
        if len(self.board.move_stack) < self.prefix_plies:
            return self.stand_in
        if not self.own_turn:
            return self.pairing.opponent
        return self.stand_in if self.plays_all else None

    def push_engine(self, player: Mover, analysis: Analysis | None) -> None:
        move = player.choose(self.board, analysis, self.engine_rng)
        self.stood_in += self.own_turn
        self.board.push(move)

    def fail(self, error: EngineError) -> None:
        self.termination, self.score, self.error = "errored", None, str(error)

    def finish(self) -> PlayedGame:
        return PlayedGame(
            pairing=self.pairing,
            moves=tuple(self.board.move_stack),
            turns=tuple(self.turns),
            stood_in=self.stood_in,
            termination=self.termination or "errored",
            score=self.score,
            error=self.error,
        )


_Request = tuple[_Game, Search, Callable[[Analysis], None]]


class _Table:
    """Moves all games of a batch in turn; searches that nobody waits for ride along."""

    def __init__(
        self,
        model: Model | None,
        pool: EnginePool,
        rules: Rules,
        evaluation_nodes: int | None,
        max_tokens: int | None = None,
        notation: Notation = WORDS,
    ) -> None:
        self.model = model
        self.pool = pool
        self.rules = rules
        self.evaluation_nodes = evaluation_nodes
        self.max_tokens = max_tokens
        self.notation = notation
        self.requests: list[_Request] = []

    def play(self, games: Sequence[_Game]) -> Iterator[tuple[int, PlayedGame]]:
        failure: HoldbackError | None = None
        for game in games:
            self._look_for_end(game)
        try:
            while live := [game for game in games if game.termination is None]:
                if any(game.engine_to_move() for game in live):
                    self._move_engines(live)
                else:
                    self._move_model(live)
        except HoldbackError as error:
            failure = error
            over = [request for request in self.requests if request[0].termination is not None]
            self.requests = over
        self._answer_requests()
        for at, game in enumerate(games):
            if game.termination is not None:
                yield at, game.finish()
        if failure is not None:
            raise failure

    def _move_engines(self, games: Sequence[_Game]) -> None:
        moved = []
        for game in games:
            player = game.engine_to_move()
            if player is None:
                continue
            moved.append(game)
            search = player.ask(game.board, game.engine_rng)
            if search is None:
                game.push_engine(player, None)
            else:
                self.requests.append((game, search, partial(game.push_engine, player)))
        self._answer_requests()
        for game in moved:
            self._look_for_end(game)

    def _move_model(self, games: Sequence[_Game]) -> None:
        if self.model is None:
            raise ValueError("no model is at the table")
        answers = draw_moves(
            self.model,
            [game.board for game in games],
            seeds=[(*game.pairing.seed, _MODEL, len(game.board.move_stack)) for game in games],
            notation=self.notation,
            max_tokens=self.max_tokens,
        )
        for game, answer in zip(games, answers, strict=True):
            if answer.error:
                game.fail(EngineError(answer.error))
                continue
            turn = Turn(answer.prompt, answer.text, answer.move, answer.tries, answer.logprob)
            game.turns.append(turn)
            self._evaluate(game, turn, "before")
            if answer.move is None:
                game.termination, game.score = str(answer.failure), 0.0
            else:
                game.board.push(answer.move)
                self._look_for_end(game)
                self._evaluate(game, turn, "after")

    def _look_for_end(self, game: _Game) -> None:
        if game.termination is not None:
            return
        board = game.board
        end = self.rules.find_end(board)
        if end == "checkmate":
            game.termination, game.score = end, 0.0 if game.own_turn else 1.0
        elif end is not None:
            game.termination, game.score = end, 0.5
        elif len(board.move_stack) >= self.rules.max_plies:
            game.termination = self.rules.name
            search = Search(position=write_uci_position(board), nodes=self.rules.adjudication_nodes)
            self.requests.append((game, search, partial(self._adjudicate, game)))

    def _adjudicate(self, game: _Game, analysis: Analysis) -> None:
        won = analysis.win_probability if game.own_turn else 1 - analysis.win_probability
        threshold = self.rules.adjudication_threshold
        game.score = 1.0 if won >= threshold else 0.0 if 1 - won >= threshold else 0.5

    def _evaluate(self, game: _Game, turn: Turn, moment: str) -> None:
        if self.evaluation_nodes is None:
            return
        own_turn = moment == "before"
        ended = game.termination is not None and game.termination != self.rules.name
        if not own_turn and ended:
            turn.after = game.score
            return
        search = Search(position=write_uci_position(game.board), nodes=self.evaluation_nodes)

        def note(analysis: Analysis) -> None:
            won = analysis.win_probability
            setattr(turn, moment, won if own_turn else 1 - won)

        self.requests.append((game, search, note))

    def _answer_requests(self) -> None:
        requests, self.requests = self.requests, []
        answers = self.pool.try_analyse([search for _, search, _ in requests])
        for (game, _, note), answer in zip(requests, answers, strict=True):
            if isinstance(answer, EngineError):
                game.fail(answer)
            elif game.termination != "errored":
                note(answer)
