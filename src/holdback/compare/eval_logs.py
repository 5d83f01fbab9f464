"""Inspect's logs, `.eval` and `.json`, as `TaskLog`."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdback.compare.eval_archive import DamagedMemberError, EvalArchive, name_sample
from holdback.compare.logs import (
    SHOWN_CHARACTERS,
    LoggedSample,
    ReadOptions,
    TaskLog,
    check_value,
    choose_score,
    digest_text,
    find_cluster,
    require_any,
    require_unique,
)
from holdback.errors import ConfigError, EmptyLogError, LogError
from holdback.tasks.task import Outcome
from holdback.tasks.text.scoring import is_refusal

SCHEMA_VERSION = 2
"""Of Inspect's logs, as their header says; what later ones mean is not known here."""
# What a summary is cut to: inspect_ai.log._util, since schema version 2.
_CUT = "...\n(content truncated)"
_MEDIA = frozenset(f"({kind})" for kind in ("Image", "Audio", "Video", "Data", "Document"))
_ATTACHMENT = "attachment://"
_CHOICES_SINCE = (0, 3, 154)
"""Version of Inspect whose sample summaries were the first to have the choices."""

_OWN_SCORE = "holdback"
"""Of a run that `holdback export` wrote: its metadata has the outcome that was stored."""
_UNPARSED = ("invalid_response_format", "no_response")
_STOPS = {
    "content_filter": Outcome.REFUSED,
    "max_tokens": Outcome.TRUNCATED,
    "model_length": Outcome.TRUNCATED,
}
_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def read_eval_file(path: Path, options: ReadOptions) -> TaskLog:
    """Read one Inspect log.

    Raises:
        LogError: for a log that is damaged, of another schema version, without samples, or with a
            score that is no number.
        ConfigError: if the score to be read has to be chosen.
    """
    try:
        with _open(path) as parts:
            return _read(parts, options, str(path))
    except (zipfile.BadZipFile, DamagedMemberError, OSError) as error:
        raise LogError(
            f"{path}: expected an Inspect log, got one that is truncated or corrupt: {error};"
            " take it from its origin again, or mend it with inspect log recover"
        ) from error


def is_eval_file(path: Path) -> bool:
    """Tell an Inspect log by its name, and a `.json` by how it begins."""
    if path.suffix == ".eval":
        return True
    if path.suffix != ".json":
        return False
    with path.open("rb") as file:
        start = file.read(2000)
    return re.match(rb'\s*\{\s*"version"', start) is not None and b'"eval"' in start


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """A log taken apart: what is read at once, and what of single samples on demand."""

    header: Mapping[str, Any]
    summaries: Sequence[Mapping[str, Any]]
    fetch_output: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    fetch_whole: Callable[[Mapping[str, Any]], Mapping[str, Any]]


@contextmanager
def _open(path: Path) -> Iterator[_Parts]:
    if path.suffix == ".json":
        yield _open_json(path)
        return
    with EvalArchive(path) as archive:
        if "header.json" not in archive or "summaries.json" not in archive:
            # Still being written, or cut off: its journal is Inspect's own business.
            yield _open_by_inspect(path)
            return
        header = archive.read_json("header.json")
        _check_version(header, path)
        yield _Parts(
            header=header,
            summaries=_keep_last(archive.read_json("summaries.json")),
            fetch_output=lambda s: archive.read_output(s["id"], s["epoch"]),
            fetch_whole=lambda s: archive.read_json(name_sample(s["id"], s["epoch"])),
        )


def _open_json(path: Path) -> _Parts:
    try:
        whole = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedMemberError(str(error)) from error
    _check_version(whole, path)
    if whole["version"] < SCHEMA_VERSION:
        return _open_by_inspect(path)
    return _Parts(
        header=whole,
        summaries=_keep_last(whole.get("samples") or []),
        fetch_output=lambda sample: sample.get("output") or {},
        fetch_whole=lambda sample: sample,
    )


def _open_by_inspect(path: Path) -> _Parts:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise LogError(
            f"{path}: expected a finished log, got one that only Inspect can read; run pip install"
            " 'holdback[inspect]'"
        ) from error
    try:
        log = read_eval_log(str(path))
    except (ValueError, KeyError) as error:
        raise DamagedMemberError(str(error)) from error
    samples = [sample.model_dump(mode="json") for sample in log.samples or []]
    return _Parts(
        header=log.model_dump(mode="json", exclude={"samples", "reductions"}),
        summaries=samples,
        fetch_output=lambda sample: sample.get("output") or {},
        fetch_whole=lambda sample: sample,
    )


