"""Two logs of one task, sample by sample; or why they can't be put side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from holdback.compare.logs import LoggedSample, TaskLog
from holdback.errors import ConfigError, LogError

MOST_NAMED = 5
"""Samples of each kind that a message names."""
Key = tuple[str, int]
"""A sample's id and its epoch."""


class MismatchError(LogError):
    """Two logs of one task do not hold the same samples."""

    def __init__(self, message: str, mismatched: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.mismatched = mismatched or {}
        """How samples differ to their ids, all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What both logs have on one sample: one epoch of it, or all of each log's."""

    first: tuple[LoggedSample, ...]
    other: tuple[LoggedSample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """The pairs of two logs, and what is not among them."""

    pairs: tuple[Pair, ...]
    paired_by: str
    """`sample`, `sample and epoch` or `sample, means over epochs`."""
    dropped: int = 0
    """Samples, epochs counted, of either log that the other does not have, by `common`."""
    dropped_share: float = 0.0
    """Of all samples of both logs."""
    mismatched: Mapping[str, Sequence[str]]
    """How the dropped ones differ, such as `only_first`, to their ids."""
    left_out: Mapping[str, int]
    """Why pairs have no score on either side, such as `errored in the first`; to their number."""


def pair_logs(first: TaskLog, other: TaskLog, *, common: bool = False) -> Pairing:
    """Pair what two logs hold on the same samples.

    Where both have the same epochs an epoch is paired with its namesake; where each has its own
    number of them, one of all samples, their means are.

    Args:
        first: What the other is compared with.
        other: Of the same task, by the same score.
        common: Compare what they share where their samples are not the same.

    Raises:
        MismatchError: if their samples differ in ids, inputs or targets, or in epochs.
        LogError: if they share none that has scores.
        ConfigError: if their scores are not the same.
    """
    if first.score != other.score:
        raise ConfigError(
            f"{first.source} and {other.source}: expected one score in both, got {first.score!r}"
            f" and {other.score!r}; choose one that both have with --score"
        )
    ours, theirs = _index(first), _index(other)
    differing = _find_differing(ours, theirs)
    shared, by_means = _share(ours, theirs, differing.ids, common=common)
    if not shared or (differing and not common):
        raise MismatchError(
            _explain(first, other, differing, shared=bool(shared)), differing.to_dict()
        )
    pairs = _pair_means(ours, theirs, shared) if by_means else _pair_keys(ours, theirs, shared)
    kept = tuple(pair for pair in pairs if _has_scores(pair.first) and _has_scores(pair.other))
    left_out = _count_left_out(pairs)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise LogError(
            f"task {first.task!r}: {first.source} and {other.source}: expected samples with scores"
            f" in both, got none: {why}"
        )
    used = sum(len(pair.first) + len(pair.other) for pair in pairs)
    total = len(ours) + len(theirs)
    return Pairing(
        pairs=kept,
        paired_by=_name_pairing(pairs, by_means=by_means),
        dropped=total - used,
        dropped_share=(total - used) / total,
        mismatched=differing.to_dict(),
        left_out=left_out,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Differing:
    """How two logs' samples are not the same."""

    only_first: tuple[str, ...]
    only_other: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    epochs: tuple[str, ...]

    @property
    def ids(self) -> frozenset[str]:
        """Samples whose name is the same and nothing else."""
        return frozenset((*self.inputs, *self.targets))

    def to_dict(self) -> dict[str, list[str]]:
        """Every way in which there are some that differ, to all their ids."""
        return {name: list(ids) for name, ids in asdict(self).items() if ids}

    def __bool__(self) -> bool:
        return any((self.only_first, self.only_other, self.inputs, self.targets, self.epochs))


def _index(log: TaskLog) -> dict[Key, LoggedSample]:
    return {(sample.sample_id, sample.epoch): sample for sample in log.samples}


def _find_differing(
    ours: Mapping[Key, LoggedSample], theirs: Mapping[Key, LoggedSample]
) -> _Differing:
    if ours.keys() == theirs.keys():
        both = [(sample, theirs[key]) for key, sample in ours.items()]
        only_first, only_other, epochs = [], [], []
    else:
        mine, others = _by_id(ours.values()), _by_id(theirs.values())
        both = [(found[0], others[name][0]) for name, found in mine.items() if name in others]
        only_first = [name for name in mine if name not in others]
        only_other = [name for name in others if name not in mine]
        epochs = [*_find_uneven(mine), *_find_uneven(others)]
    return _Differing(
        only_first=tuple(only_first),
        only_other=tuple(only_other),
        inputs=tuple(dict.fromkeys(a.sample_id for a, b in both if a.digest != b.digest)),
        targets=tuple(dict.fromkeys(a.sample_id for a, b in both if a.target != b.target)),
        epochs=tuple(dict.fromkeys(epochs)),
    )


def _by_id(samples: Iterable[LoggedSample]) -> dict[str, list[LoggedSample]]:
    found: dict[str, list[LoggedSample]] = {}
    for sample in samples:
        found.setdefault(sample.sample_id, []).append(sample)
    return found


def _find_uneven(samples: Mapping[str, Sequence[LoggedSample]]) -> list[str]:
    """Name samples that have fewer epochs than others of their log."""
    most = max(map(len, samples.values()), default=0)
    return [name for name, found in samples.items() if len(found) < most]


def _share(
    ours: Mapping[Key, LoggedSample],
    theirs: Mapping[Key, LoggedSample],
    excluded: frozenset[str],
    *,
    common: bool,
) -> tuple[list[Key] | list[str], bool]:
    """List keys that both have; or ids, where epochs have to be averaged over."""
    if ours.keys() == theirs.keys():
        return [key for key in ours if key[0] not in excluded], False
    if common and {epoch for _, epoch in ours} == {epoch for _, epoch in theirs}:
        return [key for key in ours if key in theirs and key[0] not in excluded], False
    mine, others = _by_id(ours.values()), _by_id(theirs.values())
    left = {*excluded, *_find_uneven(mine), *_find_uneven(others)}
    return [name for name in mine if name in others and name not in left], True


def _pair_keys(
    ours: Mapping[Key, LoggedSample], theirs: Mapping[Key, LoggedSample], keys: Sequence[Key | str]
) -> list[Pair]:
    return [Pair(first=(ours[key],), other=(theirs[key],)) for key in keys]  # type: ignore[index]


def _pair_means(
    ours: Mapping[Key, LoggedSample], theirs: Mapping[Key, LoggedSample], ids: Sequence[Key | str]
) -> list[Pair]:
    mine, others = _by_id(ours.values()), _by_id(theirs.values())
    return [
        Pair(first=tuple(mine[name]), other=tuple(others[name]))  # type: ignore[index]
        for name in ids
    ]


def _name_pairing(pairs: Sequence[Pair], *, by_means: bool) -> str:
    if by_means and any(len(pair.first) + len(pair.other) > 2 for pair in pairs):
        return "sample, means over epochs"
    epochs = {pair.first[0].epoch for pair in pairs}
    return "sample and epoch" if len(epochs) > 1 else "sample"


def _has_scores(samples: Sequence[LoggedSample]) -> bool:
    return any(sample.value is not None for sample in samples)


def _count_left_out(pairs: Iterable[Pair]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for pair in pairs:
        ours, theirs = _has_scores(pair.first), _has_scores(pair.other)
        if not ours and not theirs:
            counted["without a score in both"] += 1
        elif not ours:
            counted[f"{pair.first[0].outcome} in the first"] += 1
        elif not theirs:
            counted[f"{pair.other[0].outcome} in the other"] += 1
    return dict(counted)


def _name_some(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(map(repr, names[:MOST_NAMED]))}{more}"


def _explain(first: TaskLog, other: TaskLog, differing: _Differing, *, shared: bool) -> str:
    told = [
        f"{len(names)} {what} ({_name_some(names)})"
        for names, what in (
            (differing.only_first, "only in the first"),
            (differing.only_other, "only in the other"),
            (differing.inputs, "with another input"),
            (differing.targets, "with another target"),
            (differing.epochs, "with fewer epochs than the others"),
        )
        if names
    ]
    for name, log in (("first", first), ("other", other)):
        if log.shortfall:
            told.append(f"the {name} has {log.shortfall}")
    fix = (
        "compare what they share, with --common, or list all of them with --json"
        if shared
        else "they share none, so nothing can be compared"
    )
    return (
        f"task {first.task!r}: expected the same samples in {first.source} and {other.source},"
        f" got {'; '.join(told)}; {fix}"
    )
