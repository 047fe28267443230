"""A log line on its way to the collector: what waits of it, and what OTLP makes of it.

Equal in meaning to what the SDK's handler, logger and encoder make of the same record (a test compares
the two), without a context held alive, without a second look at fields that are clean, and encoded once,
when it is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry._logs import LogRecord as SdkLogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.instrumentation.log_utils import std_to_otel
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource

FIELDS = 128  # of one line; the SDK's default
INT64 = 1 << 63  # from minus this to below it

Value = str | int | float | bool


@dataclass(slots=True)
class Line:
    """One line, clean.

    Args:
        logger: Name of the Python logger; OTLP's scope.
        created_s: When it was written, in seconds since the epoch.
        observed_ns: When it was taken, in nanoseconds since the epoch.
        level: As of the `logging` module.
        severity: What the level is called in OTLP.
        body: The line itself.
        fields: Its attributes.
        trace_id: 0 where there is none.
        span_id: 0 where there is none.
        flags: W3C trace flags.
    """

    logger: str
    created_s: float
    observed_ns: int
    level: int
    severity: str
    body: str
    fields: Mapping[str, Value]
    trace_id: int
    span_id: int
    flags: int


class Encoder:
    """Writes batches of lines as OTLP.

    Args:
        resource: Who the lines are of.
    """

    def __init__(self, resource: Resource) -> None:
        sdks = encode_logs([ReadableLogRecord(SdkLogRecord(body=""), resource)]).resource_logs[0]
        del sdks.scope_logs[:]
        self._resource = ExportLogsServiceRequest(resource_logs=[sdks])

    def encode(self, batch: Sequence[Line]) -> bytes:
        """Return the body of a request with these lines, in their order within each logger.

        Raises:
            ValueError: A line cannot be encoded.
        """
        request = ExportLogsServiceRequest()
        request.CopyFrom(self._resource)
        scopes = request.resource_logs[0].scope_logs
        records = {}
        for line in batch:
            if line.logger not in records:
                scope = scopes.add()
                scope.scope.name = line.logger
                records[line.logger] = scope.log_records
            _fill(records[line.logger].add(), line)
        return bytes(request.SerializeToString())


def _fill(record: LogRecord, line: Line) -> None:
    record.time_unix_nano = int(line.created_s * 1e9)
    record.observed_time_unix_nano = line.observed_ns
    record.severity_number = std_to_otel(line.level).value  # type: ignore[assignment]  # the stub wants its own
    record.severity_text = line.severity
    record.body.string_value = line.body
    if line.trace_id and line.span_id:
        record.trace_id = line.trace_id.to_bytes(16, "big")
        record.span_id = line.span_id.to_bytes(8, "big")
        record.flags = line.flags
    fields = line.fields
    if len(fields) > FIELDS:
        record.dropped_attributes_count = len(fields) - FIELDS
        fields = dict(list(fields.items())[-FIELDS:])
    add = record.attributes.add
    for name, value in fields.items():
        _set(add(key=name).value, value)


def _set(into: AnyValue, value: Value) -> None:
    if isinstance(value, str):
        into.string_value = value
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, float):
        into.double_value = value
    elif -INT64 <= value < INT64:
        into.int_value = value
    else:
        into.string_value = str(value)
