"""Inspect tasks that are already in memory, lent by whoever made them: `live_inspect:<digest>`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from holdback.errors import ConfigError
from holdback.inspect.tasks import InspectTask

_LENT: dict[str, Any] = {}


def lend_task(task: Any) -> str:
    """Make a task known, and return the kind that a plan names it by: a digest of its samples."""
    asked = [[str(s.input), s.target, s.choices] for s in task.dataset]
    digest = hashlib.sha256(json.dumps([task.name, asked], default=str).encode()).hexdigest()[:16]
    _LENT[digest] = task
    return f"live_inspect:{digest}"


@dataclass(frozen=True, kw_only=True)
class LiveInspectTask(InspectTask):
    """Samples of an Inspect task in memory, scored by its own scorer, in points."""

    def _make_task(self) -> Any:
        if self.reference not in _LENT:
            raise ConfigError(
                f"{self.name}: expected an Inspect task that this process was lent, found none;"
                " hand it to holdback.audit again (one worker), or name it inspect:file.py@task"
            )
        return _LENT[self.reference]
