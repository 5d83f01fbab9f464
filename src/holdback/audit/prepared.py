"""A plan whose every name was found to stand for something."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdback.elicitation.technique import Ladder
from holdback.plan import AuditPlan, dump_plan


def remark_copies(digests: Mapping[str, str]) -> Iterator[str]:
    """Write which checkpoints are the same bytes, from checkpoint to digest."""
    names: dict[str, list[str]] = {}
    for name, digest in digests.items():
        names.setdefault(digest, []).append(name)
    for same in names.values():
        if len(same) > 1:
            yield (
                f"{', '.join(same)}: their weights are the same bytes (or the same model id), so"
                " they share their runs and no difference between them can be found"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A plan whose every name was found to stand for something."""

    plan: AuditPlan
    ladder: Ladder
    """Without the rungs that need more access than the plan allows."""
    digests: Mapping[str, str]
    """Checkpoint to the digest of its files."""
    task_digests: Mapping[str, str]
    """Task to the digest of what it asks."""
    remarks: tuple[str, ...] = ()
    """What may be meant otherwise of the checkpoints, though it can run."""

    @property
    def digest(self) -> str:
        """Identity of the audit: its plan, and the checkpoints and tasks as they are now."""
        parts = sorted([*self.digests.items(), *self.task_digests.items()])
        identity = [dump_plan(self.plan), *(f"{name}={digest}" for name, digest in parts)]
        return hashlib.sha256("\n".join(identity).encode()).hexdigest()
