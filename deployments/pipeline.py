"""What both applications share: the door, the deadline, the batcher, and their health."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, ParamSpec, TypeVar

from deployments.admission import Admission, Place
from deployments.batcher import Batcher, BatcherClosed, BatchTiming
from deployments.errors import DeadlineExceeded, Unavailable
from deployments.settings import Tunables
from deployments.threads import pool
from telemetry.serving import ServingMetrics

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
P = ParamSpec("P")

RESTART_S = 5.0  # Retry-After while a replica shuts down: about what a replacement needs


class Pipeline(Generic[Item, Result]):
    """Admission, a pool for CPU work before the batch, and the batcher. One per replica.

    Args:
        run: The batched model call, see `Batcher`.
        tunables: Limits that may change while running.
        metrics: Told of batches and refusals.
        cost: What an item counts against the batch's `max_cost`.
        workers: Threads for work before the batch (decode), >= 1.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | Exception]],
        tunables: Tunables,
        metrics: ServingMetrics,
        *,
        cost: Callable[[Item], float] = lambda _: 1.0,
        workers: int = 2,
    ) -> None:
        self.tunables = tunables
        self.metrics = metrics
        self.admission = Admission(tunables.admission.limits(), refused=metrics.refused)
        self.batcher = Batcher(run, tunables.batching.limits(), cost=cost, observe=self._ran)
        metrics.queue(lambda: len(self.batcher))
        self._workers = workers
        # Its own pool: asyncio's default one has few threads in a replica, and others use it.
        self._pool = pool("prepare", workers)
        self._closed = False

    def reconfigure(self, tunables: Tunables) -> None:
        """Apply new limits to all requests from now on; nothing restarts."""
        self.tunables = tunables
        self.admission.limits = tunables.admission.limits()
        self.batcher.limits = tunables.batching.limits()

    @contextlib.asynccontextmanager
    async def admit(self, *, probe: bool) -> AsyncIterator[Place]:
        """Hold a place for a request, until its deadline; call `Place.uploaded` once its body is here.

        Raises:
            Overloaded: Refused, before any work was done.
            Unavailable: The replica is shutting down.
            DeadlineExceeded: Admitted, but the block took longer than `admission.deadline_s`.
        """
        if self._closed:
            self.metrics.refused("closing")
            raise _shutting_down()
        deadline_s = self.admission.limits.deadline_s
        with self.admission.enter(probe=probe) as place:
            timeout = asyncio.timeout(deadline_s)
            try:
                async with timeout:
                    yield place
            except TimeoutError:
                if not timeout.expired():
                    raise  # the model's own
                raise DeadlineExceeded(f"No answer within the {deadline_s:g} s allowed.") from None

    async def prepare(self, work: Callable[P, Value], *args: P.args, **kwargs: P.kwargs) -> Value:
        """Run CPU work (decode, resize) in the pool, so that the event loop stays free.

        Raises:
            Unavailable: The replica is shutting down.
            Exception: What `work` raised.
        """
        if self._closed:
            raise _shutting_down()
        loop = asyncio.get_running_loop()

        def timed() -> Value:
            began = time.monotonic()
            try:
                return work(*args, **kwargs)
            finally:
                busy_s = time.monotonic() - began
                # Admission lives on the loop, which may be gone when a long decode ends.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self.admission.observe_prepare, busy_s, self._workers)

        return await loop.run_in_executor(self._pool, timed)

    async def infer(self, item: Item) -> tuple[Result, BatchTiming]:
        """Run one item in some batch.

        Raises:
            Unavailable: The replica is shutting down.
            Exception: What the model raised for this very item.
        """
        try:
            return await self.batcher.submit(item)
        except BatcherClosed:
            raise _shutting_down() from None

    def _ran(self, run_s: float, size: int) -> None:
        self.admission.observe(run_s, size)
        self.metrics.later(self.metrics.batch, size, self.batcher.limits.max_size, run_s)

    def problems(self) -> list[str]:
        """Return what keeps this replica from answering; empty when it works."""
        found = []
        if self._closed:
            found.append("shutting down")
        elif not self.batcher.alive():
            found.append("the batcher has ended")
        if (stuck_s := self.batcher.stuck_s()) > self.tunables.stuck_s:
            found.append(f"a batch has been on the device for {stuck_s:.0f} s")
        return found

    def close(self) -> None:
        """Take no more requests; what is on the device is still answered. Idempotent."""
        self._closed = True
        self.batcher.close()
        self._pool.shutdown(wait=False)


def _shutting_down() -> Unavailable:
    return Unavailable("This replica is shutting down; try again.", retry_after_s=RESTART_S)
