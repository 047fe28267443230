"""Collects requests while the device is busy, and runs them together.

Knows no Ray, no HTTP and no torch: a batch is a list, `run` is a function, one thread calls it.
Serve's own `@serve.batch` cuts a batch every wait interval even while the device is busy, and fails
all of a batch on one exception; see docs/adr/0002-own-batcher.md for the measurements.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeGuard, TypeVar

from deployments.threads import pool

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatcherClosed(Exception):
    """The batcher takes no more items: its replica is shutting down."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is complete.

    Args:
        max_size: Items in one batch at most, >= 1.
        max_cost: Sum of the items' costs in one batch at most (pixels, for images), > 0.
            An item that alone costs more still runs, by itself.
        wait_s: How long, in seconds, an item may wait for company while the device is idle, >= 0.
    """

    max_size: int = 16
    max_cost: float = float("inf")
    wait_s: float = 0.003

    def __post_init__(self) -> None:
        """Refuse limits under which no batch could ever form."""
        if self.max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {self.max_size}")
        if not self.max_cost > 0:
            raise ValueError(f"max_cost must be above 0, not {self.max_cost}")
        if not self.wait_s >= 0:
            raise ValueError(f"wait_s must be at least 0, not {self.wait_s}")


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """What one item saw of its batch: seconds waited, seconds run, and how many ran together."""

    wait_s: float
    run_s: float
    size: int


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    cost: float
    future: "asyncio.Future[tuple[Result, BatchTiming]]"
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """One queue, one device thread. Lives on the event loop that constructs it.

    Args:
        run: Takes a list of items, returns as many results in the same order. A result that is an
            `Exception` fails its own item. Called from one thread only.
        limits: When a batch is complete; may be replaced at any time.
        cost: What an item counts against `limits.max_cost`.
        observe: Told of every batch that ran, how many seconds it took and how many items it had,
            whatever became of those who had sent them.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | Exception]],
        limits: BatchLimits,
        *,
        cost: Callable[[Item], float] = lambda _: 1.0,
        observe: Callable[[float, int], None] = lambda _run_s, _size: None,
    ) -> None:
        self.limits = limits
        self._observe = observe
        self._run = run
        self._cost = cost
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._busy_since: float | None = None
        self._closed = False
        self._device = pool("device", 1)
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="batcher")

    async def submit(self, item: Item) -> tuple[Result, BatchTiming]:
        """Run `item` in some batch; return its result and what it saw.

        A caller that is cancelled while its item waits takes the item out of the queue.

        Raises:
            BatcherClosed: The replica is shutting down.
            Exception: Whatever `run` raised or returned for this very item.
        """
        if self._closed or self._task.done():
            raise BatcherClosed("the batcher takes no more items")
        waiting = _Waiting[Item, Result](item, self._cost(item), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._changed.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)
            raise

    def __len__(self) -> int:
        """Return how many items wait; those on the device are not counted."""
        return len(self._queue)

    def stuck_s(self) -> float:
        """Return for how many seconds the batch on the device has been running, 0 when idle."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    def alive(self) -> bool:
        """Tell whether the collecting task still runs."""
        return not self._task.done()

    def close(self) -> None:
        """Fail what waits, let the running batch end, take nothing more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._task.cancel()
        while self._queue:
            self._fail(self._queue.popleft(), BatcherClosed("the replica is shutting down"))
        self._device.shutdown(wait=False)

    async def _serve(self) -> None:
        while True:
            if batch := await self._collect():
                await self._execute(batch)

    async def _collect(self) -> list[_Waiting[Item, Result]]:
        """Wait until a batch is complete by count, by cost, or by the age of its oldest item."""
        await self._until_changed(None)
        while self._queue and not self._full():
            left = self._queue[0].since + self.limits.wait_s - time.monotonic()
            if left <= 0 or not await self._until_changed(left):
                break
        return self._take()

    async def _until_changed(self, timeout_s: float | None) -> bool:
        """Wait for the next arrival; with a timeout, tell whether one came."""
        if timeout_s is None:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            return True
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _full(self) -> bool:
        if len(self._queue) >= self.limits.max_size:
            return True
        return sum(waiting.cost for waiting in self._queue) >= self.limits.max_cost

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        cost = 0.0
        while self._queue and len(batch) < self.limits.max_size:
            if batch and cost + self._queue[0].cost > self.limits.max_cost:
                break
            waiting = self._queue.popleft()
            cost += waiting.cost
            if not waiting.future.done():
                batch.append(waiting)
        return batch

    async def _execute(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = self._busy_since = time.monotonic()
        running = asyncio.get_running_loop().run_in_executor(
            self._device, self._run_each, [waiting.item for waiting in batch]
        )
        try:
            results = await asyncio.shield(running)
        except asyncio.CancelledError:
            # close() in mid-batch: what runs is answered still, then the task ends.
            self._deliver(batch, await running, started)
            raise
        finally:
            self._busy_since = None
        self._deliver(batch, results, started)

    def _run_each(self, items: list[Item]) -> Sequence[Result | Exception]:
        """Run on the device thread. One item that raises fails alone: its neighbours run again."""
        try:
            results = self._run(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items went in, {len(results)} results came out")
        except BaseException as error:
            # Also what would end the collecting task (SystemExit), or cannot be raised in a future
            # (StopIteration): the device thread outlives its model.
            if len(items) == 1:
                return [error if _harmless(error) else RuntimeError(f"the model raised {error!r}")]
            return [self._run_each([item])[0] for item in items]
        return results

    def _deliver(
        self, batch: list[_Waiting[Item, Result]], results: Sequence[Result | Exception], started: float
    ) -> None:
        run_s = time.monotonic() - started
        self._observe(run_s, len(batch))
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                self._fail(waiting, result)
            elif not waiting.future.done():
                timing = BatchTiming(wait_s=started - waiting.since, run_s=run_s, size=len(batch))
                waiting.future.set_result((result, timing))

    @staticmethod
    def _fail(waiting: _Waiting[Item, Result], error: Exception) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _harmless(error: BaseException) -> TypeGuard[Exception]:
    return isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration)
