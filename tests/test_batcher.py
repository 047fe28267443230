"""The batcher, with a device of the test's own making."""

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from deployments.batcher import Batcher, BatcherClosed, BatchLimits
from tests.loop import run
from tests.poll import poll_until_async


class Device:
    """Doubles numbers; can be held busy; fails on the numbers it is told to."""

    def __init__(self, poison: Sequence[int] = ()) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        self.poison = poison

    def __call__(self, items: list[int]) -> list[int | Exception]:
        """Run one batch."""
        self.batches.append(items)
        self.threads.add(threading.get_ident())
        assert self.free.wait(20)
        if set(items) & set(self.poison):
            raise ValueError("poison")
        return [2 * item for item in items]


async def busy(batcher: Batcher[int, int], device: Device) -> asyncio.Task[Any]:
    """Occupy the device with the item 0, and return its pending answer."""
    device.free.clear()
    first = asyncio.create_task(batcher.submit(0))
    await poll_until_async(lambda: _value(device.batches), "the device to be busy")
    return first


async def _value(value: Any) -> Any:
    return value


async def gather(*submissions: Awaitable[Any]) -> list[Any]:
    """Return results and exceptions, in order."""
    return await asyncio.gather(*submissions, return_exceptions=True)


def test_everyone_gets_their_own_result() -> None:
    """A thousand concurrent submissions each get the answer to their own item."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(max_size=16))
        answers = await gather(*(batcher.submit(number) for number in range(1000)))
        assert [answer[0] for answer in answers] == [2 * number for number in range(1000)]
        assert max(len(batch) for batch in device.batches) == 16
        assert len(device.threads) == 1
        batcher.close()

    run(test)


def test_collects_while_the_device_is_busy() -> None:
    """What arrives during a batch runs together in the next, without waiting any longer."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(max_size=16, wait_s=0))
        first = await busy(batcher, device)
        rest = asyncio.gather(*(batcher.submit(number) for number in range(1, 8)))
        await poll_until_async(lambda: _value(len(batcher) == 7), "seven to wait")
        device.free.set()
        await asyncio.gather(first, rest)
        assert device.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]
        batcher.close()

    run(test)


def test_waits_a_little_for_company_when_idle() -> None:
    """Two requests a moment apart share a batch on an idle device."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(wait_s=5, max_size=2))
        first = asyncio.create_task(batcher.submit(1))
        await poll_until_async(lambda: _value(len(batcher) == 1), "the first to wait")
        await gather(first, batcher.submit(2))
        assert device.batches == [[1, 2]]
        batcher.close()

    run(test)


def test_batches_are_bounded_by_cost() -> None:
    """No batch costs more than allowed, except a single item that costs more by itself."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(max_cost=10), cost=float)
        first = await busy(batcher, device)
        rest = asyncio.gather(*(batcher.submit(cost) for cost in (4, 4, 4, 25, 9, 1, 1)))
        await poll_until_async(lambda: _value(len(batcher) == 7), "seven to wait")
        device.free.set()
        await asyncio.gather(first, rest)
        assert device.batches == [[0], [4, 4], [4], [25], [9, 1], [1]]
        batcher.close()

    run(test)


def test_a_poisoned_neighbour_harms_nobody() -> None:
    """An item on which the model raises fails alone; the rest of its batch is answered."""

    async def test() -> None:
        device = Device(poison=[3])
        batcher = Batcher[int, int](device, BatchLimits(max_size=8, wait_s=5))
        answers = await gather(*(batcher.submit(number) for number in range(8)))
        assert isinstance(answers.pop(3), ValueError)
        assert [answer[0] for answer in answers] == [0, 2, 4, 8, 10, 12, 14]
        batcher.close()

    run(test)


def test_a_result_can_be_an_error() -> None:
    """An exception in the list of results fails its own item only."""

    async def test() -> None:
        wrong = KeyError("mine")
        batcher = Batcher[int, int](lambda _: [1, wrong], BatchLimits(max_size=2, wait_s=5))
        good, bad = await gather(batcher.submit(1), batcher.submit(2))
        assert (good[0], bad) == (1, wrong)
        batcher.close()

    run(test)


