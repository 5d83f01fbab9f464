"""Tasks by the name that audit files give their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdback.extensions import TASKS, find_extension, is_in_file, make_extension
from holdback.tasks.task import Task


def find_task(kind: str) -> Callable[..., Task]:
    """Find who makes tasks of a kind.

    Raises:
        UnknownNameError: for a kind that nothing provides.
    """
    name = kind if is_in_file(kind) else kind.partition(":")[0]
    factory: Callable[..., Task] = find_extension(TASKS, name, kind="task kind")
    return factory


def make_task(kind: str, options: Mapping[str, Any]) -> Task:
    """Build a task; its kind is an entry point of `holdback.tasks`, or `file.py:Name`.

    A kind such as `inspect:package/task` is the kind `inspect` with the rest as its `reference`.

    Raises:
        UnknownNameError: for a kind that nothing provides.
        ConfigError: for options that the task does not take, or of another type.
    """
    given = dict(options)
    if not is_in_file(kind) and (reference := kind.partition(":")[2]):
        given["reference"] = reference
    task: Task = make_extension(
        find_task(kind),
        given,
        what=f"task kind {kind!r}",
        noun="options",
        hidden=("name", "margin"),
    )
    return task
