"""Tasks by the name that audit files give their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from holdback.errors import ConfigError, UnknownNameError
from holdback.tasks.task import Task

# Named, not imported: a task may need an extra that this machine does not have.
_BUILTIN = {
    "chess_games": "holdback.tasks.chess.games:ChessGames",
    "chess_positions": "holdback.tasks.chess.positions:ChessPositions",
    "text": "holdback.tasks.text.task:TextTask",
    "inspect": "holdback.interop.inspect_tasks:InspectTask",
}


def make_task(kind: str, options: Mapping[str, Any]) -> Task:
    """Build a task; third-party kinds come from the entry-point group `holdback.tasks`.

    A kind such as `inspect:package/task` is the kind `inspect` with the rest as its `reference`.

    Raises:
        UnknownNameError: for a kind that nothing provides.
        ConfigError: for options that the task does not take.
    """
    name, _, reference = kind.partition(":")
    factory = _find_factory(name)
    try:
        return factory(**options, **({"reference": reference} if reference else {}))
    except TypeError as error:
        raise ConfigError(f"task kind {kind!r}: {error}") from error


def _find_factory(kind: str) -> Callable[..., Task]:
    if kind in _BUILTIN:
        module, _, name = _BUILTIN[kind].partition(":")
        factory: Callable[..., Task] = getattr(import_module(module), name)
        return factory
    offered = {point.name: point for point in entry_points(group="holdback.tasks")}
    if kind not in offered:
        raise UnknownNameError.among("task kind", kind, {*_BUILTIN, *offered})
    return offered[kind].load()  # type: ignore[no-any-return]
