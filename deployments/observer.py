"""What is known of one request, and what becomes of it: one log line, and the metrics.

An `Account` travels with the request in its ASGI scope. Whoever learns something writes it there; the
edge closes it when the answer has left. Then everything is recorded at once, a little later and with
others, in the request's context, so that exemplars and the line carry the same trace id.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from opentelemetry import context, trace
from starlette.types import Scope

from deployments.batcher import BatchTiming
from telemetry import logs
from telemetry.http import HttpMetrics
from telemetry.providers import Telemetry
from telemetry.serving import ServingMetrics
from telemetry.traces import parent_of

log = logging.getLogger("glasshouse.request")

PROBE_HEADER = b"x-glasshouse-probe"
REQUEST_ID_HEADER = b"x-request-id"
TRACE_HEADER = b"traceparent"
MAX_REQUEST_ID = 128
HEALTH = "/healthz"
KEY = "glasshouse.account"
CLIENT_GONE = 499  # nobody reads it; nginx's number, for the logs
OUTCOMES = {
    429: "refused",
    CLIENT_GONE: "abandoned",
    500: "failed",
    503: "unavailable",
    504: "late",
}


@dataclass(slots=True)
class Account:
    """One request.

    Args:
        request_id: As in the answer.
        probe: Answered and recorded, outside admission, SLI and request counts.
        health: A look at `healthz`, of which only a bad one is worth a line.
        status: Of the answer; None until it starts.
        inference_id: Of an answered inference.
        error_code: Of an error answered.
        trace_id: W3C, 32 hexadecimal digits.
        source: Where the request came from, as the client says.
        tags: As the client says, `key=value`.
        batch_size: How many ran together.
        stages: Seconds by stage, see `telemetry.attributes.STAGE`.
        latency_s: Seconds from its arrival to its end; 0 until then.
        ended_s: Time of its end, in seconds since the epoch; 0 until then.
        slow_s: Latency that was slow when it ended: the limit may be another one when it is recorded.
    """

    request_id: str
    probe: bool = False
    health: bool = False
    status: int | None = None
    inference_id: str | None = None
    error_code: str | None = None
    trace_id: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()
    batch_size: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    ended_s: float = 0.0
    slow_s: float = float("inf")
    _since: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage: the block, waiting included."""
        began = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began

    def ran(self, timing: BatchTiming) -> None:
        """Note what the batch cost this request."""
        self.stages["queue"], self.stages["inference"] = timing.wait_s, timing.run_s
        self.batch_size = timing.size

    @property
    def counted(self) -> bool:
        """Whether it is one of those that the SLI is about."""
        return not self.probe and not self.health

    @property
    def outcome(self) -> str:
        """How it ended, see `telemetry.schema.OUTCOME`."""
        if self.status is None:
            return "abandoned"
        if self.status < 400:
            return "answered"
        return OUTCOMES.get(self.status, "invalid" if self.status < 500 else "failed")

    def end(self, slow_s: float) -> None:
        """Note that it ends now, and from which latency on it is slow."""
        self.latency_s, self.ended_s, self.slow_s = time.monotonic() - self._since, time.time(), slow_s


class Observer:
    """Records what becomes of requests; one per replica.

    Args:
        application: `detection` or `recommendation`.
        telemetry: Of this process.
    """

    def __init__(self, application: str, telemetry: Telemetry) -> None:
        self.application = application
        self.telemetry = telemetry
        self.metrics = ServingMetrics(telemetry.instruments)
        self.slow_s = float("inf")
        self.later = telemetry.instruments.later
        self._http = HttpMetrics(telemetry.instruments)
        self._tracer = telemetry.tracers.get_tracer("glasshouse")

    @contextlib.contextmanager
    def follow(self, scope: Scope) -> Iterator[Account]:
        """Hold the request's account while it is served, and close it.

        Lines written meanwhile carry the request id, and the trace id that the client sent or a new one.
        """
        headers = dict(reversed(scope["headers"]))  # of two with one name the first, as Serve's answer has it
        account = _open(scope, headers)
        scope[KEY] = account
        if account.counted:
            self._http.arrived(scope["method"], scope.get("scheme", "http"))
        parent = parent_of(headers.get(TRACE_HEADER, b""))
        span = self._tracer.start_span("request", parent, trace.SpanKind.SERVER)
        traced = span.get_span_context()
        account.trace_id = trace.format_trace_id(traced.trace_id) if traced.is_valid else None
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            with logs.bind(request_id=account.request_id):
                try:
                    yield account
                except Exception:
                    # Nobody between here and the server answers it in another way.
                    account.status, account.error_code = 500, "internal_error"
                    raise
                finally:
                    self._close(account, scope)
        finally:
            context.detach(token)
            span.end()

    def _close(self, account: Account, scope: Scope) -> None:
        if account.counted:
            self._http.left(scope["method"], scope.get("scheme", "http"))
        account.end(self.slow_s)
        self.later(self._record, account, scope)

    def _record(self, account: Account, scope: Scope) -> None:
        if account.error_code is not None and not account.probe:
            self.metrics.error(account.error_code)
        if account.inference_id is not None and not account.probe:
            self.metrics.stages(account.stages)
        if account.counted:
            ours = account.error_code if (account.status or 0) >= 500 else None
            self._http.took(
                scope["method"],
                scope.get("scheme", "http"),
                _route(scope),
                account.status,
                ours or "",
                account.latency_s,
            )
        if not self.telemetry.on or (account.health and account.outcome == "answered"):
            return
        logs.write_request(log, self._line(account), slow_s=account.slow_s)

    def _line(self, account: Account) -> logs.RequestLine:
        return logs.RequestLine(
            application=self.application,
            outcome=account.outcome,
            status=account.status or CLIENT_GONE,
            latency_s=account.latency_s,
            ended_s=account.ended_s,
            request_id=account.request_id,
            inference_id=account.inference_id,
            error_code=account.error_code,
            source=account.source,
            batch_size=account.batch_size,
            stages_s=account.stages,
            probe=account.probe,
        )


def _open(scope: Scope, headers: Mapping[bytes, bytes]) -> Account:
    given = headers.get(REQUEST_ID_HEADER, b"")[:MAX_REQUEST_ID].decode("latin-1")
    return Account(
        given or uuid4().hex,
        probe=PROBE_HEADER in headers,
        health=scope["method"] == "GET" and scope["path"] == scope.get("root_path", "") + HEALTH,
    )


def _route(scope: Scope) -> str:
    """Return the template of the path, with the application's prefix; empty where no route matched."""
    path = getattr(scope.get("route"), "path", None)
    return "" if path is None else str(scope.get("root_path", "") + path).rstrip("/") or "/"
