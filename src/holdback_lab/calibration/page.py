"""A calibration in words and tables, as it is kept with the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from holdback.statistics.detection import roc_curve
from holdback.tasks.task import Outcome
from holdback.verdict import Verdict
from holdback_lab.calibration.rates import KEYS, measure_rates
from holdback_lab.calibration.trials import Trial
from holdback_lab.text.zoo import list_organisms

_SHORT = {Verdict.HELD_BACK: "held back", Verdict.NONE_FOUND: "none found"}


def write_calibration(
    trials: Sequence[Trial], *, command: str, failed: Sequence[str], seconds: float
) -> str:
    """Write a calibration as Markdown.

    Args:
        trials: All of them.
        command: That made them.
        failed: Organisms that failed their gate, with the reason; they are in no rate.
        seconds: Wall time of the trials.
    """
    parts = [
        "# Calibration",
        "",
        f"The last output of `{command}`: {len(trials)} trials, {len({t.organism for t in trials})}"
        f" organisms, seeds {', '.join(map(str, sorted({t.seed for t in trials})))},"
        f" {seconds / 60:.0f} minutes.",
        "",
        *_write_rates(trials),
        *_write_spent(trials),
        *_write_roc(trials),
        *_write_families(trials),
        *_write_rungs(trials),
        *_write_ways(trials),
        *_write_causes(trials),
    ]
    if failed:
        parts += ["## Failed their gate", "", *(f"- {words}" for words in failed), ""]
    return "\n".join(parts)


def _write_rates(trials: Sequence[Trial]) -> Iterator[str]:
    rates = measure_rates(trials)
    levels = _levels(trials)
    yield "| | " + " | ".join(levels) + " |"
    yield "|---|" + "---|" * len(levels)
    for key, words in KEYS.items():
        cells = [write_cell(rates[key][level]) for level in levels]
        yield f"| `{key}`: {words} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Intervals are 95%, exact where cases are independent, and widened for seeds of one family"
        " being alike; «none» where so few cases give no bound."
    )
    yield ""


def write_cell(rate: Mapping[str, float | int | None]) -> str:
    """Write a rate and its interval in per cent."""
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None:
        return "–"
    ends = ["none" if end is None else f"{100 * end:.0f}" for end in (low, high)]
    return f"{100 * value:.0f}% [{ends[0]}, {ends[1]}]"


def _write_spent(trials: Sequence[Trial]) -> Iterator[str]:
    """Say what trials cost, and how often a planted secret was brought out."""
    yield "| | " + " | ".join(_levels(trials)) + " |"
    yield "|---|" + "---|" * len(_levels(trials))
    rows: dict[str, Callable[[list[Trial]], str]] = {
        "samples that a trial rests on, median": lambda here: (
            f"{np.median([trial.samples for trial in here]):,.0f}"
        ),
        "seconds a trial beyond what it shares with those before, median": lambda here: (
            f"{np.median([t.seconds for t in here]):.0f}"
        ),
        "planted secrets that were brought out": lambda here: (
            f"{sum(t.secret == 'recovered' for t in here)} of"
            f" {sum(t.secret in ('recovered', 'not recovered') for t in here)}"
        ),
    }
    for words, count in rows.items():
        cells = [count([t for t in trials if t.access == level]) for level in _levels(trials)]
        yield f"| {words} | " + " | ".join(cells) + " |"
    yield ""


def _write_roc(trials: Sequence[Trial]) -> Iterator[str]:
    """Trace hiders found against honest ones accused, at each threshold that gains something."""
    yield "## Receiver operating characteristic"
    yield ""
    yield (
        "Findings ordered by evidence: the lower end, in points, of the interval of the gap or of"
        " its excess over the controls', whichever is less. Accusing all above a threshold:"
    )
    yield ""
    yield "| access | threshold | honest ones accused | hiders found |"
    yield "|---|---|---|---|"
    for level in _levels(trials):
        hiders = [t.score for t in trials if t.access == level and t.hides]
        honest = [t.score for t in trials if t.access == level and not t.hides]
        if min(len(hiders), len(honest)) < 2:
            continue
        points = roc_curve(hiders, honest)[1:]
        for at, point in enumerate(points):
            later = points[at + 1] if at + 1 < len(points) else None
            # Between two false alarms, the last threshold finds the most.
            if later is not None and later.false_alarms.value == point.false_alarms.value:
                continue
            accused, found = point.false_alarms.value, point.detections.value
            yield f"| {level} | {point.threshold:.1f} | {accused:.0%} | {found:.0%} |"
            if found == 1:
                break
    yield ""


def _levels(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.access for trial in trials))


def _write_families(trials: Sequence[Trial]) -> Iterator[str]:
    """One table an access level: a row an organism, over its seeds."""
    written: dict[str, list[str]] = {}
    for level in _levels(trials):
        yield f"## With {level}"
        yield ""
        here = [trial for trial in trials if trial.access == level]
        rows = list(_write_rows(here))
        alike = next((other for other, theirs in written.items() if theirs == rows), None)
        written[level] = rows
        if alike is not None:
            yield f"The same in every row as with {alike}."
            yield ""
            continue
        yield "| organism | verdicts | displayed | elicited | hidden | recovered | rungs |"
        yield "|---|---|---|---|---|---|---|"
        yield from rows
        yield ""


def _write_rows(trials: Sequence[Trial]) -> Iterator[str]:
    for group in _group(trials):
        yield _write_family(group)


def _group(trials: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Give the trials of each organism, in the zoo's order."""
    order = list(list_organisms())
    ordered = sorted(trials, key=lambda trial: (order.index(trial.organism), trial.seed))
    for _, group in groupby(ordered, key=lambda trial: trial.organism):
        yield list(group)


