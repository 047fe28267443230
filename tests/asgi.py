"""An application of ours without Serve: its own event loop, and requests straight into ASGI."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import httpx

from deployments.replica import Service

S = TypeVar("S", bound=Service[Any])
T = TypeVar("T")


class Asgi(Generic[S]):
    """Holds a service and the loop it lives on; mounted where Serve would mount it.

    Args:
        make: Builds the service; called on the loop, as Serve does.
        mount: Serve's route prefix.
    """

    def __init__(self, make: Callable[[], S], mount: str) -> None:
        self.mount = mount
        self._runner = asyncio.Runner()
        self.service = self._runner.run(_call(make))

    def request(self, method: str, path: str = "", **options: Any) -> httpx.Response:
        """Send one request."""
        return self.requests([(method, path, options)])[0]

    def requests(self, calls: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """Send requests at the same time; answers in the order of the calls."""
        return self._runner.run(self._send(calls))

    def close(self) -> None:
        """End the service and its loop."""
        self._runner.run(_call(self.service.close))
        self._runner.close()

    async def _send(self, calls: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.service.app, raise_app_exceptions=False, root_path=self.mount)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            return await asyncio.gather(
                *(client.request(method, self.mount + path, **options) for method, path, options in calls)
            )


async def _call(function: Callable[[], T]) -> T:
    return function()
