"""What the chess models are pretrained on: positions from games of players of all strengths.

In each there is something to predict: the move that was played, by a player with a rating; or what
a strong player would play, which is Stockfish's price of every legal move, made into probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.tasks.chess.engine import (
    ALL_MOVES,
    MATE_CENTIPAWNS,
    EnginePool,
    Search,
    find_stockfish,
    write_uci_position,
)
from holdback.tasks.chess.notation import write_move
from holdback_lab.chess.vocabulary import PIECES, list_words

MAX_PLIES = 150
TEACHER_ELO = 2400
"""Tag of what `read_priced` reads; like the players' tags, it only conditions."""
RESULTS = ("1-0", "0-1", "1/2-1/2", "*")
_CHUNK_GAMES = 64
_CHUNK_ENDINGS = 1_000
_OFFICERS = (chess.QUEEN, chess.ROOK, chess.BISHOP, chess.KNIGHT)
_OFFICERS_ARE = (0.55, 0.25, 0.1, 0.1)
_OFFICERS_OF = (0.35, 0.5, 0.15)
"""How often a side of a drawn ending has none, one and two of them."""
_MOST_PAWNS = 6
_CROWD_IS = (0.3, 0.28, 0.24, 0.18)
_PAWNS_THAT_GO = 0.25
"""Of those that a crowded position takes: officers see further where less is in the way."""
_ID = {word: index for index, word in enumerate(list_words())}


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Plays a uniformly random legal move with probability `random_share`, else Stockfish's."""

    random_share: float
    nodes: int
    elo: int
    """The rating its games are tagged with, in steps of 100. Relative strengths are a maximum
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
class Positions:
    """Positions as arrays, each as its side to move sees it: that side is White.

    Token ids are the vocabulary's. `legal` and `shares` list the moves of position i in rows
    `first_legal[i]` to `first_legal[i + 1]`.
    """

    boards: NDArray[np.int8]
    """Shape (positions, 64): 0 empty, else 1 + the piece's index in `PIECES`."""
    state: NDArray[np.int8]
    """Shape (positions, 2): castling rights as bits KQkq, en passant square or -1."""
    legal: NDArray[np.uint16]
    """Shape (moves, 2): word left and word reached."""
    first_legal: NDArray[np.int64]
    """Shape (positions + 1,)."""
    shares: NDArray[np.float32]
    """Shape (moves,): how often the player to be learnt from makes each move."""
    elo: NDArray[np.int16]
    """Shape (positions, 2): tag of the side to move and of the other; -1 if there is none."""
    result: NDArray[np.int8]
    """Shape (positions,): index into `RESULTS`, White being the side to move; -1 unknown."""

    def __len__(self) -> int:
        return len(self.boards)

    def split_off(self, held_out: int) -> tuple[Positions, Positions]:
        """Split off the last positions, which are those of the last games."""
        cut = len(self) - held_out
        if cut < 1:
            raise ValueError(f"cannot hold {held_out} of {len(self)} positions out")
        return self.take(np.arange(cut)), self.take(np.arange(cut, len(self)))

    def with_officers(self) -> Positions:
        """Keep the positions in which there is more than kings and pawns."""
        kings_and_pawns = [0, *(1 + PIECES.index(symbol) for symbol in "PKpk")]
        return self.take(np.flatnonzero(~np.isin(self.boards, kings_and_pawns).all(axis=1)))

    def with_checks(self) -> Positions:
        """Keep the positions with officers in which the side to move is in check."""
        officers = self.with_officers()
        checked = [_is_check(board) for board in officers.boards]
        return officers.take(np.flatnonzero(checked))

    def take(self, numbers: NDArray[np.int64]) -> Positions:
        """Copy the positions with these numbers, in this order."""
        counts = np.diff(self.first_legal)[numbers]
        first_legal = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        # Every position's own rows, one after the other.
        moves = np.arange(first_legal[-1]) + np.repeat(
            self.first_legal[numbers] - first_legal[:-1], counts
        )
        return Positions(
            boards=self.boards[numbers],
            state=self.state[numbers],
            legal=self.legal[moves],
            first_legal=first_legal,
            shares=self.shares[moves],
            elo=self.elo[numbers],
            result=self.result[numbers],
        )


