"""What is recorded of a request: its one line, its errors, its stages, all under one trace id."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from deployments.batcher import BatchTiming
from deployments.errors import DeadlineExceeded, GlasshouseError, InvalidValue, Overloaded, Unavailable
from deployments.http import account, json_response, new_app, read_body
from deployments.observer import Observer
from telemetry import schema
from telemetry.cell_reader import Cells, MemoryReader
from telemetry.otlp import OtlpSettings
from telemetry.providers import build, describe, off
from tests.otlp_receiver import Receiver
from tests.poll import poll_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
PROBE = {"X-Glasshouse-Probe": "test"}
ERRORS: dict[str, GlasshouseError] = {
    "refused": Overloaded("Full.", retry_after_s=1),
    "invalid": InvalidValue("No."),
    "late": DeadlineExceeded("Late."),
    "unavailable": Unavailable("Closing.", retry_after_s=1),
}


class Observed:
    """A tiny application whose telemetry goes to a real receiver, and to a reader in memory."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        environ = {
            "GLASSHOUSE_TELEMETRY": "strict",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BLRP_SCHEDULE_DELAY": "20",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",  # exemplars go to who collects first
        }
        resource = describe("detection", "1", "replica-1", {})
        cells = Cells("test", resource)
        self.reader = MemoryReader(cells)
        self.telemetry = build(
            OtlpSettings.read(environ), resource, environ, readers=(self.reader,), cells=cells
        )
        self.telemetry.attach("glasshouse")
        self.observer = Observer("detection", self.telemetry)
        self.app = tiny_app(self.observer)

    def call(self, path: str = "/", method: str = "POST", **options: Any) -> httpx.Response:
        """Send to the application, mounted at /detect."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, root_path="/detect")
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, f"/detect{path}", **options)

        return asyncio.run(send())

    def raw(
        self,
        name: bytes,
        value: bytes,
        *,
        more: Sequence[tuple[bytes, bytes]] = (),
        scheme: str = "http",
        events: Sequence[dict[str, Any]] = ({"type": "http.request", "body": b"x", "more_body": False},),
    ) -> None:
        """POST straight into ASGI: what no HTTP client sends; after the events the client is gone."""
        scope = {
            "type": "http",
            "method": "POST",
            "scheme": scheme,
            "path": "/detect/",
            "root_path": "/detect",
            "query_string": b"",
            "headers": [(name, value), *more],
        }
        coming = iter(events)

        async def receive() -> Any:
            return next(coming, {"type": "http.disconnect"})

        async def send(_: Any) -> None:
            pass

        asyncio.run(self.app(scope, receive, send))

    def lines(self, count: int) -> list[tuple[Any, dict[str, Any]]]:
        """Return so many request lines, once they are there: the OTLP record and its attributes."""
        poll_until(lambda: len(self._found()) >= count, f"{count} lines")
        return self._found()

    def _found(self) -> list[tuple[Any, dict[str, Any]]]:
        found = [(line, attributes(line)) for line in self.receiver.lines()]
        return [(line, fields) for line, fields in found if "outcome" in fields]

    def points(self, *names: str) -> list[Any]:
        """Return the points of these metrics; exemplars are there at the first look only."""
        data = self.reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name in names for point in metric.data.data_points]

    def count(self, name: str, **labels: str) -> int:
        """Return a counter's value, or a histogram's count, over the series with these labels."""
        dotted = {name.replace("_", "."): text for name, text in labels.items()}.items()
        points = [point for point in self.points(name) if dotted <= dict(point.attributes).items()]
        return sum(point.count if hasattr(point, "count") else point.value for point in points)


def attributes(line: Any) -> dict[str, Any]:
    """Return the attributes of an OTLP line."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in line.attributes}


def tiny_app(observer: Observer) -> FastAPI:
    """Return an application of ours with one route for each way to end."""
    app = new_app("tiny", "for tests", observer)

    @app.post("/")
    async def answered(request: Request) -> Response:
        known = account(request)
        with known.stage("decode"):
            await read_body(request, 1000)
        known.ran(BatchTiming(wait_s=0.001, run_s=0.002, size=3))
        known.inference_id, known.source = "0197", "gate-7"
        logging.getLogger("glasshouse.tiny").info("inside")
        return json_response({})

    @app.post("/broken")
    async def broken() -> Response:
        raise KeyError("a secret")

    @app.get("/healthz")
    async def healthz(request: Request) -> Response:
        if await request.body():
            raise Unavailable("Sick.", retry_after_s=1, code="unhealthy")
        return json_response({})

    @app.post("/{outcome}")
    async def ended(outcome: str) -> Response:
        raise ERRORS[outcome]

    return app


