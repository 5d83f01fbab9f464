"""Runs of a store as Inspect logs, which `inspect view` opens: one game or item a sample."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    ModelOutput,
    StopReason,
)
from inspect_ai.scorer import Score as InspectScore

from holdback.audit.signs.behaviour import write_pgn
from holdback.compare.stored import SCORER
from holdback.errors import ConfigError, HoldbackError, StoreError
from holdback.plan import restore_plan
from holdback.runs.records import RunSpec
from holdback.runs.resolve import Resolved
from holdback.runs.store import RunRecord, RunStore, Status
from holdback.tasks.task import Outcome, SampleRecord, Split, Task

_NAME_CHARACTERS = 60
"""Of a task's and a model's name in that of a file."""
_STATUS: Mapping[Status, Any] = {
    Status.DONE: "success",
    Status.FAILED: "error",
    Status.SKIPPED: "cancelled",
    # «started» would be a log that somebody is writing to.
    Status.RUNNING: "cancelled",
}
_STOP_REASONS: Mapping[Outcome, StopReason] = {
    Outcome.REFUSED: "content_filter",
    Outcome.TRUNCATED: "max_tokens",
}
_REASONS = {Outcome.REFUSED: "refusal", Outcome.UNPARSED: "invalid_response_format"}
# What was asked, whoever was asked and under whatever rung: that is what pairs two logs. A prompt
# as it was rendered is the rung's own and kept of a few samples only; it is their first message.
_INPUTS = ("question", "fen")


def export_runs(store: RunStore, folder: Path, *, runs: Sequence[str] = ()) -> list[Path]:
    """Write runs as logs, one file a run; a file that is there is written anew.

    Args:
        store: Where the runs are.
        folder: Where the logs go; made if missing.
        runs: Parts of runs' labels or beginnings of their digests; all runs without any.

    Returns:
        The files, in the order in which the runs began.

    Raises:
        ConfigError: for a part that no run answers to.
        StoreError: for a store without runs.
    """
    chosen = choose_runs(store, runs)
    tasks = _Tasks(store)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for run in chosen:
        log = write_log(run, store.records(run.spec.digest), tasks.find(run.spec))
        path = folder / _name_file(log)
        write_eval_log(log, str(path))
        paths.append(path)
    return paths


def choose_runs(store: RunStore, parts: Sequence[str]) -> list[RunRecord]:
    """Find the runs whose label holds, or whose digest begins with, one of the parts.

    Raises:
        ConfigError: for a part that no run answers to.
        StoreError: for a store without runs.
    """
    runs = store.runs()
    if not runs:
        raise StoreError(f"run store {store.path}: expected runs, found none; run an audit first")
    found = {part: [run for run in runs if _answers(run, part)] for part in parts}
    for part, answering in found.items():
        if not answering:
            labels = "; ".join(dict.fromkeys(run.spec.label for run in runs[:5]))
            raise ConfigError(
                f"--run {part!r}: expected part of a run's label or the beginning of its digest,"
                f" found no such run; the store has {len(runs)}, such as {labels}"
            )
    wanted = {run.spec.digest for answering in found.values() for run in answering}
    return [run for run in runs if not parts or run.spec.digest in wanted]


def write_log(run: RunRecord, records: Sequence[SampleRecord], task: Task | None) -> EvalLog:
    """Write a run as a log.

    Args:
        run: The run.
        records: Its samples.
        task: Measures the capability that the log's metrics give; None where it cannot be built
            here, and the metrics are then the mean value and the outcomes alone.
    """
    spec = run.spec
    packages = {k: str(v) for k, v in run.provenance.items() if k in ("holdback", "chess", "torch")}
    return EvalLog(
        status=_STATUS[run.status],
        eval=EvalSpec(
            eval_id=spec.digest[:22],
            run_id=spec.digest[:22],
            task_id=spec.task_digest[:22],
            created=_write_time(run.started),
            task=name_task(spec),
            task_display_name=name_task(spec),
            task_attribs={},
            task_args={"split": str(spec.split), "samples": spec.samples},
            model=name_model(spec),
            model_args={},
            dataset=EvalDataset(
                name=f"{spec.task} {spec.split}",
                samples=len(records),
                sample_ids=[record.sample_id for record in records],
                shuffled=False,
            ),
            config=EvalConfig(epochs=1),
            packages=packages,
            metadata=_write_provenance(run),
        ),
        plan=EvalPlan(
            name=spec.rung,
            steps=[EvalPlanStep(solver=spec.technique, params=dict(spec.parameters))],
        ),
        results=_write_results(records, task),
        stats=EvalStats(
            started_at=_write_time(run.started),
            completed_at=_write_time(run.started if run.finished is None else run.finished),
        ),
        error=_write_error(run),
        samples=[_write_sample(record, spec) for record in records],
    )


def name_model(spec: RunSpec) -> str:
    """Name a checkpoint under a rung, as two that differ must never be named alike."""
    seed = f" · seed {spec.seed}" if spec.seed else ""
    return f"{spec.checkpoint} · {spec.rung}{seed}"


def name_task(spec: RunSpec) -> str:
    """Name a task as its audit does, with the split unless it is `test`."""
    return spec.task if spec.split is Split.TEST else f"{spec.task} ({spec.split})"


class _Tasks:
    """The tasks of a store's audits, for those that can be built here."""

    def __init__(self, store: RunStore) -> None:
        self._plans = {
            spec.digest: stored.plan for stored in store.audits() for spec in stored.specs
        }
        self._built: dict[tuple[str, str], Task | None] = {}

    def find(self, spec: RunSpec) -> Task | None:
        plan = self._plans.get(spec.digest)
        if plan is None:
            return None
        key = (plan, spec.task)
        if key not in self._built:
            try:
                self._built[key] = Resolved(plan=restore_plan(plan)).tasks[spec.task]
            # Its data or a program may be elsewhere; what was measured is in the store.
            except (HoldbackError, ImportError):
                self._built[key] = None
        return self._built[key]


