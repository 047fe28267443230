"""One record, redacted once, to two places: a JSON line on stderr, and OTLP.

Serve clears the handlers of loggers, so `attach` may be called again and again. Lines of the
OpenTelemetry SDK and of this package go to stderr only, the same at most once a minute: a line about a
failed export must not become the next one to export.
"""

import contextlib
import functools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
from opentelemetry import trace

from telemetry import schema
from telemetry.line import Line, Value
from telemetry.redaction import clean_text, clean_value, is_secret

INTERNAL = ("opentelemetry", "telemetry")
REPEAT_S = 60.0
STACKTRACE = 16_000
LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}

# What the logging module puts on every record, what Ray adds, and what OTLP carries by itself.
# Not by `makeLogRecord`: it asks the factory, and Ray's puts its own fields on every record.
PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
# Where a record carries fields that are clean already.
READY = "_glasshouse_fields"
UNWANTED = frozenset({"log_to_stderr", "skip_context_filter", "trace_id", "span_id", "level", "severity"})

_bound: ContextVar[Mapping[str, str]] = ContextVar("glasshouse_log_fields")


@contextlib.contextmanager
def bind(
    *, request_id: str | None = None, inference_id: str | None = None, application: str | None = None
) -> Iterator[None]:
    """Put these fields on every line that is written inside the block, in this task or thread."""
    given = {
        schema.REQUEST_ID.name: request_id,
        schema.INFERENCE_ID.name: inference_id,
        schema.APPLICATION.name: application,
    }
    fields = {name: clean_text(value) for name, value in given.items() if value is not None}
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """What the one line of a request says.

    Args:
        application: `detection` or `recommendation`.
        outcome: One of `schema.OUTCOME.values`.
        status: HTTP status of the answer.
        latency_s: Seconds from arrival to answer.
        request_id: As in the answer.
        ended_s: When the answer had left, in seconds since the epoch; now where not given.
        inference_id: Of an answered inference.
        error_code: Of an error answered.
        source: Where the request came from, as the client says.
        batch_size: How many ran together.
        stages_s: Seconds by stage, see `telemetry.attributes.STAGE`.
        probe: Whether it was one.
    """

    application: str
    outcome: str
    status: int
    latency_s: float
    request_id: str
    ended_s: float = field(default_factory=time.time)
    inference_id: str | None = None
    error_code: str | None = None
    source: str | None = None
    batch_size: int | None = None
    stages_s: Mapping[str, float] | None = None
    probe: bool = False

    def fields(self) -> dict[str, Value]:
        """Return them under their declared names, clean, without those that say nothing."""
        given: dict[str, Value | None] = {
            schema.REQUEST_ID.name: clean_text(self.request_id),
            schema.INFERENCE_ID.name: self.inference_id,
            schema.APPLICATION.name: self.application,
            schema.OUTCOME.name: self.outcome,
            schema.HTTP_STATUS.name: self.status,
            schema.LATENCY_MS.name: round(self.latency_s * 1e3, 3),
            schema.LOG_ERROR_CODE.name: self.error_code,
            schema.LOG_SOURCE.name: None if self.source is None else clean_text(self.source),
            schema.BATCH.name: self.batch_size,
            schema.PROBE.name: self.probe or None,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        for stage, spent in (self.stages_s or {}).items():
            fields[_stage_field(stage)] = round(spent * 1e3, 3)
        return fields


@functools.lru_cache(maxsize=64)
def _stage_field(stage: str) -> str:
    """Return the name of a stage's field: one string for all the lines that wait."""
    return f"{stage}_ms"


def write_request(log: logging.Logger, line: RequestLine, *, slow_s: float = float("inf")) -> None:
    """Write a request's one line: a warning where it was slow or refused, an error where it is our fault.

    Args:
        log: Attached, see `Logs.attach`.
        line: What it says.
        slow_s: Seconds from which an answer is slow.
    """
    level = logging.INFO
    if line.outcome in {"refused", "late", "unavailable"} or line.latency_s >= slow_s:
        level = logging.WARNING
    if line.outcome == "failed":
        level = logging.ERROR
    if not log.isEnabledFor(level):
        return
    fields = {**_bound.get({}), **line.fields()}
    ours, others = _handlers(log)
    if ours is not None and not others and not log.filters:
        # Nobody needs a record of the logging module, which is a third of all that a line costs.
        body = f"{line.application} {line.outcome} {line.status}"
        ours.write(_taken(log.name, line.ended_s, level, logging.getLevelName(level), body, fields))
        return
    # What `log.log` does, but for the search for who called it: for every handler it is a record.
    args = (line.application, line.outcome, line.status)
    record = log.makeRecord(log.name, level, __file__, 0, "%s %s %d", args, None, write_request.__name__)
    record.created = line.ended_s  # now is later, see `telemetry.deferred`
    record.msecs = line.ended_s % 1 * 1e3
    vars(record).update(fields)
    vars(record)[READY] = fields
    log.handle(record)


def _handlers(log: logging.Logger) -> tuple["_Handler | None", bool]:
    """Return our handler of a logger, and whether there are others that would see its records."""
    ours, others = None, False
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler, _Handler) and not handler.filters:
                ours = handler
            else:
                others = True
        logger = logger.parent if logger.propagate else None
    return ours, others


