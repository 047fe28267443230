"""From the SDK through the collector into Prometheus and Loki, as they keep it."""

import logging
import time
import urllib.request
from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as OtlpMetric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as OtlpResource
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from telemetry import schema
from telemetry.detection import DetectionMetrics
from telemetry.metric import Metric
from telemetry.providers import FOREIGN_SERIES
from telemetry.schema import prometheus_name
from telemetry.serving import ServingMetrics
from tests.pipeline import Pipeline, Process
from tests.poll import poll_until

Begin = Callable[..., Process]
TIME_NS = time.time_ns()


def test_a_counter(pipeline: Pipeline, process: Begin) -> None:
    """A counter arrives with its exact value, who sent it, and the promoted labels, no others."""
    running = process()
    metrics = ServingMetrics(running.telemetry.instruments)
    for _ in range(7):
        metrics.refused("full")
    query = f'{prometheus_name(schema.REFUSED)}{{job="glasshouse/{running.service}",reason="full"}}'
    poll_until(lambda: pipeline.value(query) == 7, "the counter")
    (series,) = pipeline.ask(query)
    assert series["metric"] == {
        "__name__": "serve_requests_refused_total",
        "job": f"glasshouse/{running.service}",
        "instance": f"{running.service}-replica",
        "reason": "full",
        "service_version": "1.2",
        "deployment_environment_name": "local",
        "host_name": series["metric"]["host_name"],
        "ray_deployment": "Detection",
    }


def test_a_histogram_leads_to_its_lines(pipeline: Pipeline, process: Begin) -> None:
    """An exponential histogram is native, and the trace of its exemplar finds the request's log line."""
    running = process()
    metrics = ServingMetrics(running.telemetry.instruments)
    tracer = running.telemetry.tracers.get_tracer("test")
    with tracer.start_as_current_span("request"):
        metrics.stages({"inference": 0.25})
        running.log.warning("slow", extra={"request_id": "r-17"})
    series = f'{prometheus_name(schema.STAGE_DURATION)}{{job="glasshouse/{running.service}"}}'
    poll_until(lambda: pipeline.value(f"sum(histogram_count({series}))") == 1, "the histogram")
    assert pipeline.value(f"sum(histogram_sum({series}))") == 0.25
    (trace,) = poll_until(lambda: pipeline.exemplar_traces(series), "an exemplar")
    query = f'{{service_name="{running.service}"}} | trace_id="{trace}"'
    (line,) = poll_until(lambda: pipeline.lines(query), "the line of that trace")
    assert line.body == "slow"
    assert line.metadata["request_id"] == "r-17"


def test_the_slowest_of_many_leads_to_its_lines(pipeline: Pipeline, process: Begin) -> None:
    """Of more requests than a histogram keeps exemplars of, the slowest has one in Prometheus."""
    running = process()
    metrics = ServingMetrics(running.telemetry.instruments)
    tracer = running.telemetry.tracers.get_tracer("test")
    traces = []
    for place in range(50):
        with tracer.start_as_current_span("request") as span:
            metrics.stages({"inference": 3.0 if place == 20 else 0.1 + place / 1e3})
        traces.append(f"{span.get_span_context().trace_id:032x}")
    series = f'{prometheus_name(schema.STAGE_DURATION)}{{job="glasshouse/{running.service}"}}'
    poll_until(lambda: traces[20] in pipeline.exemplar_traces(series), "the slowest request's exemplar")
    assert set(pipeline.exemplar_traces(series)) <= set(traces)


def test_a_histogram_of_zeros(pipeline: Pipeline, process: Begin) -> None:
    """An exponential histogram without a single bucket arrives, and so does what comes after."""
    running = process()
    series = running.telemetry.instruments.series(schema.SCORE, {"answered_by": "model"})
    query = f'sum(histogram_count({prometheus_name(schema.SCORE)}{{job="glasshouse/{running.service}"}}))'
    series.put(0.0)
    poll_until(lambda: pipeline.value(query) == 1, "the histogram of one zero")
    series.put(0.5)
    poll_until(lambda: pipeline.value(query) == 2, "the value after it")


def test_a_line(pipeline: Pipeline, process: Begin) -> None:
    """A line's stream has three labels; level, request and trace are metadata that can be asked for."""
    running = process()
    with running.telemetry.tracers.get_tracer("test").start_as_current_span("request"):
        running.log.error("failed", extra={"request_id": "r-1", "status": 500})
    query = f'{{service_name="{running.service}"}} | detected_level="error" | request_id="r-1"'
    (line,) = poll_until(lambda: pipeline.lines(query), "the line")
    assert line.labels == {
        "service_name": running.service,
        "service_namespace": "glasshouse",
        "deployment_environment_name": "local",
    }
    wanted = {
        "severity_number": "17",
        "severity_text": "ERROR",
        "status": "500",
        "ray_deployment": "Detection",
    }
    assert wanted.items() <= line.metadata.items()
    assert len(line.metadata["trace_id"]) == 32


