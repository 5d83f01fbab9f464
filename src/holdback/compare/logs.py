"""Evaluation results of any origin as one record: a sample of a task, its score and its outcome.

What Inspect, lm-eval and Holdback's own store write differs; what is compared and imported is this.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdback.errors import ConfigError, EmptyLogError, LogError
from holdback.tasks.task import Outcome

SHOWN_CHARACTERS = 600
"""Of a question or an answer that is kept to be shown; its digest covers all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedSample:
    """One sample of a task in one epoch, and what became of it."""

    sample_id: str
    epoch: int
    cluster: str
    """What the sample shares with others: from its metadata, else its question."""
    value: float | None
    """None where it has no score: it errored, or its scorer gave none."""
    outcome: Outcome
    answer: str
    target: str
    question: str
    """Beginning of the input, or of a long few-shot prompt its end; to be shown."""
    digest: str
    """Of the input with its choices, whole: tells whether two logs asked the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLog:
    """What one model did on one task, by one score."""

    task: str
    model: str
    source: str
    """File, or place in a store, as an error should name it."""
    score: str
    """The scorer or metric that the values are of."""
    samples: tuple[LoggedSample, ...]
    expected: int | None = None
    """Samples that the evaluation was asked for, epochs counted; None where it is not written."""
    status: str = "success"
    lower_is_better: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What besides the model's name an outcome depends on: its arguments, the solver's, …"""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Samples that were asked for and are not there."""
        return max(0, (self.expected or 0) - len(self.samples))

    @property
    def shortfall(self) -> str:
        """What is missing and why, in words; empty where nothing is."""
        if not self.missing:
            return ""
        return f"{len(self.samples)} of {self.expected} samples, status {self.status!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How logs are to be read."""

    scores: tuple[str, ...] = ()
    """Scorers or metrics; of each log the first that it has."""
    cluster: str | None = None
    """Key of the sample's metadata, or column of its document; `cluster`, where there is one."""
    skip_unscored: bool = False
    """Whether samples with a score of NaN, or with none, may be left out."""


def choose_score(found: Iterable[str], options: ReadOptions, source: str) -> str:
    """Choose which of a log's scores is read.

    Raises:
        LogError: without any score.
        ConfigError: if there are several and none of them was named, or another was.
    """
    names = sorted(set(found))
    if not names:
        raise LogError(
            f"{source}: expected samples with scores, got none; score the log first (inspect score)"
        )
    for wanted in options.scores:
        # lm-eval's `metric,filter` may be called by its metric where that is enough.
        close = [name for name in names if wanted in (name, name.partition(",")[0])]
        if len(close) == 1:
            return close[0]
    listed = ", ".join(names)
    if options.scores:
        near = difflib.get_close_matches(options.scores[0], names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        asked = " or ".join(map(repr, options.scores))
        raise ConfigError(f"{source}: expected one score named {asked}, got {listed}.{hint}")
    if len(names) > 1:
        raise ConfigError(
            f"{source}: expected one score, got {len(names)}: {listed}; choose with --score NAME"
        )
    return names[0]


def check_value(value: float, *, sample: str, score: str, source: str, skip: bool) -> float | None:
    """Return a score, or None where it is not finite and such may be skipped.

    Raises:
        LogError: for NaN or infinity, which are no scores.
    """
    if math.isfinite(value):
        return value
    if skip:
        return None
    raise LogError(
        f"{source}: sample {sample!r}: expected a finite score {score!r}, got {value}; score it"
        " again, or leave such samples out, counted, with --skip-unscored"
    )


def find_cluster(
    metadata: Mapping[str, Any], options: ReadOptions, *, sample: str, source: str
) -> str | None:
    """Look up a sample's cluster in its metadata; None where it has none and none was named.

    Raises:
        ConfigError: if the key that was named is not there.
    """
    found = metadata.get(options.cluster or "cluster")
    if found is None and options.cluster is not None:
        known = ", ".join(sorted(map(str, metadata))) or "none"
        raise ConfigError(
            f"{source}: sample {sample!r}: expected {options.cluster!r} in its metadata for"
            f" --cluster, got keys: {known}"
        )
    return None if found is None else f"{found}"


def digest_text(text: str) -> str:
    """Short digest of what a model was asked; 128 bits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_any(samples: Sequence[object], source: str, status: str) -> None:
    """Refuse a log without samples.

    Raises:
        EmptyLogError: naming the log, if its evaluation did not end well.
        LogError: if it did.
    """
    if not samples:
        kind = LogError if status == "success" else EmptyLogError
        raise kind(
            f"{source}: expected samples, got none (status {status!r}); run the evaluation on a"
            " dataset that has some, and with its samples logged"
        )


def require_unique(samples: Sequence[LoggedSample], source: str) -> None:
    """Refuse a log that has one sample twice.

    Raises:
        LogError: naming the sample.
    """
    keys = [(sample.sample_id, sample.epoch) for sample in samples]
    if len(set(keys)) == len(keys):
        return
    (sample_id, epoch), _ = Counter(keys).most_common(1)[0]
    raise LogError(
        f"{source}: expected each sample once an epoch, got sample {sample_id!r}, epoch {epoch},"
        " twice; give the dataset's samples ids of their own"
    )
