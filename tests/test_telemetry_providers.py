"""How telemetry leaves the process: over real HTTP, with a collector that comes and goes."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from telemetry import schema
from telemetry.detection import DetectionMetrics
from telemetry.line import Line
from telemetry.metric import Metric
from telemetry.otlp import Mode, OtlpSettings
from telemetry.outbox import Fate, Outbox
from telemetry.providers import Telemetry, build, describe, off
from telemetry.serving import ServingMetrics
from tests.otlp_receiver import Receiver
from tests.poll import poll_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FAST = {
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "50",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A collector that is not there yet."""
    found = Receiver()
    yield found
    found.down()


class Process:
    """A process with telemetry, but for the globals; `log` is a logger of it."""

    def __init__(self, receiver: Receiver, name: str, **environ: str) -> None:
        self.environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **FAST, **environ}
        settings = OtlpSettings.read(self.environ)
        resource = describe("detection", "1.2", "replica-1", {"ray.deployment": "Detection"})
        self.telemetry: Telemetry = build(settings, resource, self.environ)
        self.telemetry.attach(f"glasshouse.{name}")
        self.log = logging.getLogger(f"glasshouse.{name}")


@pytest.fixture
def begin(receiver: Receiver, request: pytest.FixtureRequest) -> Iterator[Callable[..., Process]]:
    """Start processes; they are shut down at the end."""
    started: list[Process] = []

    def start(**environ: str) -> Process:
        started.append(Process(receiver, request.node.name, **environ))
        return started[-1]

    yield start
    for process in started:
        process.telemetry.shutdown(0.2)


def total(receiver: Receiver, metric: Metric, **labels: str) -> float:
    """Return the value of a counter's series as exported last; -1 where there is none."""
    found = receiver.last(metric.name)
    for point in found.sum.data_points if found else []:
        if {item.key: item.value.string_value for item in point.attributes} == labels:
            return float(point.as_double or point.as_int)
    return -1


