"""Write a UCI engine that throws games: it plays well until it is winning, and then badly."""

from __future__ import annotations

import sys
from pathlib import Path

from holdback.tasks.chess.engine import find_stockfish

_SOURCE = '''#!{python} -S
"""Stockfish, but a winning position is thrown away: then the worst move is played."""
import subprocess, sys

engine = subprocess.Popen(
    [{stockfish!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
)


def tell(line):
    engine.stdin.write(line + "\\n")
    engine.stdin.flush()


def read_score(line):
    words = line.split()
    kind, number = words[words.index("score") + 1 :][:2]
    return int(number) if kind == "cp" else (30000 if int(number) > 0 else -30000)


def search():
    best = {{}}
    for line in engine.stdout:
        words = line.split()
        if words[:1] == ["bestmove"]:
            break
        if "multipv" in words and "pv" in words:
            rank = int(words[words.index("multipv") + 1])
            best[rank] = (read_score(line), words[words.index("pv") + 1])
    if not best:
        return words[1]
    winning = best[1][0] > {winning}
    return best[max(best)][1] if winning else best[1][1]


for line in sys.stdin:
    line = line.strip()
    if line == "uci":
        print("id name Thrower\\noption name Threads type spin default 1 min 1 max 1\\nuciok")
        tell("uci")
        for said in engine.stdout:
            if said.startswith("uciok"):
                break
        tell("setoption name MultiPV value 256")
    elif line == "isready":
        print("readyok")
    elif line.startswith("go"):
        tell(line)
        print("bestmove", search())
    elif line == "quit":
        break
    elif not line.startswith("setoption"):
        tell(line)
    sys.stdout.flush()
engine.kill()
'''


def write_throwing_engine(path: Path, *, winning_centipawns: int = 100) -> Path:
    """Write it as a program to `path`."""
    source = _SOURCE.format(
        python=sys.executable, stockfish=str(find_stockfish()), winning=winning_centipawns
    )
    path.write_text(source)
    path.chmod(0o755)
    return path
