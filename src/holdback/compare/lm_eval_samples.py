"""What lm-eval writes with `--log_samples`, as `TaskLog`: `samples_<task>_<date>.jsonl`.

Beside it lies `results_<date>.json`, which knows the model and which metrics are better when lower.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdback.compare.logs import (
    SHOWN_CHARACTERS,
    LoggedSample,
    ReadOptions,
    TaskLog,
    check_value,
    choose_score,
    find_cluster,
    require_any,
    require_unique,
)
from holdback.errors import LogError
from holdback.tasks.task import Outcome
from holdback.tasks.text.scoring import is_refusal

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
_NEEDED = ("doc_id", "doc", "filtered_resps")
# All that a sample had before lm-eval 0.4.7 but its metrics, which were not listed.
_FIELDS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
# Given by lm-eval's filters where a regular expression finds no answer.
_INVALID = "[invalid]"
_LIKELIHOOD = 2
"""Members of the response to a log-likelihood request: its value, and whether it is greedy."""


def is_samples_file(path: Path) -> bool:
    """Tell a file of samples by its name."""
    return path.suffix == ".jsonl" and path.name.startswith("samples_")


def read_samples_file(path: Path, options: ReadOptions) -> TaskLog:
    """Read one task's samples.

    Raises:
        LogError: for a file that is cut off, of another kind, empty, or with a score that is NaN.
        ConfigError: if the metric to be read has to be chosen.
    """
    rows = list(_read_rows(path))
    source = str(path)
    require_any(rows, source, "success")
    names = {name for row in rows for name in _name_scores(row)}
    if not names:
        raise LogError(
            f"{source}: expected samples with a metric that is a number, got none; run lm-eval with"
            " a metric of single samples (a perplexity of a corpus has none)"
        )
    score = choose_score(names, options, source)
    metric, _, chosen_filter = score.partition(",")
    samples = tuple(
        _read_sample(row, metric, options, source)
        for row in rows
        if row.get("filter", "none") == chosen_filter
    )
    if "filter" not in rows[0] and len({sample.sample_id for sample in samples}) < len(samples):
        raise LogError(
            f"{source}: expected each sample once, got some again for another filter; which filter"
            " lm-eval does not write before 0.4.7: run it again with a newer one, or keep the lines"
            " of one filter"
        )
    require_unique(samples, source)
    run = _find_run(path)
    return TaskLog(
        task=run.task,
        model=run.model,
        source=source,
        score=score,
        samples=samples,
        expected=run.expected,
        lower_is_better=run.higher_is_better.get(metric) is False,
        identity=run.identity,
        provenance=run.provenance,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What is known of the evaluation that wrote a file of samples."""

    task: str
    model: str
    expected: int | None = None
    higher_is_better: Mapping[str, Any]
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse_row(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{path}: expected lm-eval samples, cannot be read: {error}") from error


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise LogError(
            f"{where}: expected a sample as JSON, got one that is cut off or corrupt: {error};"
            " take the file from its origin again, or run lm-eval again"
        ) from error
    if not isinstance(row, dict) or not all(key in row for key in _NEEDED):
        raise LogError(
            f"{where}: expected a sample with {', '.join(_NEEDED)} as lm-eval writes it with"
            " --log_samples, got JSON of another kind; name a file of samples"
        )
    return row


def _name_scores(row: Mapping[str, Any]) -> Iterator[str]:
    """Name a row's metrics as lm-eval does, `metric,filter`; those of one number only."""
    for metric in row.get("metrics") or row.keys() - _FIELDS:
        if isinstance(row.get(metric), bool | int | float):
            yield f"{metric},{row.get('filter', 'none')}"


def _read_sample(
    row: Mapping[str, Any], metric: str, options: ReadOptions, source: str
) -> LoggedSample:
    sample_id, doc = str(row["doc_id"]), row["doc"]
    given = row.get(metric)
    value = check_value(
        math.nan if given is None else float(given),
        sample=sample_id,
        score=metric,
        source=source,
        skip=options.skip_unscored,
    )
    metadata = doc if isinstance(doc, Mapping) else {}
    cluster = find_cluster(metadata, options, sample=sample_id, source=source)
    digest = row.get("doc_hash") or _hash_doc(doc)
    answer = _read_answer(row)
    return LoggedSample(
        sample_id=sample_id,
        epoch=1,
        cluster=digest if cluster is None else cluster,
        value=value,
        outcome=_judge(value, answer, _read_said(row)),
        answer=answer,
        target=str(row.get("target", "")),
        # A few-shot prompt has the question at its end.
        question=_read_prompt(row, doc)[-SHOWN_CHARACTERS:],
        digest=digest,
    )


def _hash_doc(doc: Any) -> str:
    """Hash a document as lm-eval has done since it writes `doc_hash`."""
    text = json.dumps(doc, indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _judge(value: float | None, answer: str, said: str) -> Outcome:
    if value is None:
        return Outcome.ERRORED
    if value >= 1:
        return Outcome.CORRECT
    # A filter may have made `[invalid]` of what the model said.
    if value == 0 and (is_refusal(said) or is_refusal(answer)):
        return Outcome.REFUSED
    # Truncation is not written down by lm-eval.
    return Outcome.UNPARSED if answer.strip() in ("", _INVALID) else Outcome.WRONG


def _read_answer(row: Mapping[str, Any]) -> str:
    """Give what the model answered; of choices compared by likelihood the likeliest."""
    answers = row.get("filtered_resps") or []
    if not isinstance(answers, list) or not answers:
        return str(answers or "")
    if all(isinstance(a, list) and len(a) == _LIKELIHOOD for a in answers):
        if len(answers) == 1:
            return f"log-likelihood {answers[0][0]}"
        likelihoods = [float(answer[0]) for answer in answers]
        best = max(range(len(answers)), key=likelihoods.__getitem__)
        return _read_argument(row, best, 1).strip() or str(best)
    first = answers[0]
    return str(first[0] if isinstance(first, list) and first else first or "")


def _read_said(row: Mapping[str, Any]) -> str:
    """Give what the model generated, before filters; empty where choices were compared."""
    responses = row.get("resps") or []
    while isinstance(responses, list) and responses:
        responses = responses[0]
    return responses if isinstance(responses, str) else ""


def _read_prompt(row: Mapping[str, Any], doc: Any) -> str:
    return _read_argument(row, 0, 0) or json.dumps(doc, ensure_ascii=False, default=str)


def _read_argument(row: Mapping[str, Any], request: int, position: int) -> str:
    """Give one argument of one request, as written to a file or as held in memory."""
    arguments = row.get("arguments")
    if isinstance(arguments, Mapping):
        found = (arguments.get(f"gen_args_{request}") or {}).get(f"arg_{position}")
        return str(found or "")
    if isinstance(arguments, list) and request < len(arguments):
        given = arguments[request]
        return str(given[position]) if position < len(given) else ""
    return ""


def _find_run(path: Path) -> _Run:
    """Look into the results beside a file of samples, of the same date."""
    matched = _NAME.fullmatch(path.name)
    task = matched["task"] if matched else path.stem.removeprefix("samples_")
    date = matched["date"] if matched else ""
    beside = [*path.parent.glob(f"*_{date}.json")] if date else []
    results: dict[str, Any] = {}
    if beside:
        try:
            results = json.loads(beside[0].read_bytes())
        except ValueError as error:
            raise LogError(f"{beside[0]}: expected lm-eval's results, got no JSON: {error}") from (
                error
            )
    config = results.get("config") or {}
    known = (results.get("configs") or {}).get(task) or {}
    counted = (results.get("n-samples") or {}).get(task) or {}
    return _Run(
        task=task,
        # lm-eval names a model by its `pretrained`, and one that has none by dice.
        model=str(config.get("holdback") or results.get("model_name") or path.parent.name),
        expected=counted.get("effective"),
        higher_is_better=(results.get("higher_is_better") or {}).get(task) or {},
        identity={
            "model": config.get("model"),
            "model_args": config.get("model_args"),
            "gen_kwargs": config.get("gen_kwargs"),
            "num_fewshot": known.get("num_fewshot"),
            "generation_kwargs": known.get("generation_kwargs"),
            "chat_template_sha": results.get("chat_template_sha"),
            "system_instruction_sha": results.get("system_instruction_sha"),
            "fewshot_as_multiturn": results.get("fewshot_as_multiturn"),
            "random_seed": config.get("random_seed"),
        },
        provenance={
            "format": "lm-eval samples",
            "created": date,
            "task_version": (results.get("versions") or {}).get(task),
            "lm_eval": results.get("lm_eval_version") or results.get("git_hash"),
            "results": beside[0].name if beside else None,
        },
    )