def _check_version(header: Any, path: Path) -> None:
    version = header.get("version") if isinstance(header, Mapping) else None
    if not isinstance(version, int) or "eval" not in header:
        raise LogError(f"{path}: expected an Inspect log, got JSON of another kind")
    if version > SCHEMA_VERSION:
        raise LogError(
            f"{path}: expected an Inspect log of schema version {SCHEMA_VERSION} or earlier, got"
            f" version {version}; write it again with an Inspect of today (inspect log convert), or"
            " use a newer Holdback"
        )


def _keep_last(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    # A sample that was run again stands there twice, the valid one last.
    return list({(str(s["id"]), s["epoch"]): s for s in samples}.values())


def _read(parts: _Parts, options: ReadOptions, source: str) -> TaskLog:
    spec, status = parts.header["eval"], str(parts.header.get("status", "started"))
    require_any(parts.summaries, source, status)
    names = set(_name_scores(parts.summaries))
    if not names and status != "success":
        said = str((parts.header.get("error") or {}).get("message", "")).partition("\n")[0]
        raise EmptyLogError(
            f"{source}: expected samples with scores, got none: the evaluation ended with status"
            f" {status!r}{f' ({said:.120})' if said else ''}; run it again (inspect eval-retry)"
        )
    score = choose_score(names, options, source)
    reader = _SampleReader(parts, options, source, score)
    samples = tuple(map(reader.read, parts.summaries))
    require_unique(samples, source)
    config = parts.header.get("plan") or {}
    return TaskLog(
        task=str(spec["task"]),
        model=str(spec["model"]),
        source=source,
        score=score,
        samples=samples,
        expected=_count_expected(spec, parts.header.get("results") or {}),
        status=status,
        identity={
            "model_args": spec.get("model_args") or {},
            "model_base_url": spec.get("model_base_url"),
            "generate": config.get("config") or {},
            "steps": config.get("steps") or [],
            "task_args": spec.get("task_args") or {},
        },
        provenance={
            "format": f"Inspect log, version {parts.header['version']}",
            "eval_id": spec.get("eval_id", ""),
            "created": spec.get("created", ""),
            "status": status,
            "packages": spec.get("packages") or {},
        },
    )


def _name_scores(summaries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for summary in summaries:
        for name, score in (summary.get("scores") or {}).items():
            value = score["value"]
            if isinstance(value, Mapping):
                yield from (f"{name}.{key}" for key in value)
            else:
                yield name


def _count_expected(spec: Mapping[str, Any], results: Mapping[str, Any]) -> int | None:
    if results.get("total_samples"):
        return int(results["total_samples"])
    dataset = spec.get("dataset") or {}
    ids = dataset.get("sample_ids")
    count = len(ids) if ids else dataset.get("samples")
    epochs = (spec.get("config") or {}).get("epochs") or 1
    return None if count is None else int(count) * int(epochs)


class _SampleReader:
    """Makes a record of a sample's summary, and of the sample where that is too little."""

    def __init__(self, parts: _Parts, options: ReadOptions, source: str, score: str) -> None:
        self._parts = parts
        self._options = options
        self._source = source
        self._name = score
        scores = [self._find_score(summary) for summary in parts.summaries]
        packages = parts.header["eval"].get("packages") or {}
        self._lists_choices = _read_version(packages.get("inspect_ai")) >= _CHOICES_SINCE
        self._answers = any(score is not None and score.get("answer") for score in scores)

    def read(self, summary: Mapping[str, Any]) -> LoggedSample:
        """Make one record."""
        sample_id = str(summary["id"])
        score = self._find_score(summary)
        value = self._read_value(score, summary)
        question, digest = self._identify(summary)
        cluster = find_cluster(
            summary.get("metadata") or {}, self._options, sample=sample_id, source=self._source
        )
        target = summary["target"]
        return LoggedSample(
            sample_id=sample_id,
            epoch=int(summary["epoch"]),
            cluster=digest if cluster is None else cluster,
            value=value,
            outcome=self._judge(value, score, summary),
            answer="" if score is None else str(score.get("answer") or ""),
            target=target if isinstance(target, str) else json.dumps(target, ensure_ascii=False),
            question=question,
            digest=digest,
        )

    def _find_score(self, summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Find the score, a part of a score of several values as one of its own."""
        scores = summary.get("scores") or {}
        if self._name in scores:
            return scores[self._name]  # type: ignore[no-any-return]
        name, _, key = self._name.rpartition(".")
        while name:
            if name in scores and isinstance(scores[name]["value"], Mapping):
                return {**scores[name], "value": scores[name]["value"].get(key)}
            name, _, rest = name.rpartition(".")
            key = f"{rest}.{key}"
        return None

    def _read_value(
        self, score: Mapping[str, Any] | None, summary: Mapping[str, Any]
    ) -> float | None:
        given = None if score is None else score["value"]
        if given is None:
            if summary.get("error") or self._options.skip_unscored:
                return None
            raise LogError(
                f"{self._source}: sample {str(summary['id'])!r}: expected a score"
                f" {self._name!r}, got none; score the log (inspect score), or leave such samples"
                " out, counted, with --skip-unscored"
            )
        return check_value(
            convert_value(given, where=f"{self._source}: score {self._name!r}"),
            sample=str(summary["id"]),
            score=self._name,
            source=self._source,
            skip=self._options.skip_unscored or bool(summary.get("error")),
        )

    def _identify(self, summary: Mapping[str, Any]) -> tuple[str, str]:
        """Give the input as it is shown, and the digest of all of it."""
        held = summary
        if self._is_shortened(summary):
            held = self._parts.fetch_whole(summary)
        given = _settle(held["input"], held.get("attachments") or {})
        if isinstance(given, str):
            shown = asked = given
        else:
            shown = "\n".join(_list_texts(given))
            # Messages have ids, which are drawn anew each time that a dataset is read.
            asked = json.dumps([[m["role"], m["content"]] for m in given], sort_keys=True)
        if held.get("choices"):
            asked += "\n" + json.dumps(held["choices"])
        return shown[:SHOWN_CHARACTERS], digest_text(asked)

    def _is_shortened(self, summary: Mapping[str, Any]) -> bool:
        """Whether more was asked than the summary tells."""
        if "choices" not in summary and not self._lists_choices:
            return True
        given = summary["input"]
        texts = [given] if isinstance(given, str) else _list_texts(given)
        return any(text.endswith(_CUT) or text in _MEDIA for text in texts)

    def _judge(
        self, value: float | None, score: Mapping[str, Any] | None, summary: Mapping[str, Any]
    ) -> Outcome:
        """Say what became of a sample; why it has less than the full score, if it has."""
        if value is not None and value >= 1:
            return Outcome.CORRECT
        given = score or {}
        told = (given.get("metadata") or {}).get("outcome")
        if self._name == _OWN_SCORE and told in tuple(Outcome):
            return Outcome(told)
        # What was cut off or refused is not parsed either: the cause is what counts.
        if summary.get("error"):
            return Outcome.ERRORED
        output = self._parts.fetch_output(summary)
        said = (_read_completion(output), str(given.get("answer") or ""))
        if given.get("reason") == "refusal" or (value == 0 and any(map(is_refusal, said))):
            cause: Outcome | None = Outcome.REFUSED
        else:
            cause = Outcome.TRUNCATED if summary.get("limit") else _find_stop(output)
        if cause is not None:
            return cause
        if value is None and given.get("reason") not in _UNPARSED:
            # Whatever else made a scorer give up was no fault of the model's.
            return Outcome.ERRORED
        unanswered = self._answers and not given.get("answer")
        missing = unanswered or given.get("value") == "N" or given.get("reason") in _UNPARSED
        return Outcome.UNPARSED if missing else Outcome.WRONG


def convert_value(value: Any, *, where: str) -> float:
    """Turn a score's value into a number, as `inspect_ai.scorer.value_to_float` does.

    NaN stands for «not scored».

    Raises:
        ConfigError: for a value that is no number and no word for one.
    """
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        if value in _WORDS:
            return _WORDS[value]
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        try:
            number = float(value)
        except ValueError:
            number = math.inf
        if not math.isinf(number):
            return number
    raise ConfigError(
        f"{where}: expected a number, or C, P, I or N, got {value!r}; choose another score with"
        " --score"
    )


def _find_stop(output: Mapping[str, Any]) -> Outcome | None:
    for choice in (output.get("choices") or [])[:1]:
        content = choice.get("message", {}).get("content")
        if isinstance(content, list) and any(part.get("refusal") for part in content):
            return Outcome.REFUSED
        return _STOPS.get(str(choice.get("stop_reason")))
    return None


def _read_completion(output: Mapping[str, Any]) -> str:
    """Give what the model said last, without its reasoning."""
    for choice in (output.get("choices") or [])[:1]:
        content = choice.get("message", {}).get("content") or ""
        if isinstance(content, str):
            return content
        return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return ""


def _read_version(version: object) -> tuple[int, ...]:
    """Read a version's first three numbers; none where it is not written."""
    return tuple(int(part) for part in re.findall(r"\d+", str(version or ""))[:3])


def _settle(value: Any, attachments: Mapping[str, str]) -> Any:
    """Put attachments where they are referred to, and leave out fields that are None.

    Both are how a log was written: one image may stand in the input or among the attachments.
    """
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        return attachments.get(value.removeprefix(_ATTACHMENT), value)
    if isinstance(value, Mapping):
        return {key: _settle(v, attachments) for key, v in value.items() if v is not None}
    return [_settle(v, attachments) for v in value] if isinstance(value, list) else value


def _list_texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            yield content
            continue
        for part in content:
            yield str(part.get("text") or f"({str(part['type']).capitalize()})")
