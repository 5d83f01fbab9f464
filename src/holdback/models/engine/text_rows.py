"""Texts in the course of being written, one a row: what comes next in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from holdback.models.engine.passes import heeds_masks, lay_masks, read_logits, read_plainly
from holdback.models.engine.row_cache import PrefixCache, RowCache


class TextRows(Protocol):
    """Rows that grow and leave independently of each other."""

    def add(self, row: int, prefix: PrefixCache | None = None) -> None:
        """Start a row, empty or with a text that has been read."""
        ...

    def read(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read new tokens behind each row's committed text; logits after the last, (rows, vocab).

        They are no part of the rows until they are committed.
        """
        ...

    def commit(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Make the first `counts` tokens of the last reading part of the rows' texts."""
        ...

    def fork(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Start a row a source, with what the source has committed."""
        ...

    def drop(self, row: int) -> None:
        """Forget a row."""
        ...


def open_rows(weights: Any) -> TextRows:
    """Start without rows, with a cache of keys and values where the architecture allows it."""
    return CachedRows(weights) if heeds_masks(weights) else PlainRows(weights)


class CachedRows:
    """Rows of one key/value cache: a step costs the new tokens only."""

    def __init__(self, weights: Any) -> None:
        self._weights = weights
        self._cache = RowCache(device=weights.device)

    def add(self, row: int, prefix: PrefixCache | None = None) -> None:
        """Start a row, empty or with a text that has been read."""
        self._cache.add(row)
        if prefix is not None:
            self._cache.seed(row, prefix)

    def read(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read new tokens behind each row's committed text; logits after the last."""
        device = self._weights.device
        order = self._cache.arrange(rows)
        ids = _pad([tokens[i] for i in order]).to(device)
        width = ids.shape[1]
        positions, seen = self._cache.begin([rows[i] for i in order], width)
        keys = torch.arange(seen.shape[2], device=device)[None]
        last = torch.tensor([row * width + len(tokens[i]) - 1 for row, i in enumerate(order)])
        logits = read_logits(
            self._weights,
            last.to(device),
            input_ids=ids,
            position_ids=positions,
            attention_mask=lay_masks(self._weights, seen, positions, keys),
            past_key_values=self._cache,
            use_cache=True,
        )
        if order == list(range(len(rows))):
            return logits
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return logits[back.to(device)]

    def commit(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Make the first `counts` tokens of the last reading part of the rows' texts."""
        self._cache.commit(rows, counts)

    def fork(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Start a row a source, with what the source has committed."""
        self._cache.fork(sources, rows)

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._cache.drop(row)


class PlainRows:
    """Rows that are read anew each time, for architectures that keep something else than keys."""

    def __init__(self, weights: Any) -> None:
        self._weights = weights
        self._texts: dict[int, list[int]] = {}
        self._read: dict[int, list[int]] = {}

    def add(self, row: int, prefix: PrefixCache | None = None) -> None:
        """Start an empty row."""
        self._texts[row] = []

    def read(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read each row's text with its new tokens; logits after the last."""
        self._read = {row: list(new) for row, new in zip(rows, tokens, strict=True)}
        ids = _pad([self._texts[row] + self._read[row] for row in rows])
        lengths = torch.tensor([len(self._texts[row]) + len(self._read[row]) for row in rows])
        last = torch.arange(len(rows)) * ids.shape[1] + lengths - 1
        device = self._weights.device
        return read_plainly(self._weights, last.to(device), ids.to(device))

    def commit(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Make the first `counts` tokens of the last reading part of the rows' texts."""
        for row, count in zip(rows, counts, strict=True):
            self._texts[row] += self._read[row][:count]

    def fork(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Start a row a source, with what the source has committed."""
        for source, row in zip(sources, rows, strict=True):
            self._texts[row] = list(self._texts[source])

    def drop(self, row: int) -> None:
        """Forget a row."""
        del self._texts[row]


def _pad(texts: Sequence[Sequence[int]]) -> torch.Tensor:
    width = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
