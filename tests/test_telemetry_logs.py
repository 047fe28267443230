"""Log lines: redacted once, written once, to the console and to OTLP."""

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from telemetry import schema
from telemetry.line import Encoder, Line
from telemetry.logs import Logs, RequestLine, bind, write_request
from telemetry.redaction import clean_text

NAME = "glasshouse.test_logs"


@dataclass(frozen=True)
class Record:
    """What stands in an OTLP record."""

    body: str
    severity_text: str
    severity_number: int
    attributes: Mapping[str, Any]
    trace_id: str


def request(outcome: str, status: int, request_id: str, **more: Any) -> RequestLine:
    """Return the line of a request."""
    return RequestLine(
        application="detection",
        outcome=outcome,
        status=status,
        latency_s=0.1,
        request_id=request_id,
        **more,
    )


class Lines:
    """A logger whose lines are looked at in both places."""

    def __init__(self) -> None:
        self.console = io.StringIO()
        self.sent: list[Line] = []
        self.logs = Logs("detection", self.sent.append, self.console)
        self.log = logging.getLogger(NAME)

    def json(self) -> list[dict[str, Any]]:
        """Return the console's lines."""
        return [json.loads(line) for line in self.console.getvalue().splitlines()]

    def otlp(self) -> list[Record]:
        """Return what is sent, read back from its bytes."""
        request = ExportLogsServiceRequest.FromString(Encoder(Resource({})).encode(self.sent))
        return [
            Record(
                line.body.string_value,
                line.severity_text,
                line.severity_number,
                {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in line.attributes},
                line.trace_id.hex(),
            )
            for scope in request.resource_logs[0].scope_logs
            for line in scope.log_records
        ]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A logger, attached."""
    found = Lines()
    found.logs.attach(NAME)
    yield found
    found.logs.detach()


def test_a_line_in_both_places(lines: Lines) -> None:
    """A record is one JSON object on the console and one OTLP record, with the same trace id."""
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("request") as span:
        lines.log.warning("slow: %d ms", 900, extra={"request_id": "r1", "latency_ms": 900.5})
    (line,), (record,) = lines.json(), lines.otlp()
    assert line["message"] == record.body == "slow: 900 ms"
    assert (line["level"], record.severity_text, record.severity_number) == ("WARN", "WARN", 13)
    assert line["latency_ms"] == record.attributes["latency_ms"] == 900.5
    assert line["trace_id"] == record.trace_id == f"{span.get_span_context().trace_id:032x}"
    assert list(line)[:7] == [field.name for field in schema.LOG_ENVELOPE]


def test_a_request_has_its_line(lines: Lines) -> None:
    """The line of a request has its declared fields and no others; probes say so."""
    answered = RequestLine(
        application="detection",
        outcome="answered",
        status=200,
        latency_s=0.1234567,
        request_id="r1",
        inference_id="0190",
        batch_size=3,
        source="gate 4",
        stages_s={"decode": 0.004},
        probe=True,
    )
    write_request(lines.log, answered)
    (record,) = lines.otlp()
    assert dict(record.attributes) == {
        "request_id": "r1",
        "inference_id": "0190",
        "application": "detection",
        "outcome": "answered",
        "status": 200,
        "latency_ms": 123.457,
        "batch_size": 3,
        "source": "gate 4",
        "decode_ms": 4.0,
        "probe": True,
    }
    assert set(record.attributes) <= {field.name for field in schema.LOG_FIELDS}


@pytest.mark.parametrize(
    ("outcome", "latency_s", "level"),
    [
        ("answered", 0.1, "INFO"),
        ("answered", 2.0, "WARN"),
        ("refused", 0.0, "WARN"),
        ("invalid", 0.0, "INFO"),
        ("late", 1.0, "WARN"),
        ("failed", 0.1, "ERROR"),
    ],
)
def test_levels_of_requests(lines: Lines, outcome: str, latency_s: float, level: str) -> None:
    """Slow and refused requests are warnings, our own failures errors."""
    line = RequestLine(
        application="detection", outcome=outcome, status=0, latency_s=latency_s, request_id="r"
    )
    write_request(lines.log, line, slow_s=1.0)
    assert lines.json()[0]["level"] == level
    assert outcome in schema.OUTCOME.values


def test_bound_fields(lines: Lines) -> None:
    """Inside `bind` every line carries the request's id; outside none does."""
    with bind(request_id="r1", application="detection"), bind(inference_id="i1"):
        lines.log.info("inside")
    lines.log.info("outside")
    inside, outside = lines.json()
    assert (inside["request_id"], inside["inference_id"], inside["application"]) == ("r1", "i1", "detection")
    assert "request_id" not in outside


def test_attach_is_idempotent(lines: Lines) -> None:
    """Attaching again, a parent, a child, or after the handlers were cleared never doubles a line."""
    lines.logs.attach(NAME, "glasshouse", f"{NAME}.child")
    lines.log.handlers.clear()
    lines.logs.attach(NAME)
    lines.log.info("once")
    logging.getLogger(f"{NAME}.child").info("once too")
    assert [line["message"] for line in lines.json()] == ["once", "once too"]
    assert len(lines.otlp()) == 2