def _answers(run: RunRecord, part: str) -> bool:
    return part in run.spec.label or run.spec.digest.startswith(part)


def _write_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _name_file(log: EvalLog) -> str:
    """Name a log as Inspect does: time, task, model, id, which tells apart what began together."""
    time = re.sub(r"[:+.]", "-", log.eval.created)
    task, model = (
        re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")[:_NAME_CHARACTERS]
        for name in (log.eval.task, log.eval.model)
    )
    return f"{time}_{task}_{model}_{log.eval.eval_id}.eval"


def _write_provenance(run: RunRecord) -> dict[str, Any]:
    spec = run.spec
    return {
        "checkpoint": spec.checkpoint,
        "checkpoint_digest": spec.checkpoint_digest,
        "task": spec.task,
        "task_digest": spec.task_digest,
        "rung": spec.rung,
        "technique": spec.technique,
        "parameters": dict(spec.parameters),
        "split": str(spec.split),
        "seed": spec.seed,
        "samples": spec.samples,
        "run": spec.digest,
        "seconds": run.seconds,
        "provenance": [dict(stretch) for stretch in run.stretches],
    }


def _write_error(run: RunRecord) -> EvalError | None:
    if run.status is not Status.FAILED:
        return None
    return EvalError(message=run.reason, traceback=run.details, traceback_ansi=run.details)


def _write_results(records: Sequence[SampleRecord], task: Task | None) -> EvalResults:
    values = [record.score.value for record in records if record.score.value is not None]
    metrics: dict[str, float] = {}
    if values:
        metrics["mean"] = statistics.fmean(values)
    metrics |= _measure(records, task)
    outcomes = Counter(str(record.score.outcome) for record in records)
    metrics |= {f"outcome_{outcome}": count / len(records) for outcome, count in outcomes.items()}
    return EvalResults(
        total_samples=len(records),
        completed_samples=len(records),
        scores=[
            EvalScore(
                name=SCORER,
                scorer=SCORER,
                scored_samples=len(values),
                unscored_samples=len(records) - len(values),
                metrics={k: EvalMetric(name=k, value=value) for k, value in metrics.items()},
            )
        ],
    )


def _measure(records: Sequence[SampleRecord], task: Task | None) -> dict[str, float]:
    """Give the capability and its interval, where there is one and it is finite."""
    if task is None:
        return {}
    try:
        estimate = task.measure(records).estimate()
    except HoldbackError:
        return {}
    named = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
    unit = task.unit.lower()
    return {f"{unit}{k}": v for k, v in named.items() if v - v == 0}


def _write_sample(record: SampleRecord, spec: RunSpec) -> EvalSample:
    facts = record.metadata
    asked = _write_input(record)
    answer = write_pgn(record, player=spec.checkpoint) if "san" in facts else record.score.answer
    outcome = record.score.outcome
    model = name_model(spec)
    reply = ChatMessageAssistant(
        id=_make_id(record, "answer"), content=answer, source="generate", model=model
    )
    messages: list[ChatMessage] = [
        ChatMessageUser(
            id=_make_id(record, "asked"), content=str(facts.get("prompt") or asked), source="input"
        ),
        reply,
    ]
    errored = outcome is Outcome.ERRORED
    reason = str(facts.get("error", "errored"))
    return EvalSample(
        id=record.sample_id,
        epoch=1,
        input=asked,
        choices=facts.get("choices"),
        target=_write_target(facts),
        messages=messages,
        output=ModelOutput(
            model=model,
            choices=[
                ChatCompletionChoice(message=reply, stop_reason=_STOP_REASONS.get(outcome, "stop"))
            ],
        ),
        scores={SCORER: _write_score(record)},
        metadata={
            "cluster": record.cluster,
            "outcome": str(outcome),
            **{key: value for key, value in facts.items() if key not in ("target", "choices")},
        },
        error=EvalError(message=reason, traceback=reason, traceback_ansi=reason)
        if errored
        else None,
    )


def _make_id(record: SampleRecord, part: str) -> str:
    """A message's id that is the same each time: Inspect would draw one."""
    return hashlib.sha256(f"{record.sample_id} {part}".encode()).hexdigest()[:22]


def _write_score(record: SampleRecord) -> InspectScore:
    score = record.score
    about = {"outcome": str(score.outcome), "cluster": record.cluster}
    words = str(score.outcome)
    if score.value is None:
        # NaN is Inspect's word for «not scored»: metrics leave it out, as ours do.
        return InspectScore.unscored(
            reason="scoring_failed", answer=score.answer, explanation=words, metadata=about
        )
    return InspectScore(
        value=score.value,
        answer=score.answer,
        explanation=words,
        reason=_REASONS.get(score.outcome),
        metadata=about,
    )


def _write_input(record: SampleRecord) -> str:
    facts = record.metadata
    for key in _INPUTS:
        if facts.get(key):
            return str(facts[key])
    if "opponent" in facts:
        return (
            f"A game as {facts['colour']} against {facts['opponent']}, from {facts['opening_fen']}"
        )
    return record.sample_id


def _write_target(facts: Mapping[str, Any]) -> str | list[str]:
    target = facts.get("target", facts.get("best", ""))
    return [str(part) for part in target] if isinstance(target, list) else str(target)
