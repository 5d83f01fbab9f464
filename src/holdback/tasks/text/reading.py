"""Rows of a JSONL, CSV or Parquet file, each with the place that messages name."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdback.errors import ConfigError

_READERS = (".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One record of a file."""

    where: str
    """File and line, or row where the format has no lines."""
    cells: Mapping[str, Any]
    """Column to value; what is missing, null or NaN in the file is None."""


def read_rows(path: Path) -> list[Row]:
    """Read a file of questions, its kind told by its suffix.

    Raises:
        ConfigError: for a file that is missing, of another kind, broken (with the line) or empty.
    """
    if path.suffix.lower() not in _READERS:
        raise ConfigError(
            f"{path}: expected a file of questions as {', '.join(_READERS)}, got {path.suffix!r};"
            " convert it"
        )
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a file of questions, found none; `file` starts at the audit file"
        )
    try:
        match path.suffix.lower():
            case ".jsonl":
                rows = list(_read_jsonl(path))
            case ".parquet":
                rows = list(_read_parquet(path))
            case suffix:
                rows = list(_read_csv(path, "\t" if suffix == ".tsv" else ","))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8, got {error}; save it as UTF-8") from error
    if not rows:
        raise ConfigError(f"{path}: expected one question at least, got an empty file")
    return rows


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                cells = json.loads(line, parse_constant=_refuse_constant)
            except ValueError as error:
                raise ConfigError(
                    f"{where}: expected one JSON object a line, got {line.strip()[:60]!r}: {error}"
                ) from error
            if not isinstance(cells, dict):
                raise ConfigError(
                    f"{where}: expected one JSON object a line, got {type(cells).__name__}"
                )
            try:
                json.dumps(cells, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = error.object[error.start]
                raise ConfigError(
                    f"{where}: expected text, got half a character ({half!a}, a lone surrogate);"
                    " write the whole character or leave it out"
                ) from error
            yield Row(where=where, cells=cells)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON; write null where there is no value")


def _read_csv(path: Path, delimiter: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    expected = len(reader.fieldnames or ())
                    raise ConfigError(
                        f"{where}: expected {expected} cells, as in the first line, got another"
                        " number; quote cells that hold the delimiter or a line break"
                    )
                yield Row(where=where, cells={key: cell or None for key, cell in cells.items()})
        except csv.Error as error:
            raise ConfigError(
                f"{path}, line {reader.line_num}: expected CSV, got {error}"
            ) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow, which is not installed; `pip install pyarrow`, or save"
            " the questions as .jsonl"
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected a Parquet file, got {words}") from error
    for number, cells in enumerate(table.to_pylist(), 1):
        kept = {key: None if _is_nan(cell) else cell for key, cell in cells.items()}
        yield Row(where=f"{path}, row {number}", cells=kept)


def _is_nan(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
