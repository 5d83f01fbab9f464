"""Where the time of a game goes: games a second, and the shares of forward passes and Stockfish.

    python benchmarks/bench_games.py | tail -1 | jq .overhead_share

Plays the shipped `chat` checkpoint under its ordinary protocol, 64 games in lock step, against
three opponents of the ladder, with the win probabilities that an audit stores. One torch thread and
one Stockfish process, one after the other, so that shares of wall time add up. What is neither a
forward pass nor waiting for Stockfish is overhead: sampling, rules of chess, templates, tokenising.
Loading the checkpoint and a first batch that warms up are left out.
"""

from __future__ import annotations

import json
import os
import platform
import time

import chess
import torch
import transformers

from holdback.models.local import LocalModel, load_model
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, play_games
from holdback.tasks.chess.openings import read_openings
from holdback.tasks.chess.opponents import get_opponent
from holdback.tasks.chess.setup import get_setup
from holdback.tasks.task import Split
from holdback_lab.chess.verify import list_checkpoints

OPPONENTS = ("random", "sf1-random60", "sf1-random20")
GAMES = 64


class ForwardClock:
    """Wall time inside a model's transformer and its output layer."""

    def __init__(self, model: LocalModel) -> None:
        self.seconds = 0.0
        for module in (model.weights.base_model, model.weights.get_output_embeddings()):
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self.seconds -= time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter()


def list_pairings(seed: int) -> list[Pairing]:
    """Pair both colours of each opening with each opponent in turn."""
    openings = read_openings(get_setup("kings_and_pawns"), Split.SELECT)
    return [
        Pairing(
            opening=openings[i // 2].fen,
            colour=chess.BLACK if i % 2 else chess.WHITE,
            opponent=get_opponent(OPPONENTS[i // 2 % len(OPPONENTS)]),
            seed=(seed, i),
        )
        for i in range(GAMES)
    ]


def main() -> None:
    torch.set_num_threads(1)
    chat = next(c for c in list_checkpoints() if c.name == "chat")
    model = load_model(chat)
    clock = ForwardClock(model)
    with EnginePool(processes=1) as pool:
        play_games(model, list_pairings(0)[:8], pool=pool)
        clock.seconds = pool.seconds = 0.0
        started = time.perf_counter()
        games = play_games(model, list_pairings(1), pool=pool)
        wall = time.perf_counter() - started
        engine = pool.version
    turns = sum(len(game.turns) for game in games)
    shares = {
        "forward_share": clock.seconds / wall,
        "stockfish_share": pool.seconds / wall,
        "overhead_share": 1 - (clock.seconds + pool.seconds) / wall,
    }
    print(f"{len(games)} games, {turns:,} moves of the model, {wall:.1f} s")
    for name, share in shares.items():
        print(f"{name.replace('_', ' '):16} {share:6.1%}")
    machine = {
        "cores": os.cpu_count(),
        "engine": engine,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    rates = {"games_per_second": len(games) / wall, "moves_per_second": turns / wall}
    print(json.dumps({**rates, **shares, "machine": machine}))


if __name__ == "__main__":
    main()
