"""Demonstrations from a file: a weak demonstrator's, another task's, or of the form only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from holdback.tasks.task import Split
from holdback.tasks.text.items import Columns, Item, make_items
from holdback.tasks.text.reading import Row, read_rows

_CHOICES = "choices"


def read_demonstrated(path: Path, columns: Columns, own: Sequence[Item]) -> tuple[Item, ...]:
    """Read questions with a demonstrator's answers as their targets.

    A question with choices in the file, or without any there but the task's own, is answered by one
    of these; any other is open, and its answer is taken as it stands.

    Args:
        path: Of a kind that tasks are read from, with the columns of question and answer.
        columns: The task's; id, cluster and split are not looked for.
        own: The task's questions.

    Raises:
        ConfigError: for a file or a row that cannot be read, with its line.
    """
    plain = replace(columns, cluster=None, split=None, id=None, difficulty=None, groups=None)
    known = {item.question.strip(): item for item in own}
    groups: dict[str | tuple[str, ...] | None, list[Row]] = {}
    for row in read_rows(path):
        named = plain.choices
        if named is not None and not all(
            name in row.cells for name in ([named] if isinstance(named, str) else named)
        ):
            like = known.get(str(row.cells.get(columns.question)).strip())
            named = _CHOICES if like is not None else None
            if like is not None:
                row = replace(row, cells={**row.cells, _CHOICES: list(like.choices)})  # noqa: PLW2901
        groups.setdefault(named, []).append(row)
    return tuple(
        item
        for named, rows in groups.items()
        for item in make_items(
            rows, replace(plain, choices=named), shares={Split.TRAIN: 1.0, **_NOWHERE}, split_seed=0
        )
    )


_NOWHERE = {Split.SELECT: 0.0, Split.TEST: 0.0}


def keep_unasked(demonstrated: Sequence[Item], own: Sequence[Item]) -> list[Item]:
    """Leave out what the task asks on `select` or `test`: its answers would be given away."""
    asked = {item.question.strip() for item in own if item.split is not Split.TRAIN}
    return [item for item in demonstrated if item.question.strip() not in asked]
