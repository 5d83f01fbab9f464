"""One player's games of a PGN, seen from its side of the board."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdback.elo.endings import Ending, read_ending
from holdback.elo.pgn import PgnGame, Tags, read_games
from holdback.elo.ratings import write_name
from holdback.errors import ConfigError, PgnError, UnknownNameError

_POINTS = {"1-0": 1.0, "1/2-1/2": 0.5, "0-1": 0.0}
_START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq -"
_NAMES_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerGame:
    """One finished game, from the player's side."""

    opponent: str
    points: float
    ending: Ending
    opening: tuple[tuple[str, str], ...]
    """What tags say about the opening, most exact first: tag and value."""
    moves: bytes = b""
    """Digest of players, start and moves; empty where there are no moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerRecord:
    """All games of a player."""

    games: tuple[PlayerGame, ...]
    unfinished: int
    broken: int
    unread: Mapping[str, int]
    """Words of `Termination` that are not understood, to the games, taken as played, with them."""


def choose_player(
    path: Path, rated: Collection[str], *, encoding: str = "utf-8", skip_broken: bool = False
) -> str:
    """Find the one player without a rating who is in every game.

    Raises:
        ConfigError: if there is none, or several.
        PgnError: as `read_player`.
    """
    names: Counter[str] = Counter()
    reader = _Reader(path=path, encoding=encoding, skip_broken=skip_broken)
    for _, white, black in reader.read(None):
        names.update(dict.fromkeys((white, black), 1))
    unrated = [(name, n) for name, n in names.most_common() if name not in rated]
    always = [name for name, n in unrated if n == reader.sound]
    if len(always) == 1:
        return always[0]
    if not unrated:
        raise ConfigError(
            f"{path}: expected one player without a rating, got ratings of all {len(names)}; say"
            " whose Elo is wanted with --player"
        )
    listed = [f"{name!r} ({n} of {reader.sound} games)" for name, n in unrated]
    raise ConfigError(
        f"{path}: expected one player without a rating who is in every game, got"
        f" {len(always) or 'none'}; say which with --player. Without a rating: {shorten(listed)}"
    )


def read_player(
    path: Path, player: str, *, encoding: str = "utf-8", skip_broken: bool = False
) -> PlayerRecord:
    """Read all games of a player; their moves are checked, of other games only the names.

    Args:
        path: The PGN file.
        player: As `write_name` writes it.
        encoding: Of the file.
        skip_broken: Count broken games instead of stopping at the first.

    Raises:
        PgnError: if a game is broken, or there is none.
        UnknownNameError: if nobody of that name is in the file.
    """
    names: Counter[str] = Counter()
    games: list[PlayerGame] = []
    unread: Counter[str] = Counter()
    unfinished = 0
    reader = _Reader(path=path, encoding=encoding, skip_broken=skip_broken)
    for game, white, black in reader.read(player):
        names.update((white, black))
        if player not in (white, black):
            continue
        termination = game.tags.get("Termination", "")
        ending = read_ending(termination, (white, black))
        if ending is None:
            unread[termination] += 1
            ending = Ending.PLAY
        if game.result == "*" or ending is Ending.UNFINISHED:
            unfinished += 1
        else:
            games.append(_take_side(game, white, black, ending, player=player))
    if player not in names:
        raise _name_nobody(player, names, path)
    return PlayerRecord(
        games=tuple(games), unfinished=unfinished, broken=reader.broken, unread=unread
    )


def cluster_games(games: Sequence[PlayerGame]) -> tuple[list[str], str]:
    """Name each game's cluster: games of one opening are not independent, nor are copies of one.

    A tag that is the same in all games, such as the start of a variant, parts nothing and is passed
    over; a game without a tag that parts is a cluster of its own. Games that repeat another move
    for move are in one cluster with it, and so are their openings where these are tagged apart.

    Returns:
        A name for each game, and the tags that they were made from, most used first.
    """
    everywhere = set.intersection(*(set(game.opening) for game in games)) if games else set()
    useless = {tag for tag, _ in everywhere}
    clusters: list[str] = []
    used: Counter[str] = Counter()
    for number, game in enumerate(games):
        told = [(tag, value) for tag, value in game.opening if tag not in useless]
        tag, value = told[0] if told else ("game", str(number))
        used[tag] += 1
        clusters.append(f"{tag} {value}")
    return _join_repeats(games, clusters), ", ".join(tag for tag, _ in used.most_common())


def _join_repeats(games: Sequence[PlayerGame], clusters: Sequence[str]) -> list[str]:
    """Make one cluster of all that share a game, by the name of the first."""
    joined: dict[str, str] = {}

    def find(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    first: dict[bytes, str] = {}
    for game, cluster in zip(games, clusters, strict=True):
        ours, theirs = find(cluster), find(first.setdefault(game.moves, cluster))
        if game.moves and ours != theirs:
            joined[ours] = theirs
    return [find(cluster) for cluster in clusters]


def count_repeats(games: Sequence[PlayerGame]) -> int:
    """Count games that repeat another move for move, as programs without chance do."""
    played = [game.moves for game in games if game.moves]
    return len(played) - len(set(played))


def shorten(items: Sequence[str]) -> str:
    """List the first few for a message of one line."""
    more = len(items) - _NAMES_SHOWN
    return ", ".join(items[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(kw_only=True, slots=True)
class _Reader:
    """Reads a file's sound games; stops at a broken one, or counts it."""

    path: Path
    encoding: str
    skip_broken: bool
    sound: int = 0
    broken: int = 0

    def read(self, player: str | None) -> Iterator[tuple[PgnGame, str, str]]:
        """Yield games with White's and Black's names; moves are checked of `player`'s."""

        def has_player(tags: Tags) -> bool:
            return player is not None and player in _name_players(tags)

        for game in read_games(self.path, encoding=self.encoding, wanted=has_player):
            white, black = _name_players(game.tags)
            fault = game.fault
            if fault is None and white == black == player:
                fault = f"{player!r} plays both sides"
            if fault is None:
                self.sound += 1
                yield game, white, black
            elif self.skip_broken:
                self.broken += 1
            else:
                raise PgnError(
                    f"{self.path}: game {game.number} (line {game.line}) is broken: {fault}; mend"
                    " it, or leave broken games out with --skip-broken"
                )
        if not self.sound:
            raise PgnError(
                f"{self.path}: expected games, got {self.broken} that are all broken; see what is"
                " wrong with the first without --skip-broken"
            )


