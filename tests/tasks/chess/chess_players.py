"""Scripted models for the chess tasks' tests: they read the rendered text as a real model would."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import chess
import numpy as np

from holdback.models.protocol import Decoding, Generation, Presentation, Request, StopReason
from holdback.tasks.chess.engine import EnginePool, find_stockfish
from holdback.tasks.chess.notation import write_move

Choose = Callable[[chess.Board, np.random.Generator], str]


def read_board(text: str) -> chess.Board:
    """Rebuild the position from a rendered prompt in either format, as its mover sees it."""
    words = text.split()
    side, *fields = words[words.index("EPD") + 1 : words.index("bm")]
    assert side == "w"
    rights = "".join(word for word in fields if word in ("K", "Q", "k", "q"))
    board = chess.Board(None)
    for word in fields:
        if len(word) == 3:
            square = chess.parse_square(word[1:])
            assert board.piece_at(square) is None, text
            board.set_piece_at(square, chess.Piece.from_symbol(word[0]))
        elif len(word) == 2:
            board.ep_square = chess.parse_square(word)
    board.set_castling_fen(rights or "-")
    return board


def see(board: chess.Board) -> chess.Board:
    """Turn a position to its mover, who is White to itself; without what led to it."""
    return board.copy(stack=False) if board.turn else board.mirror()


def say(text: str, **fields) -> Generation:
    """What a model said, by itself to its end."""
    said = {"logprobs": (-1.0,), "stop_reason": StopReason.STOP, "tokens": 1}
    return Generation(text=text, **{**said, **fields})


@dataclass(frozen=True, kw_only=True)
class ScriptedModel:
    """Answers by a function of the board as its mover sees it, which the prompt holds."""

    choose: Choose
    name: str = "scripted"
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)
    proposals: list[int] = field(default_factory=list, compare=False)

    def render_chat(self, messages, *, answer_next):
        text = "<bos>"
        for message in messages:
            end = "" if message["role"] == "user" else " <|end|>"
            content = message["content"] if message["role"] != "system" else "<instruction>"
            text += f" <|{message['role']}|> {content}{end}"
        return text + (" <|assistant|>" if answer_next else "")

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.proposals.append(len(requests))
        return [say(self.answer(request)) for request in requests]

    def answer(self, request: Request) -> str:
        text = self.choose(read_board(request.prompt), np.random.default_rng(request.seed))
        return text if request.allowed is None or text in request.allowed else request.allowed[0]


def choose_randomly(board, rng):
    moves = list(board.legal_moves)
    return write_move(board, moves[int(rng.integers(len(moves)))])


def choose_illegally(board, rng):
    """A well-formed move that no position allows: a king across the board."""
    return "Ka1 Kh8"


def choose_nonsense(board, rng):
    return "I resign"


def choose_by_engine(pool: EnginePool, *, nodes: int) -> Choose:
    def choose(board, rng):
        return write_move(board, pool.find_best_moves([board], nodes=nodes)[0])

    return choose


def write_mortal_engine(path: Path, deadly: str) -> Path:
    """Write a program that is Stockfish until a command contains `deadly`, and then dies."""
    path.write_text(
        f"""#!{sys.executable} -S
import subprocess, sys
engine = subprocess.Popen([{str(find_stockfish())!r}], stdin=subprocess.PIPE)
for line in sys.stdin.buffer:
    if {deadly.encode()!r} in line:
        engine.kill()
        sys.exit(1)
    engine.stdin.write(line)
    engine.stdin.flush()
"""
    )
    path.chmod(0o755)
    return path
