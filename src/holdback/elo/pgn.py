"""Games of a PGN file, one at a time: their tags, their moves, and what is wrong with them.

A rating is worth no more than the games it was made from, and python-chess's own reader forgives
too much for that: it drops words that it does not know, takes a file cut off in the middle of a
game for a whole one, and reads to the file's end for a brace that was never closed. Here its board
is the judge of positions and moves, and everything between them is read strictly. A game that is
wrong does not stop the reading: it carries its `fault`, and the next tag pair starts the next game.

Source: Edwards (1994), «Portable Game Notation Specification and Implementation Guide».
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias

from holdback.elo.endings import read_ending
from holdback.errors import ConfigError, PgnError

if TYPE_CHECKING:
    import chess

Tags: TypeAlias = Mapping[str, str]
Pairs: TypeAlias = list[tuple[str, str]]

RESULTS = ("1-0", "0-1", "1/2-1/2", "*")
_UNKNOWN = "?"
_SPELLINGS = {"1/2": "1/2-1/2", "½-½": "1/2-1/2", "": _UNKNOWN}

_PAIR = re.compile(r'\[\s*([A-Za-z0-9_]+)\s+"((?:[^"\\]|\\.)*)"\s*\]\s*')
# Quotes or backslashes inside a value that nobody escaped.
_LOOSE_PAIR = re.compile(r'\[\s*([A-Za-z0-9_]+)\s+"(.*)"\s*\]\s*\Z')
# Where a file without a line's end was put before another: a result, and the next game's tags.
_JOINT = re.compile(r"(?<![^\s})])((?:1-0|0-1|1/2-1/2|\*)(?:\s*\{[^}]*\})?)[ \t\ufeff]*(?=\[)")
_ESCAPED = re.compile(r'\\(["\\])')
_UNDECODED = re.compile("[\udc80-\udcff]")

_TOKEN = re.compile(
    r"""
    (?P<skip>\{[^}]*\} | ;[^\n]* | \$\d+ | (?!0000)\d+(?=[\s.]|\Z)\.* | \.+ | …)
    | (?P<open>\() | (?P<close>\))
    | (?P<result>(?:1-0|0-1|1/2-1/2|\*)(?![^\s(){};]))
    | (?P<move>
        (?:[NBKRQ]?[a-h]?[1-8]?[-x]?[a-h][1-8](?:=?[nbrqkNBRQK])?
           |[PNBRQK]?@[a-h][1-8]|O-O(?:-O)?|0-0(?:-0)?|--|Z0|0000|@@@@)[+\#]?
        (?=[^A-Za-z0-9]|e\.?p|\Z)
      )
    # Informant's signs, and words that older collections put behind a move.
    | (?P<remark>[-!?+=/\#~±∓∞⩲⩱□⌓⟳↑→⇆⊕○]+(?!\S) | [!?+\#]+
        | (?:e\.?p\.?|ch|dbl|dis|mate|TN|N|D)(?![A-Za-z0-9]))
    | (?P<other>[^\s(){}]+|[{}])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PgnGame:
    """One game of a file."""

    number: int
    """From 1, in the order of the file."""
    line: int
    """Where it starts, from 1."""
    tags: Tags
    result: str = "*"
    """`1-0`, `0-1`, `1/2-1/2`; `*` for an unfinished game, and where moves were not wanted."""
    moves: tuple[str, ...] = ()
    """The main line in standard algebraic notation; empty where moves were not wanted."""
    fault: str | None = None
    """What is wrong with it, if anything is; its other fields are then as far as they were read."""


def read_games(
    path: Path,
    *,
    encoding: str = "utf-8",
    wanted: Callable[[Tags], bool] = lambda tags: True,
) -> Iterator[PgnGame]:
    """Read a PGN file game by game; only one game is in memory at any time.

    Args:
        path: The file.
        encoding: Of the file; old collections are in `latin-1`.
        wanted: Of which games, by their tags, the moves are read and checked; of the others only
            the tags are, which is many times as fast.

    Raises:
        ConfigError: if the file cannot be opened, the encoding is unknown, or python-chess is not
            installed.
        PgnError: if there is no game in the file.
    """
    if find_spec("chess") is None:
        raise ConfigError(
            "reading PGN needs python-chess, which is not installed: pip install 'holdback[chess]'"
        )
    number = 0
    with _open(path, encoding) as handle:
        try:
            for number, draft in enumerate(_split(handle, wanted), 1):
                yield _finish(draft, number)
        except UnicodeError as error:
            # Encodings of several bytes cannot be read on after a bad one, as UTF-8 can.
            raise PgnError(
                f"{path}, after game {number}: expected text in {encoding}, got bytes that are"
                " none; name the file's own with --encoding"
            ) from error
    if number == 0:
        raise PgnError(f"{path}: expected games in PGN, got a file without one; name another file")


def _open(path: Path, encoding: str) -> TextIO:
    try:
        return path.open(encoding=encoding, errors="surrogateescape")
    except LookupError as error:
        raise ConfigError(
            f"expected an encoding of text, such as utf-8 or latin-1, got {encoding!r}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name a PGN file") from error


class _FaultError(Exception):
    """What is wrong with a game."""


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A game while its lines come in."""

    line: int
    tags: dict[str, str] = field(default_factory=dict)
    in_tags: bool = True
    gap: bool = False
    """Whether an empty line was seen."""
    moves: list[str] | None = None
    """Lines of movetext, if they are wanted."""
    fault: str | None = None
    """The first one: those that follow are its consequences."""

    def ends_before(self, pairs: Pairs) -> bool:
        """Whether tag pairs that come now belong to the next game."""
        return not self.in_tags or (self.gap and any(name in self.tags for name, _ in pairs))

    def begin_moves(self, wanted: Callable[[Tags], bool]) -> None:
        if self.in_tags:
            self.in_tags = False
            self.moves = [] if wanted(self.tags) else None

    def add(
        self, line: str, number: int, pairs: Pairs | None, wanted: Callable[[Tags], bool]
    ) -> None:
        if not pairs and not (self.in_tags and line.startswith("[")):
            self.begin_moves(wanted)
            if self.moves is None:
                return
            self.moves.append(line)
        if self.fault is None:
            self.fault = self._find_fault(line, number, pairs)
        self.tags.update(pairs or ())

    def _find_fault(self, line: str, number: int, pairs: Pairs | None) -> str | None:
        if not line.isascii() and (bad := _UNDECODED.search(line)):
            return (
                f"byte 0x{ord(bad.group()) - 0xDC00:02x} in line {number} is not in the encoding"
                " that the file is read in (name its own with --encoding)"
            )
        if pairs is None and self.in_tags:
            return f"line {number} is no tag pair: {line.strip()[:60]!r}"
        for name, value in pairs or ():
            if self.tags.get(name, value) != value:
                return f"tag {name} stands twice, as {self.tags[name]!r} and {value!r}"
        return None


def _split(handle: TextIO, wanted: Callable[[Tags], bool]) -> Iterator[_Draft]:
    """Part a file into games: a tag pair behind movetext starts the next, even within a comment."""
    draft: _Draft | None = None
    for number, line in _part_lines(handle):
        in_tags = draft is None or draft.in_tags
        if line.startswith("%") or (in_tags and line.startswith(";")):
            continue
        if not line.strip():
            if draft is not None:
                draft.gap = True
            continue
        pairs = _read_pairs(line) if line.startswith("[") else None
        if draft is None or (pairs and draft.ends_before(pairs)):
            if draft is not None:
                draft.begin_moves(wanted)
                yield draft
            draft = _Draft(line=number)
        draft.add(line, number, pairs, wanted)
    if draft is not None:
        draft.begin_moves(wanted)
        yield draft


def _part_lines(handle: TextIO) -> Iterator[tuple[int, str]]:
    """Give lines with their numbers, and as two where a game's end and a tag pair are on one."""
    for number, read in enumerate(handle, 1):
        line = read.lstrip("\ufeff \t")
        if '"' in line and not line.startswith("["):
            for joint in _JOINT.finditer(line):
                if _read_pairs(line[joint.end() :]):
                    yield number, line[: joint.end(1)]
                    line = line[joint.end() :]
                    break
        yield number, line


def _read_pairs(line: str) -> Pairs | None:
    """Read a line of tag pairs, most often one; None if it is something else."""
    pairs, at = [], 0
    while match := _PAIR.match(line, at):
        pairs.append((match[1], _ESCAPED.sub(r"\1", match[2]).strip()))
        at = match.end()
    if pairs and at == len(line):
        return pairs
    loose = _LOOSE_PAIR.match(line)
    return [(loose[1], loose[2].strip())] if loose else None


def _finish(draft: _Draft, number: int) -> PgnGame:
    """Check a game of which all lines are there."""
    result, fault = "*", draft.fault
    moves: tuple[str, ...] = ()
    if fault is None:
        try:
            _require_players(draft.tags)
            if draft.moves is not None:
                moves, ended = _read_movetext("".join(draft.moves))
                result = _reconcile(draft.tags, ended)
                _replay(draft.tags, moves, result)
        except _FaultError as error:
            fault = str(error)
    return PgnGame(
        number=number, line=draft.line, tags=draft.tags, result=result, moves=moves, fault=fault
    )


def _require_players(tags: Tags) -> None:
    if not tags:
        raise _FaultError("it has no tag pairs, as a game in PGN has; is this a PGN file?")
    for side in ("White", "Black"):
        if not tags.get(side):
            raise _FaultError(f"it has no tag {side}")


def _read_movetext(text: str) -> tuple[tuple[str, ...], str]:
    """Read the main line and the result behind it; variations and comments are passed over."""
    moves: list[str] = []
    ended: str | None = None
    depth = 0
    for token in _TOKEN.finditer(text):
        kind, word = token.lastgroup, token.group()
        if word == "{":
            raise _FaultError("a comment is opened and never closed")
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
            if depth < 0:
                raise _FaultError("a variation is closed that was never opened")
        elif depth or kind in ("skip", "remark"):
            continue
        elif ended is not None:
            raise _FaultError(f"it goes on after its result {ended}: {word[:20]!r}")
        elif kind == "result":
            ended = word
        else:
            moves.append(word)
    if depth:
        raise _FaultError("a variation is opened and never closed")
    if ended is None:
        raise _FaultError("it is cut off: no result (1-0, 0-1, 1/2-1/2 or *) stands at its end")
    return tuple(moves), ended


def _reconcile(tags: Tags, ended: str) -> str:
    """Compare the tag `Result` with the result behind the moves."""
    stated = tags.get("Result", _UNKNOWN)
    stated = _SPELLINGS.get(stated, stated)
    if stated == _UNKNOWN:
        return ended
    if stated not in RESULTS:
        raise _FaultError(f"Result {stated[:20]!r} is none of {', '.join(RESULTS)}")
    if stated != ended:
        raise _FaultError(f"the tag Result says {stated}, the moves end in {ended}")
    return stated


def _replay(tags: Tags, moves: tuple[str, ...], result: str) -> None:
    """Play the moves on a board.

    The last one may be impossible if the game was lost by it: some record the move that forfeited.
    """
    board = _set_up(tags)
    for ply, san in enumerate(moves):
        try:
            move = board.parse_san(san)
            if not move:
                raise ValueError("a null move")
        except ValueError as error:
            ending = read_ending(tags.get("Termination", ""), (tags["White"], tags["Black"]))
            if ply == len(moves) - 1 and ending is not None and ending.forfeit:
                return
            dots = "." if board.turn else "..."
            raise _FaultError(
                f"{board.fullmove_number}{dots} {san[:20]!r} is no legal move in {board.fen()}"
            ) from error
        board.push(move)
    _require_agreement(board, result)


def _set_up(tags: Tags) -> chess.Board:
    import chess
    import chess.pgn

    try:
        board = chess.pgn.Headers(
            {key: tags[key] for key in ("FEN", "Variant") if key in tags}
        ).board()
    except ValueError as error:
        raise _FaultError(f"its start cannot be set up: {str(error)[:150]}") from error
    faulty = chess.STATUS_NO_WHITE_KING | chess.STATUS_NO_BLACK_KING | chess.STATUS_TOO_MANY_KINGS
    if type(board) is chess.Board and "FEN" in tags and board.status() & faulty:
        raise _FaultError(f"its start needs one king a side: FEN {tags['FEN'][:90]!r}")
    return board


def _require_agreement(board: chess.Board, result: str) -> None:
    """Hold a mate or stalemate against the result; other endings are the players' own."""
    import chess

    # In variants they mean other things.
    if result == "*" or type(board) is not chess.Board:
        return
    if board.is_checkmate():
        due = "0-1" if board.turn else "1-0"
    elif board.is_stalemate():
        due = "1/2-1/2"
    else:
        return
    if result != due:
        raise _FaultError(
            f"it ends in {'mate' if board.is_check() else 'stalemate'}, yet in {result}"
        )
