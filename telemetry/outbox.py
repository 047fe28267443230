"""Log lines wait here until the collector has them.

The SDK's own batch processor gives a batch up when its exporter does, after `timeout` seconds: a
collector that restarts loses lines, and nobody knows how many. Here a batch is offered again until it
is taken. The queue is bounded; what it has to let go is counted, in `otel.sdk.processor.log.processed`.

A line arrives once, with one exception that no sender can exclude: a collector that took a batch and
died, or was slower than the timeout, before it said so is offered it again. The copies are equal to the
nanosecond, and Loki keeps one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from telemetry.line import Line

log = logging.getLogger("telemetry.outbox")

QUEUE = 10_000  # lines; at 60 requests a second nearly three minutes; a request's line takes 1.1 kB
BATCH = 512
DELAY_S = 2.0  # an answer is to be seen within seconds; each batch is a POST
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
CLOSE_S = 2.5


class Fate(Enum):
    """What became of a batch that was offered."""

    TAKEN = "taken"
    AGAIN = "again"  # nobody there, or no room: offer it later
    NEVER = "never"  # it will never be taken


class Carrier(Protocol):
    """Who takes batches away."""

    def offer(self, batch: Sequence[Line]) -> Fate:
        """Try once; raises nothing."""

    def close(self) -> None:
        """Let an attempt in progress end early. Idempotent."""


class Outbox:
    """A bounded queue and the thread that empties it, oldest first.

    Args:
        carrier: Takes batches away; called from one thread.
        count: Told how many lines were taken (`""`) or lost, by why, see `telemetry.attributes.LOST`.
        queue: How many lines may wait, >= 1; when full the oldest is let go.
        batch: How many are offered together, >= 1.
        delay_s: How long a line may wait for company, > 0.
    """

    def __init__(
        self,
        carrier: Carrier,
        count: Callable[[str, int], None],
        *,
        queue: int = QUEUE,
        batch: int = BATCH,
        delay_s: float = DELAY_S,
    ) -> None:
        self._carrier = carrier
        self._count = count
        self._limit = queue
        self._batch = batch
        self._delay_s = delay_s
        # A deque's own operations are atomic: a line of log written anywhere, even while another is
        # being written (by the garbage collector, say), cannot lock up.
        self._queue: deque[Line] = deque()
        self._in_hand: list[Line] = []
        self._enough = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._closed_by = float("inf")
        self._full = False
        self._thread = threading.Thread(target=self._work, name="log-outbox", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._queue) + len(self._in_hand)

    def put(self, line: Line) -> None:
        """Put a line into the queue; never blocks, never raises."""
        if self._closing:
            self._count("shutdown", 1)
            return
        self._queue.append(line)
        if len(self._queue) > self._limit:
            self._let_go()
        if len(self._queue) >= self._batch:
            self._enough.set()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Offer all that waits now; tell whether it was taken in time."""
        deadline = time.monotonic() + timeout_millis / 1e3
        while len(self) and time.monotonic() < deadline:
            self._rush()
            time.sleep(0.01)
        return not len(self)

    def shutdown(self, timeout_s: float = CLOSE_S) -> None:
        """Offer what waits until `timeout_s` has passed, count what is left as lost. Idempotent."""
        if self._closing:
            return
        self._closed_by = time.monotonic() + timeout_s
        self._closing = True
        self._rush()
        self._thread.join(timeout_s)
        self._carrier.close()
        if left := len(self):
            self._count("shutdown", left)
            log.warning("%d log lines were not delivered: the process ends", left)

    def _rush(self) -> None:
        self._hurry.set()
        self._enough.set()

    def _let_go(self) -> None:
        try:
            self._queue.popleft()
        except IndexError:  # the thread was quicker
            return
        self._count("queue_full", 1)
        if not self._full:
            self._full = True
            log.warning("log lines are lost: the collector is away, and %d wait already", self._limit)

    def _work(self) -> None:
        while not self._closing:
            self._enough.wait(self._delay_s)
            self._enough.clear()
            self._try_to_empty()
        self._try_to_empty()

    def _try_to_empty(self) -> None:
        try:
            self._empty()
        except Exception:  # the thread must live: it is all that empties the queue
            log.exception("log lines could not be offered; they are offered again")

    def _empty(self) -> None:
        """Offer everything there is, until it is gone or the process ends."""
        size = self._batch
        while self._in_hand or self._queue:
            if not self._in_hand:
                self._in_hand = self._take()
                size = len(self._in_hand)
            fate = self._offer(self._in_hand[:size])
            if fate is Fate.AGAIN:
                return
            if fate is Fate.NEVER and size > 1:
                # One line that nobody takes must not cost its neighbours: halve until it is alone.
                size //= 2
                continue
            self._count("" if fate is Fate.TAKEN else "rejected", len(self._in_hand[:size]))
            del self._in_hand[:size]
            self._full = False
            if fate is Fate.NEVER:
                size = self._batch

    def _take(self) -> list[Line]:
        batch: list[Line] = []
        while self._queue and len(batch) < self._batch:
            try:
                batch.append(self._queue.popleft())
            except IndexError:  # let go meanwhile
                break
        return batch

    def _offer(self, batch: Sequence[Line]) -> Fate:
        """Offer `batch` until its fate is known; `AGAIN` where the process ends before."""
        backoff_s = FIRST_BACKOFF_S
        while (fate := self._carrier.offer(batch)) is Fate.AGAIN:
            if time.monotonic() >= self._closed_by:
                break
            self._hurry.clear()
            self._hurry.wait(FIRST_BACKOFF_S if self._closing else backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
        return fate
