"""Examples of unequal length side by side in rows, so that hardly a token is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdback.elicitation.finetune import IGNORED, Example
from holdback.models.engine.passes import heeds_masks, lay_masks, read_logits, read_plainly

_LEAST_WIDTH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """An example up to the last token that something is asked after."""

    tokens: list[int]
    asked: list[int]
    """Which tokens predict each label."""
    labels: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Examples laid out side by side; plain arrays, which another process may have made."""

    ids: NDArray[np.int64]
    """Tokens, shape (rows, width); 0 where there is none."""
    places: NDArray[np.int64]
    """Position of each token in its example."""
    texts: NDArray[np.int64]
    """Which example each token is of; -1 where there is none."""
    asked: NDArray[np.int64]
    """Which tokens predict each label, as indices into `ids`, row after row."""
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]
    """Which of the examples each label is of."""
    stacked: bool
    """Whether rows hold several examples, which masks tell apart."""


def read_answers(weights: Any, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run examples through a model, and compute the logits of what is to be learned.

    Returns:
        Logits, shape (labels, vocabulary), and labels, shape (labels,), of all examples together;
        none where no token has a label.
    """
    logits, labels, _ = read_owned_answers(weights, examples)
    return logits, labels


def read_owned_answers(
    weights: Any, examples: Sequence[Example]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Do as `read_answers`, and say which example each label is of.

    Returns:
        Logits, labels, and indices into `examples`, shape (labels,).
    """
    packed = lay_out(examples, stacked=heeds_masks(weights))
    logits, labels = read_packed(weights, packed)
    return logits, labels, torch.from_numpy(packed.owners).to(weights.device)


def lay_out(examples: Sequence[Example], *, stacked: bool = True) -> Packed:
    """Lay examples out in rows.

    Args:
        examples: Those without a label are left out.
        stacked: Whether several may share a row, for models that heed masks.
    """
    cut = [_cut(example) for example in examples]
    numbers = [number for number, part in enumerate(cut) if part.labels]
    parts = [cut[number] for number in numbers]
    rows = (
        pack([len(part.tokens) for part in parts]) if stacked else [[i] for i in range(len(parts))]
    )
    width = max((sum(len(parts[i].tokens) for i in row) for row in rows), default=0)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    places = np.zeros_like(ids)
    texts = np.full_like(ids, -1)
    asked: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        start = 0
        for i in row:
            part = parts[i]
            stop = start + len(part.tokens)
            ids[number, start:stop] = part.tokens
            places[number, start:stop] = np.arange(len(part.tokens))
            texts[number, start:stop] = i
            asked += [number * width + start + at for at in part.asked]
            labels += part.labels
            owners += [numbers[i]] * len(part.labels)
            start = stop
    return Packed(
        ids=ids,
        places=places,
        texts=texts,
        asked=np.array(asked, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        owners=np.array(owners, dtype=np.int64),
        stacked=stacked,
    )


def read_packed(weights: Any, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `read_answers` with what `lay_out` laid out."""
    device = weights.device
    ids, places, texts, picked, labels = (
        torch.from_numpy(array).to(device)
        for array in (packed.ids, packed.places, packed.texts, packed.asked, packed.labels)
    )
    if not len(labels):
        return torch.zeros(0, 1, device=device), labels
    if not packed.stacked:
        return read_plainly(weights, picked, ids), labels
    same = (texts[:, :, None] == texts[:, None, :]).tril()
    logits = read_logits(
        weights,
        picked,
        input_ids=ids,
        position_ids=places,
        attention_mask=lay_masks(weights, same, places, places),
        use_cache=False,
    )
    return logits, labels


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Divide texts among rows, longest first, each into the first row that has room for it.

    Rows are as long as the longest text, or as `_LEAST_WIDTH` if that is more: longer ones pack
    better, and cost more in attention.
    """
    width = max(_LEAST_WIDTH, *lengths) if lengths else 0
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, left in enumerate(room) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


@contextmanager
def quick_attention(weights: Any) -> Iterator[None]:
    """On a processor, do without the fused attention kernel: half of a step was its backward."""
    fused = weights.config._attn_implementation
    if weights.device.type == "cpu" and heeds_masks(weights):
        weights.set_attn_implementation("eager")
    try:
        yield
    finally:
        weights.set_attn_implementation(fused)


def _cut(example: Example) -> _Part:
    ids, labels = example
    learned = [i for i, label in enumerate(labels) if label != IGNORED and i > 0]
    return _Part(
        tokens=list(ids[: learned[-1]]) if learned else [],
        asked=[i - 1 for i in learned],
        labels=[labels[i] for i in learned],
    )
