"""What is known of one request, and what becomes of it: one log line, and the metrics.

An `Account` travels with the request in its ASGI scope. Whoever learns something writes it there; the
edge closes it when the answer has left, and everything is recorded then, at once, while the request's
span is current, so that exemplars and the line carry the same trace id.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.batcher import BatchTiming
from telemetry import logs
from telemetry.providers import Telemetry
from telemetry.serving import ServingMetrics

log = logging.getLogger("glasshouse.request")

PROBE_HEADER = "X-Glasshouse-Probe"
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
        source: Where the request came from, as the client says.
        batch_size: How many ran together.
        stages: Seconds by stage, see `telemetry.attributes.STAGE`.
    """

    request_id: str
    probe: bool = False
    health: bool = False
    status: int | None = None
    inference_id: str | None = None
    error_code: str | None = None
    source: str | None = None
    batch_size: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
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
    def outcome(self) -> str:
        """How it ended, see `telemetry.schema.OUTCOME`."""
        if self.status is None:
            return "abandoned"
        if self.status < 400:
            return "answered"
        return OUTCOMES.get(self.status, "invalid" if self.status < 500 else "failed")

    def latency_s(self) -> float:
        """Return the seconds since it arrived."""
        return time.monotonic() - self._since


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
        self._tracer = telemetry.tracers.get_tracer("glasshouse")

    def fastapi(self) -> TelemetryConfig:
        """Return how FastAPI records requests: duration, in flight, and the span that gives the trace id."""
        return {
            "tracing": True,
            "metrics": True,
            "logs": False,
            "operation_spans": False,
            "meter_provider": self.telemetry.meters,
            "tracer_provider": self.telemetry.tracers,
            "exclude": lambda scope: _is_health(scope) or is_probe(scope),
        }

    @contextlib.contextmanager
    def follow(self, scope: Scope) -> Iterator[Account]:
        """Hold the request's account while it is served, and close it.

        Lines written meanwhile carry the request id.
        """
        given = Headers(scope=scope).get("x-request-id", "")[:128]
        account = Account(given or uuid4().hex, probe=is_probe(scope), health=_is_health(scope))
        scope[KEY] = account
        with self._span(account, scope), logs.bind(request_id=account.request_id):
            try:
                yield account
            except Exception:
                # Nobody between here and the server answers it in another way.
                account.status, account.error_code = 500, "internal_error"
                raise
            finally:
                self._close(account)

    @contextlib.contextmanager
    def _span(self, account: Account, scope: Scope) -> Iterator[None]:
        """Give a probe a trace id: it is left out of FastAPI's metrics, and so of its spans."""
        if not account.probe:
            yield
            return
        parent = propagate.extract(Headers(scope=scope))
        with self._tracer.start_as_current_span("probe", context=parent, kind=trace.SpanKind.SERVER):
            yield

    def _close(self, account: Account) -> None:
        if account.error_code is not None and not account.probe:
            self.metrics.error(account.error_code)
        if account.inference_id is not None and not account.probe:
            self.metrics.stages(account.stages)
        if not self.telemetry.on or (account.health and account.outcome == "answered"):
            return
        logs.write_request(log, self._line(account), slow_s=self.slow_s)

    def _line(self, account: Account) -> logs.RequestLine:
        return logs.RequestLine(
            application=self.application,
            outcome=account.outcome,
            status=account.status or CLIENT_GONE,
            latency_s=account.latency_s(),
            request_id=account.request_id,
            inference_id=account.inference_id,
            error_code=account.error_code,
            source=account.source,
            batch_size=account.batch_size,
            stages_s=account.stages,
            probe=account.probe,
        )


def is_probe(scope: Scope) -> bool:
    """Tell whether this is a probe: answered and recorded, outside admission and request counts."""
    return PROBE_HEADER in Headers(scope=scope)


def _is_health(scope: Scope) -> bool:
    return bool(scope["path"].endswith(HEALTH))
