"""Questions with their answers, from rows; what cannot be asked is refused with its line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

from holdback.errors import ConfigError
from holdback.tasks.task import Split
from holdback.tasks.text.reading import Row

LETTERS = ascii_uppercase
_FEWEST_CHOICES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns hold what; None where the file has no such column."""

    question: str = "question"
    target: str = "target"
    choices: str | tuple[str, ...] | None = None
    """One column that holds a list, or one column a choice."""
    cluster: str | None = None
    split: str | None = None
    id: str | None = None
    difficulty: str | None = None
    groups: str | None = None

    @property
    def needed(self) -> list[str]:
        """All columns that every row must have."""
        choices = [self.choices] if isinstance(self.choices, str) else list(self.choices or ())
        named = [self.question, self.target, *choices, self.cluster, self.split, self.id]
        named += [self.difficulty, self.groups]
        return [name for name in named if name is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question."""

    number: int
    """Row of the file, from 0."""
    id: str
    cluster: str
    """Topic, template or source that questions share; splits and errors go by it. Rows that repeat
    a question share its cluster."""
    split: Split
    question: str
    targets: tuple[str, ...]
    """Right answers, any of which will do. With choices the only one, in the choices' words."""
    choices: tuple[str, ...]
    """As in the file; empty for an open question."""
    cells: Mapping[str, Any]
    """The whole row, for templates that name other columns."""
    level: float | None = None
    """Difficulty, in steps of the file's own."""
    group: str | None = None
    """What it is looked at with, apart from the others; its cluster where unsaid."""


def make_items(
    rows: Sequence[Row], columns: Columns, *, shares: Mapping[Split, float], split_seed: int
) -> list[Item]:
    """Turn rows into questions.

    Args:
        rows: At least one.
        columns: Which columns hold what.
        shares: Share of the clusters in each split, where no column says; they sum to 1.
        split_seed: Of the draw that puts whole clusters into splits.

    Raises:
        ConfigError: for a missing column (with those that are there), an empty cell, fewer than two
            choices, equal choices, a target that is not among them, an unknown split, an id twice,
            a difficulty that is no number, a question that stands in two splits.
    """
    _check_columns(rows, columns)
    items = []
    lines: dict[str, str] = {}
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    for number, row in enumerate(rows):
        question = _read_text(row, columns.question)
        choices = _read_choices(row, columns.choices)
        targets = _read_targets(row, columns.target, choices)
        id_ = f"row-{number:06d}" if columns.id is None else _read_text(row, columns.id)
        if id_ in lines:
            raise ConfigError(
                f"{row.where}: expected an id of its own, got {id_!r}, which is that of"
                f" {lines[id_]}; make ids unique or leave `id` out to number the rows"
            )
        lines[id_] = row.where
        # A question that comes again is no new draw: it shares the cluster of its first row.
        own = first.setdefault((question, choices), id_)
        cluster = own if columns.cluster is None else _read_text(row, columns.cluster)
        items.append((row, number, id_, cluster, question, targets, choices))
    drawn = draw_splits(sorted({item[3] for item in items}), shares=shares, seed=split_seed)
    made = [
        Item(
            number=number,
            id=id_,
            cluster=cluster,
            split=drawn[cluster] if columns.split is None else _read_split(row, columns.split),
            question=question,
            targets=targets,
            choices=choices,
            cells=row.cells,
            level=None if columns.difficulty is None else _read_number(row, columns.difficulty),
            group=None if columns.groups is None else _read_text(row, columns.groups),
        )
        for row, number, id_, cluster, question, targets, choices in items
    ]
    _check_repeats(made, lines)
    return made


def _check_repeats(items: Sequence[Item], lines: Mapping[str, str]) -> None:
    """Refuse a question that stands in two splits: examples would show what is asked."""
    first: dict[tuple[str, tuple[str, ...]], Item] = {}
    for item in items:
        earlier = first.setdefault((item.question, item.choices), item)
        if earlier.split is not item.split:
            raise ConfigError(
                f"{lines[item.id]}: expected a question of split {item.split} alone, got that of"
                f" {lines[earlier.id]} again, which is in split {earlier.split}; leave one of them"
                " out, or put both into one split or cluster"
            )


def draw_splits(
    clusters: Sequence[str], *, shares: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    """Put each cluster as a whole into a split, in the stated shares of their number.

    Shuffled, then cut at the shares' cumulated counts, so that the shares are met as nearly as
    whole clusters can.
    """
    order = np.random.default_rng((seed, 0)).permutation(len(clusters))
    ends = np.round(np.cumsum([shares[split] for split in Split]) * len(clusters)).astype(int)
    places = np.searchsorted(ends, np.arange(len(clusters)), side="right")
    splits = list(Split)
    return {
        clusters[int(at)]: splits[min(int(place), len(splits) - 1)]
        for at, place in zip(order, places, strict=True)
    }


def _check_columns(rows: Sequence[Row], columns: Columns) -> None:
    for row in rows:
        for name in columns.needed:
            if name not in row.cells:
                raise ConfigError(
                    f"{row.where}: expected a column {name!r}, found"
                    f" {', '.join(map(repr, row.cells)) or 'none'}; name the column that holds it"
                    " in the task's options"
                )


def _read_text(row: Row, column: str) -> str:
    cell = row.cells[column]
    if cell is None or isinstance(cell, (dict, list)) or not str(cell).strip():
        raise ConfigError(f"{row.where}: expected text in column {column!r}, got {cell!r}")
    return _write_cell(cell)


def _write_cell(cell: object) -> str:
    # Parquet and spreadsheets turn whole numbers into floats where a column has a gap.
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _read_number(row: Row, column: str) -> float:
    text = _read_text(row, column)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{row.where}: expected a number in column {column!r}, got {text!r}; number the levels"
            " of difficulty, the easiest lowest"
        )
    return number


def _read_choices(row: Row, columns: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if columns is None:
        return ()
    if isinstance(columns, str):
        cell = row.cells[columns]
        if isinstance(cell, str):
            try:
                cell = json.loads(cell)
            except ValueError:
                cell = None
        if not isinstance(cell, list):
            raise ConfigError(
                f"{row.where}: expected a list in column {columns!r} (in CSV a JSON array), got"
                f" {row.cells[columns]!r:.80}"
            )
        cells = cell
    else:
        cells = [row.cells[name] for name in columns]
    # An empty last cell is a question with fewer choices than there are columns.
    while cells and cells[-1] is None:
        cells = cells[:-1]
    if any(cell is None or not str(cell).strip() for cell in cells):
        raise ConfigError(f"{row.where}: expected text in every choice, got {cells!r:.120}")
    choices = tuple(_write_cell(cell) for cell in cells)
    if not _FEWEST_CHOICES <= len(choices) <= len(LETTERS):
        raise ConfigError(
            f"{row.where}: expected 2 to {len(LETTERS)} choices, got {len(choices)}:"
            f" {list(choices)!r:.80}"
        )
    if len(set(choices)) < len(choices):
        raise ConfigError(f"{row.where}: expected choices that differ, got {list(choices)!r:.120}")
    return choices


def _read_targets(row: Row, column: str, choices: Sequence[str]) -> tuple[str, ...]:
    cell = row.cells[column]
    if not choices:
        cells = cell if isinstance(cell, list) else [cell]
        if not cells or any(part is None or not str(part).strip() for part in cells):
            raise ConfigError(f"{row.where}: expected text in column {column!r}, got {cell!r}")
        return tuple(_write_cell(part) for part in cells)
    text = _read_text(row, column)
    if text in choices:
        return (text,)
    # Files name the right choice by its text, its letter, or its index from 0; in this order.
    if len(text) == 1 and text in LETTERS[: len(choices)]:
        return (choices[LETTERS.index(text)],)
    if text.isdecimal() and int(text) < len(choices):
        return (choices[int(text)],)
    raise ConfigError(
        f"{row.where}: expected a target among the choices {list(choices)!r:.120}, by its text, its"
        f" letter or its index from 0, got {text!r}"
    )


def _read_split(row: Row, column: str) -> Split:
    cell = str(row.cells[column]).strip()
    if cell not in list(Split):
        raise ConfigError(
            f"{row.where}: expected train, select or test in column {column!r}, got {cell!r};"
            " rename it, or leave `split` out and state `shares`"
        )
    return Split(cell)