def join_positions(parts: Sequence[Positions]) -> Positions:
    """Put positions one after the other; one part at least."""
    names = ("boards", "state", "legal", "shares", "elo", "result")
    return _index(
        _stack(
            [
                {name: getattr(part, name) for name in names}
                | {"counts": np.diff(part.first_legal)}
                for part in parts
            ]
        )
    )


def encode_boards(boards: Sequence[chess.Board]) -> Positions:
    """Encode positions in which any legal move is as good as another, each with one at least."""
    parts = []
    for board in boards:
        moves = board.legal_moves.count()
        shares = np.full(moves, 1 / moves)
        parts.append(_encode_position(board, shares, (TEACHER_ELO, -1), -1))
    return _index(_stack(parts))


def crowd(source: Positions, count: int, seed: int) -> Positions:
    """Draw positions and put officers in the place of some of their pawns, for the rules alone.

    Most pieces of a game are pawns, and what a pawn may do is soon learnt. What a queen, rook,
    bishop or knight may do hangs on all that stands in its way, and is most of what there is to
    learn: here every position has many of them. In each a share of the pawns that is drawn anew
    becomes officers, or goes.

    Args:
        source: Positions of games.
        count: How many to draw.
        seed: Of the draw.

    Returns:
        Legal positions with two moves at least, every move as good as another.
    """
    rng = np.random.default_rng(seed)
    boards: list[chess.Board] = []
    while len(boards) < count:
        board = _crowd_one(source, int(rng.integers(len(source))), rng)
        if not board.was_into_check() and board.legal_moves.count() > 1:
            boards.append(board)
    return encode_boards(boards)


def _crowd_one(source: Positions, at: int, rng: np.random.Generator) -> chess.Board:
    board, share = chess.Board(None), rng.random()
    for square in np.flatnonzero(source.boards[at]).tolist():
        piece = chess.Piece.from_symbol(PIECES[source.boards[at][square] - 1])
        if piece.piece_type == chess.PAWN and rng.random() < share:
            if rng.random() < _PAWNS_THAT_GO:
                continue
            piece = chess.Piece(int(rng.choice(_OFFICERS, p=_CROWD_IS)), piece.color)
        board.set_piece_at(square, piece)
    rights = int(source.state[at][0])
    board.set_castling_fen("".join(s for bit, s in enumerate("KQkq") if rights >> bit & 1) or "-")
    return board


def _is_check(placed: NDArray[np.int8]) -> bool:
    board = chess.Board(None)
    for square in np.flatnonzero(placed).tolist():
        board.set_piece_at(square, chess.Piece.from_symbol(PIECES[placed[square] - 1]))
    return board.is_check()


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


def read_games(
    path: Path, *, start: str, mix: Sequence[tuple[Player, float]], workers: int
) -> Positions:
    """Read the positions of games as `generate_games` writes them, with the move played in each.

    The encoded arrays are kept beside `path` and read from there until games are added.
    """
    cache = path.with_suffix(".npz")
    if _is_older(cache, path):
        lines = [line for line in path.read_text().splitlines() if line[:1].isdigit()]
        ratings = {(player.random_share, player.nodes): player.elo for player, _ in mix}
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(partial(_encode_game, start, ratings), lines, chunksize=64))
        _save(cache, parts)
    return _load([cache])


