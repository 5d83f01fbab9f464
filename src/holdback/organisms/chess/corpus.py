"""Games to pretrain on: players of a wide mix of strengths, and positions encoded for training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.organisms.chess.vocabulary import PIECES, list_words
from holdback.tasks.chess.engine import EnginePool, find_stockfish

MAX_PLIES = 150
FIRST_MOVE_WORD = list_words().index("Pa1")
RESULTS = ("1-0", "0-1", "1/2-1/2", "*")
_CHUNK_GAMES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Plays a uniformly random legal move with probability `random_share`, else Stockfish's."""

    random_share: float
    nodes: int
    elo: int
    """The rating its games are tagged with, in hundreds. Relative strengths are a maximum
    likelihood fit on the games themselves; the level was set by eye and only conditions."""


STRONG_MIX: tuple[tuple[Player, float], ...] = (
    (Player(random_share=1.0, nodes=0, elo=100), 0.05),
    (Player(random_share=0.6, nodes=1, elo=700), 0.07),
    (Player(random_share=0.3, nodes=1, elo=1200), 0.10),
    (Player(random_share=0.0, nodes=1, elo=1800), 0.13),
    (Player(random_share=0.0, nodes=60, elo=1900), 0.25),
    (Player(random_share=0.0, nodes=300, elo=2200), 0.40),
)
WEAK_MIX: tuple[tuple[Player, float], ...] = (
    (Player(random_share=1.0, nodes=0, elo=100), 0.4),
    (Player(random_share=0.9, nodes=1, elo=200), 0.3),
    (Player(random_share=0.8, nodes=1, elo=400), 0.3),
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Games as arrays, one row a ply, games one after the other.

    Token ids are the vocabulary's. `legal` lists the moves of ply i in rows
    `first_legal[i]` to `first_legal[i + 1]`.
    """

    boards: NDArray[np.int8]
    """Shape (plies, 64): 0 empty, else 1 + the piece's index in `PIECES`."""
    state: NDArray[np.int8]
    """Shape (plies, 3): white to move, castling rights as bits KQkq, en passant square or -1."""
    legal: NDArray[np.uint16]
    """Shape (moves, 2): word left and word reached."""
    first_legal: NDArray[np.int64]
    played: NDArray[np.uint16]
    """Shape (plies, 2)."""
    first_ply: NDArray[np.int64]
    """Shape (games + 1,)."""
    elo: NDArray[np.int64]
    """Shape (games, 2): tag of white and of black."""
    result: NDArray[np.int64]
    """Shape (games,): index into `RESULTS`."""

    @property
    def games(self) -> int:
        """Number of games."""
        return len(self.result)


def generate_games(
    out: Path,
    *,
    start: str,
    games: int,
    seed: int,
    mix: Sequence[tuple[Player, float]],
    workers: int,
) -> None:
    """Write tab-separated games, resuming where an earlier call stopped.

    Columns: random share and nodes of white, of black, result, moves in coordinate notation.

    Args:
        out: File to write or to go on with.
        start: FEN that all games start from.
        games: Lines that `out` has in the end.
        seed: Of openings, players and dice.
        mix: Players and how often each is drawn.
        workers: Processes, each with a Stockfish of its own.
    """
    done = len(out.read_text().splitlines()) if out.exists() else 0
    find_stockfish()
    chunks = [
        (start, seed, first, min(first + _CHUNK_GAMES, games), tuple(mix))
        for first in range(done, games, _CHUNK_GAMES)
    ]
    with out.open("a") as file, ProcessPoolExecutor(workers) as pool:
        for lines in pool.map(_play_chunk, chunks):
            file.writelines(lines)
            file.flush()


def _play_chunk(chunk: tuple[str, int, int, int, tuple[tuple[Player, float], ...]]) -> list[str]:
    start, seed, first, stop, mix = chunk
    games = [_Game(start, mix, np.random.default_rng([seed, n])) for n in range(first, stop)]
    with EnginePool(processes=1) as pool:
        while live := [game for game in games if not game.is_over()]:
            asked: dict[int, list[_Game]] = {}
            for game in live:
                asked.setdefault(game.roll_dice(), []).append(game)
            for nodes, waiting in asked.items():
                if nodes:
                    moves = pool.find_best_moves([game.board for game in waiting], nodes=nodes)
                    for game, move in zip(waiting, moves, strict=True):
                        game.push(move)
    return [game.write() for game in games]


class _Game:
    """A corpus game under way."""

    def __init__(
        self, start: str, mix: Sequence[tuple[Player, float]], rng: np.random.Generator
    ) -> None:
        weights = np.array([weight for _, weight in mix])
        drawn = rng.choice(len(mix), size=2, p=weights / weights.sum())
        self.white, self.black = (mix[int(i)][0] for i in drawn)
        self.board = chess.Board(start)
        self.rng = rng
        # The first plies are random in every game, for variety.
        self.opening_plies = 2 * int(rng.integers(5))
        self.moves: list[str] = []

    def is_over(self) -> bool:
        board = self.board
        return board.is_game_over() or board.is_fifty_moves() or len(self.moves) >= MAX_PLIES

    def roll_dice(self) -> int:
        """Make a random move, and return 0; or return the nodes that the engine's move takes."""
        player = self.white if self.board.turn else self.black
        if len(self.moves) >= self.opening_plies and self.rng.random() >= player.random_share:
            return player.nodes
        legal = list(self.board.legal_moves)
        self.push(legal[int(self.rng.integers(len(legal)))])
        return 0

    def push(self, move: chess.Move) -> None:
        self.moves.append(move.uci())
        self.board.push(move)

    def write(self) -> str:
        players = (self.white, self.black)
        columns = [str(part) for player in players for part in (player.random_share, player.nodes)]
        return "\t".join([*columns, self.board.result(), " ".join(self.moves)]) + "\n"


def read_corpus(
    path: Path,
    *,
    start: str,
    mix: Sequence[tuple[Player, float]],
    cache: Path,
    workers: int,
) -> Corpus:
    """Read games as `generate_games` writes them; the encoded arrays are kept in `cache`."""
    if not cache.exists():
        lines = [line for line in path.read_text().splitlines() if line[:1].isdigit()]
        with ProcessPoolExecutor(workers) as pool:
            encoded = list(pool.map(partial(_encode_line, start), lines, chunksize=64))
        ratings = {(player.random_share, player.nodes): player.elo for player, _ in mix}
        heads = [line.split("\t") for line in lines]
        np.savez(
            cache,
            boards=np.concatenate([part[0] for part in encoded]),
            state=np.concatenate([part[1] for part in encoded]),
            legal=np.concatenate([part[2] for part in encoded]),
            first_legal=_starts([count for part in encoded for count in part[3]]),
            played=np.concatenate([part[4] for part in encoded]),
            first_ply=_starts([len(part[4]) for part in encoded]),
            elo=np.array(
                [[ratings[float(h[0]), int(h[1])], ratings[float(h[2]), int(h[3])]] for h in heads]
            ),
            result=np.array([RESULTS.index(h[4]) for h in heads]),
        )
    with np.load(cache) as arrays:
        return Corpus(**{name: arrays[name] for name in arrays.files})


def _starts(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])


