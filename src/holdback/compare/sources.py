"""What a user names on the command line, a file, a folder or a run in a store, as `TaskLog`s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from holdback.compare.comparison import Source
from holdback.compare.eval_logs import is_eval_file, read_eval_file
from holdback.compare.lm_eval_samples import is_samples_file, read_samples_file
from holdback.compare.logs import ReadOptions, TaskLog
from holdback.compare.stored import is_store, read_stored
from holdback.errors import ConfigError, EmptyLogError, LogError

_EXPECTED = (
    "an Inspect log (.eval or .json), lm-eval samples (samples_*.jsonl), a folder of either, or a"
    " run in a store (STORE.sqlite#CHECKPOINT/RUNG)"
)

Tell: TypeAlias = Callable[[str], None]


def read_sources(references: Sequence[str], options: ReadOptions, *, tell: Tell) -> list[Source]:
    """Read all, and call each by its model where that tells them apart; see `read_source`."""
    read = [read_source(reference, options, tell=tell) for reference in references]
    models = [logs[0].model for logs in read]
    names = models if len(set(models)) == len(models) else list(references)
    return [Source(name=name, logs=tuple(logs)) for name, logs in zip(names, read, strict=True)]


def read_source(reference: str, options: ReadOptions, *, tell: Tell) -> list[TaskLog]:
    """Read what `reference` names, a log a task, in the order of their tasks.

    Args:
        reference: A file, a folder or a run in a store.
        options: How to read.
        tell: Hears of a folder's logs that are left out: evaluations that ended before a sample
            was scored.

    Raises:
        LogError: for what cannot be read.
        StoreError: for a store that cannot be.
        ConfigError: for what is not there or is not one thing.
    """
    path, _, run = reference, "", ""
    if not Path(reference).exists() and "#" in reference:
        path, _, run = reference.partition("#")
    place = Path(path)
    if not place.exists():
        raise ConfigError(f"expected {_EXPECTED}, found nothing at {path!r}")
    if place.is_dir():
        logs = _read_files(_list_files(place), options, tell)
        return sorted(_pick_latest(logs, path), key=lambda log: log.task)
    if is_store(place):
        return read_stored(place, run)
    return [_read_file(place, options)]


def read_log_files(reference: str, options: ReadOptions, *, tell: Tell) -> list[TaskLog]:
    """Read every log of a file or folder, several of one task too; what `import` takes.

    Args:
        reference: The file or folder.
        options: How to read.
        tell: As for `read_source`.

    Raises:
        LogError: for what cannot be read.
        ConfigError: for what is not there.
    """
    place = Path(reference)
    if not place.exists():
        raise ConfigError(f"expected a log or a folder of logs, found nothing at {reference!r}")
    if place.is_dir():
        return _read_files(_list_files(place), options, tell)
    return [_read_file(place, options)]


def _read_files(files: Sequence[Path], options: ReadOptions, tell: Tell) -> list[TaskLog]:
    """Read the logs of a folder; tries that came to nothing lie beside those that did not."""
    logs, empty = [], []
    for file in files:
        try:
            logs.append(_read_file(file, options))
        except EmptyLogError as error:
            empty.append(error)
    if empty and not logs:
        raise empty[0]
    for reason in empty:
        tell(f"left out: {reason}")
    return logs


def _read_file(path: Path, options: ReadOptions) -> TaskLog:
    if is_samples_file(path):
        return read_samples_file(path, options)
    if is_eval_file(path):
        return read_eval_file(path, options)
    raise ConfigError(f"expected {_EXPECTED}, got another kind of file: {path}")


def _list_files(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (is_samples_file(path) or is_eval_file(path))
    ]
    if not files:
        raise LogError(f"expected {_EXPECTED}, got a folder without any: {folder}")
    return files


def _pick_latest(logs: Sequence[TaskLog], folder: str) -> list[TaskLog]:
    """Keep one log a task: of a task that was tried again the try that ended well.

    Raises:
        ConfigError: if several did, or if they are of several models.
    """
    models = sorted({log.model for log in logs})
    if len(models) > 1:
        raise ConfigError(
            f"{folder}: expected logs of one model, got {', '.join(models)}; name a log of one"
        )
    kept = []
    for task in dict.fromkeys(log.task for log in logs):
        found = [log for log in logs if log.task == task]
        whole = [log for log in found if log.status == "success"] or found
        if len(whole) > 1:
            listed = ", ".join(Path(log.source).name for log in whole)
            raise ConfigError(
                f"{folder}: expected one log of task {task!r}, got {len(whole)}: {listed}; name one"
            )
        kept.append(whole[0])
    return kept
