"""A spool seen from an event loop: what comes in one turn of the loop is written together.

When a batch returns from the device its requests wake up in one turn of the loop, and each brings its
record: one transaction for all of them. What comes while one is being written waits for the next.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from store.entry import Entry
from store.errors import NotDurable
from store.spool import Depth, Spool

log = logging.getLogger("glasshouse.store")

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


Make = Callable[[], Sequence[Entry]]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    make: Make
    written: "asyncio.Future[None]"


_Done = list[tuple[list[_Waiting], Write]]


class Writer:
    """Lives on the event loop that constructs it; its spool lives on a thread.

    The thread is a daemon: a disk that hangs does not keep the process from ending.

    Args:
        open_spool: Called on the thread, before the first entry, and again where it failed or was removed.
        name: Of the thread, at most 15 characters.
        observe: Told of every transaction, on the event loop.
    """

    def __init__(
        self,
        open_spool: Callable[[], Spool],
        name: str,
        observe: Callable[[Write], None] = lambda _: None,
    ) -> None:
        self._open = open_spool
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._spool: Spool | None = None
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._closed = False
        self._ended = threading.Event()
        self._last: NotDurable | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(name,), name=name, daemon=True).start()

    async def put(self, *entries: Entry) -> None:
        """Return when these are durable, all of them.

        Raises:
            NotDurable: None of them is kept.
        """
        await self.put_made(lambda: entries)

    async def put_made(self, make: Make) -> None:
        """Do the same with entries that are made on the thread, for a whole batch one after another.

        Once a request on the event loop, in cold caches, it would cost two to three times as much.

        Args:
            make: Returns them; where it raises, that is `refused`.

        Raises:
            NotDurable: None of them is kept.
        """
        if self._closed:
            raise _closed()
        waiting = _Waiting(make, self._loop.create_future())
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
        spool = self._spool
        return Depth(0, 0.0) if spool is None else spool.depth()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Take no more, let what is being written end, give the spool up. Idempotent; any thread.

        Waits `timeout_s` at most: on a disk that hangs, the kernel gives the spool up with the process.
        """
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._ended.wait(timeout_s)

    # --- on the loop ---

    def _start(self) -> None:
        """Write all that waits, but for what nobody waits for any more."""
        group = [one for one in self._waiting if not one.written.done()]
        self._waiting.clear()
        if group and not self._ended.is_set():
            self._jobs.put(lambda: self._write(group))
            return
        for one in group:
            _tell(one, _closed())
        self._busy = False
        self._rest_later()

    def _done(self, done: _Done) -> None:
        self._last = done[-1][1].failed
        for group, write in done:
            for one in group:
                _tell(one, write.failed)
        self._busy = bool(self._waiting)
        if self._waiting:
            self._start()
        self._rest_later()
        # Last: whatever it raises, nobody waits for ever.
        for _, write in done:
            self._observe(write)

    def _rest_later(self) -> None:
        if self._timer is None and self._spool is not None and not self._closed:
            self._timer = self._loop.call_later(self._spool.limits.segment_s, self._rest)

    def _rest(self) -> None:
        """Close the segment that nobody writes to any more, so that it is shipped."""
        self._timer = None
        self._jobs.put(self._rotate)

    # --- on the thread ---

    def _work(self, name: str) -> None:
        with suppress(OSError):  # Linux only: what `top -H` and `perf` show
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
        try:
            while (job := self._jobs.get()) is not None:
                job()
            if self._spool is not None:
                self._spool.close()
        finally:
            self._ended.set()
        while True:  # who was between the check and the queue
            with suppress(queue.Empty):
                job = self._jobs.get_nowait()
                if job is not None:
                    job()
                continue
            return

    def _write(self, group: list[_Waiting]) -> None:
        made, done = self._make(group)
        if made:
            write = self._append([entry for _, entries in made for entry in entries])
            if write.failed is not None and write.failed.reason == "refused" and len(made) > 1:
                # Who is to blame must not cost the others their answers.
                done += [([one], self._append(entries)) for one, entries in made]
            else:
                done.append(([one for one, _ in made], write))
        with suppress(RuntimeError):  # the loop is gone, and everybody on it
            self._loop.call_soon_threadsafe(self._done, done)

    def _make(self, group: Sequence[_Waiting]) -> tuple[list[tuple[_Waiting, Sequence[Entry]]], _Done]:
        made: list[tuple[_Waiting, Sequence[Entry]]] = []
        failed: _Done = []
        for one in group:
            try:
                made.append((one, one.make()))
            except Exception as error:
                log.exception("a record could not be made")
                failed.append(([one], Write(1, 0.0, NotDurable("refused", f"it cannot be made: {error!r}"))))
        return made, failed

    def _append(self, entries: Sequence[Entry]) -> Write:
        began, failed = time.monotonic(), None
        try:
            self._current().append(entries)
        except NotDurable as error:
            failed = error
        except Exception as error:
            failed = NotDurable("broken", f"the spool failed: {error!r}")
        return Write(len(entries), time.monotonic() - began, failed)

    def _current(self) -> Spool:
        if self._ended.is_set():
            raise _closed()
        if self._spool is not None and self._spool.gone():
            self._spool.close()
            self._spool = None
        if self._spool is None:
            self._spool = self._open()
        return self._spool

    def _rotate(self) -> None:
        if self._spool is None:
            return
        with suppress(NotDurable):
            self._spool.rotate()
        if not self._spool.resting:  # it was begun since, and nobody may come any more
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._rest_later)


def _tell(waiting: _Waiting, error: NotDurable | None) -> None:
    if waiting.written.done():  # the client has gone
        return
    if error is None:
        waiting.written.set_result(None)
    else:
        waiting.written.set_exception(error)


def _closed() -> NotDurable:
    return NotDurable("closed", "the spool is closed: the replica is shutting down.")
