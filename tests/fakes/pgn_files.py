"""PGN files for tests, written without Holdback."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

_NUMBERS = itertools.count()


def write_game(
    result: str, *, white: str = "me", black: str = "you", moves: str = "1. e4 e5", **tags: str
) -> str:
    """Write one game with its tags."""
    named = {"Event": "test", "White": white, "Black": black, "Result": result, **tags}
    head = "\n".join(f'[{name} "{value}"]' for name, value in named.items())
    return f"{head}\n\n{moves} {result}\n\n"


def write_match(
    wins: int, draws: int, losses: int, *, opponent: str = "you", **tags: str
) -> list[str]:
    """Write the games of `me` against one opponent, colours in turn."""
    games = []
    for points, count in ((1, wins), (0.5, draws), (0, losses)):
        for _ in range(count):
            games.append(write_scored(points, opponent=opponent, black=len(games) % 2 == 1, **tags))
    return games


def write_scored(points: float, *, opponent: str = "you", black: bool = False, **tags: str) -> str:
    """Write a game in which `me` scores so many points, of moves that no other has."""
    white_points = 1 - points if black else points
    result = {1: "1-0", 0.5: "1/2-1/2", 0: "0-1"}[white_points]
    sides = {"white": opponent, "black": "me"} if black else {"white": "me", "black": opponent}
    tags.setdefault("moves", write_moves(next(_NUMBERS)))
    return write_game(result, **sides, **tags)


def write_moves(number: int) -> str:
    """Write a game's beginning, another one for each number: equal games would be copies.

    Knights go out and home again; which of the two it is at each move is a bit of the number.
    """
    words = []
    out = {"N": 0, "n": 0}
    for ply in range(16):
        side, knight = "Nn"[ply % 2], number >> ply & 1
        squares = (("g1", "f3"), ("b1", "c3")) if side == "N" else (("g8", "f6"), ("b8", "c6"))
        out[side] ^= 1 << knight
        square = squares[knight][out[side] >> knight & 1]
        words.append(f"{ply // 2 + 1}. N{square}" if side == "N" else f"N{square}")
    return " ".join(words)


def write_ratings(ratings: dict[str, float], **more: float) -> str:
    """Write a file of ratings."""
    head = "".join(f"{name} = {value}\n" for name, value in more.items())
    return head + "[ratings]\n" + "".join(f'"{name}" = {elo}\n' for name, elo in ratings.items())


def join(games: Iterable[str]) -> str:
    """Make a file of games."""
    return "".join(games)
