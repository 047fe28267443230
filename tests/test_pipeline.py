"""Admission, deadline and batcher tied together, with a device of the test's own making."""

import asyncio
import threading

import pytest

from deployments.errors import DeadlineExceeded, Overloaded, Unavailable
from deployments.pipeline import Pipeline
from deployments.settings import Admitting, Batching, Tunables
from telemetry.providers import off
from telemetry.serving import ServingMetrics
from tests.loop import run

SILENT = ServingMetrics(off().instruments)


def slow_pipeline(device_s: float, deadline_s: float) -> Pipeline[int, int]:
    """Return a pipeline whose device takes `device_s` seconds a batch of at most four."""
    pause = threading.Event()

    def model(items: list[int]) -> list[int]:
        pause.wait(device_s)
        return items

    admission = Admitting(max_waiting=64, deadline_s=deadline_s)
    return Pipeline[int, int](model, Tunables(batching=Batching(max_size=4), admission=admission), SILENT)


async def ask(pipeline: Pipeline[int, int], number: int) -> int:
    """Send one request through all of it."""
    async with pipeline.admit(probe=False) as place:
        place.uploaded()
        return (await pipeline.infer(number))[0]


def test_admission_learns_from_batches_that_came_too_late() -> None:
    """A device slower than the deadline fails its first callers with 504; the next ones are refused."""

    async def test() -> None:
        pipeline = slow_pipeline(device_s=0.3, deadline_s=0.2)
        first = await asyncio.gather(*(ask(pipeline, n) for n in range(8)), return_exceptions=True)
        assert {type(one) for one in first} == {DeadlineExceeded}
        await asyncio.sleep(0.4)  # until the batch that nobody waits for any more has ended
        later = await asyncio.gather(*(ask(pipeline, n) for n in range(32)), return_exceptions=True)
        assert sum(isinstance(one, Overloaded) for one in later) > 16
        pipeline.close()

    run(test)


def test_one_slow_batch_does_not_close_the_door() -> None:
    """After many fast batches a single slow one of four moves the expected wait by a fifth, not by all."""

    async def test() -> None:
        pipeline = slow_pipeline(device_s=0, deadline_s=10)
        for _ in range(20):
            await asyncio.gather(*(ask(pipeline, n) for n in range(4)))
        pipeline.batcher._run = slow_pipeline(device_s=0.4, deadline_s=10).batcher._run
        await asyncio.gather(*(ask(pipeline, n) for n in range(4)))
        with pipeline.admission.enter() as place:
            place.uploaded()
            assert pipeline.admission.expected_wait_s() < 0.5 * 0.4 / 4
        pipeline.close()

    run(test)


def test_a_time_out_of_the_models_own_is_no_deadline() -> None:
    """A `TimeoutError` that the model raises is not told as our deadline."""

    def model(_: list[int]) -> list[int]:
        raise TimeoutError("a socket of the model's")

    async def test() -> None:
        pipeline = Pipeline[int, int](model, Tunables(), SILENT)
        with pytest.raises(TimeoutError, match="a socket"):
            await ask(pipeline, 1)
        pipeline.close()

    run(test)


def test_work_before_the_batch_is_refused_when_closed() -> None:
    """Once the replica shuts down, decoding answers 503 like everything else."""

    async def test() -> None:
        pipeline = slow_pipeline(0, 10)
        pipeline.close()
        with pytest.raises(Unavailable):
            await pipeline.prepare(int, "1")
        with pytest.raises(Unavailable):
            await ask(pipeline, 1)

    run(test)