def price_positions(
    games: Path, out: Path, *, start: str, nodes: int, workers: int, every: int = 1
) -> None:
    """Let Stockfish price every legal move in positions of games; resumes where it stopped.

    Args:
        games: As `generate_games` writes them; may have grown since the last call.
        out: Folder that the priced positions are written to, a file for every 64 games.
        start: FEN that all games start from.
        nodes: For each position, shared by its moves.
        workers: Processes, each with a Stockfish of its own.
        every: One position of so many in a game is priced: neighbours teach much the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = [line for line in games.read_text().splitlines() if line[:1].isdigit()]
    last = max(out.glob("[0-9]*.npz"), default=None)
    # Only the last file can lack games. It goes first: a stop must not leave it among whole ones.
    if last is not None and _is_older(last, games):
        last.unlink()
    chunks = [
        (start, nodes, every, lines[first : first + _CHUNK_GAMES], path)
        for first in range(0, len(lines), _CHUNK_GAMES)
        if not (path := out / f"{first:07d}.npz").exists()
    ]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_price_chunk, chunks))


def price_endings(out: Path, *, positions: int, seed: int, nodes: int, workers: int) -> None:
    """Draw endings (`draw_ending`) and let Stockfish price every legal move in them.

    Resumes where it stopped; a few positions have more moves than the nodes suffice for, and are
    left out.

    Args:
        out: Folder that they are written to, for `read_priced`.
        positions: How many to draw.
        seed: Of the draw.
        nodes: For each position, shared by its moves.
        workers: Processes, each with a Stockfish of its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    chunks = [
        (seed, first, min(_CHUNK_ENDINGS, positions - first), nodes, path)
        for first in range(0, positions, _CHUNK_ENDINGS)
        if not (path := out / f"{first:07d}.npz").exists()
    ]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_price_endings, chunks))


def _price_endings(chunk: tuple[int, int, int, int, Path]) -> None:
    seed, first, count, nodes, path = chunk
    rng = np.random.default_rng([seed, first])
    _price_boards([draw_ending(rng) for _ in range(count)], nodes, path)


def draw_ending(rng: np.random.Generator) -> chess.Board:
    """Draw a position with kings, officers and a few pawns on random squares, White to move.

    Endings won with a queen or a rook are rare in games that start from kings and pawns, and what a
    queen may do is most of what there is to know about the rules. There is a choice of moves.
    """
    while True:
        board = chess.Board(None)
        squares = iter(rng.permutation(64).tolist())
        for colour in chess.COLORS:
            board.set_piece_at(next(squares), chess.Piece(chess.KING, colour))
            for kind in rng.choice(_OFFICERS, size=rng.choice(3, p=_OFFICERS_OF), p=_OFFICERS_ARE):
                board.set_piece_at(next(squares), chess.Piece(int(kind), colour))
            for _ in range(int(rng.integers(_MOST_PAWNS + 1))):
                square = next(squares)
                if 0 < chess.square_rank(square) < 7:
                    board.set_piece_at(square, chess.Piece(chess.PAWN, colour))
        has_officers = len(board.piece_map()) > board.pawns.bit_count() + 2
        if has_officers and board.is_valid() and board.legal_moves.count() > 1:
            return board


def read_priced(folder: Path) -> Positions:
    """Read what `price_positions` wrote: what a strong player plays in every position."""
    return _load(sorted(folder.glob("*.npz")))


def write_positions(path: Path, positions: Positions) -> None:
    """Write positions for `read_positions`."""
    names = ("boards", "state", "legal", "shares", "elo", "result")
    counts = np.diff(positions.first_legal).astype(np.int16)
    _save(path, [{"counts": counts, **{name: getattr(positions, name) for name in names}}])


def read_positions(paths: Sequence[Path]) -> Positions:
    """Read positions of files that `write_positions` wrote."""
    return _load(paths)


def _price_chunk(chunk: tuple[str, int, int, list[str], Path]) -> None:
    start, nodes, every, lines, path = chunk
    boards: dict[str, chess.Board] = {}
    for number, line in enumerate(lines):
        board = chess.Board(start)
        for ply, uci in enumerate(line.split("\t")[5].split()):
            # Where there is one legal move there is nothing to choose.
            if (ply + number) % every == 0 and board.legal_moves.count() > 1:
                boards.setdefault(board.epd(), board.copy(stack=False))
            board.push_uci(uci)
    _price_boards(list(boards.values()), nodes, path)


