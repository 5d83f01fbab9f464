"""What a run is, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdback.tasks.task import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """One checkpoint on one split of one task under one rung with one seed.

    The digest covers what an outcome depends on, engine and data of the task included, and so is
    the run's identity: a run that is in the store is not run again, whatever plan asked for it.
    `samples` is not in it: a longer run continues a shorter one. Nor is the version of torch, which
    moves outcomes by rounding alone; every run stores it. Paths and folders are not in it either.
    """

    checkpoint: str
    checkpoint_digest: str
    task: str
    task_digest: str
    rung: str
    technique: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    """Digest of the technique's source; empty in records of before it was kept."""
    split: Split
    seed: int
    samples: int

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of every field but `samples` and the rung's name."""
        identity = {
            "checkpoint": self.checkpoint_digest,
            "task": self.task_digest,
            "technique": self.technique,
            "parameters": dict(self.parameters),
            "split": str(self.split),
            "seed": self.seed,
        }
        if self.code:
            identity["code"] = self.code
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Name for people: progress lines, dry runs, errors."""
        return f"{self.checkpoint} · {self.task} · {self.rung} · {self.split} · seed {self.seed}"
