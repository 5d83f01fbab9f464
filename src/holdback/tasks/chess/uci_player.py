"""Any UCI engine as a checkpoint: a player of chess of whom nothing but the moves is known.

An id is `uci/<command>?Option=value&nodes=N`, read by `read_reference`. The engine is given the
position and the moves that led to it, a new game (`ucinewgame`) for every move it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import select
import shlex
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from holdback.errors import CheckpointError, ConfigError, EngineError, UnknownNameError
from holdback.ids import parse_id
from holdback.lineage import Checkpoint
from holdback.models.protocol import Decoding, Generation, Presentation, Request, StopReason
from holdback.tasks.chess.engine import (
    Analysis,
    EnginePool,
    Program,
    Search,
    find_program,
    write_uci_position,
)
from holdback.tasks.chess.notation import require_chess, write_move

if TYPE_CHECKING:
    import chess


# Engines play as they play: what they answer is not drawn from a distribution of ours, and an
# illegal move forfeits at once, as in a match between engines.
_DECODING = Decoding(temperature=1.0, tries=1)

_LIMITS = {"nodes": "nodes", "depth": "depth", "movetime": "milliseconds"}
_HANDSHAKE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReference:
    """What an id `uci/…` names."""

    command: tuple[str, ...]
    """Program, resolved to a path, and its arguments."""
    options: tuple[tuple[str, str], ...]
    """For `setoption`, as given."""
    limits: tuple[tuple[str, int], ...]
    """Fields of a `Search`: `nodes`, `depth`, `milliseconds`."""


def read_reference(model: str) -> EngineReference:
    """Read an id `uci/<command>?Option=value&nodes=N`.

    The command is a program on PATH or a path, and may be followed by arguments in the quoting of a
    shell. After `?` come the engine's own options and the limits of a move, `nodes`, `depth` and
    `movetime` (milliseconds), of which there must be one; `nodes` is the one by which results do
    not depend on the machine. Anything may be percent-encoded, and `%`, `&`, `+`, `?` and `#` must
    be.

    Raises:
        ConfigError: for a limit that is no number, or none at all.
        EngineError: for a program that is not there.
    """
    command, _, query = parse_id(model).name.partition("?")
    options: list[tuple[str, str]] = []
    limits: list[tuple[str, int]] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _LIMITS:
            options.append((key, value))
            continue
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError(f"{model!r}: expected {key} to be 1 or more, got {value!r}")
        limits.append((_LIMITS[key], int(value)))
    if not limits:
        raise ConfigError(
            f"{model!r}: expected a limit for each move behind `?`, got none; add nodes=100 (or"
            " depth=8, or movetime=50 in milliseconds where an engine counts no nodes)"
        )
    for text in (*(part for option in options for part in option), command):
        if any(ord(letter) < 32 for letter in unquote(text)):
            raise ConfigError(f"{model!r}: expected one line, got a control character")
    return EngineReference(
        command=_find_command(unquote(command), model),
        options=tuple(options),
        limits=tuple(limits),
    )


@dataclass(frozen=True, kw_only=True)
class UciPlayer:
    """A UCI engine that plays where a language model would."""

    name: str
    engines: Engines
    limits: Mapping[str, int]
    """Of each move: fields of a `Search`."""
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = _DECODING

    def __post_init__(self) -> None:
        asked, drawn = self.presentation, self.decoding
        if asked != Presentation(prefix_plies=asked.prefix_plies):
            raise _refuse(
                self.name,
                "an engine is given positions, so no instruction, header, example or format of text"
                " reaches it",
            )
        if drawn.temperature != _DECODING.temperature:
            raise _refuse(
                self.name,
                f"an engine has no temperature, got {drawn.temperature}; leave `temperature` out",
            )
        if drawn.constrained:
            raise _refuse(self.name, "constrained decoding needs access to log-probabilities")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer_next: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Refuse: an engine reads no text."""
        raise CheckpointError(
            f"checkpoint {self.name!r} is a chess engine and reads positions, not text; ask it in"
            " chess_games or chess_positions only"
        )

    def render_board(self, board: chess.Board) -> str:
        """Write the position as UCI's `position` command wants it, with the moves before it."""
        return write_uci_position(board)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Ask for one move for each position, in the words that models answer in.

        The engine rolls its own dice, if it does: seeds have no effect.

        Raises:
            EngineError: if no engine can be started any more.
        """
        positions = [request.prompt for request in requests]
        searches = [Search(position=position, **self.limits) for position in positions]
        answers = self.engines.ask(searches)
        return [_write_answer(*pair) for pair in zip(positions, answers, strict=True)]


class Engines:
    """Processes of one engine, started when first asked and ended with whoever holds this."""

    def __init__(self, program: Program, *, processes: int | None = None) -> None:
        self._pool = EnginePool(program=program, processes=processes)
        self._started = False
        self.close = weakref.finalize(self, self._pool.close)

    def ask(self, searches: Sequence[Search]) -> list[Analysis | EngineError]:
        """Answer all searches; see `EnginePool.try_analyse`."""
        if not self._started:
            # Entered and not left: the finalizer closes it.
            self._pool.__enter__()
            self._started = True
        return self._pool.try_analyse(searches)

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the engines that run now."""
        return self._pool.process_ids


