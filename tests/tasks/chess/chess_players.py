"""Scripted models for the chess tasks' tests: they read the rendered text as a real model would."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import chess
import numpy as np

from holdback.models.protocol import Decoding, Output, Presentation
from holdback.tasks.chess.engine import EnginePool, find_stockfish
from holdback.tasks.chess.notation import read_move, write_move

Choose = Callable[[chess.Board, np.random.Generator], str]


def read_board(text: str) -> chess.Board:
    """Rebuild the position from a rendered prompt in either format."""
    words = text.split()
    start, end = words.index("FEN"), words.index("moves")
    side, *fields = words[start + 1 : end]
    rights = "".join(word for word in fields if word in ("K", "Q", "k", "q"))
    board = chess.Board(None)
    board.turn = side == "w"
    for word in fields:
        if len(word) == 3:
            square = chess.parse_square(word[1:])
            board.set_piece_at(square, chess.Piece.from_symbol(word[0]))
        elif len(word) == 2:
            board.ep_square = chess.parse_square(word)
    board.set_castling_fen(rights or "-")
    push_words(board, words[end + 1 :])
    return board


def push_words(board: chess.Board, words: Sequence[str]) -> None:
    """Play what a text says was played; chat markers are skipped."""
    played = [word for word in words if not word.startswith("<")]
    for left, arrived in zip(played[::2], played[1::2], strict=True):
        move = read_move(f"{left} {arrived}")
        assert move is not None
        assert board.is_legal(move), (board.fen(), left, arrived)
        board.push(move)


class ScriptedSessions:
    def __init__(self, model: ScriptedModel, texts: Sequence[str]) -> None:
        self.model = model
        self.boards = {row: read_board(text) for row, text in enumerate(texts)}

    def extend(self, texts):
        for row, text in texts.items():
            push_words(self.boards[row], text.split())

    def propose(self, rows, *, decoding, rngs, max_tokens, allowed=None):
        outputs = []
        for i, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            text = self.model.choose(self.boards[row], rng)
            if allowed is not None and text not in allowed[i]:
                text = allowed[i][0]
            outputs.append(Output(text=text, logprob=-1.0))
        self.model.proposals.append(len(rows))
        return outputs

    def close(self, rows):
        for row in rows:
            del self.boards[row]


@dataclass(frozen=True, kw_only=True)
class ScriptedModel:
    """Answers by a function of the board; refuses to be asked after its row was closed."""

    choose: Choose
    name: str = "scripted"
    presentation: Presentation = field(default_factory=Presentation)
    decoding: Decoding = field(default_factory=Decoding)
    rewrites: bool = False
    """Whether its chat template changes the start of the text as the chat grows."""
    proposals: list[int] = field(default_factory=list, compare=False)

    def render_chat(self, messages, *, answer_next):
        text = f"<bos{len(messages)}>" if self.rewrites else "<bos>"
        for message in messages:
            end = "" if message["role"] == "user" else " <|end|>"
            content = message["content"] if message["role"] != "system" else "<instruction>"
            text += f" <|{message['role']}|> {content}{end}"
        return text + (" <|assistant|>" if answer_next else "")

    def open_sessions(self, texts):
        return ScriptedSessions(self, texts)


def choose_randomly(board, rng):
    moves = list(board.legal_moves)
    return write_move(board, moves[int(rng.integers(len(moves)))])


def choose_illegally(board, rng):
    """A well-formed move that no position allows: a king across the board."""
    return "Ka1 Kh8" if board.turn else "ka1 kh8"


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