def test_no_loop(lines: Lines) -> None:
    """Lines of the SDK and of this package go to the console alone, and a repeated one once."""
    lines.logs.attach("opentelemetry", "telemetry")
    for _ in range(5):
        logging.getLogger("opentelemetry.exporter.otlp").error("Failed to export %s", "logs")
        logging.getLogger("telemetry.outbox").warning("lines are lost")
    assert lines.otlp() == []
    written = lines.console.getvalue().splitlines()
    assert [line.split(" ", 2)[2] for line in written] == [
        "ERROR opentelemetry.exporter.otlp: Failed to export logs",
        "WARNING telemetry.outbox: lines are lost",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2hunter2",
        "headers {'authorization': 'Basic hunter2hunter2=='}",
        'body {"password": "hunter2"}',
        "GET /x?api_key=hunter2&n=1",
        "X-Api-Key: hunter2",
        "token=hunter2",
        "sent Bearer hunter2hunter2 again",
        "Cookie: session=hunter2",
        "s3://user:hunter2@bucket/x",
        "jwt eyJhbGciOihunter2J9.eyJzdWIiOiIxIn0.hunter2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
    ],
)
def test_secrets_are_redacted(lines: Lines, text: str) -> None:
    """Tokens, passwords and Authorization values appear in neither place."""
    lines.log.warning("client sent %s", text, extra={"detail": text, "authorization": "hunter2"})
    everything = lines.console.getvalue() + str(
        [(found.body, dict(found.attributes)) for found in lines.otlp()]
    )
    assert "hunter2" not in everything
    assert "redacted" in everything


def test_harmless_text_is_left(lines: Lines) -> None:
    """What is no secret stays readable: ids, paths, numbers, people's words."""
    text = "0190b4f2-7c1e-7a3b-9d59-3f2b8c1d4e5f /detect/inferences/x 640x480: secretary's basic idea"
    assert clean_text(text) == text


def test_images_never_appear(lines: Lines) -> None:
    """Bytes, their repr and base64 are named by their size; control characters are gone."""
    image = bytes(range(256)) * 40
    lines.log.info("got %s and %s", image, "QUJD" * 500, extra={"body": image, "raw": "\x89PNG\x00\x1a"})
    (line,), (record,) = lines.json(), lines.otlp()
    assert line["body"] == record.attributes["body"] == "[10240 bytes]"
    assert "QUJDQUJD" not in record.body
    assert r"\x00\x01\x02\x03" not in record.body
    assert "\x00" not in record.attributes["raw"]
    assert len(record.body) < 5_000


