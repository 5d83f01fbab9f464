"""Tasks by the name that audit files give their kind."""

from __future__ import annotations

import inspect
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
    "inspect": "holdback.inspect.tasks:InspectTask",
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
    signature = inspect.signature(factory)
    given = {**options, **({"reference": reference} if reference else {})}
    try:
        # Partly first: a misspelt name is told as what it is, before what it leaves missing.
        signature.bind_partial(**given)
        signature.bind(**given)
        return factory(**given)
    except TypeError as error:
        known = ", ".join(word for word in signature.parameters if word not in ("name", "margin"))
        raise ConfigError(f"task kind {kind!r}: {error}; its options are {known}") from error


def _find_factory(kind: str) -> Callable[..., Task]:
    if kind in _BUILTIN:
        module, _, name = _BUILTIN[kind].partition(":")
        factory: Callable[..., Task] = getattr(import_module(module), name)
        return factory
    offered = {point.name: point for point in entry_points(group="holdback.tasks")}
    if kind not in offered:
        raise UnknownNameError.among("task kind", kind, {*_BUILTIN, *offered})
    return offered[kind].load()  # type: ignore[no-any-return]
