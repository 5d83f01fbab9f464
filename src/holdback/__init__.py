"""Holdback finds out what a language model can do and does not show.

    result = holdback.audit({"before": "org/base", "after": "org/tuned"}, task="questions.jsonl")

`audit`, `plan`, `read` and `compare` do what the commands do; see docs/python.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

# By its name: a package of ours is called `inspect`, and importing it would hide the other.
from inspect import Signature, signature
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["Checkpoint", "Result", "Stage", "audit", "compare", "plan", "read"]

_HOMES = {
    "Checkpoint": "holdback.lineage",
    "Result": "holdback.api",
    "Stage": "holdback.lineage",
    "read": "holdback.api",
}
_VERBS = ("audit", "compare", "plan")


class _Verb(ModuleType):
    """A module whose name is a verb as well: `holdback.audit(…)` is `holdback.api.audit(…)`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._verb(*args, **options)

    @property
    def __signature__(self) -> Signature:
        return signature(self._verb)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._verb.__doc__

    @property
    def _verb(self) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(
            import_module("holdback.api"), self.__name__.rpartition(".")[2]
        )
        return found


def make_callable(module: str) -> None:
    """Let a module be called as the verb of its name."""
    sys.modules[module].__class__ = _Verb


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Find what is public when it is first used: nothing heavy is imported before."""
    if name in _VERBS:
        return import_module(f"holdback.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'holdback' has no attribute {name!r}")