def test_exceptions(lines: Lines) -> None:
    """An exception has its type, message and the end of its traceback, without secrets."""
    try:
        raise ValueError("no such token=hunter2")
    except ValueError:
        lines.log.exception("failed")
    (line,), (record,) = lines.json(), lines.otlp()
    assert line["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "no such token=[redacted]"
    assert record.attributes["exception.stacktrace"].rstrip().endswith("ValueError: no such token=[redacted]")
    assert "hunter2" not in lines.console.getvalue()


def test_what_ray_adds_is_left_out(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of Ray's own record factory, and any that would shadow trace and level in Loki, are dropped."""
    usual = logging.getLogRecordFactory()

    def as_ray_does(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        record.__dict__["_ray_timestamp_ns"] = 1
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", as_ray_does)
    extra = {
        "log_to_stderr": True,
        "trace_id": "x",
        "level": "debug",
        "request_id": "r",
    }
    lines.log.info("hello", extra=extra)
    (record,) = lines.otlp()
    assert dict(record.attributes) == {"request_id": "r"}


def test_a_broken_line_breaks_nothing(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that cannot be formatted does not raise where it is written."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines.log.info("%d apples", "many")
    lines.log.info("next")
    assert [line["message"] for line in lines.json()] == ["next"]


def without_underscores(record: logging.LogRecord) -> bool:
    """Take out what is not meant to leave the process, which the SDK's handler would send."""
    for name in [name for name in vars(record) if name.startswith("_")]:
        del vars(record)[name]
    return True


@pytest.mark.filterwarnings("ignore:Log record attributes were dropped")
@pytest.mark.parametrize("write", ["fields", "request"])
def test_equal_to_the_sdks(lines: Lines, write: str) -> None:
    """What is sent is what the SDK's own handler and encoder make of the same record."""
    resource = Resource({"service.name": "detection", "process.pid": 7}, "https://example.org/schema")
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    theirs = LoggingHandler(logger_provider=provider)
    theirs.addFilter(without_underscores)
    extra = {"text": "grüezi", "whole": -7, "share": 0.25, "probe": False, "large": 1 << 62}
    lines.log.addHandler(theirs)
    try:
        with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("request"):
            if write == "request":
                write_request(lines.log, request("late", 504, "r1", stages_s={"queue": 1.0}))
            else:
                lines.log.log(33, "%d of %s", 1, "two", extra=extra)
        logging.getLogger(f"{NAME}.child").critical("no span", extra={f"f{n}": n for n in range(130)})
    finally:
        lines.log.removeHandler(theirs)
    expected = encode_logs(exporter.get_finished_logs())
    found = ExportLogsServiceRequest.FromString(Encoder(resource).encode(lines.sent))
    for sent in (expected, found):
        for scope in sent.resource_logs[0].scope_logs:
            for record in scope.log_records:
                assert record.observed_time_unix_nano >= record.time_unix_nano > 0
                record.ClearField("observed_time_unix_nano")
    assert found == expected
    assert found.resource_logs[0].scope_logs[1].log_records[0].dropped_attributes_count == 2


def test_what_no_integer_and_no_text_can_be(lines: Lines) -> None:
    """A number beyond 64 bits, half a surrogate pair and NaN cost neither the line nor its neighbours."""
    lines.log.info(
        "half \ud83d",
        extra={"huge": 1 << 80, "status": HTTPStatus.OK, "half": "\udc00", "none": float("nan")},
    )
    (record,) = lines.otlp()
    assert (record.body, record.attributes["half"]) == ("half �", "�")
    assert (record.attributes["huge"], record.attributes["status"]) == (str(1 << 80), 200)
    assert lines.json()[0]["huge"] == 1 << 80


@pytest.mark.parametrize("field", ["request_id", "source"])
def test_what_a_client_names_itself(lines: Lines, field: str) -> None:
    """A request's id and source are the client's words: redacted and bounded in its line and in others."""
    given = {"request_id": "r1", field: "token=hunter2 " + "x" * 5_000}
    with bind(request_id=given["request_id"]):
        lines.log.info("in between")
    write_request(lines.log, request("answered", 200, **given))
    everything = lines.console.getvalue() + str(lines.otlp())
    assert "hunter2" not in everything
    assert len(lines.otlp()[1].attributes[field]) < 100


def test_a_request_line_is_a_record(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """Other handlers get a request's line as an ordinary record, with its fields."""
    with caplog.at_level(logging.WARNING, NAME):
        write_request(lines.log, request("answered", 200, "r1"))
        write_request(lines.log, request("failed", 500, "r2"))
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname) == ("detection failed 500", "ERROR")
    assert (record.funcName, vars(record)["request_id"]) == ("write_request", "r2")
    assert len(lines.json()) == 1, "the logger's level holds here too"


@pytest.mark.parametrize("outcome", ["answered", "refused", "failed"])
def test_without_other_handlers_the_line_is_the_same(lines: Lines, outcome: str) -> None:
    """Where nobody else listens no record is made, and the line is equal to the last byte."""
    line = request(outcome, 200, "r-1", ended_s=1_700_000_000.25, stages_s={"decode": 0.001})
    other = logging.NullHandler()
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request"), bind(application="detection"):
        lines.log.propagate = False  # pytest listens at the root
        lines.log.addHandler(other)
        try:
            write_request(lines.log, line)
            lines.log.removeHandler(other)
            write_request(lines.log, line)
        finally:
            lines.log.propagate = True
    one, two = lines.console.getvalue().splitlines()
    assert one == two
    first, second = lines.sent
    assert replace(first, observed_ns=0) == replace(second, observed_ns=0)


def test_lines_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that several threads write are whole, whatever stderr is at that time."""
    logs = Logs("detection")
    logs.attach(NAME)
    log = logging.getLogger(NAME)
    file = tmp_path / "stderr"
    with file.open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)

        def write() -> None:
            for _ in range(50):
                log.info("x " * 2_000)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    logs.detach()
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 200


LONG = {
    "letters": "a" * 4_000,
    "names": "secret" * 660,
    "names, then a value": "token" * 790 + "=x",
    "blanks": "secret" + " " * 3_990,
    "bytes": "b'" * 2_000,
    "addresses": "://a:" * 800,
    "tokens": "eyJaaaaaaaa-" * 330,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_hostile_text_costs_what_plain_text_costs(text: str) -> None:
    """No text makes the patterns work for longer than a few hundred times a plain one of the same length."""
    plain = "plain words = 1 " * 250
    began = time.thread_time()
    for _ in range(20):
        clean_text(plain)
    usual = (time.thread_time() - began) / 20
    began = time.thread_time()
    clean_text(text)
    assert time.thread_time() - began < 200 * usual + 0.02


@pytest.mark.parametrize("name", ["my_api_key_2", "X-Auth-Token", "DB_PASSWORD", "client-secret"])
def test_a_name_around_the_word_is_known(name: str) -> None:
    """A secret's value is taken out whatever stands before and behind the word that tells it."""
    assert clean_text(f"see {name}=hunter2, then") == f"see {name}=[redacted], then"
