"""Requests that come together are one call, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdback.inspect.gathering import Gatherer


def test_what_comes_together_is_one_batch():
    """A hundred requests in a burst are a few calls, in their order."""
    gatherer = Gatherer(answer=lambda asked: [2 * a for a in asked], quiet_seconds=0.05)

    futures = [gatherer.submit(i) for i in range(100)]
    answers = [future.result(10) for future in futures]
    gatherer.close()

    assert answers == [2 * i for i in range(100)]
    assert len(gatherer.batches) <= 3
    assert sum(gatherer.batches) == 100


def test_what_comes_while_the_engine_runs_is_the_next_batch():
    """Nobody waits for a window to pass that the engine's own time has filled."""
    running, go_on = threading.Event(), threading.Event()

    def answer(asked):
        running.set()
        go_on.wait(10)
        return list(asked)

    gatherer = Gatherer(answer=answer)
    first = gatherer.submit(0)
    assert running.wait(10)
    later = [gatherer.submit(i) for i in range(1, 20)]
    go_on.set()

    assert [future.result(10) for future in [first, *later]] == list(range(20))
    assert gatherer.batches == [1, 19]
    gatherer.close()


def test_one_that_fails_does_not_fail_the_others():
    """The batch is halved until the one at fault is alone with its exception."""

    def answer(asked):
        if 13 in asked:
            raise ValueError("thirteen")
        return list(asked)

    gatherer = Gatherer(answer=answer, quiet_seconds=0.05)
    futures = [gatherer.submit(i) for i in range(32)]

    with pytest.raises(ValueError, match="thirteen"):
        futures[13].result(10)
    assert [f.result(10) for i, f in enumerate(futures) if i != 13] == [
        i for i in range(32) if i != 13
    ]
    gatherer.close()


def test_many_threads_may_ask():
    """Each hears its own answer."""
    gatherer = Gatherer(answer=lambda asked: [a * a for a in asked])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: gatherer.submit(i).result(10), range(200)))
    gatherer.close()

    assert answers == [i * i for i in range(200)]


def test_an_idle_gatherer_does_nothing():
    """It sleeps until somebody asks: no processor time is spent on waiting."""
    gatherer = Gatherer(answer=list)
    before = time.process_time()

    time.sleep(0.3)

    assert time.process_time() - before < 0.1
    gatherer.close()
