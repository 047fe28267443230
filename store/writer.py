"""A spool seen from an event loop: what comes in one turn of the loop is written together.

When a batch returns from the device its requests wake up in one turn of the loop, and each brings its
record: one transaction for all of them. What comes while one is being written waits for the next.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from store.entry import Entry
from store.errors import NotDurable
from store.spool import Depth, Spool

CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Write:
    """What became of one transaction.

    Args:
        entries: In it.
        seconds: That it took.
        failed: Why nothing of it was kept; None where all of it was.
    """

    entries: int
    seconds: float
    failed: NotDurable | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    entries: Sequence[Entry]
    written: "asyncio.Future[None]"


class Writer:
    """Lives on the event loop that constructs it; its spool lives on a thread.

    Args:
        open_spool: Called on the thread, before the first entry, and again where it failed.
        thread: One worker, its own; shut down by `close`.
        observe: Told of every transaction, on the event loop.
    """

    def __init__(
        self,
        open_spool: Callable[[], Spool],
        thread: ThreadPoolExecutor,
        observe: Callable[[Write], None] = lambda _: None,
    ) -> None:
        self._open = open_spool
        self._thread = thread
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._spool: Spool | None = None
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._closed = False
        self._last: NotDurable | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def put(self, *entries: Entry) -> None:
        """Return when these are durable, all of them.

        Raises:
            NotDurable: None of them is kept.
        """
        if self._closed:
            raise _closed()
        waiting = _Waiting(entries, self._loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)
        await waiting.written

    def problem(self) -> NotDurable | None:
        """Return why the last transaction failed; None where it did not."""
        return self._last

    def depth(self) -> Depth:
        """Return what waits in the spool for a shipper; nothing before the first entry. Any thread."""
        return Depth(0, 0.0) if self._spool is None else self._spool.depth()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Take no more, let what is being written end, give the spool up. Idempotent; any thread.

        Waits `timeout_s` at most: on a disk that hangs, the kernel gives the spool up with the process.
        """
        if self._closed:
            return
        self._closed = True
        with suppress(RuntimeError):  # the interpreter is at its end
            ended = self._thread.submit(self._close)
            with suppress(TimeoutError):
                ended.result(timeout_s)
        self._thread.shutdown(wait=False)

    def _start(self) -> None:
        """Write all that waits, but for what nobody waits for any more."""
        group = [one for one in self._waiting if not one.written.done()]
        self._waiting.clear()
        if not group:
            self._busy = False
            return
        began = time.monotonic()
        entries = [entry for one in group for entry in one.entries]
        try:
            running = self._loop.run_in_executor(self._thread, self._append, entries)
        except RuntimeError:  # closed in between
            self._busy = False
            for one in group:
                _tell(one, _closed())
            return
        running.add_done_callback(
            lambda done: self._done(
                group, len(entries), began, _closed() if done.cancelled() else done.exception()
            )
        )

    def _done(
        self, group: Sequence[_Waiting], entries: int, began: float, error: BaseException | None
    ) -> None:
        if error is not None and not isinstance(error, NotDurable):
            error = NotDurable("broken", f"the spool failed: {error!r}")
        self._last = error
        for one in group:
            _tell(one, error)
        self._busy = bool(self._waiting)
        if self._waiting:
            self._start()
        elif self._timer is None and self._spool is not None:
            self._timer = self._loop.call_later(self._spool.limits.segment_s, self._rest)
        # Last: whatever it raises, nobody waits for ever.
        self._observe(Write(entries, time.monotonic() - began, error))

    def _rest(self) -> None:
        """Close the segment that nobody writes to any more, so that it is shipped."""
        self._timer = None
        with suppress(RuntimeError):  # closed in between
            self._thread.submit(self._rotate)

    def _append(self, entries: Sequence[Entry]) -> None:
        if self._spool is None:
            self._spool = self._open()
        self._spool.append(entries)

    def _rotate(self) -> None:
        if self._spool is not None:
            self._spool.rotate()

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()


def _tell(waiting: _Waiting, error: NotDurable | None) -> None:
    if waiting.written.done():  # the client has gone
        return
    if error is None:
        waiting.written.set_result(None)
    else:
        waiting.written.set_exception(error)


def _closed() -> NotDurable:
    return NotDurable("closed", "the spool is closed: the replica is shutting down.")
