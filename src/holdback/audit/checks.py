"""Everything that can be checked before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from holdback.elicitation.few_shot import FewShot, check_taken
from holdback.errors import ConfigError
from holdback.extensions import EXECUTORS, find_extension
from holdback.models.registry import try_checkpoint
from holdback.models.token_cap import CAP, read_bound
from holdback.plan import AuditPlan
from holdback.runs.preview import remark_words
from holdback.runs.resolve import Resolved
from holdback.tasks.task import Split, Task


@runtime_checkable
class ChecksMachine(Protocol):
    """A task that needs more than Python, such as a chess engine."""

    def check_machine(self) -> None:
        """Look whether this machine has what the task needs.

        Raises:
            EngineError: if not, with what to do.
        """
        ...


@runtime_checkable
class ChecksSamples(Protocol):
    """A task that knows how many samples it has."""

    def check_samples(self, split: Split, samples: int) -> None:
        """Look whether a split has so many samples.

        Raises:
            ConfigError: if not, with how many it has.
        """
        ...


def prepare(plan: AuditPlan) -> Resolved:
    """Find what a plan's names stand for, and check all that can be checked before anything runs.

    Raises:
        ConfigError: for a name or parameter that does not exist, for more samples or demonstrations
            than a task has.
        CheckpointError: for a checkpoint whose files are missing, unsafe or not those that its
            configuration describes, or that is to be asked in chat and has no template.
        EngineError: for a program that a task needs and this machine lacks.
    """
    resolved = Resolved(plan=plan)
    # A misspelt technique is told before gigabytes are read to identify weights.
    _ = resolved.ladder
    find_extension(EXECUTORS, plan.budget.executor, kind="executor")
    resolved = resolved.identified()
    read_bound(CAP)
    remarks = [*remark_copies(resolved.digests)]
    for checkpoint in resolved.lineage:
        remarks += [f"{checkpoint.name}: {remark}" for remark in try_checkpoint(checkpoint)]
    for task in resolved.tasks.values():
        if isinstance(task, ChecksMachine):
            task.check_machine()
        _check_supply(resolved, task)
    remarks += remark_words(resolved)
    resolved.remarks = tuple(remarks)
    # What is asked is what was looked at here, whatever becomes of the files meanwhile.
    _ = resolved.digest
    return resolved


def _check_supply(resolved: Resolved, task: Task) -> None:
    """Refuse rungs that ask for more samples or demonstrations than the task has."""
    wanted: dict[str, dict[int, str]] = defaultdict(dict)
    for rung in resolved.ladder:
        if rung.tasks and task.name not in rung.tasks:
            continue
        if isinstance(task, ChecksSamples):
            for split in (Split.SELECT, Split.TEST):
                samples = resolved.count_samples(task.name, rung.name, split)
                task.check_samples(split, samples)
        technique = resolved.technique(rung.name)
        for link in (technique, *getattr(technique, "techniques", ())):
            if isinstance(link, FewShot):
                check_taken(f"rung {rung.name!r}", task)
            demonstrator = getattr(link, "demonstrator", None)
            n = getattr(link, "n", getattr(link, "demonstrations", 0))
            if isinstance(demonstrator, str) and n:
                wanted[demonstrator][n] = rung.name
    for demonstrator, rungs in wanted.items():
        # Whoever has the most has fewer.
        most = max(rungs)
        try:
            task.demonstrate(demonstrator, most, np.random.default_rng(0))
        except ConfigError as error:
            raise type(error)(f"rung {rungs[most]!r} on task {task.name!r}: {error}") from error


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
