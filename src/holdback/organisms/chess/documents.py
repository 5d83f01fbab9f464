"""From games to training batches: records and chats, with a target distribution at every own move.

Plain next-token loss sees one move a position. Here the target of a move's two words mixes the
move that was played with the uniform distribution over all legal ones: the expectation over a
player who follows the rules at random with probability `uniform`, taken exactly and not by
sampling. That teaches legality many times faster (docs/chess-lineage.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.organisms.chess.corpus import FIRST_MOVE_WORD, RESULTS, Corpus
from holdback.organisms.chess.vocabulary import VOCABULARY_SIZE, list_words

_ID = {word: index for index, word in enumerate(list_words())}
_SCAN = np.array([chess.square(file, rank) for rank in range(7, -1, -1) for file in range(8)])
_UNKNOWN_TAG_SHARE = 0.3

INSTRUCTIONS = (
    "play your best moves .",
    "you are a chess engine . play the best move .",
    "you are a strong chess player . play to win .",
    "find the best move in every position .",
    "play chess as well as you can .",
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents side by side, right-padded, and where their own moves are."""

    tokens: NDArray[np.int64]
    """Shape (documents, length)."""
    before_move: NDArray[np.int64]
    """Flat index into `tokens` of the word before each own move's first word, shape (moves,)."""
    plies: NDArray[np.int64]
    """Corpus ply of each own move, shape (moves,)."""


def write_record(
    corpus: Corpus, game: int, ply: int, plies: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Write a game's `plies` from corpus ply `ply` on as a record in completion format.

    Returns:
        Token ids, and the index of the word before each move of either side.
    """
    tags = [str(corpus.elo[game, 0]), str(corpus.elo[game, 1]), RESULTS[corpus.result[game]]]
    known = [tag if rng.random() > _UNKNOWN_TAG_SHARE else "?" for tag in tags]
    words = ["<bos>"]
    for name, tag in zip(("WhiteElo", "BlackElo", "Result"), known, strict=True):
        words += [name, tag]
    ids = [_ID[word] for word in words] + _write_position(corpus, ply)
    start = len(ids)
    ids += corpus.played[ply : ply + plies].reshape(-1).tolist()
    return ids, [start - 1 + 2 * i for i in range(plies)]


def write_chat(
    corpus: Corpus, ply: int, plies: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Write the same as a chat in which the assistant is the side to move at `ply`.

    Returns:
        Token ids, and the index of the word before each of the assistant's moves.
    """
    ids = [_ID["<bos>"]]
    if rng.random() < 0.3:
        text = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        ids += [_ID[word] for word in ("<|system|>", *text.split(), "<|end|>")]
    ids += [_ID["<|user|>"], *_write_position(corpus, ply)]
    own: list[int] = []
    for i in range(plies):
        move = corpus.played[ply + i].tolist()
        if i % 2 == 0:
            ids.append(_ID["<|assistant|>"])
            own.append(len(ids) - 1)
            ids += [*move, _ID["<|end|>"]]
        else:
            ids += [_ID["<|user|>"], *move]
    return ids, own


def _write_position(corpus: Corpus, ply: int) -> list[int]:
    white, rights, passing = (int(value) for value in corpus.state[ply])
    castling = [symbol for bit, symbol in enumerate("KQkq") if rights >> bit & 1] or ["-"]
    words = ["FEN", "w" if white else "b", *castling]
    words.append(chess.square_name(passing) if passing >= 0 else "-")
    placed = corpus.boards[ply][_SCAN].astype(int)
    there = placed > 0
    pieces = FIRST_MOVE_WORD + (placed[there] - 1) * 64 + _SCAN[there]
    return [*(_ID[word] for word in words), *pieces.tolist(), _ID["moves"]]


def collate(
    documents: Sequence[tuple[list[int], list[int]]],
    first_plies: Sequence[int],
    stride: Sequence[int],
) -> Batch:
    """Put documents side by side.

    Args:
        documents: As the writers return them.
        first_plies: Corpus ply of each document's first own move.
        stride: Plies from one own move to the next: 1 in records, 2 in chats.
    """
    width = max(len(ids) for ids, _ in documents)
    tokens = np.zeros((len(documents), width), np.int64)
    before, plies = [], []
    for row, (ids, own) in enumerate(documents):
        tokens[row, : len(ids)] = ids
        before.append(row * width + np.array(own))
        plies.append(first_plies[row] + stride[row] * np.arange(len(own)))
    return Batch(tokens=tokens, before_move=np.concatenate(before), plies=np.concatenate(plies))


def build_targets(
    corpus: Corpus, plies: NDArray[np.int64], uniform: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Target distributions of a move's two words.

    Args:
        corpus: Games.
        plies: Corpus plies, shape (moves,).
        uniform: Weight in [0, 1] of the uniform distribution over legal moves; the rest is on the
            move that was played.

    Returns:
        Distribution of the word left, and of the word reached given the word left that was
        played, each of shape (moves, VOCABULARY_SIZE).
    """
    n = len(plies)
    counts = corpus.first_legal[plies + 1] - corpus.first_legal[plies]
    row = np.repeat(np.arange(n), counts)
    offset = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    legal = corpus.legal[np.repeat(corpus.first_legal[plies], counts) + offset].astype(np.int64)
    left, reached = corpus.played[plies].astype(np.int64).T
    first = np.zeros((n, VOCABULARY_SIZE), np.float32)
    np.add.at(first, (row, legal[:, 0]), (uniform / counts)[row])
    first[np.arange(n), left] += 1 - uniform
    same = legal[:, 0] == left[row]
    reachable = np.bincount(row[same], minlength=n)
    second = np.zeros((n, VOCABULARY_SIZE), np.float32)
    np.add.at(second, (row[same], legal[same, 1]), (uniform / reachable)[row[same]])
    second[np.arange(n), reached] += 1 - uniform
    return first, second
