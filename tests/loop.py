"""Runs the asynchronous tests."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run one asynchronous test, for 30 s at most."""
    asyncio.run(asyncio.wait_for(test(), 30))