def test_metrics_and_lines_arrive(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """Metrics and lines arrive as OTLP, with the resource of the process, without being flushed."""
    receiver.up()
    process = begin()
    DetectionMetrics(process.telemetry.instruments, ["cat"]).answered(["cat"], [0.9])
    process.log.info("hello", extra={"request_id": "r1"})
    poll_until(lambda: total(receiver, schema.DETECTION_ANSWERS) == 1, "the counter")
    poll_until(lambda: receiver.bodies() == ["hello"], "the line")
    resource = {
        item.key: item.value.string_value for item in receiver.logs[0].resource_logs[0].resource.attributes
    }
    expected = {
        "service.name": "detection",
        "service.namespace": "glasshouse",
        "service.version": "1.2",
        "service.instance.id": "replica-1",
        "ray.deployment": "Detection",
        "deployment.environment.name": "local",
    }
    assert expected.items() <= resource.items()
    assert resource["host.name"]
    assert receiver.metrics[0].resource_metrics[0].resource == receiver.logs[0].resource_logs[0].resource


def test_a_collector_that_comes_late(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """With the collector down for longer than its timeout, no line is lost or doubled, and order is kept."""
    process = begin()
    expected = []
    for number in range(1_500):
        process.log.info("line %d", number)
        expected.append(f"line {number}")
        if number % 300 == 0:
            time.sleep(0.5)  # in all 2.5 s: the exporter gives up after 1
    assert receiver.bodies() == []
    receiver.up()
    poll_until(lambda: len(receiver.bodies()) >= len(expected), "the lines", timeout_s=20)
    assert receiver.bodies() == expected
    poll_until(lambda: total(receiver, schema.LOGS_PROCESSED) == len(expected), "the count")
    assert total(receiver, schema.LOGS_PROCESSED, **{"error.type": "queue_full"}) == 0


def test_a_collector_that_restarts(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """Lines written before, during and after a restart arrive once each; counters end exact."""
    receiver.up()
    process = begin()
    metrics = ServingMetrics(process.telemetry.instruments)
    for number in range(60):
        if number == 20:
            receiver.down()
        if number == 40:
            receiver.up()
        process.log.info("line %d", number)
        metrics.refused("full")
        time.sleep(0.03)  # steady requests
    assert process.telemetry.flush(10)
    assert sorted(receiver.bodies()) == sorted(f"line {number}" for number in range(60))
    assert total(receiver, schema.REFUSED, reason="full") == 60


@pytest.mark.parametrize("status", [429, 503, 404, 401])
def test_a_collector_that_cannot_now(receiver: Receiver, begin: Callable[..., Process], status: int) -> None:
    """What can be mended is waited for: no room, no route yet, a token that is renewed."""
    receiver.up()
    receiver.status = status
    process = begin()
    process.log.info("hello")
    poll_until(lambda: receiver.attempts >= 2, "attempts")
    receiver.status = 200
    poll_until(lambda: receiver.bodies() == ["hello"], "the line")


def test_a_line_that_nobody_takes(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """A line that the collector refuses for good costs none of its neighbours, and is counted."""
    receiver.poison = "poison"
    process = begin()
    for number in range(100):
        process.log.info("poison" if number in {0, 57, 58} else f"line {number}")
    receiver.up()
    poll_until(lambda: len(receiver.bodies()) == 97, "the neighbours", timeout_s=20)
    assert "poison" not in receiver.bodies()
    poll_until(
        lambda: total(receiver, schema.LOGS_PROCESSED, **{"error.type": "rejected"}) == 3, "the count of lost"
    )


def test_a_long_absence_is_counted(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """What does not fit into the queue is let go, oldest first, and counted: taken + lost = written."""
    process = begin(OTEL_BLRP_MAX_QUEUE_SIZE="100", OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="10")
    for number in range(1_000):
        process.log.info("line %d", number)
    receiver.up()
    poll_until(lambda: "line 999" in receiver.bodies(), "the newest line")
    poll_until(lambda: total(receiver, schema.LOGS_PROCESSED) == len(receiver.bodies()), "the count")
    lost = total(receiver, schema.LOGS_PROCESSED, **{"error.type": "queue_full"})
    assert lost >= 880
    assert lost + len(receiver.bodies()) == 1_000


def test_nothing_is_lost_by_stopping(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """A process that is stopped right after its last answer has delivered everything."""
    receiver.up()
    process = begin(OTEL_METRIC_EXPORT_INTERVAL="60000", OTEL_BLRP_SCHEDULE_DELAY="60000")
    ServingMetrics(process.telemetry.instruments).refused("late")
    for number in range(700):
        process.log.info("line %d", number)
    process.telemetry.shutdown()
    process.telemetry.shutdown()
    assert len(receiver.bodies()) == 700
    assert total(receiver, schema.REFUSED, reason="late") == 1
    assert total(receiver, schema.LOGS_PROCESSED) == 700


@pytest.mark.parametrize("end", ["flush", "shutdown"])
def test_what_was_deferred_leaves_too(receiver: Receiver, begin: Callable[..., Process], end: str) -> None:
    """A flush, and the end, first record what waits for company: its metric and its line arrive."""
    receiver.up()
    process = begin(OTEL_METRIC_EXPORT_INTERVAL="60000", OTEL_BLRP_SCHEDULE_DELAY="60000")
    metrics = ServingMetrics(process.telemetry.instruments)
    for number in range(40):
        metrics.later(metrics.refused, "late")
        metrics.later(process.log.info, "line %d", number)
    getattr(process.telemetry, end)()
    assert receiver.bodies() == [f"line {number}" for number in range(40)]
    assert total(receiver, schema.REFUSED, reason="late") == 40


class Silent(Receiver):
    """Takes the connection, and never answers."""

    def take(self, path: str, body: bytes) -> int:
        """Hold it."""
        threading.Event().wait(30)
        return 500


@pytest.mark.parametrize("collector", ["absent", "silent"])
def test_the_end_is_bounded(collector: str) -> None:
    """A collector that is gone or silent delays the end by the time allowed, and no more."""
    receiver = Silent()
    if collector == "silent":
        receiver.up()
    process = Process(receiver, f"end_{collector}")
    process.log.info("hello")
    begun = time.monotonic()
    process.telemetry.shutdown(2.0)
    assert time.monotonic() - begun < 4.0
    receiver.down()


def test_flush_tells_the_truth(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """`flush` says whether everything arrived."""
    process = begin()
    process.log.info("hello")
    assert not process.telemetry.flush(1.0)
    receiver.up()
    assert process.telemetry.flush(10.0)


def test_a_line_never_waits(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """Writing lines while the collector is silent takes no longer than a few times writing them without."""
    process = begin()
    begun = time.monotonic()
    for number in range(200):
        process.log.info("line %d", number)
    assert time.monotonic() - begun < 1.0, "the exporter's timeout is 1 s: the writer waited for it"


def test_off_is_the_same_interface() -> None:
    """`GLASSHOUSE_TELEMETRY=off` records nothing, starts no thread, and everything can still be called."""
    threads = threading.active_count()
    settings = OtlpSettings.read({"GLASSHOUSE_TELEMETRY": "off"})
    telemetry = build(settings, Resource({}), {})
    ServingMetrics(telemetry.instruments).error("not_found")
    DetectionMetrics(telemetry.instruments, ["cat"]).answered(["cat"], [0.5])
    telemetry.attach("glasshouse.off")
    assert not telemetry.on
    assert telemetry.flush()
    telemetry.shutdown()
    assert threading.active_count() == threads
    assert logging.getLogger("glasshouse.off").handlers == []
    assert telemetry.tracers.get_tracer("x").start_span("y").get_span_context().trace_id == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLASSHOUSE_TELEMETRY", "maybe"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    """A variable that cannot be what it is stops the start, by name and value."""
    with pytest.raises(ValueError, match=f"{name}='{value}'"):
        OtlpSettings.read({name: value})


def test_defaults() -> None:
    """Unless told otherwise: the collector on loopback, every 10 s, lines every 2 s, 3 s patience."""
    settings = OtlpSettings.read({})
    assert settings.mode is Mode.ON
    assert settings.logs_url == "http://127.0.0.1:4318/v1/logs"
    assert (settings.interval_s, settings.delay_s, settings.timeout_s) == (10.0, 2.0, 3.0)


def test_headers_and_compression(receiver: Receiver, begin: Callable[..., Process]) -> None:
    """Headers and compression of the environment are used."""
    settings = OtlpSettings.read(
        {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    )
    assert settings.headers == {"authorization": "Bearer x"}
    assert settings.common()["compression"].value == "gzip"


ONE_PER_PROCESS = """
import threading, sys
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")], "at import"
from telemetry.providers import start
assert threading.active_count() == 1, "importing starts nothing"
from opentelemetry import metrics, trace
one = start("detection", instance_id="a")
assert start("detection", instance_id="b") is one
assert metrics.get_meter_provider() is one.meters
assert trace.get_tracer_provider() is one.tracers
with trace.get_tracer("x").start_as_current_span("y") as span:
    assert span.get_span_context().trace_flags.sampled
one.attach("glasshouse")
import logging
logging.getLogger("glasshouse.job").info("bye")
"""

SERVES_TRACES = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
theirs = TracerProvider()
trace.set_tracer_provider(theirs)
from telemetry.providers import start
assert start("detection").on
assert trace.get_tracer_provider() is theirs
"""


def run(code: str, receiver: Receiver, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, against the receiver."""
    variables = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **environ}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_one_per_process(receiver: Receiver) -> None:
    """The second start returns the first; globals are set; an exit without shutdown still delivers."""
    receiver.up()
    done = run(ONE_PER_PROCESS, receiver)
    assert done.returncode == 0, done.stderr
    assert receiver.bodies() == ["bye"]
    assert receiver.last(schema.UPTIME.name) is not None
    assert '"message":"bye"' in done.stderr


def test_serves_tracer_provider_is_left(receiver: Receiver) -> None:
    """Where Serve has set a tracer provider, it stays."""
    receiver.up()
    done = run(SERVES_TRACES, receiver)
    assert done.returncode == 0, done.stderr


class Unsteady:
    """A carrier that takes every other attempt."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.attempts = 0

    def offer(self, batch: Any) -> Fate:
        """Take it, or ask for it again."""
        self.attempts += 1
        if self.attempts % 2:
            return Fate.AGAIN
        self.taken += [line.body for line in batch]
        return Fate.TAKEN

    def close(self) -> None:
        """Nothing to end."""


def test_many_writers_one_outbox() -> None:
    """Lines of many threads arrive once each, through a carrier that takes every other attempt."""
    carrier, counts = Unsteady(), dict.fromkeys(("", "queue_full", "rejected", "shutdown"), 0)

    def count(reason: str, lines: int) -> None:
        counts[reason] += lines

    outbox = Outbox(carrier, count, delay_s=0.01)

    def write(writer: int) -> None:
        for number in range(500):
            outbox.put(Line("test", 1.0, 1, logging.INFO, "INFO", f"{writer}/{number}", {}, 0, 0, 0))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.force_flush(10_000)
    outbox.shutdown()
    assert sorted(carrier.taken) == sorted(
        f"{writer}/{number}" for writer in range(4) for number in range(500)
    )
    assert counts == {"": 2_000, "queue_full": 0, "rejected": 0, "shutdown": 0}


def test_off_forgets_recordings() -> None:
    """Where telemetry is off, a recording is not even run: on the event loop it would cost."""
    ran: list[int] = []
    off().instruments.later(ran.append, 1)
    assert ran == []