def _name_players(tags: Tags) -> tuple[str, str]:
    return write_name(tags.get("White", "")), write_name(tags.get("Black", ""))


def _take_side(game: PgnGame, white: str, black: str, ending: Ending, *, player: str) -> PlayerGame:
    points = _POINTS[game.result]
    whole = " ".join((white, black, _read_position(game.tags), *game.moves)).encode()
    return PlayerGame(
        opponent=black if player == white else white,
        points=points if player == white else 1 - points,
        ending=ending,
        opening=_describe_opening(game.tags),
        moves=hashlib.sha256(whole).digest()[:12] if game.moves else b"",
    )


def _describe_opening(tags: Tags) -> tuple[tuple[str, str], ...]:
    """List what the tags tell of the opening, most exact first."""
    described = (
        ("FEN", _read_position(tags)),
        ("Opening", write_name(tags.get("Opening", ""))),
        ("ECO", tags.get("ECO", "")),
    )
    return tuple((tag, value) for tag, value in described if value not in ("", "?", "-"))


def _read_position(tags: Tags) -> str:
    """Give the position that a game starts from, without counters; empty for the ordinary one."""
    position = " ".join(tags.get("FEN", "").split()[:4])
    return "" if position == _START else position


def _name_nobody(player: str, names: Counter[str], path: Path) -> UnknownNameError:
    close = difflib.get_close_matches(player, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    known = [repr(name) for name, _ in names.most_common()]
    return UnknownNameError(f"{path}: unknown player {player!r}.{hint} Known: {shorten(known)}.")
