"""Requests that come one by one, answered by the engine in batches.

A worker thread sleeps until a request comes, gathers those that follow within a few milliseconds of
each other, and runs them in one call; what comes meanwhile is the next batch. Nothing polls.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting(Generic[Asked, Answered]):
    asked: Asked
    future: Future[Answered]


@dataclass(kw_only=True)
class Gatherer(Generic[Asked, Answered]):
    """Gathers requests into calls of `answer`; close it, or end the process.

    `answer` gets a batch and gives as many answers, in the same order. Where it raises, the batch
    is halved until the requests at fault are alone with the exception.
    """

    answer: Callable[[Sequence[Asked]], Sequence[Answered]]
    quiet_seconds: float = 0.005
    """A batch is closed when nothing has come for so long,"""
    longest_seconds: float = 0.05
    """or so long after its first request."""
    batches: list[int] = field(default_factory=list)
    """Sizes of the batches so far."""

    def __post_init__(self) -> None:
        self._queue: queue.SimpleQueue[_Waiting[Asked, Answered] | None] = queue.SimpleQueue()
        # A daemon: nobody waits for requests that nobody is left to hear of.
        self._thread = threading.Thread(target=self._serve, name="holdback-engine", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked) -> Future[Answered]:
        """Queue a request; its future is done when its batch is."""
        future: Future[Answered] = Future()
        self._queue.put(_Waiting(asked=asked, future=future))
        return future

    def close(self) -> None:
        """Answer what was asked, then end the thread."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        ended = False
        while not ended:
            first = self._queue.get()
            if first is None:
                return
            batch, ended = self._gather(first)
            # Whoever has been cancelled is not asked for.
            live = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if live:
                self._run(live)

    def _gather(
        self, first: _Waiting[Asked, Answered]
    ) -> tuple[list[_Waiting[Asked, Answered]], bool]:
        batch, last = [first], time.monotonic() + self.longest_seconds
        while (left := min(self.quiet_seconds, last - time.monotonic())) > 0:
            try:
                waiting = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
        return batch, False

    def _run(self, live: Sequence[_Waiting[Asked, Answered]]) -> None:
        self.batches.append(len(live))
        try:
            answers = self.answer([waiting.asked for waiting in live])
        # Blind: whatever it is belongs to whoever asked for it, and the thread goes on.
        except BaseException as error:
            if len(live) == 1:
                live[0].future.set_exception(error)
                return
            # One that cannot be answered is not to fail those it happened to come with.
            for part in (live[: len(live) // 2], live[len(live) // 2 :]):
                self._run(part)
            return
        for waiting, answered in zip(live, answers, strict=True):
            waiting.future.set_result(answered)