class Logs:
    """The handler of this process's lines.

    Args:
        service: `service.name`, for the console.
        send: Takes lines to OTLP; None: to the console alone.
        console: Where JSON lines go; None: stderr, whatever it is at that time.
    """

    def __init__(
        self, service: str, send: Callable[[Line], None] | None = None, console: TextIO | None = None
    ) -> None:
        self._handler = _Handler(service, send, console)
        self._internal = logging.StreamHandler(console)
        self._internal.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._internal.addFilter(_Rarely())
        for name in INTERNAL:
            _give(logging.getLogger(name), self._internal)
            logging.getLogger(name).propagate = False

    def attach(self, *names: str, level: int = logging.INFO) -> None:
        """Take the lines of these loggers, and of those below them, from `level` on. Idempotent."""
        for name in names:
            logger = logging.getLogger(name)
            _give(logger, self._handler)
            if logger.level == logging.NOTSET or logger.level > level:
                logger.setLevel(level)

    def detach(self) -> None:
        """Take no more lines of any logger. Idempotent."""
        for logger in [logging.getLogger(), *_loggers()]:
            logger.removeHandler(self._handler)
            logger.removeHandler(self._internal)


def _give(logger: logging.Logger, handler: logging.Handler) -> None:
    if handler not in logger.handlers:
        logger.addHandler(handler)


def _loggers() -> list[logging.Logger]:
    known = list(logging.Logger.manager.loggerDict.values())
    return [logger for logger in known if isinstance(logger, logging.Logger)]


class _Handler(logging.Handler):
    """Cleans a record and passes it on."""

    def __init__(self, service: str, send: Callable[[Line], None] | None, console: TextIO | None) -> None:
        super().__init__()
        self._service = service
        self._console = console
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        known = record.__dict__
        # A logger below an attached one may be attached itself: the same record comes twice.
        if record.name.partition(".")[0] in INTERNAL or "_glasshouse_seen" in known:
            return
        known["_glasshouse_seen"] = True
        try:
            ready = known.get(READY)
            body, fields = (record.getMessage(), ready) if ready else clean(record)
            self.write(_taken(record.name, record.created, record.levelno, record.levelname, body, fields))
        except Exception:
            self.handleError(record)

    def write(self, line: Line) -> None:
        """Write a clean line to the console, and send it on.

        Raises:
            OSError: The console is gone.
        """
        stream = self._console or sys.stderr
        # One write: a line of another thread cannot come between.
        stream.write(self._json(line))
        stream.flush()
        if self._send is not None:
            self._send(line)

    def _json(self, line: Line) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(line.created_s, UTC).isoformat(timespec="microseconds"),
            "level": line.severity,
            "logger": line.logger,
            "message": line.body,
            "service": self._service,
        }
        if line.trace_id:
            said[schema.TRACE_ID.name] = trace.format_trace_id(line.trace_id)
            said[schema.SPAN_ID.name] = trace.format_span_id(line.span_id)
        said.update(line.fields)
        try:
            return orjson.dumps(said, _number, orjson.OPT_APPEND_NEWLINE).decode()
        except TypeError:  # an integer of more than 64 bits
            return json.dumps(said, ensure_ascii=False, separators=(",", ":"), default=str) + "\n"


def _number(value: Any) -> float | str:
    """Return what orjson does not know: a float of somebody else's, NumPy's for example."""
    return float(value) if isinstance(value, float) else str(value)


def _taken(
    logger: str, created_s: float, level: int, levelname: str, body: str, fields: Mapping[str, Value]
) -> Line:
    """Return a line that is taken now, with the trace of this context."""
    span = trace.get_current_span().get_span_context()
    ids = (span.trace_id, span.span_id, int(span.trace_flags)) if span.is_valid else (0, 0, 0)
    severity = LEVELS.get(levelname, levelname)
    return Line(logger, created_s, time.time_ns(), level, severity, body, fields, *ids)


class _Rarely(logging.Filter):
    """Lets the same message through once in `REPEAT_S` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._last.get(key, -REPEAT_S) < REPEAT_S:
            return False
        self._last[key] = now
        return True


def clean(record: logging.LogRecord) -> tuple[str, dict[str, Value]]:
    """Return what it says and its fields, fit to leave the process: no secrets, no image bytes, flat.

    The exception's text is taken apart here, since it may quote what the client sent.
    """
    fields: dict[str, Value] = dict(_bound.get({}))
    for name, value in vars(record).items():
        if name in PLAIN or value is None or name in UNWANTED or name.startswith("_"):
            continue
        fields[name] = "[redacted]" if is_secret(name) else clean_value(value)
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, _ = record.exc_info
        fields[schema.EXCEPTION_TYPE.name] = kind.__name__
        fields[schema.EXCEPTION_MESSAGE.name] = clean_text(str(error))
        # Of a long one the end: there stands what happened.
        text = "".join(traceback.format_exception(error))[-STACKTRACE:]
        fields[schema.EXCEPTION_STACKTRACE.name] = clean_text(text, STACKTRACE)
    return clean_text(record.getMessage()), fields
