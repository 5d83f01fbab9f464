"""Logs of other tools as runs in the store, so that they enter the same statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import holdback
from holdback.compare.logs import LoggedSample, TaskLog, digest_file, digest_json
from holdback.compare.stored import IMPORTED
from holdback.errors import LogError
from holdback.runs.records import RunSpec
from holdback.runs.store import RunStore, Status
from holdback.tasks.task import SampleRecord, Score, Split

_BLOCK = 1000
_ID_CHARACTERS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of one log: its runs, one an epoch."""

    log: TaskLog
    log_digest: str
    specs: tuple[RunSpec, ...]
    new_samples: int
    """0 where the store had them all."""


def import_logs(
    logs: Sequence[TaskLog], store: RunStore, *, partial: bool = False
) -> list[Imported]:
    """Store every log as runs, an epoch being a seed; what is there already is left as it is.

    All logs are checked before the first is stored. A log that is changed later is another log.

    Args:
        logs: As read.
        store: Where to; its own runs stay as they are.
        partial: Whether a log with samples missing may be stored as far as it goes.

    Raises:
        LogError: for a log with samples missing.
        StoreError: if the store was altered.
    """
    for log in logs:
        if log.shortfall and not partial:
            raise LogError(
                f"{log.source}: expected all samples, got {log.shortfall}; finish the evaluation"
                " (inspect eval-retry), or import what is there with --partial"
            )
    planned = [(log, digest_file(Path(log.source))) for log in logs]
    store.verify()
    return [_store_log(log, digest, store) for log, digest in planned]


def _store_log(log: TaskLog, log_digest: str, store: RunStore) -> Imported:
    before = after = 0
    specs = []
    for spec, samples in _plan_runs(log, log_digest):
        specs.append(spec)
        before += store.count(spec.digest)
        if not store.is_done(spec):
            _store_run(log, log_digest, spec, samples, store)
        after += store.count(spec.digest)
    return Imported(log=log, log_digest=log_digest, specs=tuple(specs), new_samples=after - before)


def _store_run(
    log: TaskLog,
    log_digest: str,
    spec: RunSpec,
    samples: Sequence[LoggedSample],
    store: RunStore,
) -> None:
    provenance = {
        **log.provenance,
        "access": "samples",
        "file": Path(log.source).name,
        "file_sha256": log_digest,
        "holdback": holdback.__version__,
    }
    store.begin(spec, provenance)
    for start in range(0, len(samples), _BLOCK):
        store.append(spec.digest, map(_make_record, samples[start : start + _BLOCK]))
    store.finish(spec, Status.DONE, seconds=0.0)


def _plan_runs(log: TaskLog, log_digest: str) -> Iterator[tuple[RunSpec, list[LoggedSample]]]:
    by_epoch: dict[int, list[LoggedSample]] = {}
    for sample in log.samples:
        by_epoch.setdefault(sample.epoch, []).append(sample)
    questions = {(sample.sample_id, sample.digest, sample.target) for sample in log.samples}
    task_digest = digest_json([log.task, sorted(questions)])
    checkpoint_digest = digest_json([log.model, dict(log.identity)])
    for epoch, samples in sorted(by_epoch.items()):
        spec = RunSpec(
            checkpoint=log.model,
            checkpoint_digest=checkpoint_digest,
            task=log.task,
            task_digest=task_digest,
            rung=name_rung(log),
            technique=IMPORTED,
            # Two evaluations of one model on one task are two runs, though all else is the same.
            parameters={"log": log_digest, "score": log.score},
            split=Split.TEST,
            seed=epoch,
            samples=len(samples),
        )
        yield spec, samples


def name_rung(log: TaskLog) -> str:
    """Name the rung of a log's runs by when it was made and which evaluation it is.

    `imported-2026-11-25T22:48:44-Rs5Rfc`; several logs of one model and task so have names to
    choose by. What a log does not say is left out.
    """
    created = str(log.provenance.get("created") or "").partition("+")[0]
    evaluation = str(log.provenance.get("eval_id") or "")[:_ID_CHARACTERS]
    return "-".join(part for part in (IMPORTED, created, evaluation) if part)


def _make_record(sample: LoggedSample) -> SampleRecord:
    return SampleRecord(
        sample_id=sample.sample_id,
        cluster=sample.cluster,
        score=Score(value=sample.value, outcome=sample.outcome, answer=sample.answer),
        metadata={
            "epoch": sample.epoch,
            "input": sample.question,
            "input_digest": sample.digest,
            "target": sample.target,
        },
    )