def test_a_long_traceback_arrives(pipeline: Pipeline, process: Begin) -> None:
    """An exception's traceback stands in the line itself, where Loki takes it however long it is."""
    running = process()
    try:
        raise ValueError("boom")
    except ValueError:
        running.log.exception("it failed")
    query = f'{{service_name="{running.service}"}} | detected_level="error"'
    (line,) = poll_until(lambda: pipeline.lines(query), "the line")
    assert line.body.startswith("it failed\nTraceback (most recent call last):")
    assert line.body.rstrip().endswith("ValueError: boom")
    assert line.metadata["exception_type"] == "ValueError"
    assert "exception_stacktrace" not in line.metadata


def otlp(service: str, *bodies: str, **attributes: str) -> bytes:
    """Return what a sender without any care of ours would send."""
    memory = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    resource = Resource({"service.name": service, "service.namespace": "glasshouse"})
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    for body in bodies:
        provider.get_logger("test").emit(
            timestamp=TIME_NS, observed_timestamp=TIME_NS + 5, body=body, attributes=attributes
        )
    return bytes(encode_logs(memory.get_finished_logs()).SerializeToString())


def post(pipeline: Pipeline, payload: bytes, what: str = "logs") -> None:
    """Hand log lines or metrics to the collector."""
    url = f"{pipeline.backends.urls['otelcol']}/v1/{what}"
    call = urllib.request.Request(url, payload, {"Content-Type": "application/x-protobuf"})  # noqa: S310
    with urllib.request.urlopen(call, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200


def test_what_is_offered_twice_is_kept_once(pipeline: Pipeline) -> None:
    """A batch that comes again, since its sender did not hear that it arrived, is kept once."""
    payload = otlp("twice", *(f"line {number}" for number in range(50)), request_id="r-1")
    for _ in range(3):
        post(pipeline, payload)
    post(pipeline, otlp("twice", "last"))
    poll_until(lambda: pipeline.lines('{service_name="twice"} |= "last"'), "the last line")
    assert len(pipeline.lines('{service_name="twice"}')) == 51
    assert pipeline.count('{service_name="twice"}') == 51


def test_what_a_careless_sender_sends(pipeline: Pipeline) -> None:
    """Secrets are taken out, and a line that Loki would refuse for its size is cut, not lost."""
    long = "é" * 50_000  # two bytes each: the cut falls into the middle of one
    post(
        pipeline,
        otlp("careless", "Authorization: Bearer abcdefghijkl, next", "api_key=s3cr3t&x=1", f"x{long}"),
    )
    post(pipeline, otlp("careless", "failed", **{"exception.stacktrace": "at line 1\n" * 20_000}))
    post(pipeline, otlp("careless", "large", note="n" * 70_000, header="Bearer abcdefghijkl"))
    found = poll_until(
        lambda: lines if len(lines := pipeline.lines('{service_name="careless"}')) == 5 else [], "all five"
    )
    by_start = {line.body[:6]: line for line in found}
    assert by_start["Author"].body == "Authorization: Bearer [redacted], next"
    assert by_start["api_ke"].body == "api_key=[redacted]&x=1"
    assert by_start["xééééé"].body.endswith("é… [cut]")
    assert by_start["failed"].body.startswith("failed\nat line 1\n")
    assert by_start["failed"].body.endswith("… [cut]")
    assert by_start["large"].metadata["header"] == "Bearer [redacted]"
    assert len(by_start["large"].metadata["note"]) == 4000


def gauge(at_ns: int, value: float) -> bytes:
    """Return one sample as OTLP."""
    point = NumberDataPoint(time_unix_nano=at_ns, as_double=value)
    metric = OtlpMetric(name="late.arrival", gauge=Gauge(data_points=[point]))
    name = KeyValue(key="service.name", value=AnyValue(string_value="late"))
    request = ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=OtlpResource(attributes=[name]), scope_metrics=[ScopeMetrics(metrics=[metric])]
            )
        ]
    )
    return bytes(request.SerializeToString())


def test_what_comes_late_is_taken(pipeline: Pipeline) -> None:
    """A sample that is three hours older than the newest of its series is kept, at its own time."""
    post(pipeline, gauge(TIME_NS, 2.0), "metrics")
    poll_until(lambda: pipeline.value("late_arrival") == 2.0, "the newest")
    post(pipeline, gauge(TIME_NS - 3 * 3600 * 10**9, 1.0), "metrics")
    poll_until(lambda: pipeline.value("late_arrival offset 3h") == 1.0, "the late one")


