"""UCI engines over raw pipes: many searches at once, each a pure function of what it was asked.

A search of Stockfish is limited by nodes and never by time, runs on one thread, and starts from
cleared tables (`ucinewgame`, 0.2 ms), so its answer depends on neither the machine's load nor on
what was asked before, nor on which process answers. python-chess's own engine client takes about
three times as long for a search this small. Other engines (uci_player.py) may be asked alike; what
their answers depend on is theirs.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from holdback.errors import EngineError

if TYPE_CHECKING:
    import chess

ALL_MOVES = 256
"""`Search.lines` for a line a legal move: no position has more than 218."""

_FOLDERS = ("/usr/games", "/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin")

# Centipawns of a mate score, less one a ply to the mate: Stockfish 15.1's 32,000 inner units at
# 361 a pawn. Only the order matters to callers.
MATE_CENTIPAWNS = 8864

# Searches written to a process before its first answer is read. The engine then never waits for
# Python; more would only coarsen the balance between processes.
_WINDOW = 4

# Generous, since it only has to catch a hang: Stockfish does 10⁶ nodes a second, and a depth says
# nothing about time.
_PATIENCE_SECONDS = 20.0
_PATIENCE_A_DEPTH_SECONDS = 300.0
_HANDSHAKE_SECONDS = 30.0

_BEST_MOVE = re.compile(rb"^bestmove\s+(\S+)[^\n]*\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A UCI engine: how it is started and set up, and what may be expected of it."""

    name: str
    """As errors call it."""
    command: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    """Names and values for `setoption`, in order."""
    window: int = 1
    """Searches that may be written ahead of its answers; the protocol speaks of one."""
    gives_scores: bool = False
    """Whether its scores are read, and an answer without one is a failure."""


def stockfish_program(path: Path, *, hash_mb: int = 1) -> Program:
    """Set up Stockfish for searches that can be repeated: one thread, so much hash."""
    return Program(
        name=str(path),
        command=(str(path),),
        options=(("Threads", "1"), ("Hash", str(hash_mb)), ("UCI_ShowWDL", "true")),
        window=_WINDOW,
        gives_scores=True,
    )


def find_stockfish() -> Path:
    """Find the Stockfish program: `HOLDBACK_STOCKFISH`, PATH, Debian's and Homebrew's folders.

    Raises:
        EngineError: if there is none, with what to do.
    """
    named = os.environ.get("HOLDBACK_STOCKFISH")
    if named:
        found = shutil.which(named)
        if found is None:
            raise EngineError(
                f"HOLDBACK_STOCKFISH must name an executable, got {named!r}; correct or unset it"
            )
        return Path(found)
    found = find_program("stockfish")
    if found is None:
        raise EngineError(
            "no Stockfish found: run `apt-get install stockfish` or `brew install stockfish`,"
            " or set HOLDBACK_STOCKFISH to the program's path"
        )
    return Path(found)


def find_program(name: str) -> str | None:
    """Find a program on PATH, or where Debian and Homebrew put engines, PATH or not."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS]))


@cache
def read_version(path: Path) -> str:
    """Ask the program at `path` for its own name, such as `Stockfish 15.1`."""
    with EnginePool(processes=1, path=path) as pool:
        return pool.version


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """One question to the engine."""

    position: str
    """Arguments of UCI's `position`, as `write_uci_position` gives them."""
    nodes: int | None = None
    depth: int | None = None
    """Greatest depth in plies, where `nodes` does not end the search before."""
    milliseconds: int | None = None
    """Time to take; what comes of it depends on the machine, so nothing of ours asks by it."""
    lines: int = 1
    """Best moves to report (MultiPV); `ALL_MOVES` for all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One root move and its worth to the side to move."""

    move: chess.Move | None
    """None where the game is over."""
    win_probability: float
    """Share of wins and half of the draws, in [0, 1], by Stockfish's own model."""
    centipawns: int
    """Mates in n plies count as 8864 - n."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """The engine's answer: lines, best first."""

    lines: tuple[Line, ...]
    """Empty where the engine's scores are not read."""
    best_move: str = ""
    """What it said to play, as it said it. An engine that weakens itself, as Stockfish does by
    `Skill Level`, need not say the first line's move."""

    @property
    def win_probability(self) -> float:
        """Win probability of the side to move under best play."""
        return self.lines[0].win_probability

    @property
    def move(self) -> chess.Move:
        """The best move.

        Raises:
            EngineError: if there is none, because the game is over.
        """
        move = self.lines[0].move
        if move is None:
            raise EngineError("expected a move from Stockfish, got none: the game is over")
        return move


