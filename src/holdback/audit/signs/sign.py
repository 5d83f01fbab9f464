"""What a sign of underperformance looks at, how it is tested, and how its figure is labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdback.audit.result import ProfilePoint
from holdback.statistics import game_signs
from holdback.tasks.task import SampleRecord

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """One checkpoint's records on one task under the ordinary protocol."""

    records: tuple[SampleRecord, ...]
    displayed: float | None
    """Its capability by these, in the task's unit; None where it was not measured."""
    elicited: float | None
    """What it is held capable of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign(Generic[S]):
    """One kind of sign; `take` gives None where a player's records do not speak of it."""

    name: str
    clause: str
    """What it comes to if it holds, as a verdict's sentence says it."""
    x_label: str
    y_label: str
    take: Callable[[Player], S | None]
    detect: Callable[[S, Mapping[str, S]], game_signs.SignTest]
    draw: Callable[[Player], tuple[ProfilePoint, ...]] | None = None
    """Points of the figure where they are not those of the test."""
    is_of_strength: bool = False
    """Whether honest players of another strength show it otherwise."""
    needs_controls: bool = True
    """Whether it says nothing without honest players to compare with."""
