"""From one scored sample of Inspect's to a record, its outcome told from a wrong answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.log import EvalSample
from inspect_ai.scorer import Score as InspectScore
from inspect_ai.scorer import value_to_float

from holdback.errors import ConfigError, UnknownNameError
from holdback.tasks.questions import NOT_RIGHT, RIGHT
from holdback.tasks.task import Outcome, SampleRecord, Score
from holdback.tasks.text.scoring import is_refusal

_EXPLANATION = 2000
_UNPARSED = ("invalid_response_format", "no_response")
_INSTRUMENT = ("grader_failed", "scoring_failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Which of a sample's scores counts, and what its worst and best are."""

    scorer: str | None = None
    """Name of the scorer; the first where unsaid."""
    key: str | None = None
    """Of a score that is a table of values."""
    worst: float = 0.0
    best: float = 1.0


def read_record(
    sample: EvalSample, *, scale: Scale, cluster: str, metadata: Mapping[str, Any]
) -> SampleRecord:
    """Turn a scored sample into a record.

    Points are linear between the scale's worst (0) and best (100). The outcome is `errored` where
    the sample, its scorer or its grader failed, which then says nothing (`None`); `correct` at the
    best value; else `refused` for a provider's filter, a scorer's word or a text that opens with a
    refusal, `truncated` where a limit on tokens, turns or time ended it, `unparsed` where the
    scorer found no answer, and `wrong`.

    Raises:
        ConfigError: for a value outside the scale, or one that is no number.
        UnknownNameError: for a scorer or a key that the sample has not.
    """
    name, score = _pick_score(sample, scale)
    facts = {
        "target": sample.target,
        "scorer": name,
        "stop_reason": str(sample.output.stop_reason) if sample.output.choices else None,
        **metadata,
    }
    if sample.error is not None or score is None:
        facts["error"] = "no score" if sample.error is None else sample.error.message
        errored = Score(value=None, outcome=Outcome.ERRORED, answer=sample.output.completion)
        return _write(sample, errored, cluster, facts)
    if score.explanation and score.explanation != sample.output.completion:
        facts["explanation"] = score.explanation[:_EXPLANATION]
    answer = score.answer if score.answer is not None else sample.output.completion
    value = _read_value(sample, score, scale)
    if value is None:
        facts["error"] = str(score.reason or score.explanation or "the scorer gave no value")
        if score.reason in _INSTRUMENT or score.reason is None:
            errored = Score(value=None, outcome=Outcome.ERRORED, answer=answer)
            return _write(sample, errored, cluster, facts)
    points = NOT_RIGHT if value is None else _place(sample, value, scale)
    outcome = Outcome.CORRECT if points == RIGHT else _tell_failure(sample, score)
    return _write(sample, Score(value=points, outcome=outcome, answer=answer), cluster, facts)


def _write(
    sample: EvalSample, score: Score, cluster: str, facts: Mapping[str, Any]
) -> SampleRecord:
    return SampleRecord(sample_id=str(sample.id), cluster=cluster, score=score, metadata=facts)


def _pick_score(sample: EvalSample, scale: Scale) -> tuple[str, InspectScore | None]:
    scores = sample.scores or {}
    if scale.scorer is None:
        return next(iter(scores.items()), ("", None))
    if scores and scale.scorer not in scores:
        raise UnknownNameError.among("scorer (of an Inspect task)", scale.scorer, scores)
    return scale.scorer, scores.get(scale.scorer)


def _read_value(sample: EvalSample, score: InspectScore, scale: Scale) -> float | None:
    """Read a score as a number; None where it is «not scored»."""
    value: Any = score.value
    if isinstance(value, Mapping):
        if scale.key is None or scale.key not in value:
            raise UnknownNameError.among(
                f"value_key (of sample {sample.id!r}, whose score is a table)",
                str(scale.key),
                map(str, value),
            )
        value = value[scale.key]
    if isinstance(value, Sequence) and not isinstance(value, str):
        raise ConfigError(
            f"sample {sample.id!r}: expected a score that is one value, got {value!r:.80}; choose"
            " another `scorer`"
        )
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    known = {"c", "i", "p", "n", "yes", "no", "true", "false"}
    if isinstance(value, str) and value.lower() not in known and not _is_number(value):
        raise ConfigError(
            f"sample {sample.id!r}: expected a score as C, I, P, N, yes, no or a number, got"
            f" {value!r:.80}; choose another `scorer`"
        )
    return value_to_float()(value)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _place(sample: EvalSample, value: float, scale: Scale) -> float:
    share = (value - scale.worst) / (scale.best - scale.worst)
    if not -1e-9 <= share <= 1 + 1e-9:
        raise ConfigError(
            f"sample {sample.id!r}: expected a score between {scale.worst:g} and {scale.best:g},"
            f" got {value:g}; state range = [worst, best] in the task's options"
        )
    return RIGHT * min(max(share, 0.0), 1.0)


def _tell_failure(sample: EvalSample, score: InspectScore) -> Outcome:
    output = sample.output
    said = output.completion
    if output.stop_reason == "content_filter" or score.reason == "refusal" or is_refusal(said):
        return Outcome.REFUSED
    if sample.limit is not None or output.stop_reason in ("max_tokens", "model_length"):
        return Outcome.TRUNCATED
    if score.reason in _UNPARSED or not said.strip():
        return Outcome.UNPARSED
    return Outcome.WRONG