def sent(running: Process) -> list[Metric]:
    """Record something of several kinds, and return what."""
    serving = ServingMetrics(running.telemetry.instruments)
    serving.refused("full")
    serving.error("not_found")
    serving.stages({"inference": 0.1})
    serving.batch(4, 16, 0.2)
    serving.model("yolov8n", "8.4", "0" * 64, 1.5)
    running.telemetry.instruments.observe(schema.EXPECTED_REPLICAS, lambda: [(2, {})])
    serving.queue(lambda: 3)
    DetectionMetrics(running.telemetry.instruments, ["cat"]).answered(["cat"], [0.9])
    return [
        schema.REFUSED,
        schema.ERRORS,
        schema.STAGE_DURATION,
        schema.BATCH_SIZE,
        schema.BATCH_UTILIZATION,
        schema.BATCH_DURATION,
        schema.MODEL_INFO,
        schema.MODEL_LOAD,
        schema.EXPECTED_REPLICAS,
        schema.QUEUE_DEPTH,
        schema.OBJECTS,
        schema.CONFIDENCE,
        schema.UPTIME,
        schema.MEMORY,
        schema.CPU_TIME,
        schema.LOGS_PROCESSED,
        schema.LOGS_WAITING,
    ]


def test_names_are_as_declared(pipeline: Pipeline, process: Begin) -> None:
    """What the contract says of names in Prometheus is what Prometheus makes of them."""
    running = process()
    wanted = sent(running)
    job = f'job="glasshouse/{running.service}"'
    expected = {prometheus_name(metric) + ("_count" if metric.buckets else "") for metric in wanted}

    def names() -> set[str]:
        return {one["metric"]["__name__"] for one in pipeline.ask(f"{{{job}}}")}

    poll_until(lambda: names() >= expected, f"{sorted(expected)}")


def test_as_many_lines_as_one_may_ask_for(pipeline: Pipeline, process: Begin) -> None:
    """5000 lines with all their fields, the most that a question may ask for, come in one answer."""
    running = process()
    for number in range(5_200):
        fields = {f"field_{letter}": f"{number:0120d}" for letter in "abcdef"}
        running.log.info("line %d", number, extra=fields)
    stream = f'{{service_name="{running.service}"}}'
    poll_until(lambda: pipeline.count(stream) == 5_200, "all of them", timeout_s=60)
    assert len(pipeline.lines(stream)) == 5_000


def test_a_flood_of_classes(pipeline: Pipeline, process: Begin) -> None:
    """10,000 names that no model declares land in one series, `other`, with their whole count."""
    running = process()
    metrics = DetectionMetrics(running.telemetry.instruments, ["cat"])
    for number in range(10_000):
        metrics.answered([f"class {number}"], [0.5])
    job = f'job="glasshouse/{running.service}"'
    series = f"{prometheus_name(schema.OBJECTS)}{{{job}}}"
    poll_until(lambda: pipeline.value(f'sum({series[:-1]},class="other"}})') == 10_000, "the whole count")
    assert {one["metric"]["class"] for one in pipeline.ask(series)} == {"cat", "other"}


def test_a_flood_that_nobody_bounded(pipeline: Pipeline, process: Begin) -> None:
    """A library's instrument with a label nobody thought of stays bounded, and shows where the rest went."""
    running = process()
    flood = running.telemetry.meters.get_meter("a library").create_counter("flood")
    for number in range(10_000):
        flood.add(1, {"user": str(number)})
    series = f'flood_total{{job="glasshouse/{running.service}"}}'
    overflow = f'{series[:-1]},otel_metric_overflow="true"}}'
    poll_until(lambda: pipeline.value(f"sum({series})") == 10_000, "the whole count")
    assert pipeline.value(f"count({series})") == FOREIGN_SERIES + 1
    assert pipeline.value(overflow) == 10_000 - FOREIGN_SERIES


def test_our_own_lines_about_telemetry_are_not_sent(pipeline: Pipeline, process: Begin) -> None:
    """What the SDK and `telemetry` say of themselves goes to the console only."""
    running = process()
    logging.getLogger("telemetry.test").warning("nobody listens")
    running.log.info("after")
    poll_until(lambda: pipeline.lines(f'{{service_name="{running.service}"}} |= "after"'), "the line after")
    assert [line.body for line in pipeline.lines(f'{{service_name="{running.service}"}}')] == ["after"]
