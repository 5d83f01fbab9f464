"""Who performs jobs: this process, or others on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol, Self

from holdback.extensions import EXECUTORS, find_extension
from holdback.runs.jobs import Ended, Event, Job, Workbench
from holdback.runs.store import Status


class Executor(Protocol):
    """Whoever performs jobs: this process, others on this machine, a cluster.

    A context manager, in which workers stay between two calls of `run`.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs, in any order, and yield what happens as it happens.

        A job that fails yields `Ended` for each of its runs and does not stop the others.
        Closing the iterator stops the work.
        """
        ...


class InProcess:
    """Performs jobs here, one after the other."""

    def __init__(self) -> None:
        self._bench = Workbench()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bench = Workbench()

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs in their order."""
        for job in jobs:
            yield from self._bench.perform(job)


class LocalWorkers:
    """Performs jobs in spawned processes on this machine, each with one thread.

    A context manager: between two calls of `run` the processes stay, with what they imported and
    loaded, until its end. A process that dies fails its job and is replaced.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._idle:
            self._idle.pop().dismiss()

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Perform all jobs, the next one always by the first worker that is free."""
        waiting = list(jobs)
        crew: dict[Connection, _Worker] = {}

        def engage() -> None:
            worker = self._idle.pop() if self._idle else _Worker()
            crew[worker.connection] = worker
            worker.give(_pick(waiting, worker.checkpoint))

        try:
            for _ in range(min(self._workers, len(waiting))):
                engage()
            while crew:
                for connection in wait(list(crew)):
                    assert isinstance(connection, Connection)
                    worker = crew[connection]
                    try:
                        event = connection.recv()
                    except (EOFError, OSError, pickle.UnpicklingError):
                        del crew[connection]
                        yield from worker.bury()
                        if waiting:
                            engage()
                        continue
                    if event is not None:
                        worker.heed(event)
                        yield event
                    elif waiting:
                        worker.give(_pick(waiting, worker.checkpoint))
                    else:
                        self._idle.append(crew.pop(connection))
        finally:
            for worker in crew.values():
                worker.stop()


def make_executor(name: str, *, workers: int) -> Executor:
    """Make the executor of a name: an entry point of `holdback.executors`, or `file.py:Name`.

    It is called with `workers`, and what it makes is a context manager.

    Raises:
        UnknownNameError: for a name that nothing provides.
    """
    factory = find_extension(EXECUTORS, name, kind="executor")
    made: Executor = factory(workers=workers)
    return made


def make_local(*, workers: int) -> Executor:
    """Choose by number of workers: this process for one, spawned ones for more."""
    return InProcess() if workers == 1 else LocalWorkers(workers)


class _Worker:
    """A spawned process as its employer sees it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.checkpoint = ""
        self._unfinished: list[str] = []
        self._since = time.monotonic()

    def give(self, job: Job) -> None:
        self.checkpoint = job.specs[0].checkpoint
        self._unfinished = [spec.digest for spec in job.specs]
        self._since = time.monotonic()
        try:
            self.connection.send(job)
        except OSError:
            # It died while idle; the pipe's end says so next, and the job is failed there.
            return

    def heed(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._unfinished.remove(event.run)

    def bury(self) -> Iterator[Event]:
        self._process.join()
        for run in self._unfinished:
            yield Ended(
                run=run,
                status=Status.FAILED,
                seconds=time.monotonic() - self._since,
                reason=f"the worker process died with exit code {self._process.exitcode}"
                " (killed, or out of memory?)",
            )

    def dismiss(self) -> None:
        self.connection.close()
        self._process.join()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    # Ctrl-C reaches the whole group; the employer decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before torch is imported, so that its pools are made with one thread.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    bench = Workbench()
    try:
        while True:
            for event in bench.perform(connection.recv()):
                connection.send(event)
            connection.send(None)
    except (EOFError, OSError):
        # Dismissed, or the employer is gone: nobody is left to tell.
        return


def _pick(waiting: list[Job], checkpoint: str) -> Job:
    """Take the next job, of the worker's own checkpoint if there is one."""
    own = (i for i, job in enumerate(waiting) if job.specs[0].checkpoint == checkpoint)
    return waiting.pop(next(own, 0))
