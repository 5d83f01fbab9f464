"""Ratings that somebody measured before: a TOML file of players and their Elo.

draw_parameter = 0.0        # optional: Davidson's ν of the fit that made these ratings

[ratings]
"Stockfish 17 level 0" = 1347
maia-1100 = 1510.5
"""

from __future__ import annotations

import math
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdback.errors import ConfigError

LARGEST_ELO = 5000.0
"""Twice of it apart, a win's probability still differs from 1 in double precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRatings:
    """Ratings of players, taken as exact."""

    elo: Mapping[str, float]
    draw_parameter: float = 0.0
    """Davidson's ν of their scale; 0 for Elo's own curve, a draw being half a point."""


def write_name(text: str) -> str:
    """Write a player's name in the one way that names are compared in."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def load_ratings(path: Path) -> KnownRatings:
    """Read a file of ratings.

    Raises:
        ConfigError: if it cannot be read, is no TOML, or holds anything but ratings.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected TOML in UTF-8, got byte {error.start} that is none"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: is not TOML: {error}; names with spaces or dots need quotes, as in"
            ' "Stockfish 17" = 3600'
        ) from error
    unknown = sorted(set(data) - {"ratings", "draw_parameter"})
    if unknown:
        raise ConfigError(
            f"{path}: expected [ratings] and no more than draw_parameter beside it, got"
            f" {', '.join(map(repr, unknown))}; move players under [ratings]"
        )
    table = data.get("ratings")
    if not isinstance(table, dict) or not table:
        raise ConfigError(
            f'{path}: expected a table [ratings] with lines such as "Stockfish 17" = 3600, got'
            f" {'none' if table is None else repr(table)[:60]}"
        )
    return KnownRatings(
        elo=_read_table(table, path),
        draw_parameter=_read_draws(data.get("draw_parameter", 0), path),
    )


def _read_table(table: Mapping[str, Any], path: Path) -> dict[str, float]:
    elo: dict[str, float] = {}
    for key, value in table.items():
        name = write_name(key)
        if isinstance(value, dict):
            raise ConfigError(
                f"{path}: [ratings] {key!r} is a table: names with dots need quotes, as in"
                f' "{key}.{next(iter(value), "")}" = 3600'
            )
        if not _is_number(value) or abs(value) > LARGEST_ELO:
            raise ConfigError(
                f"{path}: [ratings] {key!r} expects an Elo between -{LARGEST_ELO:.0f} and"
                f" {LARGEST_ELO:.0f}, got {value!r}"
            )
        if name in elo:
            raise ConfigError(
                f"{path}: [ratings] gives {name!r} twice, but for spaces; leave one of them"
            )
        elo[name] = float(value)
    return elo


def _read_draws(value: Any, path: Path) -> float:
    if not _is_number(value) or not 0 <= value <= 100:
        raise ConfigError(
            f"{path}: draw_parameter expects Davidson's ν, a number from 0 to 100, got {value!r};"
            " leave it out for ratings on Elo's own curve"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
