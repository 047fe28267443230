"""Wait for something to become true, and say what it was when it does not."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_S = 0.05


def poll_until(check: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Return the first truthy value of `check`; fail after `timeout_s`, naming `what` and the last error."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := check():
                return last
        except Exception as error:
            last = error
        threading.Event().wait(PAUSE_S)
    raise AssertionError(f"waited {timeout_s:g} s for {what}; last saw {last!r}")


async def poll_until_async(check: Callable[[], Awaitable[T]], what: str, timeout_s: float = 30.0) -> T:
    """Do the same with a coroutine function, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := await check():
                return last
        except Exception as error:
            last = error
        await asyncio.sleep(PAUSE_S)
    raise AssertionError(f"waited {timeout_s:g} s for {what}; last saw {last!r}")
