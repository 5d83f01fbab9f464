"""What became of samples under the chosen rung, and what the recovered ones had been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from holdback.tasks.task import Outcome, SampleRecord


def attribute_recovery(
    displayed: Sequence[SampleRecord], elicited: Sequence[SampleRecord]
) -> dict[str, Any]:
    """Count what became of samples, and what the recovered ones had been.

    Args:
        displayed: Records under the ordinary protocol.
        elicited: Records under the chosen rung.

    Returns:
        Outcome counts `displayed` and `elicited`; over the elicited answers to samples that both
        have (`joined` of them, by sample id): `recovered`, by displayed outcome, those correct only
        when elicited; `lost`, by elicited outcome, those correct only when displayed.
    """
    before = {record.sample_id: record.score.outcome for record in displayed}
    # A rung with several seeds has several answers to a sample, each of which counts.
    pairs = [
        (before[record.sample_id], record.score.outcome)
        for record in elicited
        if record.sample_id in before
    ]
    right = Outcome.CORRECT
    return {
        "displayed": _count(record.score.outcome for record in displayed),
        "elicited": _count(record.score.outcome for record in elicited),
        "joined": len(pairs),
        "recovered": _count(was for was, now in pairs if now == right and was != right),
        "lost": _count(now for was, now in pairs if was == right and now != right),
    }


def _count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    counts = Counter(str(outcome) for outcome in outcomes)
    return {str(outcome): counts[str(outcome)] for outcome in Outcome if counts[str(outcome)]}
