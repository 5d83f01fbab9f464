"""Which rungs go on on `select`: what is clearly not the best is left behind early.

Rungs race: all of them run with a part of their samples, then those that are left with twice as
many, and so on. A rung is left behind once it is below the best by more than its sampling error
says (Maron and Moore, «Hoeffding races», NeurIPS 1993; here by the paired t interval). This chooses
on `select` alone, so that what is estimated on `test` stays free of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdback.audit.records import Place, Records
from holdback.extensions import offered
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.statistics.selection import choose_rung
from holdback.tasks.task import Split, TaskOffers

ALPHA = 0.05
"""Of leaving the best rung behind in one comparison. It costs a little of what is elicited."""


def shorten(specs: Sequence[RunSpec], *, number: int, rounds: int) -> list[RunSpec]:
    """Give runs the samples of a round, the last of which has them all."""
    share = 2 ** (rounds - number)
    return [replace(spec, samples=math.ceil(spec.samples / share)) for spec in specs]


def drop_beaten(
    resolved: Resolved, records: Records, rungs: Mapping[Place, Sequence[str]]
) -> dict[Place, list[str]]:
    """Keep of each place's rungs those that may still be the best, and those that are needed.

    Needed are the ordinary protocol, what is never chosen (placebos, keys), and rungs of
    demonstrations that are compared beside the choice: those of a curve, and a weak demonstrator's.
    """
    kept = {}
    for place, names in rungs.items():
        measured = records.measure_rungs(place, Split.SELECT)
        needed = _list_needed(resolved, records, place, names)
        racing = {name: measured[name] for name in names if name in measured}
        racing = {name: found for name, found in racing.items() if records.is_candidate(name)}
        racing.pop(resolved.plan.displayed.name, None)
        best = racing[choose_rung(racing)] if racing else None
        kept[place] = [
            name
            for name in names
            if name in needed
            or name not in racing
            or best is None
            or not racing[name].minus(best).p_below(0.0) < ALPHA
        ]
    return kept


def _list_needed(
    resolved: Resolved, records: Records, place: Place, names: Sequence[str]
) -> set[str]:
    plan = resolved.plan
    strong = offered(TaskOffers, resolved.tasks[place[1]], "strong_demonstrator")
    taught: dict[str, list[str]] = {}
    for name in names:
        demonstrator = plan.rung(name).parameters.get("demonstrator")
        if isinstance(demonstrator, str):
            taught.setdefault(demonstrator, []).append(name)
    compared = [
        name
        for demonstrator, rungs in taught.items()
        if demonstrator != strong or len(rungs) > 1
        for name in rungs
    ]
    never_chosen = [name for name in names if not records.is_candidate(name)]
    return {plan.displayed.name, *compared, *never_chosen}
