"""What is lost when programs of the pipeline are killed under steady load: nothing, and nothing twice."""

import threading
from collections.abc import Callable, Generator
from itertools import pairwise

import pytest

from telemetry import schema
from telemetry.schema import prometheus_name
from telemetry.serving import ServingMetrics
from tests.pipeline import Pipeline, Process
from tests.poll import poll_until

Begin = Callable[..., Process]
PAUSE_S = 0.02  # between two requests
OUTAGE_S = 10.0
SHORT_S = 2.0  # well within what a replica can keep


class Load:
    """Steady requests, one line and one count each, until stopped.

    Args:
        process: Who has them.
    """

    def __init__(self, process: Process) -> None:
        self.requests = 0
        self._process = process
        self._metrics = ServingMetrics(process.telemetry.instruments)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self._metrics.refused("full")
            self._process.log.info("request %d", self.requests, extra={"request_id": f"r-{self.requests}"})
            self.requests += 1

    def run_for(self, seconds: float) -> None:
        """Let it go on."""
        self._stop.wait(seconds)

    def end(self) -> int:
        """Stop, and return how many requests there were. Idempotent."""
        self._stop.set()
        self._thread.join()
        return self.requests


@pytest.fixture
def load(process: Begin) -> Generator[Load, None, None]:
    """Steady requests of a process that is named after the test."""
    running = Load(process())
    yield running
    running.end()


def check(pipeline: Pipeline, process: Process, requests: int) -> None:
    """Compare what arrived with what was sent: the counter, and every line by its text."""
    assert process.telemetry.flush(20)
    job = f'job="glasshouse/{process.service}"'
    counter = f'{prometheus_name(schema.REFUSED)}{{{job},reason="full"}}'
    stream = f'{{service_name="{process.service}"}}'
    poll_until(lambda: pipeline.value(counter) == requests, f"the counter to be {requests}", timeout_s=60)
    poll_until(lambda: pipeline.count(stream) >= requests, f"{requests} lines", timeout_s=60)
    assert pipeline.count(stream) == requests
    bodies = [line.body for line in pipeline.lines(stream)]
    assert bodies == [f"request {number}" for number in range(requests)]
    taken = f'{prometheus_name(schema.LOGS_PROCESSED)}{{{job},error_type=""}}'
    poll_until(lambda: pipeline.value(taken) == requests, "the process's own count")


def test_killed_backends_and_collector(pipeline: Pipeline, load: Load) -> None:
    """Prometheus, Loki and collector killed: counters are exact, each line is there once."""
    running = pipeline.backends
    load.run_for(2)
    running.kill("prometheus")
    running.kill("loki")
    load.run_for(OUTAGE_S / 2)
    # What waits on its disk must outlive the collector, too.
    running.kill("otelcol")
    load.run_for(SHORT_S)
    running.start_one("otelcol")
    load.run_for(OUTAGE_S / 2)
    running.start_one("loki")
    running.start_one("prometheus")
    load.run_for(1)
    running.kill("otelcol")
    load.run_for(SHORT_S)
    running.start_one("otelcol")
    load.run_for(1)
    requests = load.end()
    assert requests > 500
    check(pipeline, load._process, requests)


def test_killed_again_and_again(pipeline: Pipeline, load: Load) -> None:
    """A collector that is killed five times, in whatever it is doing, loses nothing and doubles nothing."""
    for _ in range(5):
        load.run_for(1.3)
        pipeline.backends.kill("otelcol")
        pipeline.backends.start_one("otelcol")
    check(pipeline, load._process, load.end())


def test_no_hole_in_the_series(pipeline: Pipeline, load: Load) -> None:
    """What was measured while Prometheus was down is in it afterwards, at its own time."""
    job = f'job="glasshouse/{load._process.service}"'
    counter = f'{prometheus_name(schema.REFUSED)}{{{job},reason="full"}}'
    poll_until(lambda: pipeline.value(counter) > 0, "the first sample")
    pipeline.backends.kill("prometheus")
    load.run_for(4)
    pipeline.backends.start_one("prometheus")
    check(pipeline, load._process, load.end())
    (series,) = pipeline.ask(f"{counter}[1m]")
    times = [at for at, _ in series["values"]]
    assert max(after - before for before, after in pairwise(times)) < 2.0


def test_a_long_absence_is_counted(pipeline: Pipeline, process: Begin) -> None:
    """Lines that no longer fit while the collector is away are counted as lost: taken + lost = written."""
    running = process(OTEL_BLRP_MAX_QUEUE_SIZE="100", OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="10")
    pipeline.backends.kill("otelcol")
    for number in range(1_000):
        running.log.info("request %d", number)
    pipeline.backends.start_one("otelcol")
    assert running.telemetry.flush(20)
    stream = f'{{service_name="{running.service}"}}'
    poll_until(lambda: pipeline.lines(f'{stream} |= "request 999"'), "the newest line")
    series = f'{prometheus_name(schema.LOGS_PROCESSED)}{{job="glasshouse/{running.service}",error_type="%s"}}'
    poll_until(lambda: pipeline.value(series % "queue_full") >= 880, "the count of lost")
    poll_until(
        lambda: pipeline.value(series % "queue_full") + pipeline.value(series % "") == 1_000,
        "all accounted for",
    )
    assert pipeline.count(stream) == pipeline.value(series % "")
