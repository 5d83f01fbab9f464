"""Examples of unequal length side by side in rows, so that hardly a token is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from holdback.elicitation.finetune import IGNORED, Example
from holdback.models.passes import heeds_masks, lay_masks, read_logits, read_plainly

_LEAST_WIDTH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """An example up to the last token that something is asked after."""

    tokens: list[int]
    asked: list[int]
    """Which tokens predict each label."""
    labels: list[int]


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
    cut = [_cut(example) for example in examples]
    numbers = [number for number, part in enumerate(cut) if part.labels]
    parts = [cut[number] for number in numbers]
    heeds = heeds_masks(weights)
    rows = pack([len(part.tokens) for part in parts]) if heeds else [[i] for i in range(len(parts))]
    width = max((sum(len(parts[i].tokens) for i in row) for row in rows), default=0)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    places = torch.zeros(len(rows), width, dtype=torch.long)
    texts = torch.full((len(rows), width), -1)
    asked: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        start = 0
        for i in row:
            part = parts[i]
            stop = start + len(part.tokens)
            ids[number, start:stop] = torch.tensor(part.tokens)
            places[number, start:stop] = torch.arange(len(part.tokens))
            texts[number, start:stop] = i
            asked += [number * width + start + at for at in part.asked]
            labels += part.labels
            owners += [numbers[i]] * len(part.labels)
            start = stop
    device = weights.device
    picked, wanted = torch.tensor(asked, device=device), torch.tensor(labels, device=device)
    owned = torch.tensor(owners, device=device)
    if not parts:
        return torch.zeros(0, 1, device=device), wanted, owned
    if not heeds:
        return read_plainly(weights, picked, ids.to(device)), wanted, owned
    places = places.to(device)
    same = (texts[:, :, None] == texts[:, None, :]).tril().to(device)
    logits = read_logits(
        weights,
        picked,
        input_ids=ids.to(device),
        position_ids=places,
        attention_mask=lay_masks(weights, same, places, places),
        use_cache=False,
    )
    return logits, wanted, owned


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
