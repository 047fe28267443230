"""The edge of the applications: paths, bounded bodies, and errors in JSON."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Query, Request, Response

from deployments.errors import Overloaded
from deployments.http import json_response, new_app, read_body
from deployments.observer import Observer
from telemetry.providers import off


def tiny_app() -> FastAPI:
    """Return an application of ours with one route for each way to end."""
    app = new_app("tiny", "for tests", Observer("tiny", off()))

    @app.post("/")
    async def count(request: Request) -> Response:
        return json_response({"bytes": len(await read_body(request, 1000))})

    @app.get("/number")
    async def number(value: float = Query(ge=0, allow_inf_nan=False)) -> Response:
        return json_response({"value": value})

    @app.post("/full")
    async def full() -> Response:
        raise Overloaded("Full.", retry_after_s=2.5)

    @app.get("/broken")
    async def broken() -> Response:
        raise KeyError("a secret")

    @app.get("/floats")
    async def floats() -> Response:
        return json_response({"x": np.float32(0.1), "xs": np.array([0.7], np.float32)})

    return app


def call(method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request to the tiny application, mounted at /tiny as Serve would."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(tiny_app(), raise_app_exceptions=False, root_path="/tiny")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


@pytest.mark.parametrize("path", ["/tiny", "/tiny/"])
def test_the_root_needs_no_redirect(path: str) -> None:
    """The application's path answers a POST with and without a slash."""
    answer = call("POST", path, content=b"12345")
    assert (answer.status_code, answer.json()) == (200, {"bytes": 5})


def test_an_error_is_json_with_the_request_id() -> None:
    """Errors carry code, message and the client's own request id."""
    answer = call("GET", "/tiny/nowhere", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.json()["error"]["request_id"] == "mine"


def test_what_is_inside_stays_inside() -> None:
    """An exception of ours answers 500 and says nothing of its cause."""
    answer = call("GET", "/tiny/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_a_refusal_says_when_to_come_back() -> None:
    """A 429 carries Retry-After in whole seconds, rounded up."""
    answer = call("POST", "/tiny/full", content=b"x" * 100)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "abc", ""])
def test_a_bad_value_names_its_field(value: str) -> None:
    """A query value that is no number in range is a 422 that names field and value."""
    answer = call("GET", "/tiny/number", params={"value": value})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "value")
    assert repr(value) in answer.json()["error"]["message"]


def test_the_wrong_method_is_told_in_json() -> None:
    """A method that the path does not take is a 405 in our form."""
    assert call("PUT", "/tiny/number").json()["error"]["code"] == "method_not_allowed"


async def chunks(count: int) -> AsyncIterator[bytes]:
    """Yield `count` chunks of 100 bytes, as a client without Content-Length does."""
    for _ in range(count):
        yield b"x" * 100


@pytest.mark.parametrize(
    "content",
    [pytest.param(lambda: b"x" * 1001, id="content-length"), pytest.param(lambda: chunks(11), id="chunked")],
)
def test_a_body_over_the_limit_is_413(content: Callable[[], Any]) -> None:
    """One byte too many is refused, declared or not."""
    answer = call("POST", "/tiny", content=content())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_bytes")


def test_a_body_at_the_limit_passes() -> None:
    """The limit itself is allowed."""
    assert call("POST", "/tiny", content=chunks(10)).json() == {"bytes": 1000}


def test_a_refusal_lets_the_upload_end_first() -> None:
    """A refused upload is read to its end before the answer, so that the client gets to see it."""

    async def test() -> None:
        events = [{"type": "http.request", "body": b"x", "more_body": left > 0} for left in (2, 1, 0)]
        scope = {"type": "http", "method": "POST", "path": "/full", "headers": [], "query_string": b""}

        async def receive() -> Any:
            return events.pop(0)

        async def send(message: Any) -> None:
            assert not events, "the answer overtook the upload"

        await tiny_app()(scope, receive, send)

    asyncio.run(test())


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_documentation_needs_no_other_host(page: str) -> None:
    """The interactive pages load all their scripts and styles from this very application."""
    html = call("GET", f"/tiny/{page}").text
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', html)

    assert len(loaded) >= 2
    for address in loaded:
        assert address.startswith("/tiny/")
        assert call("GET", address).status_code == 200


def test_floats_keep_their_own_precision() -> None:
    """A float32 is written with the digits it has, not with those of a float64."""
    assert call("GET", "/tiny/floats").text == '{"x":0.1,"xs":[0.7]}'
