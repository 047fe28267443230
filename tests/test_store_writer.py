"""The writer: durable when `put` returns, one transaction a batch, and every failure reaches its caller."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from store.entry import Entry, encode
from store.errors import NotDurable
from store.segment_reader import SegmentReader
from store.spool import Spool, SpoolLimits, own, segments
from store.writer import Write, Writer
from tests.loop import run
from tests.poll import poll_until_async

# A timer of a segment that is never due would keep no loop alive; a short one shows that it is closed.
LIMITS = SpoolLimits(segment_s=0.05)


def on_a_loop(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Make an asynchronous test one that pytest can run."""

    def runs(tmp_path: Path) -> None:
        run(partial(test, tmp_path))

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    return runs


def entry(number: int) -> Entry:
    """Return a small entry."""
    return Entry("detections", f"id-{number}", encode({"number": number}))


def ids(folder: Path) -> list[str]:
    """Return the ids of all that is in the one spool of a folder."""
    found = [one for path in segments(only(folder)) for one in SegmentReader(path)]
    return [one.id for one in found if isinstance(one, Entry)]


def only(folder: Path) -> Path:
    """Return the one spool of a folder."""
    (spool,) = folder.iterdir()
    return spool


def writer(open_spool: Callable[[], Spool], writes: list[Write]) -> Writer:
    """Return a writer on a thread of its own that notes its transactions."""
    return Writer(open_spool, "spool", writes.append)


@on_a_loop
async def test_a_batch_is_one_transaction(tmp_path: Path) -> None:
    """Tasks that wake up in one turn of the loop share a transaction, and find their entries on the disk."""
    writes: list[Write] = []
    one = writer(lambda: Spool(tmp_path, "detection"), writes)
    device = asyncio.get_running_loop().create_future()

    async def request(number: int) -> None:
        await device
        await one.put(entry(number))
        assert f"id-{number}" in ids(tmp_path)

    async with asyncio.TaskGroup() as requests:
        for number in range(16):
            requests.create_task(request(number))
        await asyncio.sleep(0)
        device.set_result(None)
    assert [write.entries for write in writes] == [16]
    assert one.problem() is None
    one.close()


class _Gated(Spool):
    """A real spool whose disk is slow."""

    gate = threading.Event()

    def append(self, entries: Sequence[Entry]) -> None:
        """Wait for the gate first."""
        self.gate.wait(10)
        super().append(entries)


@on_a_loop
async def test_what_comes_meanwhile_goes_together(tmp_path: Path) -> None:
    """While a transaction is being written, all that comes waits for one more, and no longer."""
    writes: list[Write] = []
    _Gated.gate.clear()
    one = writer(lambda: _Gated(tmp_path, "detection"), writes)
    tasks = [asyncio.create_task(one.put(entry(0)))]
    for _ in range(3):  # until the thread has it
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(one.put(entry(number))) for number in range(1, 10)]
    await asyncio.sleep(0)
    tasks[5].cancel()
    await asyncio.sleep(0)
    _Gated.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [write.entries for write in writes] == [1, 8]
    assert ids(tmp_path) == [f"id-{number}" for number in range(10) if number != 5]
    one.close()


@on_a_loop
async def test_a_spool_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    """Each caller hears why; when the folder is well again, the next entry is kept."""
    writes: list[Write] = []
    blocked = tmp_path / "spool"
    blocked.write_text("not a folder")
    one = writer(lambda: Spool(blocked, "detection"), writes)
    results = await asyncio.gather(one.put(entry(0)), one.put(entry(1)), return_exceptions=True)
    assert [type(result) for result in results] == [NotDurable, NotDurable]
    assert one.problem() is not None
    blocked.unlink()
    await one.put(entry(2))
    assert one.problem() is None
    assert [write.failed is None for write in writes] == [False, True]
    assert ids(blocked) == ["id-2"]
    one.close()


@on_a_loop
async def test_a_replica_at_rest_leaves_no_open_segment(tmp_path: Path) -> None:
    """A segment is closed some time after its last entry, though no other comes; the next one is new."""
    one = writer(lambda: Spool(tmp_path, "detection", LIMITS), [])
    await one.put(entry(0))
    (first,) = segments(only(tmp_path))

    async def closed() -> bool:
        return not first.with_name(first.name + "-wal").exists()

    await poll_until_async(closed, "the segment is closed")
    await one.put(entry(1))
    assert len(segments(only(tmp_path))) == 2
    one.close()


@on_a_loop
async def test_a_closed_writer_gives_its_spool_up(tmp_path: Path) -> None:
    """After the end nothing is taken, what was taken is kept, and the spool may be adopted."""
    one = writer(lambda: Spool(tmp_path, "detection"), [])
    await one.put(entry(0))
    one.close()
    one.close()
    with pytest.raises(NotDurable, match="shutting down"):
        await one.put(entry(1))
    own(only(tmp_path))
    assert ids(tmp_path) == ["id-0"]


@on_a_loop
async def test_who_waits_at_the_end_is_told(tmp_path: Path) -> None:
    """Entries that wait while the writer is closed are written or refused; nobody waits for ever."""
    _Gated.gate.clear()
    one = writer(lambda: _Gated(tmp_path, "detection"), [])
    first = asyncio.create_task(one.put(entry(0)))
    for _ in range(3):
        await asyncio.sleep(0)
    second = asyncio.create_task(one.put(entry(1)))
    await asyncio.sleep(0)
    one.close(timeout_s=0.0)
    _Gated.gate.set()
    results = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 10)
    assert results[0] is None
    assert isinstance(results[1], NotDurable)
    assert ids(tmp_path) == ["id-0"]


@on_a_loop
async def test_an_observer_that_fails_holds_nobody_up(tmp_path: Path) -> None:
    """Whatever `observe` raises, the entries are kept, and their callers go on."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))

    def fail(_: Write) -> None:
        raise KeyError("observer")

    one = Writer(lambda: Spool(tmp_path, "detection"), "spool", fail)
    await one.put(entry(0))
    await one.put(entry(1))
    assert ids(tmp_path) == ["id-0", "id-1"]
    assert raised
    one.close()
