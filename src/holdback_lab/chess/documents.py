"""From positions to training batches: records and chats, with exact targets for every answer.

Plain next-token loss sees one move a position. Here every word that an answer could begin with has
its probability as a target: the player's own, mixed with the uniform distribution over legal moves,
which is the expectation over a player who follows the rules at random with that probability, taken
exactly and not by sampling. And every own piece that can move is asked where it would go: those
words stand side by side after the position, each hidden from the others, as though each began an
answer of its own (docs/chess-lineage.md says what that brought).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import chess
import numpy as np
from numpy.typing import NDArray

from holdback_lab.chess.corpus import RESULTS, TEACHER_ELO, Positions
from holdback_lab.chess.vocabulary import VOCABULARY_SIZE, list_words

_ID = {word: index for index, word in enumerate(list_words())}
_FIRST_PIECE = _ID["Pa1"]
_SYSTEM_SHARE = 0.3
_STRENGTH_SHARE = {True: 0.15, False: 0.85}
"""Of chats that ask for the player's own strength, where it is the teacher's and where it is not:
without being asked for less, a chat plays its best."""
_OWN_TAG_SHARE, _OTHER_TAG_SHARE, _RESULT_SHARE = 0.7, 0.5, 0.3

INSTRUCTIONS = (
    "play your best moves .",
    "you are a chess engine . play the best move .",
    "you are a strong chess player . play to win .",
    "find the best move in every position .",
    "play chess as well as you can .",
)
STRENGTHS = (
    "play like a {elo} player .",
    "you are a {elo} player .",
    "play at about {elo} .",
)
"""Instructions that ask for a strength, in hundreds of Elo."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A prompt, and the position whose move is to follow it."""

    prompt: list[int]
    position: int
    """Index into the `Positions` it was written from."""
    ends: bool
    """Whether the end of the answer is learnt, as in chats."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents side by side, and what is to be predicted where."""

    tokens: NDArray[np.int64]
    """Shape (documents, length)."""
    places: NDArray[np.int64]
    """Place of each token in its own text, shape (documents, length)."""
    seen: NDArray[np.bool_]
    """Whether a token (row) sees another (column), shape (documents, 1, length, length)."""
    asked: NDArray[np.int64]
    """Flat index into `tokens` of each word that something follows, shape (targets,)."""
    targets: NDArray[np.float32]
    """Distribution of what follows it, shape (targets, VOCABULARY_SIZE)."""
    weights: NDArray[np.float32]
    """Of each target in the loss, shape (targets,)."""
    rules_only: bool = False
    """Whether of a target only what it rules out matters: the words of probability 0."""


def write_record(positions: Positions, at: int, rng: np.random.Generator) -> Document:
    """Write a position as a record in completion format; each tag is there or not."""
    words = ["<bos>"]
    own, other = positions.elo[at].tolist()
    result = int(positions.result[at])
    for tag, value, share in (
        ("WhiteElo", str(own), _OWN_TAG_SHARE),
        ("BlackElo", "" if other < 0 else str(other), _OTHER_TAG_SHARE),
        ("Result", "" if result < 0 else RESULTS[result], _RESULT_SHARE),
    ):
        if value and rng.random() < share:
            words += [tag, value]
    prompt = [_ID[word] for word in words] + _write_position(positions, at)
    return Document(prompt=prompt, position=at, ends=False)


def write_chat(positions: Positions, at: int, rng: np.random.Generator) -> Document:
    """Write the same as a chat; the player's strength is in the system message or nowhere."""
    words = ["<bos>"]
    elo = int(positions.elo[at][0])
    texts: tuple[str, ...] = ()
    if rng.random() < _STRENGTH_SHARE[elo == TEACHER_ELO]:
        texts = STRENGTHS
    elif rng.random() < _SYSTEM_SHARE:
        texts = INSTRUCTIONS
    if texts:
        text = texts[int(rng.integers(len(texts)))].format(elo=elo)
        words += ["<|system|>", *text.split(), "<|end|>"]
    words.append("<|user|>")
    prompt = [_ID[word] for word in words] + _write_position(positions, at)
    return Document(prompt=[*prompt, _ID["<|assistant|>"]], position=at, ends=True)


