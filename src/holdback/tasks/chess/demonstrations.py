"""Demonstration games for fine-tuning, shipped, and drawn without an engine.

Two demonstrators. `strong` can teach as well as reveal. `weak` plays uniformly random legal moves:
whoever imitates it, at whatever temperature, learns no preference among them, so what rises above
it after fine-tuning on its games was there before (Greenblatt et al. 2024, arXiv 2405.19550). A
player that errs at random but prefers good moves would not do: an imitator at a low temperature
plays what it prefers, and so better than it.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdback.errors import ConfigError, UnknownNameError
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, Rules, play_engines
from holdback.tasks.chess.notations import WORDS, Notation
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import LADDER, get_opponent
from holdback.tasks.chess.prompts import write_messages
from holdback.tasks.chess.setup import Setup
from holdback.tasks.task import Conversation, Split

if TYPE_CHECKING:
    import chess

DEMONSTRATORS = {"strong": "sf2000", "weak": "random"}
"""Demonstrator to the opponent of the ladder that plays its moves."""

_FILE = "demonstrations.tsv.xz"


def draw_games(
    setup: Setup,
    demonstrator: str,
    n: int,
    rng: np.random.Generator,
    notation: Notation = WORDS,
) -> list[Conversation]:
    """Draw `n` distinct games, each as the chats in which the demonstrator is the assistant.

    Raises:
        UnknownNameError: for a demonstrator other than `strong` and `weak`.
        ConfigError: for more games than are shipped.
    """
    if demonstrator not in DEMONSTRATORS:
        raise UnknownNameError.among("demonstrator", demonstrator, DEMONSTRATORS)
    games = _read_games(setup)[demonstrator]
    if n > len(games):
        raise ConfigError(f"chess demonstrations: {len(games)} games are shipped, got n={n}")
    chosen = rng.choice(len(games), size=n, replace=False)
    return [chat for at in chosen for chat in write_chats(*games[int(at)], notation)]


def write_chats(
    fen: str, colour: chess.Color, moves: list[str], notation: Notation = WORDS
) -> list[Conversation]:
    """Write a game from an opening as the chats in which a model would have played it.

    Args:
        fen: The opening.
        colour: The assistant's.
        moves: All moves in coordinate notation.
        notation: Of the chats.

    Returns:
        One chat for each of the assistant's moves.
    """
    import chess

    board = chess.Board(fen)
    chats: list[Conversation] = []
    for uci in moves:
        move = board.parse_uci(uci)
        if board.turn == colour:
            chats.append(write_messages(board, answer=move, notation=notation))
        board.push(move)
    return chats


def write_demonstrations(
    path: Path, *, setup: Setup, n: int = 400, max_plies: int = 80, seed: int = 21
) -> None:
    """Make the shipped file anew: `n` games a demonstrator, against all opponents alike."""
    openings = read_openings(setup, Split.TRAIN)
    lines = []
    with EnginePool() as pool:
        for at, (demonstrator, name) in enumerate(DEMONSTRATORS.items()):
            pairings = [
                Pairing(
                    opening=openings[i % len(openings)].fen,
                    # Another colour and opponent each time an opening comes round again: most
                    # players are deterministic.
                    colour=bool((i + i // len(openings)) % 2),
                    opponent=LADDER[(i // 2 + 3 * (i // len(openings))) % len(LADDER)],
                    seed=(seed, at, i),
                )
                for i in range(n)
            ]
            players = [get_opponent(name)] * n
            rules = Rules(max_plies=max_plies, adjudication_nodes=1)
            for pairing, game in zip(
                pairings, play_engines(players, pairings, pool=pool, rules=rules), strict=True
            ):
                colour = "white" if pairing.colour else "black"
                moves = " ".join(move.uci() for move in game.moves)
                lines.append(f"{demonstrator}\t{pairing.opening}\t{colour}\t{moves}\n")
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9))


@cache
def _read_games(setup: Setup) -> dict[str, list[tuple[str, chess.Color, list[str]]]]:
    stored = setup.locate(_FILE).read_bytes()
    games: dict[str, list[tuple[str, chess.Color, list[str]]]] = {}
    for line in lzma.decompress(stored).decode().splitlines():
        demonstrator, fen, colour, moves = line.split("\t")
        games.setdefault(demonstrator, []).append((fen, colour == "white", moves.split()))
    return games