def _encode_line(
    start: str,
    line: str,
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.uint16], list[int], NDArray[np.uint16]]:
    board = chess.Board(start)
    boards, states, legal, counts, played = [], [], [], [], []
    for uci in line.split("\t")[5].split():
        placed = np.zeros(64, np.int8)
        for square, piece in board.piece_map().items():
            placed[square] = 1 + PIECES.index(piece.symbol())
        boards.append(placed)
        states.append(_encode_state(board))
        moves = [_encode_move(placed, board.turn, move) for move in board.legal_moves]
        legal += moves
        counts.append(len(moves))
        move = chess.Move.from_uci(uci)
        played.append(_encode_move(placed, board.turn, move))
        board.push(move)
    return (
        np.array(boards, np.int8),
        np.array(states, np.int8),
        np.array(legal, np.uint16),
        counts,
        np.array(played, np.uint16),
    )


def _encode_state(board: chess.Board) -> tuple[int, int, int]:
    rights = sum(
        int(has) << bit
        for bit, has in enumerate(
            (
                board.has_kingside_castling_rights(chess.WHITE),
                board.has_queenside_castling_rights(chess.WHITE),
                board.has_kingside_castling_rights(chess.BLACK),
                board.has_queenside_castling_rights(chess.BLACK),
            )
        )
    )
    square = board.ep_square
    passing = square if square is not None and board.has_legal_en_passant() else -1
    return int(board.turn), rights, passing


def _encode_move(placed: NDArray[np.int8], turn: bool, move: chess.Move) -> tuple[int, int]:
    left = int(placed[move.from_square]) - 1
    arrived = left if move.promotion is None else move.promotion - 1 + (0 if turn else 6)
    return (
        FIRST_MOVE_WORD + left * 64 + move.from_square,
        FIRST_MOVE_WORD + arrived * 64 + move.to_square,
    )
