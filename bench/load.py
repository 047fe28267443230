"""Load on an HTTP server of ours, bounded in count and time.

Open loop: requests leave on their own schedule, whatever the answers do, as users do. A closed loop
slows down with the server and hides its queue (coordinated omission).
aiohttp drives it: httpx made 200 requests a second look like 65 to 144 on the same machine.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp

TIMEOUT_S = 60.0
LARGE_BYTES = 1 << 20  # from here on aiohttp warns, and wants a file that it can send in pieces


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send; `tag` is handed through to its outcome."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    tag: Any = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call.

    Attributes:
        status: HTTP status; 0 where no answer came, then `body` holds the error's text.
        started_s: Seconds since the start of the load at which it was due.
        latency_s: Seconds from when it was due until its whole answer was read.
    """

    call: Call
    status: int
    body: bytes
    headers: dict[str, str]
    started_s: float
    latency_s: float


async def open_loop(
    base_url: str, make: Callable[[int], Call], *, rate: float, duration_s: float, seed: int = 0
) -> list[Outcome]:
    """Send Poisson arrivals at `rate` per second for `duration_s`; wait for all the answers."""
    clock = random.Random(seed)
    due, schedule = 0.0, []
    while (due := due + clock.expovariate(rate)) < duration_s:
        schedule.append(due)
    async with _session(base_url) as session:
        start = time.perf_counter()
        return await asyncio.gather(
            *(_at(session, start, due, make(index)) for index, due in enumerate(schedule))
        )


async def closed_loop(
    base_url: str, make: Callable[[int], Call], *, clients: int, duration_s: float
) -> list[Outcome]:
    """Keep `clients` requests in flight for `duration_s` seconds."""
    outcomes: list[Outcome] = []
    numbers = iter(range(10**9))
    async with _session(base_url) as session:
        start = time.perf_counter()

        async def client() -> None:
            while (now := time.perf_counter() - start) < duration_s:
                outcomes.append(await _at(session, start, now, make(next(numbers))))

        await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


async def send_all(base_url: str, calls: Sequence[Call], *, at_once: int = 16) -> list[Outcome]:
    """Send every call, at most `at_once` in flight; outcomes in the order of the calls."""
    places = asyncio.Semaphore(at_once)
    async with _session(base_url) as session:
        start = time.perf_counter()

        async def one(call: Call) -> Outcome:
            async with places:
                return await _at(session, start, time.perf_counter() - start, call)

        return await asyncio.gather(*(one(call) for call in calls))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of `values` lie; nan when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _session(base_url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        base_url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )


async def _at(session: aiohttp.ClientSession, start: float, due: float, call: Call) -> Outcome:
    await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
    status, body, headers = 0, b"", {}
    try:
        data = call.body if len(call.body) < LARGE_BYTES else BytesIO(call.body)
        async with session.request(call.method, call.path, data=data, headers=call.headers) as answer:
            body = await answer.read()
            status, headers = answer.status, dict(answer.headers)
    except (aiohttp.ClientError, TimeoutError) as error:
        body = f"{type(error).__name__}: {error}".encode()
    return Outcome(call, status, body, headers, due, time.perf_counter() - start - due)