def write_uci_position(board: chess.Board) -> str:
    """Write a position with the moves that led to it, so that the engine sees repetitions."""
    moves = " ".join(move.uci() for move in board.move_stack)
    root = board.root().fen(en_passant="fen")
    return f"fen {root} moves {moves}" if moves else f"fen {root}"


class EnginePool:
    """Processes of one engine that share a batch of searches; a context manager.

    An engine that dies or falls silent is restarted, and what it had not answered is asked again;
    a search that more engines die of than there are in the pool is answered by an error.
    Not safe to share between threads.

    Attributes:
        searches: Searches answered so far.
        seconds: Wall time spent waiting for them.
    """

    def __init__(
        self,
        *,
        processes: int | None = None,
        path: Path | None = None,
        hash_mb: int = 1,
        program: Program | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            processes: Engines to run; as many as there are usable cores by default.
            path: Stockfish; found by `find_stockfish` by default.
            hash_mb: Transposition table a process, in MiB. It changes what long searches find, so
                it belongs to the protocol as `nodes` does; 1 is ample below 10,000 nodes.
            program: Another engine, in place of `path` and `hash_mb`.
        """
        self._program = program or stockfish_program(path or find_stockfish(), hash_mb=hash_mb)
        self._engines = [_Engine(self._program) for _ in range(processes or _count_cores())]
        self.searches = 0
        self.seconds = 0.0

    def __enter__(self) -> EnginePool:
        try:
            for engine in self._engines:
                engine.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for engine in self._engines:
            engine.stop()

    @property
    def version(self) -> str:
        """The engine's own name, such as `Stockfish 15.1`."""
        return self._engines[0].version

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the engines that run now."""
        return [engine.process.pid for engine in self._engines if engine.process is not None]

    def try_analyse(self, searches: Sequence[Search]) -> list[Analysis | EngineError]:
        """Answer all searches, all processes at work; an error stands where an answer failed.

        The order and the number of processes do not change any answer.

        Raises:
            EngineError: if no engine can be started any more.
        """
        started = time.perf_counter()
        answers: list[Analysis | EngineError | None] = [None] * len(searches)
        waiting = collections.deque(range(len(searches)))
        deaths = [0] * len(searches)
        down: dict[_Engine, EngineError] = {}
        window = self._program.window

        def recover(engine: _Engine, reason: EngineError) -> None:
            nonlocal window
            pending = list(engine.pending)
            engine.stop()
            for index in pending:
                deaths[index] += 1
            # All engines may have been killed at once, and each takes the same search along.
            if len(pending) == 1 and deaths[pending[0]] > len(self._engines):
                answers[pending.pop()] = reason
            # From here on one search at a time, so that it is clear which one an engine died of.
            window = 1
            waiting.extendleft(reversed(pending))
            try:
                engine.start()
            except EngineError as error:
                down[engine] = error

        while any(answer is None for answer in answers):
            up = [engine for engine in self._engines if engine not in down]
            if not up:
                # Not an answer: whoever asks can do nothing without an engine, and is to be asked
                # again when there is one.
                raise next(iter(down.values()))
            for engine in up:
                try:
                    engine.fill(waiting, searches, window)
                except EngineError as error:
                    recover(engine, error)
            busy = [engine for engine in up if engine.pending and engine not in down]
            for engine in _select_readable(busy):
                try:
                    for index, answer in engine.read(searches):
                        answers[index] = answer
                except EngineError as error:
                    recover(engine, error)
            for engine in busy:
                if engine.pending and engine.is_late():
                    late = f"{self._program.name}: no answer within {engine.patience:.0f} s"
                    recover(engine, EngineError(late))
        self.searches += len(searches)
        self.seconds += time.perf_counter() - started
        return [answer for answer in answers if answer is not None]

    def analyse(self, searches: Sequence[Search]) -> list[Analysis]:
        """Answer all searches.

        Raises:
            EngineError: if one of them kept failing.
        """
        answers = []
        for answer in self.try_analyse(searches):
            if isinstance(answer, EngineError):
                raise answer
            answers.append(answer)
        return answers

    def find_best_moves(self, boards: Sequence[chess.Board], *, nodes: int) -> list[chess.Move]:
        """Find the best move of each board."""
        searches = [Search(position=write_uci_position(board), nodes=nodes) for board in boards]
        return [answer.move for answer in self.analyse(searches)]

    def estimate_win_probabilities(
        self, boards: Sequence[chess.Board], *, nodes: int
    ) -> list[float]:
        """Estimate the win probability of each board's side to move; 0 where it is mated."""
        searches = [Search(position=write_uci_position(board), nodes=nodes) for board in boards]
        return [answer.win_probability for answer in self.analyse(searches)]

    def estimate_moves(
        self, boards: Sequence[chess.Board], *, nodes: int
    ) -> list[dict[chess.Move, float]]:
        """Estimate the win probability after each legal move, for the side that makes it.

        `nodes` are shared by all moves of a board (MultiPV: all are searched to the same depth). A
        board whose moves do not all come up within `nodes` is searched again with twice as many.
        """
        moves: list[dict[chess.Move, float]] = [{} for _ in boards]
        missing = [index for index, board in enumerate(boards) if any(board.legal_moves)]
        while missing:
            answers = self.analyse(
                [
                    Search(position=write_uci_position(boards[i]), nodes=nodes, lines=ALL_MOVES)
                    for i in missing
                ]
            )
            for index, answer in zip(missing, answers, strict=True):
                moves[index] = {
                    line.move: line.win_probability
                    for line in answer.lines
                    if line.move is not None
                }
            missing = [i for i in missing if len(moves[i]) < boards[i].legal_moves.count()]
            nodes *= 2
        return moves


class _Engine:
    """One process; writes run ahead of reads by at most the program's window of searches."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.patience = _PATIENCE_SECONDS
        self.process: subprocess.Popen[bytes] | None = None
        self.version = ""
        self.pending: collections.deque[int] = collections.deque()
        self._buffer = b""
        self._lines = 1
        self._deadline = 0.0

    def start(self) -> None:
        if self.process is not None:
            return
        try:
            # Its own session: Ctrl-C is ours to handle, the engine then ends with its pipe.
            self.process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            kind = "Stockfish" if self.program.gives_scores else "the engine"
            raise EngineError(
                f"cannot start {kind} at {self.program.name}: {error.strerror}"
            ) from error
        self._buffer, self._lines = b"", 1
        options = "".join(
            f"setoption name {name} value {value}\n" if value else f"setoption name {name}\n"
            for name, value in self.program.options
        )
        try:
            self._write(f"uci\n{options}isready\n")
            limit = time.monotonic() + _HANDSHAKE_SECONDS
            while b"readyok" not in self._buffer:
                if not select.select([self._output], [], [], max(0.0, limit - time.monotonic()))[0]:
                    raise EngineError(
                        f"{self.program.name}: no `readyok` within {_HANDSHAKE_SECONDS:.0f} s; is"
                        " it a UCI engine?"
                    )
                self._read()
        except EngineError:
            self.stop()
            raise
        for line in self._buffer.decode(errors="replace").splitlines():
            if line.startswith("id name "):
                self.version = line.removeprefix("id name ").strip()
        self._buffer = b""

    def stop(self) -> None:
        self.pending.clear()
        process, self.process = self.process, None
        if process is None:
            return
        # The whole session: an engine may be a script around another one.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def fileno(self) -> int:
        return self._output

    def fill(
        self, waiting: collections.deque[int], searches: Sequence[Search], window: int
    ) -> None:
        """Take searches from `waiting` until `window` of them are pending."""
        self.start()
        commands = []
        while waiting and len(self.pending) < window:
            index = waiting.popleft()
            if not self.pending:
                self._allow(searches[index])
            self.pending.append(index)
            commands.append(self._command(searches[index]))
        if commands:
            self._write("".join(commands))

    def read(self, searches: Sequence[Search]) -> list[tuple[int, Analysis]]:
        """Read what has arrived; give the answers that it completes."""
        self._read()
        answers = []
        while self.pending:
            # The quick look first: most reads bring no answer's end.
            said = b"bestmove" in self._buffer and _BEST_MOVE.search(self._buffer)
            if not said:
                break
            lines: tuple[Line, ...] = ()
            if self.program.gives_scores:
                lines = _parse_lines(self._buffer[: said.start()])
            best_move = said[1].decode(errors="replace")
            answers.append((self.pending.popleft(), Analysis(lines=lines, best_move=best_move)))
            self._buffer = self._buffer[said.end() :]
            if self.pending:
                self._allow(searches[self.pending[0]])
        return answers

    def is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _allow(self, search: Search) -> None:
        self.patience = _PATIENCE_SECONDS + (search.nodes or 0) / 20_000
        self.patience += (search.milliseconds or 0) / 1000
        if search.nodes is None and search.milliseconds is None:
            self.patience += _PATIENCE_A_DEPTH_SECONDS
        self._deadline = time.monotonic() + self.patience

    def _command(self, search: Search) -> str:
        # `ucinewgame` waits for the search before it, so commands may be written ahead.
        command = "ucinewgame\n"
        if search.lines != self._lines:
            self._lines = search.lines
            command += f"setoption name MultiPV value {search.lines}\n"
        limits = {"nodes": search.nodes, "depth": search.depth, "movetime": search.milliseconds}
        asked = " ".join(f"{name} {n}" for name, n in limits.items() if n is not None)
        return f"{command}position {search.position}\ngo {asked}\n"

    @property
    def _output(self) -> int:
        if self.process is None or self.process.stdout is None:
            raise EngineError(f"{self.program.name}: the engine is not running")
        return self.process.stdout.fileno()

    def _write(self, text: str) -> None:
        if self.process is None or self.process.stdin is None:
            raise EngineError(f"{self.program.name}: the engine is not running")
        view = memoryview(text.encode())
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except OSError as error:
            raise EngineError(f"{self.program.name}: the engine died ({error.strerror})") from error

    def _read(self) -> None:
        data = os.read(self._output, 1 << 16)
        if not data:
            raise EngineError(f"{self.program.name}: the engine died")
        self._buffer += data


def _select_readable(engines: Sequence[_Engine]) -> list[_Engine]:
    if not engines:
        return []
    poll = select.poll()
    owners = {engine.fileno(): engine for engine in engines}
    for descriptor in owners:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return [owners[descriptor] for descriptor, _ in poll.poll(1000)]


def _parse_lines(output: bytes) -> tuple[Line, ...]:
    """Parse a search's `info` lines: the last word on each of its root moves counts."""
    last: dict[bytes, bytes] = {}
    for line in output.splitlines():
        if b" score " in line:
            _, _, rest = line.partition(b" multipv ")
            last[rest.partition(b" ")[0]] = line
    if not last:
        raise EngineError("expected a score from Stockfish before its `bestmove`, got none")
    order = sorted(last, key=lambda rank: int(rank or b"1"))
    return tuple(_parse_line(last[rank].decode()) for rank in order)


def _parse_line(line: str) -> Line:
    import chess

    words = line.split()
    at = words.index("score")
    kind, number = words[at + 1], int(words[at + 2])
    if kind == "cp":
        centipawns, probability = number, 0.5
    else:
        # `mate 0` is the side to move being mated.
        won = number > 0
        plies = 2 * number - 1 if won else -2 * number
        centipawns = MATE_CENTIPAWNS - plies if won else plies - MATE_CENTIPAWNS
        probability = float(won)
    if "wdl" in words:
        at = words.index("wdl")
        probability = (int(words[at + 1]) + int(words[at + 2]) / 2) / 1000
    move = chess.Move.from_uci(words[words.index("pv") + 1]) if "pv" in words else None
    return Line(move=move, win_probability=probability, centipawns=centipawns)


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