def load_engine(checkpoint: Checkpoint) -> UciPlayer:
    """Load the engine that a checkpoint names, its options checked against those it offers.

    Raises:
        ConfigError: for an id that cannot be read, or a value that an option does not take.
        UnknownNameError: for an option that the engine does not have, with the nearest one.
        EngineError: for a program that is not there, or is no UCI engine.
    """
    require_chess()
    reference, offered = _introduce(checkpoint)
    options = dict(reference.options)
    if "Threads" in offered:
        # More make a search by nodes unrepeatable, and there is a process a core already.
        options.setdefault("Threads", "1")
    program = Program(
        name=shlex.join(reference.command),
        command=reference.command,
        options=tuple(options.items()),
    )
    return UciPlayer(name=checkpoint.name, engines=Engines(program), limits=dict(reference.limits))


def identify_engine(checkpoint: Checkpoint) -> str:
    """Say what the engine is beyond its id: the contents of its program.

    Raises:
        ConfigError, UnknownNameError, EngineError: as `load_engine`, so that what is missing is
            found before anything runs.
    """
    reference, _ = _introduce(checkpoint)
    digest = hashlib.sha256()
    # Arguments too where they are files: `python engine.py` is what engine.py says.
    for word in reference.command:
        if Path(word).is_file():
            digest.update(hashlib.sha256(Path(word).read_bytes()).digest())
    return digest.hexdigest()


# How `models.registry.identify_checkpoint` finds it.
load_engine.identify = identify_engine  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Option:
    """One `option` line of an engine."""

    name: str
    kind: str
    low: int | None = None
    high: int | None = None
    values: tuple[str, ...] = ()


def _introduce(checkpoint: Checkpoint) -> tuple[EngineReference, dict[str, _Option]]:
    """Read a checkpoint's id, meet its engine, and check the one against the other."""
    reference = read_reference(checkpoint.model)
    offered = _ask_options(reference.command)
    known = {name.lower(): option for name, option in offered.items()}
    options = []
    for name, value in reference.options:
        # UCI's option names are not case-sensitive.
        option = known.get(name.lower())
        if option is None:
            kind = f"option of {reference.command[0]} (of checkpoint {checkpoint.name!r})"
            raise UnknownNameError.among(kind, name, [*offered, *_LIMITS])
        _check_value(option, value, checkpoint)
        options.append((option.name, value))
    return replace(reference, options=tuple(options)), offered


def _find_command(text: str, model: str) -> tuple[str, ...]:
    """Split a command; the longest beginning that names a program is the program.

    So a path with spaces needs no quotes, in an audit file that lies below such a folder least.
    """
    words = text.split(" ")
    for end in range(len(words), 0, -1):
        found = find_program(" ".join(words[:end]))
        if found is not None:
            try:
                return (os.path.abspath(found), *shlex.split(" ".join(words[end:])))
            except ValueError as error:
                raise ConfigError(f"{model!r}: expected arguments as in a shell, {error}") from None
    program = words[0]
    if program == "stockfish":
        from holdback.tasks.chess.engine import find_stockfish

        # HOLDBACK_STOCKFISH may name it; its own error says how to install it.
        return (str(find_stockfish()), *shlex.split(" ".join(words[1:])))
    folder = f" or {Path(program).name!r} is not executable" if os.sep in program else " on PATH"
    raise EngineError(
        f"{model!r}: expected a UCI engine's program, found no {program!r}{folder}; install it, or"
        " write uci/ and its path (from the audit file's folder: uci/./engine)"
    )


