"""The run store: one SQLite file, one row a sample, nothing ever rewritten.

Every row carries a digest of itself and of the row before it, so `verify` can name the first one
that is not what was written. The chain shows accidents and careless edits; it holds no secret key,
so whoever rewrites the whole file can forge it.

Writers append a block of records in one transaction and wait for each other. A sample that is
already there is not stored again, so two processes that run the same thing do no harm. One that
errored stays as it was stored; when another try brings an answer, that is stored behind it and read
in its stead.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdback.errors import StoreError
from holdback.runs.records import RunSpec
from holdback.tasks.task import Outcome, SampleRecord, Score, Split

VERSION = 2
"""2: a sample that errored may be stored again, when another try brought an answer."""
# "HBK1": tells our file from any other SQLite database.
_APPLICATION = 0x48424B31
_GENESIS = hashlib.sha256(b"holdback run store").hexdigest()

_SCHEMA = """
CREATE TABLE runs (
    digest TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    status TEXT NOT NULL,
    samples INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    details TEXT NOT NULL DEFAULT '',
    provenance TEXT NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    seconds REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE samples (
    sequence INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (digest),
    sample_id TEXT NOT NULL,
    cluster TEXT NOT NULL,
    value REAL,
    outcome TEXT NOT NULL,
    answer TEXT NOT NULL,
    metadata TEXT NOT NULL,
    digest TEXT NOT NULL
) STRICT;
CREATE INDEX samples_of_run ON samples (run, sample_id);
CREATE UNIQUE INDEX answered ON samples (run, sample_id) WHERE outcome <> 'errored';
CREATE TABLE audits (
    digest TEXT PRIMARY KEY,
    plan TEXT NOT NULL,
    command TEXT NOT NULL,
    started REAL NOT NULL,
    seconds REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE audit_runs (
    audit TEXT NOT NULL REFERENCES audits (digest),
    position INTEGER NOT NULL,
    run TEXT NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (audit, spec)
) STRICT;
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER, digest TEXT) STRICT;
"""


class Status(StrEnum):
    """How far a run came. What is `running` in a store that nobody writes to was interrupted."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Its technique has nothing to work on there; it holds no samples and is not tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run in the store, without its samples."""

    spec: RunSpec
    status: Status
    samples: int
    """Samples that were asked for when the run last ended; a task may have had fewer."""
    reason: str
    """Why it failed or was skipped, in one line; empty where it was not."""
    details: str
    """The traceback of the failure."""
    stretches: tuple[Mapping[str, Any], ...]
    """What produced its samples: one entry for each stretch of work, the latest last."""
    started: float
    finished: float | None
    seconds: float

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The latest stretch of work."""
        return self.stretches[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAudit:
    """An audit in the store: its plan as text, and the runs it is made of."""

    digest: str
    plan: str
    command: str
    started: float
    seconds: float
    specs: tuple[RunSpec, ...] = field(default=())


class RunStore:
    """Runs and their samples in one file; a context manager.

    Args:
        path: The SQLite file.
        create: Make it where there is none; otherwise that is an error.

    Raises:
        StoreError: if the file is missing, not a run store, or one of another version. It is left
            as it is.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        if not create and not path.is_file():
            raise StoreError(f"expected a run store at {path}, found none; run the audit first")
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: transactions are the explicit ones below.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"run store {path} cannot be opened: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(
                f"expected a run store at {path}, got a file that SQLite cannot use: {error};"
                " nothing was changed"
            ) from error
        except StoreError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self, spec: RunSpec, provenance: Mapping[str, Any]) -> None:
        """Note that a run starts, or goes on: another stretch of work, with its own provenance."""
        with self._transaction():
            stretches = [*self._stretches(spec.digest), dict(provenance)]
            self._db.execute(
                "INSERT INTO runs (digest, spec, status, samples, provenance, started)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET status ="
                " excluded.status, reason = '', details = '', provenance = excluded.provenance",
                (
                    spec.digest,
                    _dump_spec(spec),
                    Status.RUNNING,
                    spec.samples,
                    _dump(stretches),
                    time.time(),
                ),
            )

    def note_usage(self, run: str, usage: Mapping[str, Any]) -> None:
        """Add to the latest stretch of a run's work what an endpoint was asked in it."""
        with self._transaction():
            stretches = self._stretches(run)
            stretches[-1] = {**stretches[-1], "usage": dict(usage)}
            self._db.execute(
                "UPDATE runs SET provenance = ? WHERE digest = ?", (_dump(stretches), run)
            )

    def _stretches(self, run: str) -> list[Mapping[str, Any]]:
        row = self._db.execute("SELECT provenance FROM runs WHERE digest = ?", (run,)).fetchone()
        return [] if row is None else _read_stretches(row[0])

    def append(self, run: str, records: Iterable[SampleRecord]) -> None:
        """Store a block of samples of the run with digest `run`, all or none of them.

        Raises:
            ValueError: if metadata or a score is not finite JSON.
        """
        rows = [_write_row(record) for record in records]
        with self._transaction():
            count, digest = self._head()
            for row in rows:
                if self._has(run, row[0], errored=row[3] == Outcome.ERRORED):
                    continue
                count, digest = count + 1, _chain(digest, run, row)
                self._db.execute(
                    "INSERT INTO samples (sequence, run, sample_id, cluster, value, outcome,"
                    " answer, metadata, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (count, run, *row, digest),
                )
            self._db.execute("UPDATE head SET count = ?, digest = ?", (count, digest))

    def _has(self, run: str, sample: str, *, errored: bool) -> bool:
        """Tell whether a sample is there: an answer, or for one that errored anything at all."""
        query = "SELECT 1 FROM samples WHERE run = ? AND sample_id = ?"
        query += "" if errored else " AND outcome <> 'errored'"
        return self._db.execute(query, (run, sample)).fetchone() is not None

    def finish(
        self,
        spec: RunSpec,
        status: Status,
        *,
        seconds: float,
        reason: str = "",
        details: str = "",
    ) -> None:
        """Note how a run ended; `seconds` add up over restarts."""
        with self._transaction():
            self._db.execute(
                # As many as this ending was asked for: of a longer run before, cut off in its
                # middle, no more than these are there.
                "UPDATE runs SET status = ?, reason = ?, details = ?, samples = ?,"
                " finished = ?, seconds = seconds + ? WHERE digest = ?",
                (status, reason, details, spec.samples, time.time(), seconds, spec.digest),
            )

    def is_done(self, spec: RunSpec) -> bool:
        """Tell whether the store holds what `spec` asks for."""
        row = self._db.execute(
            "SELECT status, samples FROM runs WHERE digest = ?", (spec.digest,)
        ).fetchone()
        if row is None:
            return False
        if row[0] == Status.SKIPPED:
            return True
        if row[0] == Status.FAILED:
            # Whatever it holds is not read: what failed may have failed on what is hardest.
            return False
        # A longer run that was cut off may still hold all that a shorter one asks for.
        ended = row[0] == Status.DONE and row[1] >= spec.samples
        if ended and self.count(spec.digest) == self._count_answered(spec.digest):
            return True
        return self._count_answered(spec.digest) >= spec.samples

    def count(self, run: str) -> int:
        """Count the samples of the run with digest `run`, those that errored included."""
        query = "SELECT count(DISTINCT sample_id) FROM samples WHERE run = ?"
        return int(self._db.execute(query, (run,)).fetchone()[0])

    def _count_answered(self, run: str) -> int:
        query = "SELECT count(*) FROM samples WHERE run = ? AND outcome <> 'errored'"
        return int(self._db.execute(query, (run,)).fetchone()[0])

    def records(self, run: str, *, limit: int | None = None) -> list[SampleRecord]:
        """Read a run's samples in the order in which they were stored, at most `limit`."""
        rows = self._db.execute(
            "SELECT sample_id, cluster, value, outcome, answer, metadata FROM samples AS one"
            " WHERE run = ? AND (outcome <> 'errored' OR NOT EXISTS (SELECT 1 FROM samples AS other"
            " WHERE other.run = one.run AND other.sample_id = one.sample_id"
            " AND other.outcome <> 'errored')) ORDER BY sequence LIMIT ?",
            (run, -1 if limit is None else limit),
        )
        return [_read_row(row) for row in rows]

    def run(self, digest: str) -> RunRecord | None:
        """Find a run by its digest."""
        query = (
            "SELECT spec, status, samples, reason, details, provenance, started, finished, seconds"
            " FROM runs WHERE digest = ?"
        )
        row = self._db.execute(query, (digest,)).fetchone()
        if row is None:
            return None
        spec, status, samples, reason, details, provenance, started, finished, seconds = row
        return RunRecord(
            spec=_load_spec(spec),
            status=Status(status),
            samples=samples,
            reason=reason,
            details=details,
            stretches=tuple(_read_stretches(provenance)),
            started=started,
            finished=finished,
            seconds=seconds,
        )

    def runs(self) -> list[RunRecord]:
        """List all runs in the order in which they began, whatever audit asked for them."""
        digests = self._db.execute("SELECT digest FROM runs ORDER BY started, digest").fetchall()
        return [run for (digest,) in digests if (run := self.run(digest)) is not None]

    def begin_audit(self, digest: str, *, plan: str, command: str) -> None:
        """Note that an audit starts, or goes on; it is then the store's latest."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO audits (digest, plan, command, started) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET command = excluded.command,"
                " started = excluded.started",
                (digest, plan, command, time.time()),
            )

    def enlist(self, audit: str, specs: Sequence[RunSpec]) -> None:
        """Note which runs an audit is made of."""
        with self._transaction():
            query = "SELECT count(*) FROM audit_runs WHERE audit = ?"
            first = int(self._db.execute(query, (audit,)).fetchone()[0])
            self._db.executemany(
                "INSERT INTO audit_runs (audit, position, run, spec) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (audit, spec) DO NOTHING",
                [
                    (audit, first + index, spec.digest, _dump_spec(spec))
                    for index, spec in enumerate(specs)
                ],
            )

    def add_seconds(self, audit: str, seconds: float) -> None:
        """Add to an audit's wall time."""
        with self._transaction():
            self._db.execute(
                "UPDATE audits SET seconds = seconds + ? WHERE digest = ?", (seconds, audit)
            )

    def audits(self) -> list[StoredAudit]:
        """List the audits, the latest first."""
        query = "SELECT digest, plan, command, started, seconds FROM audits ORDER BY started DESC"
        return [
            StoredAudit(
                digest=digest,
                plan=plan,
                command=command,
                started=started,
                seconds=seconds,
                specs=tuple(self._enlisted(digest)),
            )
            for digest, plan, command, started, seconds in self._db.execute(query).fetchall()
        ]

    def verify(self) -> int:
        """Check every record against the chain of digests, and count them.

        Raises:
            StoreError: naming the first record that was altered, removed or added.
        """
        labels = {}
        for digest, spec in self._db.execute("SELECT digest, spec FROM runs"):
            labels[digest] = _load_spec(spec).label
            if _load_spec(spec).digest != digest:
                raise StoreError(
                    f"run store {self.path}: run {labels[digest]} is not the one that was stored:"
                    f" its digest should be {digest[:12]}…; restore the file from a copy"
                )
        count, digest = 0, _GENESIS
        rows = self._db.execute(
            "SELECT sequence, run, digest, sample_id, cluster, value, outcome, answer, metadata"
            " FROM samples ORDER BY sequence"
        )
        for sequence, run, stored, *row in rows:
            digest = _chain(digest, run, row)
            if sequence != count + 1 or stored != digest or run not in labels:
                raise StoreError(
                    f"run store {self.path}: altered at record {count + 1}: found sample"
                    f" {row[0]!r} of run {labels.get(run, run)}, which is not what was stored"
                    " there; restore the file from a copy"
                )
            count += 1
        if self._head() != (count, digest):
            raise StoreError(
                f"run store {self.path}: altered at record {count + 1}: expected"
                f" {self._head()[0]} records, found {count}; restore the file from a copy"
            )
        return count

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # Immediate: the chain's head is read and replaced under one lock.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _prepare(self) -> None:
        self._upgrade()
        if self._is_ours():
            self._db.execute("PRAGMA synchronous = NORMAL")
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            # Another process may have been faster.
            if self._is_ours():
                return
            for statement in _SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO head VALUES (1, 0, ?)", (_GENESIS,))
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _upgrade(self) -> None:
        """Let a store of version 1 hold another try of a sample; its rows and digests stay."""
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION, 1):
            return
        _, table, *indices = _SCHEMA.split(";\n")[:4]
        with self._transaction():
            self._db.execute("ALTER TABLE samples RENAME TO older")
            self._db.execute(table)
            self._db.execute("INSERT INTO samples SELECT * FROM older ORDER BY sequence")
            self._db.execute("DROP TABLE older")
            for index in indices:
                self._db.execute(index)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _is_ours(self) -> bool:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application == _APPLICATION and version != VERSION:
            raise StoreError(
                f"run store {self.path}: expected version {VERSION}, got version {version};"
                " nothing was changed: use the Holdback that wrote it, or name another --store"
            )
        if application != _APPLICATION and (tables or version):
            raise StoreError(
                f"expected a run store at {self.path}, got another SQLite database; nothing was"
                " changed: name another --store"
            )
        return bool(application == _APPLICATION)

    def _head(self) -> tuple[int, str]:
        count, digest = self._db.execute("SELECT count, digest FROM head").fetchone()
        return count, digest

    def _enlisted(self, audit: str) -> Iterator[RunSpec]:
        query = "SELECT spec FROM audit_runs WHERE audit = ? ORDER BY position"
        for (spec,) in self._db.execute(query, (audit,)).fetchall():
            yield _load_spec(spec)


