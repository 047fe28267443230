"""Instruments: what is declared gets through, what is not does not, and nothing breaks an answer."""

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import ExponentialHistogram, Histogram
from opentelemetry.sdk.trace import TracerProvider

from telemetry import attributes, gpu, process, schema
from telemetry.detection import CONFIDENCES, DetectionMetrics, evenly
from telemetry.http import HttpMetrics
from telemetry.instruments import Undeclared
from telemetry.metric import Kind, Metric
from telemetry.recommendation import Coverage, RecommendationMetrics
from telemetry.serving import ServingMetrics
from telemetry.store import ShipperMetrics, SpoolMetrics
from tests.metric_reader import Bench, bench

OVERFLOW = (("otel.metric.overflow", True),)


def record_everything(box: Bench) -> None:
    """Record at least once into every metric that is ours to record or to observe."""
    http = HttpMetrics(box.instruments)
    http.arrived("POST", "http")
    http.took("POST", "http", "/detect", 200, "", 0.1)
    serving = ServingMetrics(box.instruments)
    serving.stages(dict.fromkeys(attributes.STAGE.values, 0.01))
    serving.batch(3, 16, 0.2)
    serving.error("not_an_image")
    serving.refused("full")
    serving.model("yolov8n", "8.4", "f59b", 1.5)
    box.instruments.observe(schema.EXPECTED_REPLICAS, lambda: [(2, {})])
    serving.queue(lambda: 4)
    DetectionMetrics(box.instruments, ["cat"]).answered(["cat"], [0.9])
    recommendation = RecommendationMetrics(box.instruments, 4)
    recommendation.answered([7], [0.5], answered_by="model", ranked_movies=True, unknown_user=False)
    spool = SpoolMetrics(box.instruments, lambda: (1_000, 2.0))
    spool.kept(3)
    spool.lost(1, "full")
    shipper = ShipperMetrics(box.instruments, lambda: (1_000, 2.0))
    shipper.committed("images", 3, 300_000)
    shipper.failed("store")
    shipper.damaged("row")
    shipper.cycle(0.1)
    process.observe(box.instruments)
    gpu.observe(box.instruments, {}, FakeNvml())
    box.instruments.series(schema.LOGS_PROCESSED)
    box.instruments.observe(schema.LOGS_WAITING, lambda: [(0, {})])


def test_every_metric_as_declared() -> None:
    """Every metric of the schema is recorded or observed, with its unit and its labels only."""
    box = bench()
    record_everything(box)
    exported = box.exported()
    declared_names = {metric.name: metric for metric in schema.METRICS}
    assert set(exported) == set(declared_names)
    for name, metric in declared_names.items():
        assert exported[name].unit == metric.unit
        assert exported[name].description == metric.brief
        declared = {attribute.name for attribute in metric.attributes}
        for point in exported[name].data.data_points:
            assert set(point.attributes or {}) <= declared


def test_durations_are_exponential_and_the_rest_as_declared() -> None:
    """A histogram without buckets is exponential; one with buckets has exactly those."""
    box = bench()
    record_everything(box)
    exported = box.exported()
    for metric in schema.METRICS:
        if metric.kind is Kind.HISTOGRAM:
            data = exported[metric.name].data
            assert isinstance(data, ExponentialHistogram if metric.exponential else Histogram)
            if isinstance(data, Histogram):
                assert tuple(data.data_points[0].explicit_bounds) == metric.buckets


def test_counters_begin_at_zero() -> None:
    """Every label set of every counter is there before anything happened."""
    box = bench()
    ServingMetrics(box.instruments)
    DetectionMetrics(box.instruments, ["cat", "dog"])
    RecommendationMetrics(box.instruments, 10)
    assert {labels[0][1] for labels in box.values(schema.ERRORS)} == set(attributes.ERROR_CODE.values)
    assert {labels[0][1] for labels in box.values(schema.OBJECTS)} == {"cat", "dog", "other"}
    assert box.values(schema.RECOMMENDATION_ANSWERS) == {
        (("answered_by", "model"),): 0,
        (("answered_by", "popularity"),): 0,
    }
    assert box.value(schema.RANKED_PRESENT) == box.value(schema.RANKED_ABSENT) == 0


def test_flood_of_class_names() -> None:
    """10,000 class names that are not on the allow-list make one series, `other`, and lose nothing."""
    box = bench()
    metrics = DetectionMetrics(box.instruments, ["cat"])
    for number in range(10_000):
        metrics.answered([f"class {number}"], [0.5])
    assert box.values(schema.OBJECTS) == {(("class", "cat"),): 0, (("class", "other"),): 10_000}


def test_allow_list_is_bounded_itself() -> None:
    """A model with more classes than an attribute may have values does not make more series."""
    box = bench()
    DetectionMetrics(box.instruments, [f"class {number}" for number in range(5_000)])
    assert len(box.values(schema.OBJECTS)) == attributes.CLASS.limit
    assert OVERFLOW not in box.values(schema.OBJECTS)


