"""OTLP/HTTP, as the environment says: where to, how often, how patiently.

Reads the standard `OTEL_*` variables, with other defaults where the SDK's would lose or delay data:
export metrics every 10 s instead of 60 and lines every 2 s, give up after 3 s instead of 10 (a replica
must be able to stop).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.re import parse_env_headers

from telemetry.line import Encoder, Line
from telemetry.outbox import BATCH, DELAY_S, QUEUE, Fate
from telemetry.session import Session

SWITCH = "GLASSHOUSE_TELEMETRY"
ENDPOINT = "http://127.0.0.1:4318"
INTERVAL_S = 10.0
TIMEOUT_S = 3.0

# The collector has the batch in its hands and will never take it (OTLP: not to be sent again).
# What an operator can mend while we run (no route, no token) is not among them.
PERMANENT = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Mode(Enum):
    """`GLASSHOUSE_TELEMETRY`."""

    ON = "on"
    OFF = "off"  # nothing is recorded, no thread runs
    STRICT = "strict"  # on, and programming errors raise; for tests


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """What the environment says.

    Args:
        mode: See `Mode`.
        metrics_url: Where metrics are posted to.
        logs_url: Where log lines are posted to.
        headers: Sent along (`authorization`, for a collector that asks for it).
        compression: `none`, `gzip` or `deflate`; on loopback it costs more than it saves.
        certificate: Path of a CA, for https.
        client_certificate: Path, for mTLS.
        client_key: Path, for mTLS.
        interval_s: Seconds between exports of metrics, > 0.
        timeout_s: Seconds for one attempt, > 0.
        queue: Log lines that may wait, >= 1.
        batch: Log lines sent together, >= 1.
        delay_s: Seconds a log line may wait for company, > 0.
    """

    mode: Mode
    metrics_url: str
    logs_url: str
    headers: Mapping[str, str]
    compression: str
    certificate: str | None
    client_certificate: str | None
    client_key: str | None
    interval_s: float
    timeout_s: float
    queue: int
    batch: int
    delay_s: float

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "OtlpSettings":
        """Read them.

        Raises:
            ValueError: A variable cannot be what it is; names it and its value.
        """
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ENDPOINT
        return cls(
            mode=_mode(environ),
            metrics_url=environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
            or f"{base.rstrip('/')}/v1/metrics",
            logs_url=environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or f"{base.rstrip('/')}/v1/logs",
            headers=parse_env_headers(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True),
            compression=environ.get("OTEL_EXPORTER_OTLP_COMPRESSION") or "none",
            certificate=environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE"),
            client_certificate=environ.get("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
            client_key=environ.get("OTEL_EXPORTER_OTLP_CLIENT_KEY"),
            interval_s=_number(environ, "OTEL_METRIC_EXPORT_INTERVAL", INTERVAL_S * 1e3) / 1e3,
            timeout_s=_number(environ, "OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT_S),
            queue=int(_number(environ, "OTEL_BLRP_MAX_QUEUE_SIZE", QUEUE)),
            batch=int(_number(environ, "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", BATCH)),
            delay_s=_number(environ, "OTEL_BLRP_SCHEDULE_DELAY", DELAY_S * 1e3) / 1e3,
        )

    def common(self) -> dict[str, Any]:
        """Return what both exporters take alike."""
        return {
            "headers": self.headers,
            "timeout": self.timeout_s,
            "compression": Compression(self.compression),
            "certificate_file": self.certificate,
            "client_certificate_file": self.client_certificate,
            "client_key_file": self.client_key,
        }


class MetricExporter(OTLPMetricExporter):
    """Knows whether its last export arrived: the SDK's reader does not say.

    Args:
        url: Where to.
        common: See `OtlpSettings.common`.
    """

    delivered = False

    def __init__(self, url: str, **common: Any) -> None:
        super().__init__(url, session=Session(url), **common)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export, and remember how it went."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self.delivered = result is MetricExportResult.SUCCESS
        return result


class LogCarrier:
    """Takes batches of log lines to the collector.

    Args:
        settings: Where to, and how patiently.
        resource: Who the lines are of.
    """

    def __init__(self, settings: OtlpSettings, resource: Resource) -> None:
        self._encoder = Encoder(resource)
        self._session = Session(settings.logs_url)
        # Of the SDK's exporter the part behind its encoder: headers, compression, patience, complaints.
        self._exporter = OTLPLogExporter(settings.logs_url, session=self._session, **settings.common())
        self._closed = False

    def offer(self, batch: Sequence[Line]) -> Fate:
        """Try once (the exporter itself tries again within its timeout); raises nothing."""
        if self._closed:
            return Fate.AGAIN
        try:
            encoded = self._encoder.encode(batch)
        except Exception:
            return Fate.NEVER
        self._session.answer = None
        result = self._exporter._client.export(encoded)
        if result.status_code in PERMANENT:
            return Fate.NEVER
        # The SDK takes a redirect, which nobody follows, for a success.
        if not result.success or (result.status_code or 0) >= HTTPStatus.MULTIPLE_CHOICES:
            return Fate.AGAIN
        return Fate.NEVER if self._refused(len(batch)) else Fate.TAKEN

    def close(self) -> None:
        """Let an attempt in progress end early. Idempotent."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _refused(self, count: int) -> bool:
        """Tell whether a 200 says that nothing of the batch was taken (OTLP's partial success)."""
        answer = self._session.answer
        if answer is None or not answer.content:
            return False
        try:
            said = ExportLogsServiceResponse.FromString(answer.content)
        except Exception:
            return False
        return bool(said.partial_success.rejected_log_records >= count)


def _mode(environ: Mapping[str, str]) -> Mode:
    asked = environ.get(SWITCH, "").strip().lower() or Mode.ON.value
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Mode.OFF
    try:
        return Mode(asked)
    except ValueError:
        raise ValueError(f"{SWITCH}={asked!r}: one of {', '.join(mode.value for mode in Mode)}") from None


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number") from None
    if not value > 0:
        raise ValueError(f"{name}={text!r} must be above 0")
    return value