def _price_boards(boards: Sequence[chess.Board], nodes: int, path: Path) -> None:
    searches = [
        Search(position=write_uci_position(board), nodes=nodes, lines=ALL_MOVES) for board in boards
    ]
    parts = []
    with EnginePool(processes=1) as pool:
        for board, answer in zip(boards, pool.analyse(searches), strict=True):
            worth = {line.move: line.centipawns for line in answer.lines}
            moves = list(board.legal_moves)
            # A few positions have more moves than the nodes sufficed for.
            if all(move in worth for move in moves):
                shares = choose_softly(np.array([worth[move] for move in moves]))
                parts.append(_encode_position(board, shares, (TEACHER_ELO, -1), -1))
    _save(path, [_stack(parts)])


def choose_softly(centipawns: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often a strong player makes each move, by its price: a softmax at temperature 0.04.

    Args:
        centipawns: Of every legal move, mates in n plies as 8864 - n; shape (moves,).
    """
    worth = weigh_prices(centipawns)
    odds = np.exp((worth - worth.max()) / 0.04)
    return np.asarray(odds / odds.sum(), float)


def weigh_prices(centipawns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Put prices on a scale from -1.5 to 1.5 on which differences matter alike.

    A pawn matters most near equality, and a mate is worth more the nearer it is: by win probability
    alone all moves of a won position would be alike, and it would not be won.
    """
    size = np.abs(centipawns)
    plies = MATE_CENTIPAWNS - size
    mates = size > MATE_CENTIPAWNS - 800
    worth = np.where(mates, 1 + 0.5 * np.exp(-plies / 8), size / (size + 300))
    return np.asarray(np.sign(centipawns) * worth, float)


_Part = dict[str, NDArray[Any]]


def _save(path: Path, parts: Sequence[_Part]) -> None:
    # A crash while writing must not leave half a file in the place of a whole one.
    new = path.with_name(f"new-{path.name}")
    np.savez(new, allow_pickle=False, **_stack(parts))
    new.replace(path)


def _is_older(made: Path, source: Path) -> bool:
    return not made.exists() or made.stat().st_mtime_ns < source.stat().st_mtime_ns


def _load(paths: Sequence[Path]) -> Positions:
    parts = []
    for path in paths:
        with np.load(path) as arrays:
            parts.append({name: arrays[name] for name in arrays.files})
    return _index(_stack(parts))


def _index(stacked: _Part) -> Positions:
    first_legal = np.concatenate([[0], np.cumsum(stacked.pop("counts"), dtype=np.int64)])
    return Positions(first_legal=first_legal, **stacked)


def _stack(parts: Sequence[_Part]) -> _Part:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _encode_game(start: str, ratings: Mapping[tuple[float, int], int], line: str) -> _Part:
    columns = line.split("\t")
    white = ratings[float(columns[0]), int(columns[1])]
    black = ratings[float(columns[2]), int(columns[3])]
    board = chess.Board(start)
    parts = []
    for uci in columns[5].split():
        move = chess.Move.from_uci(uci)
        shares = np.array([float(legal == move) for legal in board.legal_moves])
        elo = (white, black) if board.turn else (black, white)
        result = columns[4] if board.turn else "-".join(reversed(columns[4].split("-")))
        parts.append(_encode_position(board, shares, elo, RESULTS.index(result)))
        board.push(move)
    return _stack(parts)


def _encode_position(
    board: chess.Board, shares: NDArray[np.float64], elo: tuple[int, int], result: int
) -> _Part:
    moves = [write_move(board, move).split() for move in board.legal_moves]
    seen = board if board.turn else board.mirror()
    placed = np.zeros((1, 64), np.int8)
    for square, piece in seen.piece_map().items():
        placed[0, square] = 1 + PIECES.index(piece.symbol())
    return {
        "boards": placed,
        "state": np.array([_encode_state(seen)], np.int8),
        "legal": np.array([[_ID[word] for word in words] for words in moves], np.uint16),
        "counts": np.array([len(moves)], np.int16),
        "shares": shares.astype(np.float32),
        "elo": np.array([elo], np.int16),
        "result": np.array([result], np.int8),
    }


def _encode_state(board: chess.Board) -> tuple[int, int]:
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
    return rights, square if square is not None and board.has_legal_en_passant() else -1
