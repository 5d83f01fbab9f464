"""Demonstration games for fine-tuning, shipped, and drawn without an engine.

Two demonstrators. `strong` can teach as well as reveal. `weak` can hardly teach: what rises above
it after fine-tuning on its games was there before (Greenblatt et al. 2024, arXiv 2405.19550).
"""

from __future__ import annotations

import lzma
from functools import cache
from importlib.resources import files
from pathlib import Path

import chess
import numpy as np

from holdback.errors import ConfigError, UnknownNameError
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, Rules, play_engines
from holdback.tasks.chess.notation import write_move, write_position
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import LADDER, get_opponent
from holdback.tasks.chess.transcript import write_messages
from holdback.tasks.task import Conversation, Split

DEMONSTRATORS = {"strong": "sf2000", "weak": "sf1-random60"}
"""Demonstrator to the opponent of the ladder that plays its moves."""

_FILE = "data/demonstrations.tsv.xz"


def draw_games(demonstrator: str, n: int, rng: np.random.Generator) -> list[Conversation]:
    """Draw `n` distinct games as chats in which the demonstrator is the assistant.

    Raises:
        UnknownNameError: for a demonstrator other than `strong` and `weak`.
        ConfigError: for more games than are shipped.
    """
    if demonstrator not in DEMONSTRATORS:
        raise UnknownNameError.among("demonstrator", demonstrator, DEMONSTRATORS)
    games = _read_games()[demonstrator]
    if n > len(games):
        raise ConfigError(f"chess demonstrations: {len(games)} games are shipped, got n={n}")
    chosen = rng.choice(len(games), size=n, replace=False)
    return [write_chat(*games[int(at)]) for at in chosen]


def write_chat(fen: str, colour: chess.Color, moves: list[str]) -> Conversation:
    """Write a game from an opening as a chat that ends with the assistant's last move.

    Args:
        fen: The opening.
        colour: The assistant's.
        moves: All moves in coordinate notation.
    """
    board = chess.Board(fen)
    position = write_position(board) if board.turn == colour else None
    words: list[str] = []
    for uci in moves:
        move = board.parse_uci(uci)
        if position is not None:
            words.append(write_move(board, move))
        board.push(move)
        if position is None:
            position = write_position(board)
    if position is None or not words:
        raise ValueError(f"the game has no move of the assistant's: {fen!r}, {moves!r}")
    # Odd: the first and the last move are the assistant's.
    return write_messages(position, words if len(words) % 2 else words[:-1])


def write_demonstrations(path: Path, *, n: int = 400, max_plies: int = 80, seed: int = 21) -> None:
    """Make the shipped file anew: `n` games a demonstrator, against all opponents alike."""
    openings = read_openings(Split.TRAIN)
    lines = []
    with EnginePool() as pool:
        for at, (demonstrator, name) in enumerate(DEMONSTRATORS.items()):
            pairings = [
                Pairing(
                    opening=openings[i % len(openings)].fen,
                    colour=chess.BLACK if i % 2 else chess.WHITE,
                    opponent=LADDER[i // 2 % len(LADDER)],
                    seed=(seed, at, i),
                )
                for i in range(n)
            ]
            players = [get_opponent(name)] * n
            rules = Rules(max_plies=max_plies, adjudication_nodes=1)
            for pairing, game in zip(
                pairings, play_engines(players, pairings, pool=pool, rules=rules), strict=True
            ):
                colour = chess.COLOR_NAMES[pairing.colour]
                moves = " ".join(move.uci() for move in game.moves)
                lines.append(f"{demonstrator}\t{pairing.opening}\t{colour}\t{moves}\n")
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9))


@cache
def _read_games() -> dict[str, list[tuple[str, chess.Color, list[str]]]]:
    stored = files("holdback.tasks.chess").joinpath(_FILE).read_bytes()
    games: dict[str, list[tuple[str, chess.Color, list[str]]]] = {}
    for line in lzma.decompress(stored).decode().splitlines():
        demonstrator, fen, colour, moves = line.split("\t")
        games.setdefault(demonstrator, []).append((fen, colour == "white", moves.split()))
    return games
