"""From measurements to findings: gaps, controls, and the word that stands at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from holdback.statistics.estimate import Estimate


class Verdict(StrEnum):
    """What the audit concludes about one checkpoint on one task."""

    HELD_BACK = "held_back"
    NONE_FOUND = "none_found"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One checkpoint on one task: what it shows, what can be drawn out, and the conclusion.

    All estimates are in the task's unit and come from the `test` split; the rung was chosen on
    `select`. `control_gap` is that of the control with the largest gap, under its own best rung.
    """

    checkpoint: str
    task: str
    unit: str
    margin: float
    verdict: Verdict
    displayed: Estimate
    elicited: Estimate
    gap: Estimate
    control: str | None
    control_gap: Estimate | None
    difference_of_gaps: Estimate | None
    rung: str
    access: str
    smallest_detectable_gap: float
    p_adjusted: float | None
    reinforced: Estimate | None
    """Elicited minus the parent line's best elicited capability; None for a root."""
    attribution: Mapping[str, Any] = field(default_factory=dict)
    """Outcome counts `displayed` and `elicited`, and for recovered samples what they had been."""
    reasons: tuple[str, ...] = ()
