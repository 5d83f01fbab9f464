"""What a steering direction does beyond random ones of the same length."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdback.elicitation.technique import make_technique, offers
from holdback.plan import Rung

FEWEST_SEEDS = 24
"""Random directions without which a comparison says so: fewer cannot come below p = 0.04."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceboComparison:
    """A steering rung beside random directions at the same layers and coefficient."""

    rung: str
    placebo: str
    value: float
    """Of the rung, the mean over its seeds, in the task's unit."""
    placebos: tuple[float, ...]
    """Of each random direction, in the same unit."""

    @property
    def p_value(self) -> float:
        """One-sided: the chance that a random direction does as well, the rung itself among them.

        (1 + #{random ≥ contrast}) / (1 + #random). Source: Phipson and Smyth (2010), «Permutation
        p-values should never be zero».
        """
        as_good = sum(value >= self.value for value in self.placebos)
        return (1 + as_good) / (1 + len(self.placebos))


def compare_placebos(
    rungs: Sequence[Rung], values: Mapping[str, Sequence[float]]
) -> list[PlaceboComparison]:
    """Compare steering rungs with their random twins.

    Args:
        rungs: Those of a place (a checkpoint on a task), of any technique.
        values: Rung to its capability under each seed, on one split; rungs without are left out.

    Returns:
        One a steering rung that has a twin with values.
    """
    twins: dict[str, Rung] = {
        _identify(rung): rung for rung in _steering(rungs, values) if _is_placebo(rung)
    }
    return [
        PlaceboComparison(
            rung=rung.name,
            placebo=twin.name,
            value=statistics.fmean(values[rung.name]),
            placebos=tuple(values[twin.name]),
        )
        for rung in _steering(rungs, values)
        if not _is_placebo(rung) and (twin := twins.get(_identify(rung))) is not None
    ]


def remark_placebos(
    checkpoint: str,
    task: str,
    rungs: Sequence[Rung],
    values: Mapping[str, Sequence[float]],
    *,
    unit: str,
) -> Iterator[str]:
    """Write what steering did beyond random directions, a sentence a rung.

    Args:
        checkpoint: Whose rungs they are.
        task: On which task.
        rungs: As of `compare_placebos`.
        values: Likewise.
        unit: Of the values.
    """
    for found in compare_placebos(rungs, values):
        few = ""
        if len(found.placebos) < FEWEST_SEEDS:
            few = f"; {FEWEST_SEEDS} seeds of {found.placebo} or more would tell more"
        yield (
            f"{checkpoint} on {task}: {found.rung} reaches {found.value:.1f} {unit},"
            f" {len(found.placebos)} random directions of the same length"
            f" {statistics.fmean(found.placebos):.1f} on average and {max(found.placebos):.1f} at"
            f" best (p = {found.p_value:.2f}, by permutation){few}"
        )


def _steering(rungs: Sequence[Rung], values: Mapping[str, Sequence[float]]) -> Iterator[Rung]:
    return (rung for rung in rungs if rung.technique == "steering" and values.get(rung.name))


def _is_placebo(rung: Rung) -> bool:
    return offers(make_technique(rung)).is_placebo


def _identify(rung: Rung) -> str:
    """Everything about a steering rung but whether its direction is random."""
    technique: Any = make_technique(rung)
    return json.dumps([technique.coefficient, technique.depths])