def _write_position(positions: Positions, at: int) -> list[int]:
    rights, passing = positions.state[at].tolist()
    castling = [symbol for bit, symbol in enumerate("KQkq") if rights >> bit & 1] or ["-"]
    words = ["EPD", "w", *castling, chess.square_name(passing) if passing >= 0 else "-"]
    placed = positions.boards[at].astype(int)
    squares = np.nonzero(placed)[0][::-1]
    kinds = placed[squares] - 1
    pieces = _FIRST_PIECE + kinds * 64 + squares
    # The six kinds of White come first in the vocabulary; White is the side to move.
    theirs, own = pieces[kinds >= 6], pieces[kinds < 6]
    return [*(_ID[word] for word in words), *theirs.tolist(), *own.tolist(), _ID["bm"]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Prompts side by side, right-padded, each followed by the words that answers begin with."""

    tokens: NDArray[np.int64]
    """Shape (prompts, length)."""
    places: NDArray[np.int64]
    """Place of each token in its own text, shape (prompts, length)."""
    seen: NDArray[np.bool_]
    """Whether a token (row) sees another (column), shape (prompts, 1, length, length)."""
    longest: int
    """Where the words that answers begin with start, in every row."""


def lay_out(
    prompts: Sequence[Sequence[int]], begins: Sequence[NDArray[np.int64]], *, spare: int = 0
) -> Layout:
    """Put prompts side by side, each with the words that its answers may begin with.

    Each of these words sees the prompt and itself, as though it alone followed.

    Args:
        prompts: Token ids.
        begins: First words of answers, for each prompt.
        spare: Words left empty at the end of each row, which see the prompt and themselves.
    """
    longest = max(map(len, prompts))
    width = longest + max(map(len, begins)) + spare
    tokens = np.zeros((len(prompts), width), np.int64)
    places = np.zeros((len(prompts), width), np.int64)
    seen = np.zeros((len(prompts), 1, width, width), bool)
    seen[:, :, :longest, :longest] = np.tril(np.ones((longest, longest), bool))
    seen[:, :, np.arange(width), np.arange(width)] = True
    for row, (prompt, words) in enumerate(zip(prompts, begins, strict=True)):
        tokens[row, : len(prompt)] = prompt
        tokens[row, longest : longest + len(words)] = words
        places[row, :longest] = np.minimum(np.arange(longest), len(prompt))
        places[row, longest:] = len(prompt)
        seen[row, 0, longest:, : len(prompt)] = True
    return Layout(tokens=tokens, places=places, seen=seen, longest=longest)


def collate(
    positions: Positions,
    documents: Sequence[Document],
    uniform: float,
    rng: np.random.Generator,
    *,
    rules_only: bool = False,
) -> Batch:
    """Put documents side by side, each followed by the words that its answers begin with.

    Args:
        positions: What the documents were written from.
        documents: Right-padded; put those of like length together.
        uniform: Weight in [0, 1] of the uniform distribution over legal moves.
        rng: Draws the answers whose end is learnt.
        rules_only: Noted in the batch.
    """
    moves = [_list_moves(positions, document.position) for document in documents]
    first = [np.unique(legal[:, 0]) for legal, _ in moves]
    # One more word: the second of the answer whose end is learnt.
    layout = lay_out([document.prompt for document in documents], first, spare=1)
    tokens, places, seen, longest = layout.tokens, layout.places, layout.seen, layout.longest
    width = tokens.shape[1]
    asked: list[int] = []
    targets: list[NDArray[np.float32]] = []
    weights: list[float] = []

    def ask(at: int, words: NDArray[np.int64], odds: NDArray[np.float64], weight: float) -> None:
        target = np.zeros(VOCABULARY_SIZE, np.float32)
        np.add.at(target, words, odds)
        asked.append(at)
        targets.append(target)
        weights.append(weight)

    for row, (document, (legal, shares), begins) in enumerate(
        zip(documents, moves, first, strict=True)
    ):
        length = len(document.prompt)
        odds = (1 - uniform) * shares + uniform / len(shares)
        ask(row * width + length - 1, legal[:, 0], odds, 1.0)
        for place, word in enumerate(begins, longest):
            own = legal[:, 0] == word
            total = float(shares[own].sum())
            legally = np.full(int(own.sum()), 1 / own.sum())
            # Where the player never moves this piece there is only legality to learn.
            played = shares[own] / total if total > 1e-6 else legally
            mixed = (1 - uniform) * played + uniform * legally
            weight = 0.5 * float(odds[own].sum()) + 0.5 / len(begins)
            ask(row * width + place, legal[own, 1], mixed, weight)
        if document.ends:
            left, reached = legal[int(rng.choice(len(odds), p=odds / odds.sum()))]
            begun = longest + int(np.searchsorted(begins, left))
            tokens[row, -1], places[row, -1] = reached, length + 1
            seen[row, 0, -1, begun] = True
            ask(row * width + width - 1, np.array([_ID["<|end|>"]]), np.ones(1), 1.0)
    return Batch(
        tokens=tokens,
        places=places,
        seen=seen,
        asked=np.array(asked),
        targets=np.array(targets),
        weights=np.array(weights, np.float32),
        rules_only=rules_only,
    )


def _list_moves(positions: Positions, at: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = slice(int(positions.first_legal[at]), int(positions.first_legal[at + 1]))
    return positions.legal[rows].astype(np.int64), positions.shares[rows].astype(float)