def test_flood_without_an_allow_list() -> None:
    """An instrument that nobody bounded stays bounded, and what is beyond shows as the overflow series."""
    box = bench()
    counter = box.provider.get_meter("a library").create_counter("flood")
    for number in range(10_000):
        counter.add(1, {"user": str(number)})
    points = box.points(Metric("flood", Kind.COUNTER, "1", ""))
    assert len(points) == 201
    assert points[OVERFLOW].value == 9_800


def test_an_undeclared_value_raises_in_tests() -> None:
    """Strict instruments name the attribute, the value, and what is declared."""
    metrics = ServingMetrics(bench().instruments)
    with pytest.raises(Undeclared, match="stage='teleport'; declared: decode"):
        metrics.stages({"teleport": 1.0})


def test_an_undeclared_value_breaks_no_answer() -> None:
    """In production an undeclared value is counted as `other`."""
    box = bench(strict=False)
    ServingMetrics(box.instruments).error("unheard_of")
    assert box.value(schema.ERRORS, error_type="other") == 1


def test_a_programming_error_breaks_no_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production a recording that raises is logged once, and the rest goes on."""
    monkeypatch.setattr(logging.getLogger("telemetry"), "propagate", True)
    box = bench(strict=False)
    metrics = ServingMetrics(box.instruments)
    for _ in range(3):
        metrics.batch(1, 0, 0.1)
    # One record; it is caught twice where an earlier test has left the logger without propagation.
    assert len({id(record) for record in caplog.records}) == 1
    metrics.batch(1, 1, 0.1)
    (point,) = box.points(schema.BATCH_UTILIZATION).values()
    assert point.count == 1


def test_a_reading_that_raises_costs_only_itself() -> None:
    """An observed metric whose callback raises has no series; the others are exported."""
    box = bench(strict=False)
    serving = ServingMetrics(box.instruments)
    serving.queue(lambda: 1 // 0)
    assert box.values(schema.QUEUE_DEPTH) == {}
    assert box.value(schema.REFUSED, reason="full") == 0


def test_undeclared_labels_cannot_be_written() -> None:
    """A series with a label or a value that is not declared cannot be made, strict or not."""
    instruments = bench(strict=False).instruments
    with pytest.raises(KeyError, match="declares no attribute 'user_id'"):
        instruments.series(schema.REFUSED, {"user_id": "7"})
    with pytest.raises(Undeclared, match="reason='mood'"):
        instruments.series(schema.REFUSED, {"reason": "mood"})
    with pytest.raises(Undeclared, match="observed, not recorded"):
        instruments.series(schema.QUEUE_DEPTH)


def test_values_that_are_no_numbers_are_left_out() -> None:
    """One NaN does not make a histogram's sum NaN."""
    box = bench()
    series = box.instruments.series(schema.BATCH_DURATION)
    for value in (1.0, math.nan, math.inf, 2.0):
        series.put(value)
    (point,) = box.points(schema.BATCH_DURATION).values()
    assert (point.count, point.sum) == (2, 3.0)


def test_detection_answers() -> None:
    """An image counts once, its objects by class, its confidences in deciles; an empty one as empty."""
    box = bench()
    metrics = DetectionMetrics(box.instruments, ["cat", "dog"])
    metrics.answered(["cat", "dog", "cat"], [0.95, 0.55, 0.31])
    metrics.answered([], [])
    assert box.value(schema.DETECTION_ANSWERS) == 2
    assert box.value(schema.DETECTION_EMPTY) == 1
    assert box.value(schema.OBJECTS, **{"class": "cat"}) == 2
    (confidence,) = box.points(schema.CONFIDENCE).values()
    assert list(confidence.bucket_counts) == [0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0]


def test_a_crowded_image_is_sampled_evenly() -> None:
    """300 objects cost 50 recordings, from the most to the least confident; few are all recorded."""
    crowd = [1 - number / 300 for number in range(300)]
    found = list(evenly(crowd, CONFIDENCES))
    assert len(found) == CONFIDENCES
    assert (found[0], found[-1]) == (crowd[0], crowd[-1])
    assert list(evenly([0.5, 0.4], CONFIDENCES)) == [0.5, 0.4]
    assert list(evenly(crowd[:CONFIDENCES], CONFIDENCES)) == crowd[:CONFIDENCES]


def test_recommendation_answers() -> None:
    """A list counts by its maker, by ranked films present or absent, by length, by known user."""
    box = bench()
    metrics = RecommendationMetrics(box.instruments, 8)
    metrics.answered([1, 2], [0.9, -0.1], answered_by="model", ranked_movies=True, unknown_user=False)
    metrics.answered([2, 3], [0.2, 0.1], answered_by="popularity", ranked_movies=False, unknown_user=True)
    metrics.answered([], [], answered_by="model", ranked_movies=False, unknown_user=False)
    assert box.value(schema.RANKED_PRESENT) == 1
    assert box.value(schema.RANKED_ABSENT) == 2
    assert box.value(schema.RECOMMENDATION_ANSWERS, **{"answered_by": "model"}) == 2
    assert box.value(schema.RECOMMENDATION_EMPTY) == 1
    assert box.value(schema.UNKNOWN_USERS) == 1
    assert box.value(schema.COVERAGE) == 3 / 8
    scores = box.points(schema.SCORE)
    assert scores[("answered_by", "model"),].count == 2
    assert scores[("answered_by", "model"),].min == 0.0


