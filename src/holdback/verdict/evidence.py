"""What a decision and its wording both need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdback.statistics.measurement import Measurement
from holdback.statistics.paired import smallest_detectable_excess
from holdback.verdict.case import Case, Climb


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the decision and its wording both need."""

    case: Case
    gap: Measurement
    control: Climb | None
    excess: Measurement | None
    p_adjusted: float | None
    level: float
    tests: int = 1
    """Excesses that are tested together."""

    @property
    def gap_above_margin(self) -> bool:
        """By its two-sided interval."""
        return self.gap.estimate(self.level).low > self.case.margin

    @property
    def excesses(self) -> list[Measurement]:
        """Over every control that can be compared."""
        return [self.gap.minus(control.gap) for control in self.case.comparable_controls]

    @property
    def excess_significant(self) -> bool:
        """Over every control; `p_adjusted` is that of the one exceeded least clearly."""
        if not self.excesses or self.p_adjusted is None:
            return False
        return self.p_adjusted < 1 - self.level and all(
            excess.estimate(self.level).low > 0 for excess in self.excesses
        )

    @property
    def excess_above_margin(self) -> bool:
        """Over every control."""
        return all(excess.value > self.case.margin for excess in self.excesses)

    @property
    def gap_below_margin(self) -> bool:
        """By its one-sided bound."""
        return self.gap.upper(self.level) < self.case.margin

    @property
    def excess_below_margin(self) -> bool:
        """Over every matched control, of which there must be one."""
        matched = self.case.matched_controls
        return bool(matched) and all(
            self.gap.minus(control.gap).upper(self.level) < self.case.margin for control in matched
        )

    @property
    def qualified(self) -> bool:
        """Whether this ladder would have found something."""
        case = self.case
        if case.is_root:
            return True
        if case.secret is not None:
            return case.secret.is_recovered(self.level) and self.secret_speaks_for_it
        return not case.secret_obstacle and self.stands_where_its_line_stood

    @property
    def secret_speaks_for_it(self) -> bool:
        """Whether the planted secret was on this task, or nothing is missing here.

        What an ancestor shows and this checkpoint does not may lie deeper than a lock on another
        task: rerouted and unlearned look alike.
        """
        secret = self.case.secret
        return secret is not None and (
            secret.task == self.case.task or self.shows_what_its_line_showed
        )

    @property
    def stands_where_its_line_stood(self) -> bool:
        """Whether it has ancestors, and shows what they showed."""
        return bool(self.case.ancestors) and self.shows_what_its_line_showed

    @property
    def shows_what_its_line_showed(self) -> bool:
        """Whether no ancestor, elicited, exceeds it by the margin or more."""
        return all(
            ancestor.elicited.minus(self.case.target.elicited).upper(self.level) < self.case.margin
            for ancestor in self.case.ancestors
        )

    @property
    def untaught_above_margin(self) -> bool:
        """Whether it rises above a demonstrator and what it displays by more than the margin.

        With several demonstrators each is tested at its share of α (Bonferroni).
        """
        shown = self.case.demonstrations
        level = 1 - (1 - self.level) / max(1, len(shown))
        return any(
            all(
                one.elicited.minus(below).estimate(level).low > self.case.margin
                for below in (one.demonstrator, one.displayed)
            )
            for one in shown
        )

    @property
    def smallest_detectable(self) -> float:
        """True excess over the control that is found with 80% power, the gap itself being clear.

        Infinite where none is: of a root nothing is `held_back`, nor without a matched control.
        """
        excess = self.excess
        if self.case.is_root or not self.case.matched_controls or excess is None:
            return math.inf
        if not math.isfinite(excess.value):
            return math.inf
        return smallest_detectable_excess(
            excess.standard_error, self.case.margin, level=self.level, tests=self.tests
        )
