"""Runs in a store as `TaskLog`, named `STORE#CHECKPOINT/RUNG` or by their digest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from holdback.compare.logs import LoggedSample, TaskLog, digest_text
from holdback.errors import ConfigError, StoreError
from holdback.runs.records import RunSpec
from holdback.runs.store import RunRecord, RunStore, Status
from holdback.tasks.task import SampleRecord, Split

SCORER = "holdback"
"""Name of the score of Holdback's own runs."""
IMPORTED = "imported"
"""Technique of runs that were made elsewhere, and how their rungs' names begin."""
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_SQLITE = b"SQLite format 3\x00"


def is_store(path: Path) -> bool:
    """Tell a store by how the file begins."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def read_stored(path: Path, name: str) -> list[TaskLog]:
    """Read the runs that `name` stands for, a log a task; several seeds are epochs.

    Args:
        path: The store.
        name: `CHECKPOINT`, `CHECKPOINT/RUNG` or `CHECKPOINT/RUNG/SPLIT` (`test` where unsaid), or
            the first 8 or more digits of a run's or an imported log's digest. May be empty where
            the store has one checkpoint under one rung.

    Raises:
        StoreError: for a file that is no store, or was altered.
        ConfigError: for a name that stands for none, or for several that are not one.
    """
    with RunStore(path, create=False) as store:
        store.verify()
        chosen = _choose(store.runs(), name, path)
        tasks = dict.fromkeys(run.spec.task for run in chosen)
        return [
            _read_task(store, [run for run in chosen if run.spec.task == task]) for task in tasks
        ]


def _choose(runs: Sequence[RunRecord], name: str, path: Path) -> list[RunRecord]:
    if _DIGEST.fullmatch(name):
        by_digest = [run for run in runs if _has_digest(run.spec, name)]
        if by_digest:
            return _check_one(by_digest, name, path)
    tested = [run for run in runs if run.spec.split is Split.TEST]
    if not name:
        return _check_one(tested or list(runs), name, path)
    found = [run for run in runs if name in _names(run.spec)]
    if not found:
        known = ", ".join(sorted({f"{_place(run.spec)}" for run in runs})) or "no runs"
        raise ConfigError(
            f"run store {path}: expected STORE#CHECKPOINT/RUNG, got {name!r}, which stands for no"
            f" run here; there are: {known}"
        )
    return _check_one(found, name, path)


def _has_digest(spec: RunSpec, prefix: str) -> bool:
    log = str(spec.parameters.get("log", ""))
    return spec.digest.startswith(prefix) or log.startswith(prefix)


def _names(spec: RunSpec) -> list[str]:
    rungs = [spec.rung, IMPORTED] if spec.technique == IMPORTED else [spec.rung]
    places = [f"{spec.checkpoint}/{rung}" for rung in rungs]
    names = [f"{place}/{spec.split}" for place in places]
    return [spec.checkpoint, *places, *names] if spec.split is Split.TEST else names


def _place(spec: RunSpec) -> str:
    split = "" if spec.split is Split.TEST else f"/{spec.split}"
    return f"{spec.checkpoint}/{spec.rung}{split}"


def _check_one(runs: Sequence[RunRecord], name: str, path: Path) -> list[RunRecord]:
    """Refuse runs that are not seeds of one thing on each task."""
    kinds: dict[tuple[str, int], dict[str, str]] = {}
    for run in runs:
        spec = run.spec
        key = (spec.task, spec.seed)
        kinds.setdefault(key, {})[spec.digest] = f"{_place(spec)} ({spec.digest[:12]})"
    places = sorted({_place(run.spec) for run in runs})
    several = next((found for found in kinds.values() if len(found) > 1), None)
    if not runs or len(places) > 1 or several:
        listed = ", ".join(places if len(places) > 1 else sorted((several or {}).values()))
        raise ConfigError(
            f"run store {path}: expected one checkpoint under one rung, got {listed or 'no runs'}"
            f"{f' for {name!r}' if name else ''}; name one: {path}#CHECKPOINT/RUNG, or #DIGEST"
        )
    return list(runs)


def _read_task(store: RunStore, runs: Sequence[RunRecord]) -> TaskLog:
    first = runs[0]
    bad = [run for run in runs if run.status in (Status.FAILED, Status.SKIPPED)]
    if bad:
        raise StoreError(
            f"run store {store.path}: expected a run that ended, got a {bad[0].status} one:"
            f" {bad[0].spec.label}: {bad[0].reason}; what it failed on may be what is hardest"
        )
    samples = [
        _convert(record, run.spec)
        for run in runs
        for record in store.records(run.spec.digest, limit=run.spec.samples)
    ]
    source = f"{store.path}#{_place(first.spec)}"
    return TaskLog(
        task=first.spec.task,
        model=first.spec.checkpoint,
        source=source,
        # By the name that exported logs have, so that a run pairs with its own.
        score=str(first.spec.parameters.get("score", SCORER))
        if first.spec.technique == IMPORTED
        else SCORER,
        samples=tuple(samples),
        expected=sum(run.samples for run in runs)
        if any(run.status is Status.RUNNING for run in runs)
        else len(samples),
        status="running" if any(run.status is Status.RUNNING for run in runs) else "success",
        identity=dict(first.spec.parameters),
        provenance=dict(first.provenance),
    )


def _convert(record: SampleRecord, spec: RunSpec) -> LoggedSample:
    metadata = record.metadata
    # Of a run made here the task's digest stands for its data, and the sample's id says which.
    digest = metadata.get("input_digest") or digest_text(f"{spec.task_digest} {record.sample_id}")
    shown = metadata.get("input") or metadata.get("question") or metadata.get("prompt") or ""
    return LoggedSample(
        sample_id=record.sample_id,
        epoch=spec.seed,
        cluster=record.cluster,
        value=record.score.value,
        outcome=record.score.outcome,
        answer=record.score.answer,
        target=str(metadata.get("target", "")),
        question=str(shown),
        digest=str(digest),
    )
