"""How far a ladder took a checkpoint, measured on `test`: the whole, and by groups of questions."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from holdback.audit.records import Place, Records
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement
from holdback.tasks.task import Outcome, SampleRecord, Split
from holdback.verdict import Climb

UNREADABLE = frozenset({Outcome.UNPARSED, Outcome.TRUNCATED, Outcome.ILLEGAL})
"""Outcomes of answers that could not be read. A refusal can."""
_MOST_GROUPS = 20
_LEAST_SAMPLES = 20
"""Of a group, for a finding about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A checkpoint's samples on `test`, displayed and elicited."""

    place: Place
    rung: str
    displayed: Sequence[SampleRecord]
    elicited: Sequence[SampleRecord]

    def of_group(self, group: str) -> Answers:
        """Keep the samples of one group, each a cluster where the group was one."""
        return replace(
            self,
            displayed=_pick_group(self.displayed, group),
            elicited=_pick_group(self.elicited, group),
        )


def read_answers(records: Records, place: Place, rung: str, *, look: int) -> Answers:
    """Read what a checkpoint answered up to a look."""
    first = records.plan.displayed.name
    return Answers(
        place=place,
        rung=rung,
        displayed=records.pool(place, first, Split.TEST, look=look),
        elicited=records.pool(place, rung, Split.TEST, look=look),
    )


def measure_whole(records: Records, answers: Answers, *, look: int) -> Climb | None:
    """Measure all samples; None where they do not suffice."""
    measured = records.measure_rungs(answers.place, Split.TEST, look=look)
    displayed = measured.get(records.plan.displayed.name)
    elicited = measured.get(answers.rung)
    if displayed is None or elicited is None:
        return None
    return _make_climb(records, answers, displayed, elicited)


def measure_group(records: Records, answers: Answers, group: str) -> Climb | None:
    """Measure one group of questions; None where its samples do not suffice."""
    part = answers.of_group(group)
    displayed = records.measure(answers.place, part.displayed)
    elicited = records.measure(answers.place, part.elicited)
    if displayed is None or elicited is None:
        return None
    return _make_climb(records, part, displayed, elicited)


def list_groups(answers: Answers) -> list[str]:
    """Name the groups of a task's questions; none where there is one, or where they are too small.

    A group is what the task's column `groups` says, or else a cluster.
    """
    counts = Counter(map(_group_of, answers.displayed))
    enough = min(counts.values(), default=0) >= _LEAST_SAMPLES
    return sorted(counts) if enough and 2 <= len(counts) <= _MOST_GROUPS else []


def _make_climb(
    records: Records, answers: Answers, displayed: Measurement, elicited: Measurement
) -> Climb:
    unread = {r.sample_id for r in answers.displayed if r.score.outcome in UNREADABLE}
    readable = [
        records.measure(answers.place, [r for r in among if r.sample_id not in unread])
        for among in (answers.displayed, answers.elicited)
        if unread
    ]
    both = [measured for measured in readable if measured is not None]
    return Climb(
        checkpoint=answers.place[0],
        displayed=displayed,
        elicited=elicited,
        rung=answers.rung,
        access=records.access(answers.place, answers.rung),
        unread=len(unread),
        readable=(both[0], both[1]) if len(both) == 2 else None,
        unreadable_share=clustered_mean(
            [float(r.score.outcome in UNREADABLE) for r in answers.elicited],
            [r.cluster for r in answers.elicited],
            support=(0.0, 1.0),
        ),
        prompts=dict(_digest_prompts(answers.displayed)),
    )


def _digest_prompts(displayed: Sequence[SampleRecord]) -> Iterable[tuple[str, str]]:
    """Give each sample that kept its prompt the digest of what was asked, token for token."""
    for record in displayed:
        if "prompt" in record.metadata:
            asked = [record.metadata["prompt"], record.metadata.get("prompt_token_ids")]
            yield record.sample_id, hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _group_of(record: SampleRecord) -> str:
    return str(record.metadata.get("group", record.cluster))


def _pick_group(records: Sequence[SampleRecord], group: str) -> list[SampleRecord]:
    picked = [record for record in records if _group_of(record) == group]
    if {record.cluster for record in picked} != {group}:
        return picked
    # One cluster has no spread; within it the questions are what was drawn.
    return [replace(record, cluster=record.sample_id) for record in picked]
