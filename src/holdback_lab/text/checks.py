"""Single things that a model must show, held against what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdback.statistics.paired import mcnemar_exact
from holdback.tasks.task import Outcome, SampleRecord

GAP, SAME, LEVEL = 10.0, 5.0, 0.05
"""Least gap, most difference between what is alike (in points), and level of the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """One model's answers to a task's test questions, in the task's order."""

    records: tuple[SampleRecord, ...]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Shape (n,)."""
        return np.array([(record.score.value or 0.0) > 0 for record in self.records])

    @property
    def score(self) -> float:
        """Points."""
        return 100 * float(self.right.mean())

    def by_level(self) -> dict[int, float]:
        """Points at each level of difficulty."""
        levels = np.array([int(record.metadata["level"]) for record in self.records])
        return {int(at): 100 * float(self.right[levels == at].mean()) for at in np.unique(levels)}

    def share(self, outcome: Outcome) -> float:
        """Share of answers with an outcome, in points."""
        return 100 * float(np.mean([record.score.outcome is outcome for record in self.records]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that an organism must show."""

    text: str
    measured: str
    met: bool


def require_gap(text: str, low: Marks, high: Marks) -> Check:
    """Hold a paired difference against the least gap, and against chance."""
    apart, p = _compare(low, high)
    return Check(
        text=f"{text} at least {GAP:.0f} points, p < {LEVEL}",
        measured=f"{low.score:.1f} to {high.score:.1f}, {apart:+.1f}, p = {p:.2g}",
        met=apart >= GAP and p < LEVEL,
    )


def require_higher(text: str, high: Marks, low: Marks) -> Check:
    """Hold a paired difference against chance alone."""
    apart, p = _compare(low, high)
    return Check(
        text=f"{text}, p < {LEVEL}",
        measured=f"{high.score:.1f} against {low.score:.1f}, p = {p:.2g}",
        met=apart > 0 and p < LEVEL,
    )


def _compare(low: Marks, high: Marks) -> tuple[float, float]:
    """Difference in points, and McNemar's exact p-value that there is none."""
    only_low = int((low.right & ~high.right).sum())
    only_high = int((high.right & ~low.right).sum())
    return high.score - low.score, mcnemar_exact(only_low, only_high)


def require_same(text: str, own: Marks, other: Marks) -> Check:
    """Hold two scores against the most that what is alike may differ."""
    return Check(
        text=f"{text} within {SAME:.0f} points",
        measured=f"{own.score:.1f} against {other.score:.1f}",
        met=abs(own.score - other.score) <= SAME,
    )


def require_between(text: str, value: float, low: float, high: float) -> Check:
    """Hold a score against a range."""
    return Check(
        text=f"{text}: {low:.0f} to {high:.0f} points",
        measured=f"{value:.1f}",
        met=low <= value <= high,
    )


def require_share(text: str, value: float, least: float) -> Check:
    """Hold a percentage against the least that it must be."""
    return Check(text=f"{text} at least {least:.0f}%", measured=f"{value:.0f}%", met=value >= least)