def test_coverage_forgets() -> None:
    """What came up counts for one to two windows, and not longer."""
    now = [0.0]
    coverage = Coverage(10, window_s=60, clock=lambda: now[0])
    coverage.add([1, 2])
    now[0] = 61
    coverage.add([2, 3])
    assert coverage.share() == 0.3
    now[0] = 121
    assert coverage.share() == 0.2
    now[0] = 300
    assert coverage.share() == 0.0


def test_exemplars_carry_the_trace() -> None:
    """A duration recorded in a span has its trace id as exemplar."""
    box = bench()
    metrics = ServingMetrics(box.instruments)
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("request") as span:
        metrics.stages({"decode": 0.1})
    points = box.points(schema.STAGE_DURATION)
    (exemplar,) = points[("stage", "decode"),].exemplars
    assert exemplar.trace_id == span.get_span_context().trace_id != trace.INVALID_TRACE_ID


def test_process_heartbeat() -> None:
    """Uptime grows, memory and CPU time are those of a living process."""
    box = bench()
    spool = SpoolMetrics(box.instruments, lambda: (1_000, 2.0))
    spool.kept(3)
    spool.lost(1, "full")
    shipper = ShipperMetrics(box.instruments, lambda: (1_000, 2.0))
    shipper.committed("images", 3, 300_000)
    shipper.failed("store")
    shipper.damaged("row")
    shipper.cycle(0.1)
    process.observe(box.instruments)
    before = box.value(schema.UPTIME)
    assert 0 < before <= box.value(schema.UPTIME)
    assert box.value(schema.MEMORY) > 1_000_000
    assert box.value(schema.CPU_TIME, cpu_mode="user") > 0


class FakeNvmlError(Exception):
    """What NVML raises."""


class FakeNvmlNotSupported(FakeNvmlError):
    """What it raises where the GPU cannot say."""


class FakeNvml:
    """An NVML with two GPUs, of which the second has no energy counter and no ECC."""

    NVMLError = FakeNvmlError
    NVMLError_NotSupported = FakeNvmlNotSupported
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    def __init__(self) -> None:
        self.lost: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=20, total=80),
            "nvmlDeviceGetPowerUsage": 70_500,
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetTotalEnergyConsumption": 9_000,
            "nvmlDeviceGetTotalEccErrors": 1,
            "nvmlDeviceGetName": "H100",
        }

        def ask(handle: int, *_: object) -> Any:
            if handle in self.lost:
                raise FakeNvmlError("GPU is lost")
            if handle == 1 and name in {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTotalEccErrors"}:
                raise FakeNvmlNotSupported("Not Supported")
            return answers[name]

        return ask

    def nvmlDeviceGetCount(self) -> int:
        """Return how many there are."""
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return a handle."""
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        """Return what tells it apart."""
        return f"GPU-abc{handle}"


def test_gpu_series() -> None:
    """Both GPUs are reported; what one cannot say has no series."""
    box = bench()
    assert gpu.observe(box.instruments, {}, FakeNvml()) == 2
    utilization = box.values(schema.GPU_UTILIZATION)
    assert utilization[("hw.id", "GPU-abc0"), ("hw.name", "H100")] == 0.42
    assert len(utilization) == 2
    assert set(box.values(schema.GPU_POWER).values()) == {70.5}
    assert [dict(labels)["hw.id"] for labels in box.values(schema.GPU_ENERGY)] == ["GPU-abc0"]


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("1", 1), ("0,1", 2), ("GPU-abc1", 1), ("7", 0)], ids=repr
)
def test_gpus_of_this_process(visible: str, count: int) -> None:
    """A replica reports the GPUs that it was given, by index or by UUID."""
    assert gpu.observe(bench().instruments, {"CUDA_VISIBLE_DEVICES": visible}, FakeNvml()) == count


def test_a_gpu_that_fell_off_the_bus() -> None:
    """A GPU that is lost says `failed`, has no other series, and breaks nothing."""
    box, nvml = bench(), FakeNvml()
    gpu.observe(box.instruments, {}, nvml)
    nvml.lost = {0}
    state = {
        (dict(at)["hw.id"], dict(at)["hw.state"]): value
        for at, value in box.values(schema.GPU_STATUS).items()
    }
    assert state["GPU-abc0", "failed"] == state["GPU-abc1", "ok"] == 1
    assert state["GPU-abc0", "ok"] == 0
    assert len(box.values(schema.GPU_UTILIZATION)) == 1


def test_no_gpu_no_series(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no driver there is no series, no error and no line of log."""
    monkeypatch.setattr(logging.getLogger("telemetry"), "propagate", True)
    box = bench()
    if gpu.load() is None:
        assert gpu.observe(box.instruments, {}) == 0
    assert not [name for name in box.exported() if name.startswith("hw.")]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
