"""Key/value caches: of one beginning that many texts share, and of rows that grow by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache


class PrefixCache(Cache):  # type: ignore[misc]
    """Keys and values of one text, which every row of a pass continues.

    A pass over the rows adds nothing to it.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.length = 0

    @classmethod
    def read(cls, weights: Any, tokens: torch.Tensor) -> PrefixCache:
        """Compute the keys and values of `tokens`, shape (length,)."""
        cache = cls()
        places = torch.arange(len(tokens), device=tokens.device)[None]
        # The head is left out: nobody asks what comes next inside the beginning.
        weights.base_model(
            input_ids=tokens[None], position_ids=places, past_key_values=cache, use_cache=True
        )
        cache.length = len(tokens)
        return cache

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep one layer's keys and values of the text; put them before those of the rows."""
        if self.length == 0:
            self.states[layer_idx] = key_states, value_states
            return key_states, value_states
        keys, values = self.states[layer_idx]
        rows = len(key_states)
        return (
            torch.cat([keys.expand(rows, -1, -1, -1), key_states], 2),
            torch.cat([values.expand(rows, -1, -1, -1), value_states], 2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the text."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that a pass sees, and where they start; asked where no mask is given."""
        return self.length + query_length, 0


class RowCache(Cache):  # type: ignore[misc]
    """Keys and values of many texts of unequal length, one a row.

    transformers' own caches grow all rows by the same length. Texts do not: they differ in their
    prompts and end at different times. Here every row has its own length; a forward pass names
    its rows, writes behind each row's end, and sees nothing past it. Only `commit` moves the end,
    so a draft is forgotten by not committing it.
    """

    def __init__(self, *, device: torch.device) -> None:
        super().__init__(layers=[])
        self._device = device
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows: list[int] = []
        self._slots: dict[int, int] = {}
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._places = torch.zeros(0, 0, dtype=torch.long)
        self._slot_index = torch.zeros(0, 1, dtype=torch.long)
        self._place_index = self._places
        self._first: int | None = 0
        self._width = 0

    def __contains__(self, row: int) -> bool:
        return row in self._slots

    def add(self, row: int) -> None:
        """Make room for a new, empty row."""
        slot = len(self._rows)
        self._rows.append(row)
        self._slots[row] = slot
        if slot == len(self._lengths):
            self._lengths = torch.cat([self._lengths, torch.zeros(slot + 8, dtype=torch.long)])
        self._lengths[slot] = 0

    def seed(self, row: int, prefix: PrefixCache) -> None:
        """Let an empty row begin with a text that has been read."""
        slot = self._slots[row]
        for layer, states in prefix.states.items():
            for buffer, own in zip(
                self._make_room(layer, *states, width=prefix.length), states, strict=True
            ):
                buffer[slot, :, : prefix.length] = own[0]
        self._lengths[slot] = prefix.length

    def fork(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Start a row a source, with what the source has committed."""
        for row in rows:
            self.add(row)
        old = [self._slots[source] for source in sources]
        new = [self._slots[row] for row in rows]
        self._lengths[new] = self._lengths[old]
        width = int(self._lengths[old].max())
        for layer, held in list(self._buffers.items()):
            for buffer in self._make_room(layer, *held, width=width):
                buffer[new, :, :width] = buffer[old, :, :width]

    def drop(self, row: int) -> None:
        """Forget a row. The last row moves into its slot, so that rows stay contiguous."""
        slot = self._slots.pop(row)
        mover = self._rows.pop()
        if mover == row:
            return
        last = len(self._rows)
        self._rows[slot] = mover
        self._slots[mover] = slot
        length = int(self._lengths[last])
        self._lengths[slot] = length
        for buffers in self._buffers.values():
            for buffer in buffers:
                buffer[slot, :, :length] = buffer[last, :, :length]

    def arrange(self, rows: Sequence[int]) -> list[int]:
        """Indices that put `rows` into the order in which they lie: no pass need gather them."""
        return sorted(range(len(rows)), key=lambda i: self._slots[rows[i]])

    def begin(self, rows: Sequence[int], new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare a forward pass of `new` tokens for each of `rows`.

        Returns:
            Position ids, shape (rows, new), and what they see, shape (rows, new, keys).
        """
        slots = torch.tensor([self._slots[row] for row in rows], dtype=torch.long)
        self._places = self._lengths[slots][:, None] + torch.arange(new)
        self._width = int(self._places.max()) + 1
        first = int(slots[0])
        together = torch.equal(slots, torch.arange(first, first + len(slots)))
        self._first = first if together else None
        self._slot_index = slots[:, None].to(self._device)
        self._place_index = self._places.to(self._device)
        keys = torch.arange(self._width, device=self._device)
        return self._place_index, keys <= self._place_index[:, :, None]

    def commit(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Make the first `counts` tokens of the last pass part of the rows' texts."""
        self._lengths[[self._slots[row] for row in rows]] += torch.tensor(counts)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new keys and values; return all that the rows may attend to."""
        keys, values = self._make_room(layer_idx, key_states, value_states, width=self._width)
        return self._write(keys, key_states), self._write(values, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest committed text among the rows of the current pass."""
        return int(self._places[:, 0].max()) if self._places.numel() else 0

    def _write(self, buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        buffer[self._slot_index, :, self._place_index] = states.transpose(1, 2)
        if self._first is None:
            return buffer[self._slot_index[:, 0], :, : self._width]
        return buffer[self._first : self._first + len(states), :, : self._width]

    def _make_room(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, *, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = self._buffers.get(layer)
        if held is None or held[0].shape[2] < width or len(held[0]) < len(self._rows):
            old = held or (None, None)
            held = self._grow(old[0], keys, width), self._grow(old[1], values, width)
            self._buffers[layer] = held
        return held

    def _grow(self, buffer: torch.Tensor | None, states: torch.Tensor, width: int) -> torch.Tensor:
        """Room for half as many tokens again, so that growth costs amortised constant time."""
        _, heads, _, size = states.shape
        held = 0 if buffer is None else buffer.shape[2]
        room = held if held >= width else max(64, width + width // 2)
        grown = states.new_zeros(len(self._lengths), heads, room, size)
        if buffer is not None:
            grown[: len(buffer), :, :held] = buffer
        return grown
