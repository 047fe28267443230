"""Recordings that wait for company: none is lost, each in the context it was given in."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar, copy_context

import pytest

from telemetry.deferred import Deferred
from tests.poll import poll_until

NEVER_S = 3600.0
request: ContextVar[str] = ContextVar("request", default="none")


@pytest.fixture
def idle() -> Generator[Deferred, None, None]:
    """One whose thread does nothing by itself during a test."""
    deferred = Deferred(delay_s=NEVER_S)
    yield deferred
    deferred.close()


def test_nothing_runs_where_it_is_brought(idle: Deferred) -> None:
    """Who brings a recording does not run it; who drains runs all of them, in their order, each once."""
    done: list[int] = []
    for number in range(100):
        idle.put(done.append, number)
    assert done == []
    idle.drain()
    idle.drain()
    assert done == list(range(100))


def test_the_thread_runs_them() -> None:
    """Without anybody's asking they are run soon, and on another thread."""
    deferred, ran_on = Deferred(delay_s=0.01), list[str]()
    deferred.put(lambda: ran_on.append(threading.current_thread().name))
    poll_until(lambda: ran_on, "the recording")
    deferred.close()
    assert ran_on == ["telemetry-deferred"]


def test_each_in_its_own_context(idle: Deferred) -> None:
    """A recording sees the context of who brought it, and changes nobody else's."""
    seen: list[str] = []

    def record() -> None:
        seen.append(request.get())
        request.set("spoilt")

    for name in ("a", "b"):
        token = request.set(name)
        idle.put(record)
        idle.put(record)
        request.reset(token)
    idle.drain()
    assert (seen, request.get()) == (["a", "a", "b", "b"], "none")


def test_one_that_raises_harms_nobody(idle: Deferred, caplog: pytest.LogCaptureFixture) -> None:
    """What a recording raises is logged, and those behind it are run."""
    done: list[int] = []
    idle.put(_fail)
    idle.put(done.append, 1)
    with caplog.at_level(logging.ERROR, "telemetry.deferred"):
        logging.getLogger("telemetry").propagate, kept = True, logging.getLogger("telemetry").propagate
        idle.drain()
        logging.getLogger("telemetry").propagate = kept
    assert done == [1]
    assert {one.getMessage() for one in caplog.records} == {"_fail could not be recorded"}


def _fail() -> None:
    raise KeyError("no")


def test_too_many_are_run_at_once() -> None:
    """Beyond the queue's end a recording is run by who brings it: nothing is dropped, nothing grows."""
    deferred, done = Deferred(delay_s=NEVER_S, queue=2), list[int]()
    for number in range(4):
        deferred.put(done.append, number)
    assert done == [2, 3]
    deferred.close()
    assert sorted(done) == [0, 1, 2, 3]


def test_the_end() -> None:
    """Closing runs what waits and ends the thread; what comes later runs at once."""
    deferred, done = Deferred(delay_s=NEVER_S), list[int]()
    deferred.put(done.append, 1)
    deferred.close()
    assert (done, deferred._thread.is_alive()) == ([1], False)
    deferred.put(done.append, 2)
    deferred.close()
    assert done == [1, 2]


def test_the_end_waits_for_nobody() -> None:
    """A recording that is stuck delays the end by the time allowed, and no more."""
    deferred, stuck = Deferred(delay_s=0.01), threading.Event()

    def wait() -> None:
        stuck.wait(60)

    deferred.put(wait)
    began = time.monotonic()
    deferred.close(0.2)
    assert time.monotonic() - began < 10
    stuck.set()


def test_brought_while_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that comes in the very moment of the end is run, too."""
    deferred, done = Deferred(delay_s=NEVER_S), list[int]()

    def closing() -> Context:
        deferred.close()
        return copy_context()

    monkeypatch.setattr("telemetry.deferred.copy_context", closing)
    deferred.put(done.append, 1)
    assert done == [1]


def test_brought_and_drained_from_many_threads(idle: Deferred) -> None:
    """While several threads bring and several drain, each recording is run exactly once."""
    done: list[int] = []

    def bring(first: int) -> None:
        for number in range(first, first + 500):
            idle.put(done.append, number)

    def drain() -> None:
        for _ in range(50):
            idle.drain()

    jobs: list[Callable[[], None]] = [lambda: bring(0), lambda: bring(500), drain, drain]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    idle.drain()
    assert sorted(done) == list(range(1000))