def _ask_options(command: Sequence[str]) -> dict[str, _Option]:
    """Start an engine for its options.

    Raises:
        EngineError: if it cannot be started or does not speak UCI.
    """
    shown = shlex.join(command)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(
            f"cannot start the engine {shown}: {error.strerror}; check that it is a program for"
            " this machine"
        ) from error
    try:
        said = _converse(process)
    finally:
        process.kill()
        process.communicate()
    if b"uciok" not in said:
        silent = f"said {said[:60].decode(errors='replace')!r}" if said else "said nothing"
        raise EngineError(
            f"{shown}: expected a UCI engine, which answers `uci` by `uciok`; it {silent} within"
            f" {_HANDSHAKE_SECONDS:.0f} s or before it ended; some engines need an argument for"
            " UCI, as `uci/gnuchess --uci?…`"
        )
    lines = said.decode(errors="replace").splitlines()
    options = [_parse_option(line) for line in lines if line.startswith("option name ")]
    return {option.name: option for option in options}


def _converse(process: subprocess.Popen[bytes]) -> bytes:
    """Say `uci` and listen until `uciok`, the end, or too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    limit = time.monotonic() + _HANDSHAKE_SECONDS
    try:
        process.stdin.write(b"uci\n")
        while b"uciok" not in said:
            left = max(0.0, limit - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                break
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            said += data
    except BrokenPipeError:
        pass
    return said


def _parse_option(line: str) -> _Option:
    """Parse `option name Skill Level type spin default 20 min 0 max 20`."""
    name, _, rest = line.removeprefix("option name ").partition(" type ")
    kind, *words = rest.split() or [""]

    def find(key: str) -> int | None:
        at = words.index(key) + 1 if key in words else len(words)
        try:
            return int(words[at])
        except (IndexError, ValueError):
            return None

    values = tuple(part.strip() for part in rest.split(" var ")[1:])
    return _Option(name=name.strip(), kind=kind, low=find("min"), high=find("max"), values=values)


def _check_value(option: _Option, value: str, checkpoint: Checkpoint) -> None:
    expected = None
    if option.kind == "spin":
        low = -math.inf if option.low is None else option.low
        high = math.inf if option.high is None else option.high
        is_number = value.removeprefix("-").isdecimal()
        if not is_number or not low <= int(value) <= high:
            expected = f"a whole number from {option.low} to {option.high}"
    elif option.kind == "check" and value not in ("true", "false"):
        expected = "true or false"
    elif option.kind == "combo" and option.values and value not in option.values:
        expected = f"one of {', '.join(option.values)}"
    if expected is not None:
        raise ConfigError(
            f"checkpoint {checkpoint.name!r}: option {option.name!r}: expected {expected}, got"
            f" {value!r}"
        )


def _write_answer(position: str, answer: Analysis | EngineError) -> Generation:
    """Write a move as models do: two words. What is no move stays as the engine said it."""
    import chess

    said = partial(Generation, logprobs=(), stop_reason=StopReason.STOP, tokens=0)
    if isinstance(answer, EngineError):
        return said(text="", error=str(answer))
    root, _, moves = position.removeprefix("fen ").partition(" moves ")
    board = chess.Board(root)
    for move in moves.split():
        board.push_uci(move)
    text = answer.best_move
    # What is no move is shown as the answer that could not be read.
    with contextlib.suppress(ValueError):
        text = write_move(board, chess.Move.from_uci(text))
    return said(text=text)


def _refuse(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"checkpoint {name!r}: {why}; climb the rung on other checkpoints only (`checkpoints` of"
        " its [[ladder]])"
    )