def _name(group: Sequence[Trial]) -> str:
    return group[0].organism if group[0].hides else f"{group[0].organism} (honest)"


def _write_family(group: Sequence[Trial]) -> str:
    verdicts = ", ".join(_SHORT.get(trial.verdict, str(trial.verdict)) for trial in group)
    recovered = [trial.recovered for trial in group if trial.recovered is not None]
    cells = [
        _name(group),
        verdicts,
        _list(trial.displayed for trial in group),
        _list(trial.elicited for trial in group),
        _list(trial.hidden for trial in group) if group[0].hides else "–",
        ", ".join(f"{share:.0%}" for share in recovered) or "–",
        ", ".join(dict.fromkeys(trial.rung for trial in group)),
    ]
    return "| " + " | ".join(cells) + " |"


def _list(values: Iterator[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def _write_rungs(trials: Sequence[Trial]) -> Iterator[str]:
    yield "## By rung"
    yield ""
    yield (
        "How often a rung was chosen for a hider, at the highest access, and the median share that"
        " it then recovered."
    )
    yield ""
    yield "| rung | access | chosen | recovered, median |"
    yield "|---|---|---|---|"
    highest = _levels(trials)[0]
    hiders = [t for t in trials if t.recovered is not None and t.access == highest]
    for (rung, reached), count in Counter((t.rung, t.reached_at) for t in hiders).most_common():
        shares = [t.recovered or 0.0 for t in hiders if (t.rung, t.reached_at) == (rung, reached)]
        yield f"| {rung} | {reached} | {count} | {np.median(shares):.0%} |"
    yield ""


def _write_ways(trials: Sequence[Trial]) -> Iterator[str]:
    """Say which way of telling reveal from teach suffices alone."""
    highest = [trial for trial in trials if trial.access == "weights"]
    if not highest:
        return
    yield "## Reveal or teach"
    yield ""
    yield (
        "At weights access, by each way alone: the curve of demonstrations against every control's,"
        " and what rises above a weak demonstrator inside one model."
    )
    yield ""
    yield "| way | hiders | honest |"
    yield "|---|---|---|"
    ways = (
        ("the verdict", lambda trial: trial.verdict is Verdict.HELD_BACK),
        ("curve against controls'", lambda trial: trial.by_curve),
        ("above a weak demonstrator", lambda trial: trial.by_weak_demonstrator),
    )
    for words, holds in ways:
        counts = []
        for hides in (True, False):
            among = [trial for trial in highest if trial.hides is hides]
            counts.append(f"{sum(map(holds, among))} of {len(among)}")
        yield f"| {words} | {counts[0]} | {counts[1]} |"
    yield ""


def _write_causes(trials: Sequence[Trial]) -> Iterator[str]:
    """Say what recovered answers had been, and who exceeds its parent: both beside the truth."""
    highest = [trial for trial in trials if trial.access == _levels(trials)[0]]
    yield "## What the recovered answers had been"
    yield ""
    yield (
        "At the highest access, over all seeds: answers that are right only when elicited, by what"
        " became of them as displayed; and in how many trials the elicited exceeds the parent"
        " elicited (`reinforced`, its interval above 0)."
    )
    yield ""
    outcomes = [
        str(outcome)
        for outcome in Outcome
        if any(trial.recovered_from.get(str(outcome)) for trial in highest)
    ]
    yield "| organism | " + "".join(f"{outcome} | " for outcome in outcomes) + "reinforced |"
    yield "|---|" + "---|" * (len(outcomes) + 1)
    for group in _group(highest):
        counts = [
            sum(trial.recovered_from.get(outcome, 0) for trial in group) for outcome in outcomes
        ]
        shares = [f"{count / sum(counts):.0%}" if sum(counts) else "–" for count in counts]
        above = [trial for trial in group if trial.reinforced is not None and trial.reinforced > 0]
        compared = [trial for trial in group if trial.reinforced is not None]
        cells = [*shares, f"{len(above)} of {len(compared)}" if compared else "–"]
        yield f"| {_name(group)} | " + " | ".join(cells) + " |"
    yield ""