@pytest.fixture
def observed() -> Iterator[Observed]:
    """The application; its telemetry ends with the test."""
    receiver = Receiver()
    receiver.up()
    made = Observed(receiver)
    yield made
    made.telemetry.shutdown(1)
    receiver.down()


def test_one_line_a_request(observed: Observed) -> None:
    """An answered request leaves one line: ids, application, outcome, latency, stages, batch, source."""
    observed.call(content=b"x", headers={"X-Request-ID": "r1", **PARENT})
    ((line, fields),) = observed.lines(1)
    latency = fields.pop("latency_ms")
    stages = {name: fields.pop(f"{name}_ms") for name in ("decode", "queue", "inference")}
    assert fields == {
        "request_id": "r1",
        "inference_id": "0197",
        "application": "detection",
        "outcome": "answered",
        "status": 200,
        "source": "gate-7",
        "batch_size": 3,
    }
    assert latency >= stages["decode"] > 0 and (stages["queue"], stages["inference"]) == (1, 2)
    assert line.trace_id.hex() == TRACE
    assert line.severity_text == "INFO"


def test_the_duration_leads_to_the_line(observed: Observed) -> None:
    """The exemplars of the request's and of its stages' duration carry the trace id of its line."""
    observed.call(content=b"x", headers=PARENT)
    observed.lines(1)
    points = observed.points(schema.HTTP_DURATION.name, schema.STAGE_DURATION.name)
    traces = [f"{exemplar.trace_id:032x}" for point in points for exemplar in point.exemplars]
    assert traces == [TRACE] * 4  # the whole, and three stages


def test_http_metrics_by_the_conventions(observed: Observed) -> None:
    """Duration has method, scheme, route and status, an error type where it is ours; active is back at 0."""
    observed.call(content=b"x")
    observed.call("/late")
    observed.call("/refused")
    labels = [dict(point.attributes) for point in observed.points(schema.HTTP_DURATION.name)]
    common = {"http.request.method": "POST", "url.scheme": "http"}
    assert labels == [
        {**common, "http.route": "/detect", "http.response.status_code": "200"},
        {
            **common,
            "http.route": "/detect/{outcome}",
            "http.response.status_code": "504",
            "error.type": "deadline_exceeded",
        },
        {**common, "http.route": "/detect/{outcome}", "http.response.status_code": "429"},
    ]
    assert [point.value for point in observed.points(schema.HTTP_ACTIVE.name)] == [0]


def test_a_hostile_tracestate_costs_nothing(observed: Observed) -> None:
    """A header that the SDK's parser works on for minutes is not looked at: as quick as any request."""
    headers = {**PARENT, "tracestate": "a=1" + " " * 14_000 + "b"}
    began = time.thread_time()
    observed.call(content=b"x")
    plain = time.thread_time() - began
    observed.call(content=b"x", headers=headers)
    assert time.thread_time() - began - plain < 20 * plain


@pytest.mark.parametrize("scheme", ["ws", "HTTPS", "gopher", ""])
def test_a_made_up_scheme_leaves_no_request_out(observed: Observed, scheme: str) -> None:
    """A client that says another scheme is in the metrics like anybody, and nothing raises."""
    observed.raw(b"x-request-id", b"r1", scheme=scheme)
    (point,) = observed.points(schema.HTTP_DURATION.name)
    assert (point.count, point.attributes["url.scheme"]) == (1, "http")


def test_only_healthz_itself_is_a_health_check(observed: Observed) -> None:
    """A path that only ends like it is a request like any other: counted, with a line."""
    observed.call("/no/healthz")
    ((_, fields),) = observed.lines(1)
    assert fields["outcome"] == "invalid"
    assert observed.count(schema.HTTP_DURATION.name) == 1


def test_of_two_request_ids_the_first(observed: Observed) -> None:
    """The line has the id that Serve puts into the answer: the first, at most 128 characters of it."""
    observed.raw(b"x-request-id", b"r" * 500, more=[(b"x-request-id", b"second")])
    ((_, fields),) = observed.lines(1)
    assert fields["request_id"] == "r" * 128


def test_a_client_that_goes_away(observed: Observed) -> None:
    """A client that goes in mid-upload is abandoned: no error of ours, and nothing is left in flight."""
    observed.raw(b"x-request-id", b"r1", events=[{"type": "http.request", "body": b"x", "more_body": True}])
    ((line, fields),) = observed.lines(1)
    assert (fields["outcome"], line.severity_text) == ("abandoned", "INFO")
    assert observed.count(schema.ERRORS.name) == 0
    assert [point.value for point in observed.points(schema.HTTP_ACTIVE.name)] == [0]


