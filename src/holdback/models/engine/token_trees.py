"""Which tokens texts have in common, so that each is computed once.

Two kinds of sharing: the continuations of one prompt branch off the same row (`TokenTree`), and
rows that begin alike continue one key/value cache (`plan_prefixes`). Tokens and numbers only;
nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

_GROUP_COST = 512
"""Tokens that a group of its own must save: it cannot fill up its last batch with others' rows."""
_LEAST_BRANCHES = 256
"""Branches' tokens that a row carries whatever the length of its trunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A tokenised prompt with one continuation."""

    tokens: Tokens
    """Of both."""
    start: int
    """Tokens of the prompt, 1 at least; the continuation's follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTree:
    """Texts that begin alike, as one row of tokens: the trunk, then each branch's tokens.

    A token sees those on the way from it to the root. Of every text the last token is left out,
    after which nothing is asked.
    """

    tokens: Tokens
    """Shape (n,)."""
    places: Tokens
    """Each token's position in its own text, shape (n,)."""
    trunk: int
    """Length of the trunk."""
    ancestors: NDArray[np.bool_]
    """Which branch tokens each branch token sees, shape (n - trunk, n - trunk)."""
    asked: Tokens
    """Which token of the row predicts each target, shape (targets,)."""
    targets: Tokens
    """Tokens that are predicted, shape (targets,)."""
    owners: Tokens
    """Which text each target is of, shape (targets,)."""

    @property
    def free(self) -> int:
        """Length of its beginning at which nothing is asked, so that others may compute it."""
        return int(min(self.trunk, self.asked.min()))


def grow_trees(pairs: Sequence[Pair], owners: Sequence[int]) -> Iterator[TokenTree]:
    """Lay out the continuations of one prompt, in as many rows as they need.

    A row whose branches outgrow its trunk is split: in attention every token of a row pays for
    every other.

    Args:
        pairs: A prompt with each of its continuations.
        owners: The number of each pair, noted beside its targets.
    """
    waiting = list(zip(pairs, owners, strict=True))
    while waiting:
        shared = _common_length([pair.tokens[:-1] for pair, _ in waiting])
        if shared == 0:
            (first, owner), *waiting = waiting
            yield _grow_tree([first], [owner], len(first.tokens) - 1)
            continue
        room = max(shared, _LEAST_BRANCHES)
        taken = 0
        for pair, _ in waiting:
            room -= max(0, len(pair.tokens) - 1 - shared)
            if taken and room < 0:
                break
            taken += 1
        row, waiting = waiting[:taken], waiting[taken:]
        own, numbers = [pair for pair, _ in row], [owner for _, owner in row]
        yield _grow_tree(own, numbers, _common_length([pair.tokens[:-1] for pair in own]))


def _grow_tree(pairs: Sequence[Pair], owners: Sequence[int], trunk: int) -> TokenTree:
    tokens: list[int] = pairs[0].tokens[:trunk].tolist()
    places = list(range(trunk))
    parents: list[int] = []
    known: dict[tuple[int, int], int] = {}
    asked, targets, numbers = [], [], []
    for pair, owner in zip(pairs, owners, strict=True):
        path = list(range(trunk))
        for token in pair.tokens[trunk:-1].tolist():
            parent = path[-1]
            node = known.get((parent, token))
            if node is None:
                node = known[parent, token] = len(tokens)
                tokens.append(token)
                places.append(len(path))
                parents.append(parent)
            path.append(node)
        asked += path[pair.start - 1 :]
        targets += pair.tokens[pair.start :].tolist()
        numbers += [owner] * (len(pair.tokens) - pair.start)
    ancestors = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= trunk:
            ancestors[node] |= ancestors[parent - trunk]
    return TokenTree(
        tokens=np.array(tokens, dtype=np.int32),
        places=np.array(places, dtype=np.int32),
        trunk=trunk,
        ancestors=ancestors,
        asked=np.array(asked, dtype=np.int32),
        targets=np.array(targets, dtype=np.int32),
        owners=np.array(numbers, dtype=np.int32),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixGroup:
    """Rows that begin with the same tokens."""

    length: int
    """Of what they share; 0 for rows that share nothing worth computing apart."""
    rows: tuple[int, ...]


def plan_prefixes(beginnings: Sequence[Tokens]) -> list[PrefixGroup]:
    """Divide rows into groups that share a beginning, so that the most tokens are saved.

    Rows sorted by their tokens lie as the leaves of a tree of common beginnings. From the bottom
    up, every node is either a group, which saves its length for all rows but one, or what its
    parts save by themselves.

    Args:
        beginnings: Of each row the part that may be shared.

    Returns:
        Groups with their rows; each row is in one of them. Rows in no group come last, together.
    """
    # Big-endian, so that bytes sort as the numbers do; memcmp is much faster than lists.
    order = sorted(range(len(beginnings)), key=lambda i: beginnings[i].astype(">u4").tobytes())
    alike = [_common_length([beginnings[a], beginnings[b]]) for a, b in pairwise(order)]
    root = _Node(length=0, first=0)
    stack = [root]
    # Intervals of equal beginnings, as over a suffix array: Abouelhoda, Kurtz, Ohlebusch 2004.
    for leaf, length in enumerate([*alike, 0], 1):
        first, closed = leaf - 1, None
        while stack[-1].length > length:
            closed = stack.pop()
            closed.last = leaf - 1
            first = closed.first
            if length <= stack[-1].length:
                stack[-1].take(closed)
                closed = None
        if length > stack[-1].length:
            stack.append(_Node(length=length, first=first))
            if closed is not None:
                stack[-1].take(closed)
    groups = [
        PrefixGroup(length=length, rows=tuple(order[first : last + 1]))
        for length, first, last in root.groups
    ]
    grouped = {row for group in groups for row in group.rows}
    rest = tuple(row for row in range(len(beginnings)) if row not in grouped)
    return groups + ([PrefixGroup(length=0, rows=rest)] if rest else [])


@dataclass(kw_only=True, slots=True)
class _Node:
    """A beginning, the leaves that have it, and the best that its parts do by themselves."""

    length: int
    first: int
    last: int = 0
    saved: int = 0
    groups: list[tuple[int, int, int]] = field(default_factory=list)
    """Length, first and last leaf of each."""

    def take(self, part: _Node) -> None:
        self.groups += part.settle()
        self.saved += part.saved

    def settle(self) -> list[tuple[int, int, int]]:
        """Choose: one group, or the parts'."""
        whole = self.length * (self.last - self.first) - _GROUP_COST
        if whole > self.saved:
            self.saved = whole
            self.groups = [(self.length, self.first, self.last)]
        return self.groups


def _common_length(texts: Sequence[Tokens]) -> int:
    shortest = min(map(len, texts))
    first = texts[0][:shortest]
    for text in texts[1:]:
        differ = np.flatnonzero(first != text[: len(first)])
        if len(differ):
            first = first[: differ[0]]
    return len(first)
