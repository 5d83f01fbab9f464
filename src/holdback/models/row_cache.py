"""A key/value cache whose rows grow and leave independently of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache


class RowCache(Cache):  # type: ignore[misc]
    """Keys and values of many texts of unequal length, one a row.

    transformers' own caches grow all rows by the same length. Games do not: they differ in their
    prompts and end at different times. Here every row has its own length; a forward pass names
    its rows, writes behind each row's end, and sees nothing past it. Only `commit` moves the end,
    so a draft is forgotten by not committing it.
    """

    def __init__(self, config: Any, *, rows: int) -> None:
        super().__init__(layers=[])
        self._n_layers = int(config.num_hidden_layers)
        self._keys: list[torch.Tensor | None] = [None] * self._n_layers
        self._values: list[torch.Tensor | None] = [None] * self._n_layers
        self._slots = {row: row for row in range(rows)}
        self._lengths = torch.zeros(rows, dtype=torch.long)
        self._capacity = 0
        self._active = torch.arange(rows)
        self._positions = torch.zeros(rows, 0, dtype=torch.long)
        self._width = 0

    def begin(self, rows: Sequence[int], new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare a forward pass of `new` tokens for each of `rows`.

        Returns:
            Position ids, shape (rows, new), and a boolean mask, shape (rows, 1, new, keys).
        """
        self._active = torch.tensor([self._slots[row] for row in rows])
        starts = self._lengths[self._active]
        self._positions = starts[:, None] + torch.arange(new)
        self._width = int(self._positions.max()) + 1
        keys = torch.arange(self._width)
        return self._positions, (keys <= self._positions[:, :, None])[:, None]

    def commit(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Make the first `counts` tokens of the last pass part of the rows' texts."""
        for row, count in zip(rows, counts, strict=True):
            self._lengths[self._slots[row]] += count

    def drop(self, row: int) -> None:
        """Forget a row. The last row moves into its slot, so active rows stay contiguous."""
        slot = self._slots.pop(row)
        last = len(self._slots)
        mover = next((r for r, s in self._slots.items() if s == last), None)
        if mover is None:
            return
        self._slots[mover] = slot
        self._lengths[slot] = self._lengths[last]
        length = int(self._lengths[last])
        for buffer in (*self._keys, *self._values):
            if buffer is not None:
                buffer[slot, :, :length] = buffer[last, :, :length]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new keys and values; return all that the rows may attend to."""
        keys = self._write(self._keys, layer_idx, key_states)
        values = self._write(self._values, layer_idx, value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest committed text among the rows of the current pass."""
        return int(self._lengths[self._active].max()) if len(self._active) else 0

    def _write(
        self, buffers: list[torch.Tensor | None], layer: int, states: torch.Tensor
    ) -> torch.Tensor:
        buffer = buffers[layer]
        if buffer is None or buffer.shape[2] < self._width:
            buffer = self._grow(buffer, states)
            buffers[layer] = buffer
        active = self._active.to(states.device)
        positions = self._positions.to(states.device)
        buffer[active[:, None], :, positions] = states.transpose(1, 2)
        contiguous = torch.equal(self._active, torch.arange(len(self._active)))
        seen = buffer[: len(active)] if contiguous else buffer[active]
        return seen[:, :, : self._width]

    def _grow(self, buffer: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        """Room for half as many tokens again, so that growth costs amortised constant time."""
        _, heads, _, size = states.shape
        room = max(64, self._width + self._width // 2)
        grown = states.new_zeros(len(self._lengths), heads, room, size)
        if buffer is not None:
            grown[:, :, : buffer.shape[2]] = buffer
        return grown