def test_made_up_requests_make_no_series(observed: Observed) -> None:
    """Paths and methods that a client makes up land in one series without a route, under `_OTHER`."""
    for number in range(30):
        observed.call(f"/no/{number}")
        observed.call(method=f"X{number}")
    routes = [dict(point.attributes) for point in observed.points(schema.HTTP_DURATION.name)]
    assert {(one["http.request.method"], one.get("http.route", "")) for one in routes} == {
        ("POST", ""),
        ("_OTHER", "/detect"),
    }


def test_lines_in_between_carry_the_request_id(observed: Observed) -> None:
    """What a handler logs by itself has the request id and the trace id of its request."""
    observed.call(content=b"x", headers={"X-Request-ID": "r1", **PARENT})
    observed.lines(1)
    (inside,) = [line for line in observed.receiver.lines() if line.body.string_value == "inside"]
    assert (attributes(inside)["request_id"], inside.trace_id.hex()) == ("r1", TRACE)


@pytest.mark.parametrize(
    ("outcome", "level", "code"),
    [
        ("refused", "WARN", "overloaded"),
        ("invalid", "INFO", "invalid_value"),
        ("late", "WARN", "deadline_exceeded"),
        ("unavailable", "WARN", "unavailable"),
    ],
)
def test_each_way_to_end(observed: Observed, outcome: str, level: str, code: str) -> None:
    """A request that was not answered says how it ended, and its error is counted by code."""
    observed.call(f"/{outcome}")
    ((line, fields),) = observed.lines(1)
    assert (fields["outcome"], fields["error_code"], line.severity_text) == (outcome, code, level)
    assert observed.count(schema.ERRORS.name, error_type=code) == 1
    assert observed.count(schema.STAGE_DURATION.name) == 0


def test_our_own_failure(observed: Observed) -> None:
    """An exception nobody expected is one line with the traceback, one request line, one error counted."""
    answer = observed.call("/broken", headers={"X-Request-ID": "r1"})
    assert (answer.status_code, answer.json()["error"]["request_id"]) == (500, "r1")
    ((line, fields),) = observed.lines(1)
    assert (fields["outcome"], fields["error_code"], line.severity_text) == (
        "failed",
        "internal_error",
        "ERROR",
    )
    poll_until(lambda: "a request failed" in observed.receiver.bodies(), "the traceback's line")
    assert observed.count(schema.ERRORS.name, error_type="internal_error") == 1


def test_a_slow_answer_is_a_warning(observed: Observed) -> None:
    """An answer that took longer than `slow_s` is a warning."""
    observed.observer.slow_s = 0.0
    observed.call(content=b"x")
    ((line, fields),) = observed.lines(1)
    assert (fields["outcome"], line.severity_text) == ("answered", "WARN")


def test_a_probe_leaves_a_line_and_no_count(observed: Observed) -> None:
    """A probe has its line, tagged, with the trace id it came with, and is in no metric."""
    observed.call(content=b"x", headers={**PROBE, **PARENT})
    observed.call("/refused", headers=PROBE)
    (line, fields), (_, refused) = observed.lines(2)
    assert fields["probe"] and refused["probe"]
    assert line.trace_id.hex() == TRACE
    for metric in (schema.HTTP_DURATION, schema.STAGE_DURATION, schema.ERRORS):
        assert observed.count(metric.name) == 0, metric.name


def test_only_a_bad_health_check_is_told(observed: Observed) -> None:
    """A look at `healthz` leaves nothing while all is well, and a line when it is not."""
    observed.call("/healthz", "GET")
    observed.call("/healthz", "GET", content=b"be ill")
    ((_, fields),) = observed.lines(1)
    assert (fields["outcome"], fields["error_code"]) == ("unavailable", "unhealthy")
    assert observed.count(schema.HTTP_DURATION.name) == 0


def test_a_request_without_an_id_gets_one(observed: Observed) -> None:
    """Where nobody gave a request id, the answer and the line carry the same one."""
    answer = observed.call("/refused")
    ((_, fields),) = observed.lines(1)
    assert answer.json()["error"]["request_id"] == fields["request_id"]


def test_off_means_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """With telemetry off an application answers the same and writes no line."""
    app = tiny_app(Observer("detection", off()))

    async def send() -> int:
        transport = httpx.ASGITransport(app, root_path="/detect")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post("/detect/refused")).status_code

    assert asyncio.run(send()) == 429
    assert "refused" not in capfd.readouterr().err