def test_a_model_that_loses_items_is_caught() -> None:
    """Fewer results than items is an error for everyone, never somebody else's answer."""

    async def test() -> None:
        batcher = Batcher[int, int](lambda _: [], BatchLimits(max_size=2, wait_s=5))
        answers = await gather(batcher.submit(1), batcher.submit(2))
        assert [str(answer) for answer in answers] == ["1 items went in, 0 results came out"] * 2
        batcher.close()

    run(test)


def test_cancelled_requests_are_dropped() -> None:
    """A client that goes away while waiting costs no device time."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(wait_s=0))
        first = await busy(batcher, device)
        gone, stays = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
        await poll_until_async(lambda: _value(len(batcher) == 2), "two to wait")
        gone.cancel()
        device.free.set()
        await gather(first, gone, stays)
        assert device.batches == [[0], [2]]
        batcher.close()

    run(test)


def test_limits_change_while_running() -> None:
    """New limits hold from the next batch on."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(max_size=16))
        batcher.limits = BatchLimits(max_size=2)
        await gather(*(batcher.submit(number) for number in range(6)))
        assert [len(batch) for batch in device.batches] == [2, 2, 2]
        batcher.close()

    run(test)


def test_close_answers_what_runs_and_fails_what_waits() -> None:
    """Closing in mid-batch still delivers that batch, refuses the queue, and takes nothing more."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits(max_size=1, wait_s=0))
        running = await busy(batcher, device)
        waiting = asyncio.create_task(batcher.submit(1))
        await poll_until_async(lambda: _value(len(batcher) == 1), "one to wait")
        batcher.close()
        device.free.set()
        answers = await gather(running, waiting, batcher.submit(2))
        assert answers[0][0] == 0
        assert [type(answer) for answer in answers[1:]] == [BatcherClosed, BatcherClosed]

    run(test)


def test_every_batch_is_observed_once() -> None:
    """Whoever watches is told of each batch, also of one whose callers have all gone away."""
    seen: list[int] = []

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](
            device, BatchLimits(max_size=4, wait_s=0), observe=lambda _run_s, size: seen.append(size)
        )
        first = await busy(batcher, device)
        first.cancel()
        rest = asyncio.gather(*(batcher.submit(number) for number in range(1, 6)))
        await poll_until_async(lambda: _value(len(batcher) == 5), "five to wait")
        device.free.set()
        await gather(first, rest)
        batcher.close()

    run(test)
    assert seen == [1, 4, 1]


@pytest.mark.parametrize("error", [StopIteration("odd"), SystemExit(3), asyncio.CancelledError()], ids=repr)
def test_no_error_of_a_model_ends_the_batcher(error: BaseException) -> None:
    """What cannot be raised in a future, or would end the task, fails its own item only."""

    def model(items: list[int]) -> list[int]:
        if 1 in items:
            raise error
        return items

    async def test() -> None:
        batcher = Batcher[int, int](model, BatchLimits(max_size=1, wait_s=0))
        bad, good = await gather(batcher.submit(1), batcher.submit(2))
        assert isinstance(bad, RuntimeError)
        assert (good[0], batcher.alive()) == (2, True)
        batcher.close()

    run(test)


def test_closing_twice_is_closing_once() -> None:
    """A second close in mid-batch changes nothing: what runs is still answered."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits())
        running = await busy(batcher, device)
        batcher.close()
        await asyncio.sleep(0)
        batcher.close()
        device.free.set()
        assert (await running)[0] == 0

    run(test)


def test_stuck_is_seen() -> None:
    """A batch that does not end shows for how long it has been running."""

    async def test() -> None:
        device = Device()
        batcher = Batcher[int, int](device, BatchLimits())
        assert batcher.stuck_s() == 0
        first = await busy(batcher, device)
        await poll_until_async(lambda: _value(batcher.stuck_s() > 0.1), "the batch to be old")
        device.free.set()
        await first
        assert (batcher.stuck_s(), batcher.alive()) == (0, True)
        batcher.close()

    run(test)


@pytest.mark.parametrize("wrong", [{"max_size": 0}, {"max_cost": 0.0}, {"wait_s": -1.0}], ids=str)
def test_impossible_limits_are_refused(wrong: dict[str, Any]) -> None:
    """Limits under which no batch could form are refused, by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchLimits(**wrong)
