"""Several models' logs against the first's, task by task: what differs, by how much, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdback.compare.logs import LoggedSample, TaskLog
from holdback.compare.pairing import Pair, Pairing, pair_logs
from holdback.errors import ConfigError, InsufficientDataError
from holdback.statistics.estimate import Estimate
from holdback.statistics.flips import (
    detectable_by_flips,
    detectable_difference,
    flip_p_value,
)
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement, index_clusters
from holdback.statistics.paired import assess_equivalence
from holdback.statistics.selection import adjust_holm
from holdback.tasks.task import Outcome

MOST_EXAMPLES = 1000
"""Of each direction that are kept of a comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """All logs of one thing that is compared, and what it is called in tables."""

    name: str
    logs: tuple[TaskLog, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What of a difference came about through one outcome of the worse side."""

    lost: float
    """Sum of what the other lost to the first by answers of its own with this outcome."""
    gained: float
    """Sum of what the other gained on the first where the first's answer had this outcome."""
    difference: float
    """(gained - lost) / n; over all outcomes these add up to the difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One log against another on one task; differences are the other's less the first's."""

    task: str
    first: str
    other: str
    score: str
    lower_is_better: bool
    first_score: Estimate
    other_score: Estimate
    difference: Estimate
    test: str
    p_value: float
    p_adjusted: float
    """Holm's, over all tasks and all models compared."""
    gained: int
    """Pairs on which the other scores higher."""
    lost: int
    examples_gained: tuple[Pair, ...]
    examples_lost: tuple[Pair, ...]
    routes: Mapping[str, Route]
    first_outcomes: Mapping[str, int]
    other_outcomes: Mapping[str, int]
    detectable: float | None
    """True difference found with 80% power by so many pairs that flip as often, or as often as the
    difference needs; None where none would be."""
    equivalent_within: float
    """Least margin within which the two are shown to be equivalent (TOST)."""
    margin: float | None
    equivalence_p: float | None
    equivalence_p_adjusted: float | None
    pairing: Pairing
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`higher` or `lower`, `equivalent`, both joined by a comma, or `undecided`."""
        alpha = 1 - self.difference.level
        words = []
        if self.p_adjusted < alpha:
            words.append("higher" if self.difference.value > 0 else "lower")
        if self.equivalence_p_adjusted is not None and self.equivalence_p_adjusted < alpha:
            words.append("equivalent")
        return ", ".join(words) or "undecided"

    def to_dict(self, *, examples: int) -> dict[str, Any]:
        """Everything as JSON, with so many examples of flips each way."""
        pairing = self.pairing
        return {
            "task": self.task,
            "first": self.first,
            "other": self.other,
            "score": self.score,
            "lower_is_better": self.lower_is_better,
            "n": self.difference.n,
            "clusters": self.difference.n_clusters,
            "paired_by": pairing.paired_by,
            "scores": {
                "first": _write_estimate(self.first_score),
                "other": _write_estimate(self.other_score),
            },
            "difference": _write_estimate(self.difference),
            "verdict": self.verdict,
            "test": self.test,
            "p": self.p_value,
            "p_adjusted": self.p_adjusted,
            "flips": {
                "gained": self.gained,
                "lost": self.lost,
                "examples_gained": [_write_pair(p) for p in self.examples_gained[:examples]],
                "examples_lost": [_write_pair(p) for p in self.examples_lost[:examples]],
            },
            "routes": {
                name: {"lost": r.lost, "gained": r.gained, "difference": r.difference}
                for name, r in self.routes.items()
            },
            "outcomes": {"first": dict(self.first_outcomes), "other": dict(self.other_outcomes)},
            "detectable_difference": self.detectable,
            "equivalent_within": self.equivalent_within,
            "equivalence": None
            if self.margin is None
            else {
                "margin": self.margin,
                "p": self.equivalence_p,
                "p_adjusted": self.equivalence_p_adjusted,
            },
            "dropped": {
                "samples": pairing.dropped,
                "share": pairing.dropped_share,
                "mismatched": {name: list(ids) for name, ids in pairing.mismatched.items()},
            },
            "left_out": dict(pairing.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """All comparisons, and the tasks that could not be among them."""

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = field(default=())


def compare_sources(
    sources: Sequence[Source],
    *,
    margin: float | None = None,
    level: float = 0.95,
    common: bool = False,
) -> ComparisonReport:
    """Compare every source with the first on every task that both have.

    A task with too few independent samples for an interval is left out and named in the notes.

    Args:
        sources: Two or more.
        margin: Differences below it do not matter, in the unit of the score; None for no test of
            equivalence.
        level: 1 - α of tests and intervals.
        common: Compare what two logs share where their samples differ.

    Raises:
        MismatchError: if two logs' samples differ.
        ConfigError: if two sources have no task in common, or not the same score; or for a margin
            as wide as the score's range.
        InsufficientDataError: with fewer than two clusters on every task.
    """
    if margin is not None and margin <= 0:
        raise ConfigError(f"--margin: expected a difference above 0, got {margin}")
    if not 0 < level < 1:
        raise ConfigError(f"--level: expected a share between 0 and 1, got {level}")
    notes: list[str] = []
    found = []
    for other in sources[1:]:
        for first_log, other_log in _match_tasks(sources[0], other, notes):
            pairing = pair_logs(first_log, other_log, common=common)
            names = (sources[0].name, other.name)
            try:
                compared = _compare(
                    first_log, other_log, names, pairing, margin=margin, level=level
                )
            except InsufficientDataError as error:
                notes.append(f"task {first_log.task!r} of {other.name!r} is left out: {error}")
            else:
                found.append(compared)
    if not found:
        raise InsufficientDataError(notes[-1])
    return ComparisonReport(comparisons=tuple(_adjust(found)), notes=tuple(notes))


def _match_tasks(
    first: Source, other: Source, notes: list[str]
) -> Iterator[tuple[TaskLog, TaskLog]]:
    ours = {log.task: log for log in first.logs}
    theirs = {log.task: log for log in other.logs}
    if len(ours) == len(theirs) == 1 and ours.keys() != theirs.keys():
        # One task on each side is one task, whatever it is called: samples are compared anyway.
        (mine,), (their,) = ours.values(), theirs.values()
        notes.append(f"tasks {mine.task!r} and {their.task!r} are taken for one: same samples")
        yield mine, their
        return
    shared = [task for task in ours if task in theirs]
    if not shared:
        raise ConfigError(
            f"expected a task that {first.name!r} and {other.name!r} both have, got"
            f" {', '.join(ours)} and {', '.join(theirs)}"
        )
    for name, tasks, rest in ((first.name, ours, theirs), (other.name, theirs, ours)):
        alone = [task for task in tasks if task not in rest]
        if alone:
            notes.append(f"only {name} has: {', '.join(alone)}; not compared")
    yield from ((ours[task], theirs[task]) for task in shared)


def _compare(
    first: TaskLog,
    other: TaskLog,
    names: tuple[str, str],
    pairing: Pairing,
    *,
    margin: float | None,
    level: float,
) -> Comparison:
    pairs = pairing.pairs
    ours, theirs = _mean_values(pairs, _first_of), _mean_values(pairs, _other_of)
    clusters = _number_clusters(pairs)
    # The range of a score is not written in a log: 0 to 1, or as far as its values go.
    support = (
        float(min(0.0, ours.min(), theirs.min())),
        float(max(1.0, ours.max(), theirs.max())),
    )
    if margin is not None and margin >= support[1] - support[0]:
        raise ConfigError(
            f"--margin: expected a difference in the unit of the score {first.score!r}, whose"
            f" values lie from {support[0]:g} to {support[1]:g}, got {margin:g}, within which"
            f" everything is equivalent; {margin:g} points are {margin / 100:g}"
        )
    first_mean = clustered_mean(ours, clusters, support=support)
    other_mean = clustered_mean(theirs, clusters, support=support)
    measured = other_mean.minus(first_mean)
    differences = theirs - ours
    width = support[1] - support[0]
    # All or nothing, on whatever scale: 0 or 1, 0 or 100 points.
    exact = bool(np.isin(ours, support).all() and np.isin(theirs, support).all())
    test, p_value = _test(differences, clusters, measured, exact=exact)
    # In shares of the scale: what could have escaped so few samples is a share of them.
    detect = detectable_by_flips if exact else detectable_difference
    share = detect(differences / width, clusters, level=level)
    return Comparison(
        task=first.task,
        first=names[0],
        other=names[1],
        score=first.score,
        lower_is_better=first.lower_is_better,
        first_score=first_mean.estimate(level),
        other_score=other_mean.estimate(level),
        difference=_within(measured.estimate(level), width),
        test=test,
        p_value=p_value,
        p_adjusted=p_value,
        gained=int((differences > 0).sum()),
        lost=int((differences < 0).sum()),
        examples_gained=_pick_examples(pairs, differences),
        examples_lost=_pick_examples(pairs, -differences),
        routes=_trace_routes(pairs, differences, top=support[1]),
        first_outcomes=_count_outcomes(pairs, _first_of),
        other_outcomes=_count_outcomes(pairs, _other_of),
        detectable=None if share is None else width * share,
        equivalent_within=min(width, max(-measured.lower(level), measured.upper(level))),
        margin=margin,
        equivalence_p=None if margin is None else assess_equivalence(measured, margin).p_value,
        equivalence_p_adjusted=None,
        pairing=pairing,
        notes=tuple(_remark(first, other, names, pairing)),
    )


def _within(estimate: Estimate, width: float) -> Estimate:
    """Cut an interval off where no difference can be: beyond the scale's own width."""
    return replace(estimate, low=max(estimate.low, -width), high=min(estimate.high, width))


Side = Callable[[Pair], tuple[LoggedSample, ...]]


def _first_of(pair: Pair) -> tuple[LoggedSample, ...]:
    return pair.first


def _other_of(pair: Pair) -> tuple[LoggedSample, ...]:
    return pair.other


def _mean_values(pairs: Sequence[Pair], side: Side) -> NDArray[np.float64]:
    return np.array([_mean_value(side(pair)) for pair in pairs])


def _mean_value(samples: tuple[LoggedSample, ...]) -> float:
    values = [sample.value for sample in samples if sample.value is not None]
    return sum(values) / len(values)


def _number_clusters(pairs: Sequence[Pair]) -> list[str]:
    # Short names sort ten times as fast as digests, and are sorted several times.
    _, index = index_clusters([pair.first[0].cluster for pair in pairs])
    return list(map(str, index.tolist()))


def _test(
    differences: NDArray[np.float64],
    clusters: Sequence[str],
    measured: Measurement,
    *,
    exact: bool,
) -> tuple[str, float]:
    if exact:
        alone = len(set(clusters)) == len(clusters)
        name = "exact McNemar" if alone else "exact McNemar by cluster (sign flips)"
        return name, flip_p_value(np.sign(differences), clusters)
    return "clustered t", min(1.0, 2 * min(measured.p_above(0), measured.p_below(0)))


def _pick_examples(pairs: Sequence[Pair], differences: NDArray[np.float64]) -> tuple[Pair, ...]:
    """Take the pairs with the largest differences above 0, in the logs' order among equals."""
    order = np.argsort(-differences, kind="stable")[:MOST_EXAMPLES]
    return tuple(pairs[index] for index in order.tolist() if differences[index] > 0)


def _trace_routes(
    pairs: Sequence[Pair], differences: NDArray[np.float64], *, top: float
) -> dict[str, Route]:
    """Divide a difference by the outcomes of whichever side of a pair scores lower.

    Of several epochs each takes its share by how far it stays below `top`, the greatest score.
    """
    lost: Counter[str] = Counter()
    gained: Counter[str] = Counter()
    for index in np.flatnonzero(differences).tolist():
        pair, difference = pairs[index], float(differences[index])
        worse, side = (pair.first, gained) if difference > 0 else (pair.other, lost)
        scored = [(s.outcome, top - s.value) for s in worse if s.value is not None]
        short = sum(below for _, below in scored)
        for outcome, below in scored:
            # On a scale beyond 1 a «correct» answer may still be the worse one.
            name = Outcome.WRONG if outcome is Outcome.CORRECT else outcome
            if below:
                side[str(name)] += abs(difference) * (below / short)  # type: ignore[assignment]
    return {
        name: Route(
            lost=lost[name],
            gained=gained[name],
            difference=(gained[name] - lost[name]) / len(pairs),
        )
        for name in sorted({*lost, *gained}, key=lambda name: -max(lost[name], gained[name]))
    }


def _count_outcomes(pairs: Sequence[Pair], side: Side) -> dict[str, int]:
    counted = Counter(str(sample.outcome) for pair in pairs for sample in side(pair))
    return dict(counted.most_common())


def _remark(
    first: TaskLog, other: TaskLog, names: tuple[str, str], pairing: Pairing
) -> Iterator[str]:
    if pairing.dropped:
        yield (
            f"only what both have: {pairing.dropped} samples, {pairing.dropped_share:.1%} of both"
            " logs', dropped"
        )
    for reason, count in pairing.left_out.items():
        yield f"{count} pairs left out: {reason}"
    for name, log in zip(names, (first, other), strict=True):
        if log.shortfall:
            yield f"{name}: {log.shortfall}"
    if first.samples == other.samples:
        yield "both logs say the same of every sample: is it one log, given twice?"
    if first.lower_is_better:
        yield f"lower is better by {first.score}"


def _adjust(found: Sequence[Comparison]) -> Iterator[Comparison]:
    """Correct for how many were compared, differences and equivalences each among themselves."""
    p_values = adjust_holm([comparison.p_value for comparison in found])
    tested = [c.equivalence_p for c in found if c.equivalence_p is not None]
    equivalences = adjust_holm(tested) if tested else [None] * len(found)
    for comparison, p, equivalence in zip(found, p_values, equivalences, strict=True):
        yield replace(comparison, p_adjusted=p, equivalence_p_adjusted=equivalence)


def _write_estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "level": estimate.level,
        "n": estimate.n,
        "n_clusters": estimate.n_clusters,
        "method": estimate.method,
    }


def _write_pair(pair: Pair) -> dict[str, Any]:
    return {
        "sample_id": pair.first[0].sample_id,
        "question": pair.first[0].question,
        "target": pair.first[0].target,
        "first": [_write_sample(sample) for sample in pair.first],
        "other": [_write_sample(sample) for sample in pair.other],
    }


def _write_sample(sample: LoggedSample) -> dict[str, Any]:
    return {
        "epoch": sample.epoch,
        "value": sample.value,
        "outcome": str(sample.outcome),
        "answer": sample.answer,
    }
