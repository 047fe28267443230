"""Recordings that wait for company: what a request leaves behind is written down two seconds later.

What runs once a request runs in cold caches: between two of them the model's weights have passed through.
The same code, run for many requests in a row on a thread of its own, costs about half (docs/adr/0008).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

log = logging.getLogger("telemetry.deferred")

DELAY_S = 2.0
CLOSE_S = 1.0
QUEUE = 10_000  # recordings; what is beyond is done at once, by who brings it
# About 1 ms of work; then whoever waits for the interpreter gets it. Without, a request would wait 5 ms.
STRETCH = 16

Work = Callable[..., None]


class Deferred:
    """Runs recordings in their order, each in the context in which it was given.

    Args:
        delay_s: How long one may wait for company, > 0.
        queue: How many may wait, >= 0.
    """

    def __init__(self, *, delay_s: float = DELAY_S, queue: int = QUEUE) -> None:
        self._delay_s = delay_s
        self._limit = queue
        # A deque's own operations are atomic: nobody who brings one waits for a lock.
        self._queue: deque[tuple[Context, Work, tuple[Any, ...]]] = deque()
        # Reentrant: a recording may lead to a collection, and that drains.
        self._draining = threading.RLock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry-deferred", daemon=True)
        self._thread.start()

    def put(self, work: Work, *args: Any) -> None:
        """Run `work(*args)` soon, in the context of now; what it raises is logged."""
        if len(self._queue) >= self._limit or self._closing.is_set():
            _run(work, args)
            return
        self._queue.append((copy_context(), work, args))
        if self._closing.is_set():  # it was closed in between
            self.drain()

    def drain(self) -> None:
        """Run all that waits now, and return when it is done."""
        with self._draining:
            done = 0
            while self._queue:
                context, work, args = self._queue.popleft()
                context.run(_run, work, args)
                done += 1
                if done % STRETCH == 0:
                    time.sleep(0)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Run what waits, and end the thread; what comes later runs at once. Idempotent.

        A recording that is stuck (a console that nobody reads) is waited for `timeout_s` at most.
        """
        self._closing.set()
        if threading.current_thread() is not self._thread:  # a destructor may run anywhere
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._closing.wait(self._delay_s):
            self.drain()
        self.drain()


def _run(work: Work, args: tuple[Any, ...]) -> None:
    try:
        work(*args)
    except Exception:  # the others must still be recorded
        name = getattr(work, "__qualname__", repr(work))
        # One message for each work: the console shows the same one once a minute only.
        log.exception(f"{name} could not be recorded")  # noqa: G004
