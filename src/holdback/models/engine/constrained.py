"""Constrained decoding: the only texts that may be drawn, as a tree of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class ChoiceTree:
    """What may follow the tokens that led here."""

    following: dict[int, ChoiceTree] = field(default_factory=dict)
    whole: bool = False
    """Whether those tokens are a choice already, which a longer one may begin with: O-O, O-O-O."""


def grow_choices(choices: Iterable[Sequence[int]]) -> ChoiceTree:
    """Lay out tokenised choices; each is a way from the root."""
    root = ChoiceTree()
    for choice in choices:
        node = root
        for token in choice:
            node = node.following.setdefault(token, ChoiceTree())
        node.whole = True
    return root


def mask_logits(logits: torch.Tensor, places: Sequence[ChoiceTree | None]) -> torch.Tensor:
    """Leave each row the tokens that go on.

    All of them where what is drawn is a choice already: any token that does not go on ends it, so
    that the model weighs the shorter choice against the longer.

    Args:
        logits: Shape (rows, vocabulary).
        places: How far each row has come; None for a row that is not constrained.
    """
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    for row, place in enumerate(places):
        if place is None or place.whole:
            kept[row] = True
        else:
            kept[row, list(place.following)] = True
    return logits.masked_fill(~kept.to(logits.device), -torch.inf)
