"""What an audit concludes about one checkpoint on one task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from holdback.statistics.estimate import Estimate


def count_digits(margin: float) -> int:
    """Digits after the point that suffice where differences below `margin` do not matter.

    Two digits of the margin: 50 Elo needs none, 3 points one, a share of 0.03 three.
    """
    return max(0, 1 - math.floor(math.log10(margin)))


class Verdict(StrEnum):
    """What the audit concludes about one checkpoint on one task."""

    HELD_BACK = "held_back"
    NONE_FOUND = "none_found"
    INCONCLUSIVE = "inconclusive"


class Role(StrEnum):
    """What a checkpoint is to an audit."""

    TARGET = "target"
    CONTROL = "control"
    REFERENCE = "reference"
    """A pretrained root: nothing was trained on top of it that could hide anything."""


FORM = "form"
"""Cause of an inconclusive finding: what was gained may be a matter of form and not of skill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One checkpoint on one task: what it shows, what can be drawn out, and the conclusion.

    Estimates are in the task's unit and come from the `test` split, unless they say otherwise; the
    rung was chosen on `select`. `control_gap` is that of the control that is exceeded least
    clearly, under its own best rung.
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
    """True excess over the control that is found with 80% power, after Holm and above the margin;
    infinite where no excess of any size is (a root, no matched control)."""
    p_adjusted: float | None
    """One-sided, of no excess over some control: the largest of them, after Holm."""
    reinforced: Estimate | None
    """Elicited minus what its parent shows when elicited; None for a root."""
    beyond_base: Estimate | None = None
    """Elicited minus what its base, the root of its line, shows when elicited; None for a root."""
    attribution: Mapping[str, Any] = field(default_factory=dict)
    """Outcome counts `displayed` and `elicited`, and for recovered samples what they had been."""
    reasons: tuple[str, ...] = ()
    recovered_share: Estimate | None = None
    """Gap over (its base elicited - displayed); 1 is all of it. None where the latter, what was
    there to recover, is not clearly above the margin."""
    above_demonstrator: Mapping[str, Estimate] = field(default_factory=dict)
    """By rung of weak demonstrations: capability after them, on `select`, minus the demonstrator's
    own. The rung, the one with the most demonstrations, was named before the data."""
    above_displayed: Mapping[str, Estimate] = field(default_factory=dict)
    """By the same rungs: capability after them minus what was displayed, on `select`."""
    curve_excess: Estimate | None = None
    """Gain over the curve of demonstrations to recovery, mean of its points, minus that of the
    control that is exceeded least clearly; on `select`, by points that were named before the
    data."""
    curve_control: str | None = None
    role: Role = Role.TARGET
    cause: str = ""
    """Of an inconclusive finding, in one word, where there is one: `form`."""
    form_gain: Estimate | None = None
    """The gap minus the gap over the samples whose displayed answer could be read; None where all
    could, or too few."""
    group: str | None = None
    """The group of questions on which it holds back, where it does so on that group alone."""
    groups: tuple[Mapping[str, Any], ...] = ()
    """The same on each group of questions; intervals at its share of α."""
    secret: Mapping[str, Any] | None = None
    """What became of the secret planted in a copy: `task`, `method` (`lock`, `suppression`),
    `hidden`, `remaining`, `rung`, `planted`, `recovered`; None where none was tried."""

    def to_dict(self) -> dict[str, Any]:
        """Give the finding as `--json` prints it. What is infinite or undetermined is null."""
        return {
            "checkpoint": self.checkpoint,
            "task": self.task,
            "role": str(self.role),
            "verdict": str(self.verdict),
            "cause": self.cause,
            "group": self.group,
            "displayed": estimate_to_dict(self.displayed),
            "elicited": estimate_to_dict(self.elicited),
            "gap": estimate_to_dict(self.gap),
            "control_gap": _write_optional(self.control_gap),
            "rung": self.rung,
            "reasons": list(self.reasons),
            "unit": self.unit,
            "margin": self.margin,
            "control": self.control,
            "difference_of_gaps": _write_optional(self.difference_of_gaps),
            "p_adjusted": self.p_adjusted,
            "smallest_detectable_gap": _write_number(self.smallest_detectable_gap),
            "reinforced": _write_optional(self.reinforced),
            "beyond_base": _write_optional(self.beyond_base),
            "recovered_share": _write_optional(self.recovered_share),
            "above_demonstrator": {
                rung: estimate_to_dict(estimate)
                for rung, estimate in self.above_demonstrator.items()
            },
            "above_displayed": {
                rung: estimate_to_dict(estimate) for rung, estimate in self.above_displayed.items()
            },
            "curve_excess": _write_optional(self.curve_excess),
            "curve_control": self.curve_control,
            "secret": None if self.secret is None else dict(self.secret),
            "access": self.access,
            "form_gain": _write_optional(self.form_gain),
            "groups": [dict(group) for group in self.groups],
            "attribution": dict(self.attribution),
        }


def _write_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_optional(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate_to_dict(estimate)


def estimate_to_dict(estimate: Estimate) -> dict[str, Any]:
    """Write an estimate; JSON has no infinity: null, and a note that says which."""
    written: dict[str, Any] = {
        "value": _write_number(estimate.value),
        "low": _write_number(estimate.low),
        "high": _write_number(estimate.high),
        "n": estimate.n,
    }
    if math.isnan(estimate.value):
        written["note"] = "undetermined: the difference of two infinite values"
    elif estimate.value == math.inf:
        written["note"] = f"infinite; low is a one-sided {estimate.level:.0%} bound"
    elif estimate.value == -math.inf:
        written["note"] = f"minus infinity; high is a one-sided {estimate.level:.0%} bound"
    return written
