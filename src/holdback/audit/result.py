"""What an audit found: everything that a report says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdback.plan import AuditPlan
from holdback.statistics.estimate import Estimate
from holdback.tasks.task import Split
from holdback.verdict import Finding, Role
from holdback.verdict.finding import estimate_to_dict


@dataclass(frozen=True, kw_only=True, slots=True)
class RungResult:
    """One checkpoint on one task under one rung, on one split, pooled over seeds."""

    checkpoint: str
    task: str
    unit: str
    rung: str
    technique: str
    access: str
    """Least access that the rung needs: `samples`, `logprobs`, `activations`, `weights`."""
    split: Split
    seeds: tuple[int, ...]
    estimate: Estimate
    outcomes: Mapping[str, int]
    """Outcome to count, over all samples and seeds."""
    displayed: bool
    """Whether this is the ladder's first rung, the ordinary protocol."""
    chosen: bool
    """Whether this rung was the best on `select` and so stands for `elicited` on `test`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryPoint:
    """Capability after so many demonstrations, for one seed."""

    demonstrations: int
    seed: int
    estimate: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryCurve:
    """Demonstrations to recovery: revealing takes a few, teaching takes many.

    `displayed` is the same checkpoint without demonstrations, on the same split. What rises above
    `demonstrator_capability` cannot have been taught by that demonstrator.
    """

    checkpoint: str
    task: str
    unit: str
    demonstrator: str
    split: Split
    points: tuple[RecoveryPoint, ...]
    displayed: Estimate | None
    demonstrator_capability: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfilePoint:
    """One bin of a profile: `x` in the profile's unit and the mean there."""

    x: float
    label: str
    """Opponent's name or the bin's range, as an axis prints it."""
    estimate: Estimate
    expected: float | None = None
    """What an honest player of the fitted rating would show; None where nothing is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A sign of underperformance in one checkpoint's displayed behaviour, against honest players.

    For games `name` is `intrinsic_rating` (what its moves are worth while behind, level and ahead,
    and its results), `throw` (win probability lost against own advantage), `level_holding` (win
    probability kept near even against everyone) or `response_curve` (score against opponent
    rating); for questions `below_chance` (right less often than by guessing), `flat_in_difficulty`
    (as right on hard ones as on easy ones), `position_collapse` (errors at one position) or
    `position_dependence` (right where the right choice stands at one position). `combined` is all
    signs of the checkpoint on the task as one; it has no figure and no statistic. `statistic` is
    the checkpoint's, `reference` the closest control's, `difference` their difference where both
    exist.
    """

    name: str
    checkpoint: str
    task: str
    x_label: str
    y_label: str
    points: tuple[ProfilePoint, ...]
    """What the figure draws; empty for a sign without one."""
    statistic: Estimate | None
    reference: Estimate | None
    difference: Estimate | None
    p_value: float | None
    """After Holm over all single signs of all checkpoints on the task, or all combined ones."""
    words: str
    """The result in one sentence; empty where the data allow none."""
    p_unadjusted: float | None = None
    """The checkpoint's own, whatever else was audited."""
    clause: str = ""
    """What it comes to if it holds, as a verdict's sentence says it."""

    def to_dict(self) -> dict[str, Any]:
        """Give the sign as `--json` prints it, without its figure."""
        estimates = {
            name: None if value is None else estimate_to_dict(value)
            for name, value in (
                ("statistic", self.statistic),
                ("reference", self.reference),
                ("difference", self.difference),
            )
        }
        return {
            "sign": self.name,
            "checkpoint": self.checkpoint,
            "task": self.task,
            **estimates,
            "p_adjusted": self.p_value,
            "p_unadjusted": self.p_unadjusted,
            "words": self.words,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolReport:
    """What one of the usual evaluation protocols would have reported of a target."""

    protocol: str
    """`as_it_is`, `base`, `helpful_only`, `prompts`, `fine_tune` or `ladder`."""
    checkpoint: str
    task: str
    unit: str
    measured: str
    """The checkpoint that this protocol asks: the target itself, its base or a sibling."""
    rung: str
    split: Split
    estimate: Estimate
    truth: Estimate | None
    """What the checkpoint that shows it openly reaches, where the lineage names one."""
    error: Estimate | None
    """`estimate` less `truth`: below 0 the protocol reports less than the model can do."""

    def to_dict(self) -> dict[str, Any]:
        """Give the report as `--json` prints it. What is infinite or undetermined is null."""
        return {
            "protocol": self.protocol,
            "checkpoint": self.checkpoint,
            "task": self.task,
            "unit": self.unit,
            "measured": self.measured,
            "rung": self.rung,
            "split": str(self.split),
            "estimate": estimate_to_dict(self.estimate),
            "truth": None if self.truth is None else estimate_to_dict(self.truth),
            "error": None if self.error is None else estimate_to_dict(self.error),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleGame:
    """One stored game, to read."""

    checkpoint: str
    task: str
    rung: str
    opponent: str
    outcome: str
    pgn: str
    win_probabilities: tuple[float, ...] = ()
    """The checkpoint's own, before each of its moves; empty where they were not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRun:
    """A run that ended in an error; its samples are missing from every estimate."""

    label: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """Everything a report says."""

    plan: AuditPlan
    findings: tuple[Finding, ...]
    rungs: tuple[RungResult, ...]
    """Both splits; `test` only for displayed and for the chosen rung."""
    curves: tuple[RecoveryCurve, ...]
    signatures: tuple[Signature, ...]
    games: tuple[ExampleGame, ...]
    failed: tuple[FailedRun, ...]
    remarks: tuple[str, ...]
    """What a reader should know beside the findings: base below tuned, rungs skipped, …"""
    command: str
    seconds: float
    """Wall time of the runs in the store, added up over restarts."""
    samples: int
    versions: Mapping[str, str] = field(default_factory=dict)
    """`holdback`, `python`, `platform`, `engine`, … to what produced the records."""
    store: str = ""
    """Where the records lie."""
    protocols: tuple[ProtocolReport, ...] = ()
    """What the usual evaluation protocols would have reported of every target."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """Task to how it is put and scored, in a sentence; tasks that do not say are left out."""
    chances: Mapping[str, float] = field(default_factory=dict)
    """Task to what answering at random scores, in its unit; tasks without such a level are left
    out."""

    def to_dict(self) -> dict[str, Any]:
        """Give what `holdback audit --json` prints: findings by role, targets first."""
        return {
            "findings": [finding.to_dict() for role in Role for finding in self.of_role(role)],
            "signs": [sign.to_dict() for sign in self.signatures if sign.p_value is not None],
            "protocols": [report.to_dict() for report in self.protocols],
            "remarks": list(self.remarks),
        }

    def of_role(self, role: Role) -> list[Finding]:
        """List the findings on targets, on controls or on references."""
        return [finding for finding in self.findings if finding.role is role]
