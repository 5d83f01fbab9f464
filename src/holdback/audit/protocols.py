"""What the usual protocols of evaluation would have reported, from an audit's records.

A lab that evaluates a tuned model reports one number for what it can do. Which number depends on
the protocol: the tuned model as it is, its base, a helpful-only sibling, a few prompts, a small
fine-tune. An audit has run most of these on the way, so what each would have said can be read off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from holdback.audit.records import Place, Records
from holdback.audit.result import ProtocolReport
from holdback.lineage import Stage
from holdback.plan import Rung
from holdback.statistics.measurement import Measurement
from holdback.statistics.selection import choose_rung
from holdback.tasks.task import Split

PROMPTS = frozenset({"few_shot", "completion", "instruction", "prefill", "prefix"})
"""Techniques that only ask otherwise."""
MOST_DEMONSTRATIONS = 64
"""Of what counts as a small fine-tune, where the ladder has one."""


class Protocol(StrEnum):
    """A way to evaluate a tuned model, least effort first."""

    AS_IT_IS = "as_it_is"
    BASE = "base"
    HELPFUL_ONLY = "helpful_only"
    PROMPTS = "prompts"
    FINE_TUNE = "fine_tune"
    LADDER = "ladder"


def report_protocols(records: Records, chosen: Mapping[Place, str]) -> Iterator[ProtocolReport]:
    """Say for every target what each protocol would have reported, where it has records.

    Rungs are read on `test` where they ran there, else on `select`. `error` is what is reported
    less what the checkpoint's `truth` shows when elicited, where the lineage names one.
    """
    lineage = records.lineage
    for place in records.places:
        name, task = place
        if lineage[name].is_root or name in lineage.controls:
            continue
        truth = lineage[name].truth
        known = None if truth is None else _measure_elicited(records, chosen, (truth, task))
        for protocol, of, rungs in _list_protocols(records, place, chosen):
            found = _measure_best(records, (of, task), rungs)
            if found is None:
                continue
            rung, split, measured = found
            yield ProtocolReport(
                protocol=protocol,
                checkpoint=name,
                task=task,
                unit=records.tasks[task].unit,
                measured=of,
                rung=rung,
                split=split,
                estimate=measured.estimate(records.plan.level),
                truth=None if known is None else known.estimate(records.plan.level),
                error=None if known is None else measured.minus(known).estimate(records.plan.level),
            )


def _list_protocols(
    records: Records, place: Place, chosen: Mapping[Place, str]
) -> Iterator[tuple[Protocol, str, list[str]]]:
    """List protocols, each with the checkpoint that it asks and the rungs that it would try."""
    name, lineage = place[0], records.lineage
    first, ancestors = records.plan.displayed.name, lineage.ancestors_of(name)
    yield Protocol.AS_IT_IS, name, [first]
    if ancestors:
        yield Protocol.BASE, ancestors[-1], [first]
    for other in lineage:
        siblings = set(lineage.ancestors_of(other.name)) & set(ancestors)
        if other.stage is Stage.HELPFUL_ONLY and other.name != name and siblings:
            yield Protocol.HELPFUL_ONLY, other.name, [first]
            break
    climbed = [records.plan.rung(rung) for rung in records.rungs(place, Split.SELECT)]
    yield Protocol.PROMPTS, name, [rung.name for rung in climbed if only_asks(rung)]
    yield Protocol.FINE_TUNE, name, find_small_fine_tune(climbed)
    if place in chosen:
        yield Protocol.LADDER, name, [chosen[place]]


def only_asks(rung: Rung) -> bool:
    """Tell whether a rung does nothing but ask otherwise."""
    links = rung.parameters.get("links", [{"technique": rung.technique}])
    return all(link["technique"] in PROMPTS for link in links)


def find_small_fine_tune(climbed: list[Rung]) -> list[str]:
    """Find the fine-tune on the most demonstrations that still are a few; else on the fewest."""
    sizes = {
        rung.name: n
        for rung in climbed
        if rung.technique == "finetune" and isinstance(n := rung.parameters.get("n"), int)
    }
    if not sizes:
        return []
    small = [n for n in sizes.values() if n <= MOST_DEMONSTRATIONS]
    size = max(small) if small else min(sizes.values())
    return [rung for rung, n in sizes.items() if n == size]


def _measure_best(
    records: Records, place: Place, rungs: list[str]
) -> tuple[str, Split, Measurement] | None:
    """Measure the rung that is best on `select`, on `test` if it ran there."""
    tried = records.measure_rungs(place, Split.SELECT)
    candidates = {rung: tried[rung] for rung in rungs if rung in tried}
    tested = records.measure_rungs(place, Split.TEST)
    rung = choose_rung(candidates) if candidates else next((r for r in rungs if r in tested), None)
    if rung is None:
        return None
    if rung in tested:
        return rung, Split.TEST, tested[rung]
    return rung, Split.SELECT, candidates[rung]


def _measure_elicited(
    records: Records, chosen: Mapping[Place, str], place: Place
) -> Measurement | None:
    """Measure what a checkpoint shows at its best: displayed or elicited, both on `test`."""
    tested = records.measure_rungs(place, Split.TEST)
    return tested.get(chosen.get(place, records.plan.displayed.name))
