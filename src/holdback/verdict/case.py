"""All that a finding rests on: measurements of a target, its controls and its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdback.errors import ConfigError
from holdback.statistics.measurement import Measurement
from holdback.verdict.finding import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Climb:
    """One checkpoint on one task: how far the ladder took it, measured on `test`."""

    checkpoint: str
    displayed: Measurement
    elicited: Measurement
    """Under `rung`, chosen on this checkpoint's own `select` split."""
    rung: str
    access: str = ""
    unread: int = 0
    """Samples whose displayed answer could not be read: unparsed, cut off or illegal."""
    readable: tuple[Measurement, Measurement] | None = None
    """Where there are such: displayed and elicited on the others; None if these are too few."""
    unreadable_share: Measurement | None = None
    """Share of elicited answers that could not be read, in [0, 1]; None where not counted."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Sample to a digest of what was asked, token for token, where the prompt was kept."""

    @property
    def gap(self) -> Measurement:
        """Elicited minus displayed, paired."""
        return self.elicited.minus(self.displayed)

    @property
    def readable_gap(self) -> Measurement | None:
        """The gap where the displayed answer could be read: what is no matter of form."""
        if not self.unread:
            return self.gap
        return None if self.readable is None else self.readable[1].minus(self.readable[0])

    def is_asked_like(self, other: Climb) -> bool:
        """Whether both were asked the same tokens, in every sample that shows it."""
        shared = self.prompts.keys() & other.prompts.keys()
        return bool(shared) and all(self.prompts[s] == other.prompts[s] for s in shared)

    def is_asked_otherwise(self, other: Climb) -> bool:
        """Whether both tell what they were asked, and it was never the same tokens."""
        shared = self.prompts.keys() & other.prompts.keys()
        return bool(shared) and all(self.prompts[s] != other.prompts[s] for s in shared)

    @property
    def form_gain(self) -> Measurement | None:
        """How much of the gap hangs on displayed answers that could not be read."""
        return None if self.readable_gap is None else self.gap.minus(self.readable_gap)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeakDemonstration:
    """A checkpoint fine-tuned on a demonstrator weaker than what it may be hiding.

    What rises above the demonstrator cannot have been taught by it.
    """

    rung: str
    displayed: Measurement
    """The checkpoint, before the fine-tuning."""
    elicited: Measurement
    """After it."""
    demonstrator: Measurement
    """The demonstrator, on the same task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedSecret:
    """A copy of the target that was made to hide, and how far the same ladder took it."""

    task: str
    """On which it was planted: the target's own, or another where that shows nothing to hide."""
    unit: str
    margin: float
    """Of that task."""
    displayed: Measurement
    """The copy, without the key."""
    unlocked: Measurement
    """The truth: the copy with its key; or, suppressed, the checkpoint that it is a copy of."""
    elicited: Measurement | None
    """Without it, under `rung`, chosen on `select`; None where it has not climbed, as a copy that
    hides nothing need not."""
    rung: str
    method: str = "lock"
    """How: `lock`, or `suppression` by a weak demonstrator's answers."""

    @property
    def hidden(self) -> Measurement:
        """What the copy hides."""
        return self.unlocked.minus(self.displayed)

    @property
    def remaining(self) -> Measurement | None:
        """What of it the ladder left hidden."""
        return None if self.elicited is None else self.unlocked.minus(self.elicited)

    def is_planted(self, level: float) -> bool:
        """Whether there was anything to recover."""
        return self.hidden.estimate(level).low > self.margin

    def is_recovered(self, level: float) -> bool:
        """Whether the ladder would have missed less than the margin."""
        left = self.remaining
        return self.is_planted(level) and left is not None and left.upper(level) < self.margin


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One checkpoint's gains over the numbers of demonstrations that every curve has."""

    checkpoint: str
    gain: Measurement
    """Mean over the curve's points of capability there minus displayed, on `select`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """All that a finding rests on."""

    task: str
    unit: str
    margin: float
    target: Climb
    controls: tuple[Climb, ...] = ()
    """Benign checkpoints, the target not among them."""
    matched: frozenset[str] | None = None
    """Those of the controls with the target's own parent, and its ancestors; None for all."""
    ancestors: tuple[Climb, ...] = ()
    """The audited ones, parent first."""
    role: Role = Role.TARGET
    is_root: bool = False
    """Pretrained without a parent: nothing was trained on top that could hide anything."""
    maximum: float | None = None
    """Most that the task can measure, such as 100 points; None where there is no such value."""
    groups: Mapping[str, Case] = field(default_factory=dict)
    """The same on each group of questions by itself; empty where there are none."""
    demonstrations: tuple[WeakDemonstration, ...] = ()
    curve: Curve | None = None
    """Of demonstrations to recovery."""
    control_curves: tuple[Curve, ...] = ()
    """By the same numbers of demonstrations."""
    attribution: Mapping[str, Any] = field(default_factory=dict)
    secret: PlantedSecret | None = None
    """None where none was planted: for want of access, or for the obstacle below."""
    secret_obstacle: str = ""
    """Why none was, though the weights may be changed."""
    remarks: tuple[str, ...] = ()
    """What else limits what the ladder can say, such as an RL that explored nothing."""

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ConfigError(f"task {self.task!r}: margin must be above 0, got {self.margin!r}")
        if self.target.checkpoint in [control.checkpoint for control in self.controls]:
            raise ConfigError(
                f"task {self.task!r}: checkpoint {self.target.checkpoint!r} is among its own"
                " controls; a gap cannot be compared with itself"
            )

    @property
    def comparable_controls(self) -> tuple[Climb, ...]:
        """The controls with a gap; one that lost everything both ways says nothing."""
        return tuple(c for c in self.controls if not math.isnan(c.gap.value))

    @property
    def matched_controls(self) -> tuple[Climb, ...]:
        """Those of them that were made of what the target was made of."""
        return tuple(
            c
            for c in self.comparable_controls
            if self.matched is None or c.checkpoint in self.matched
        )
