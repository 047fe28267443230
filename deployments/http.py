"""The edge of both applications: paths, bounded bodies, and every error as JSON.

Serve itself makes or echoes `X-Request-ID`, on the request and on the response, in both of its
ingresses; here it is only read.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.batcher import BatchTiming
from deployments.errors import (
    BadRequest,
    GlasshouseError,
    InternalError,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from deployments.observer import CLIENT_GONE, KEY, Account, Observer
from telemetry import logs

log = logging.getLogger("glasshouse.http")

INFERENCE_HEADER = "X-Inference-ID"
TIMING_HEADER = "Server-Timing"
JSON = "application/json"
# A client that is answered in mid-upload may see a broken pipe instead of the answer. So the rest
# of the body is read and thrown away first: this many bytes, for this long, and no further.
DRAIN_BYTES = 64_000_000
DRAIN_S = 5.0

ERRORS_DOC: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any error, told apart by `code`.",
        "content": {
            JSON: {
                "example": {
                    "error": {"code": "not_an_image", "message": "The body is empty.", "request_id": "5f0c"}
                }
            }
        },
    }
}


def new_app(title: str, description: str, observer: Observer) -> FastAPI:
    """Return an application with our edge and our errors, and no routes yet.

    Args:
        title: Of its documentation.
        description: One sentence.
        observer: Records what becomes of every request.
    """
    app = FastAPIOffline(
        title=title,
        description=description,
        redirect_slashes=False,
        responses=ERRORS_DOC,
        # What it would record, the observer does (docs/adr/0007).
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(Edge, observer=observer)
    for kind in (GlasshouseError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _on_error)
    return app


class Edge:
    """ASGI middleware: `/detect` is `/detect/`, no answer overtakes its own upload, every request is told.

    Args:
        app: What it stands around.
        observer: Records what becomes of requests.
    """

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self.app = app
        self.observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == scope.get("root_path", ""):
            # Starlette would redirect with 307, and many clients drop the body of a redirected POST.
            scope["path"] += "/"
        upload = _Upload(receive)
        with self.observer.follow(scope) as account:

            async def send_after_upload(message: Message) -> None:
                if message["type"] == "http.response.start":
                    account.status = message["status"]
                    await upload.drain()
                await send(message)

            await self.app(scope, upload.receive, send_after_upload)


class _Upload:
    """Remembers whether the body has been read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and forget what is left of the body, within bounds."""
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_S):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        TooLarge: It has more than `max_bytes`; decided by Content-Length where there is one.
    """
    return await bounded(request, max_bytes).body()


def bounded(request: Request, max_bytes: int) -> Request:
    """Return a view of `request` whose body raises `TooLarge` as soon as it exceeds `max_bytes`."""
    error = TooLarge(f"The body has more than the {max_bytes:,} bytes allowed.", code="too_many_bytes")
    length = request.headers.get("content-length", "")
    # Of twenty digits, no body arrives; and int() refuses thousands of them.
    if length.isdecimal() and (len(length) > 20 or int(length) > max_bytes):
        raise error
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise error
        return message

    return Request(request.scope, receive)


def media_type(header: str | None) -> str:
    """Return the media type of a Content-Type header, without parameters, in lower case."""
    return (header or "").partition(";")[0].strip().lower()


def check_json(request: Request) -> None:
    """Take JSON, and a body of which nothing is said.

    Raises:
        UnsupportedMediaType: The Content-Type is another one.
    """
    kind = media_type(request.headers.get("content-type"))
    if kind not in ("", JSON) and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"Content-Type is {_short(kind)}; send {JSON}.")


def account(request: Request) -> Account:
    """Return what is known of this request so far."""
    known: Account = request.scope[KEY]
    return known


def inference_headers(inference_id: str, timing: BatchTiming) -> dict[str, str]:
    """Return the headers of an inference: its id, and where its time went.

    `Server-Timing` (W3C) shows in every browser's developer tools: `queue` and `batch` in
    milliseconds, and as the batch's description how many ran together.
    """
    stages = f'queue;dur={timing.wait_s * 1e3:.1f}, batch;dur={timing.run_s * 1e3:.1f};desc="{timing.size}"'
    return {INFERENCE_HEADER: inference_id, TIMING_HEADER: stages}


def json_response(content: object, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """Return `content` as JSON. Numpy arrays and scalars are written with their own precision."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status_code=status, headers=headers, media_type=JSON)


def invalid(errors: Sequence[Any], *, skip: int = 0) -> GlasshouseError:
    """Turn pydantic's errors into the first of them, with its field named.

    Args:
        errors: `ValidationError.errors()`, or `RequestValidationError.errors()`.
        skip: Leading parts of the location that name no field ("query", "body").
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return BadRequest(f"The body is not JSON: {first['ctx']['error']}.", code="malformed_json")
    field = _short(".".join(str(part) for part in first["loc"][skip:]) or "body")
    if first["type"] == "extra_forbidden":
        return InvalidValue(
            f"{field}: there is no such field; the routes and theirs are under /docs.", field=field
        )
    got = "" if first["type"] == "missing" else f", not {_short(repr(first['input']))}"
    return InvalidValue(f"{field}: {first['msg']}{got}.", field=field)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    known, ours = account(request), _translate(error)
    known.error_code = ours.code
    if isinstance(ours, InternalError):
        # The server's last resort stands outside of the edge, where nothing is bound any more.
        with logs.bind(request_id=known.request_id):
            log.error("a request failed", exc_info=error)
    return json_response(ours.body(known.request_id), headers=ours.headers, status=ours.status)


def _translate(error: Exception) -> GlasshouseError:
    match error:
        case GlasshouseError():
            return error
        case RequestValidationError():
            return invalid(error.errors(), skip=1)
        case HTTPException(status_code=404):
            return NotFound("There is nothing here; the routes are listed under /docs.")
        case HTTPException(status_code=405):
            return MethodNotAllowed("This path does not take that method.")
        case HTTPException(status_code=400):
            return BadRequest(str(error.detail))
        case _:
            return InternalError("Something went wrong on our side; the log has it under this request id.")