Row = tuple[str, str, float | None, str, str, str]


def _write_row(record: SampleRecord) -> Row:
    score = record.score
    return (
        record.sample_id,
        record.cluster,
        None if score.value is None else _finite(score.value),
        str(score.outcome),
        score.answer,
        _dump(record.metadata),
    )


def _read_row(row: Row) -> SampleRecord:
    sample_id, cluster, value, outcome, answer, metadata = row
    return SampleRecord(
        sample_id=sample_id,
        cluster=cluster,
        score=Score(value=value, outcome=Outcome(outcome), answer=answer),
        metadata=json.loads(metadata),
    )


def _read_stretches(stored: str) -> list[Mapping[str, Any]]:
    read = json.loads(stored)
    # A store of before kept the latest stretch alone.
    return read if isinstance(read, list) else [read]


def _chain(previous: str, run: str, row: Sequence[Any]) -> str:
    return hashlib.sha256(_dump([previous, run, *row]).encode()).hexdigest()


def _finite(value: float) -> float:
    # SQLite would store NaN as NULL, and NULL says that the sample says nothing.
    if value - value != 0:
        raise ValueError(f"a score must be finite or None, got {value}")
    # Nor does it keep the sign of -0.0, which the chain would miss.
    return value + 0.0


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _dump_spec(spec: RunSpec) -> str:
    return _dump({**asdict(spec), "parameters": dict(spec.parameters)})


def _load_spec(stored: str) -> RunSpec:
    fields = json.loads(stored)
    return RunSpec(**{**fields, "split": Split(fields["split"])})
