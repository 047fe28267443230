"""Cells: they hold what the SDK's own aggregation would hold, whoever puts into them and whenever."""

import itertools
import logging
import math
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    InMemoryMetricReader,
    Sum,
)
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from telemetry import schema
from telemetry.cell_reader import Cells, MemoryReader
from telemetry.cells import Cell, Point
from telemetry.exponential import EXEMPLARS, MAX_BUCKETS, ExponentialCell
from telemetry.metric import Attribute, Kind, Metric
from tests.metric_reader import bench

BOUNDS = (0.0, 0.1, 1.0, 10.0, 1e3)
COUNT = Metric("count", Kind.COUNTER, "1", "A counter.")
LEVEL = Metric("level", Kind.UPDOWNCOUNTER, "1", "A level.")
LAST = Metric("last", Kind.GAUGE, "1", "A gauge.")
EXPLICIT = Metric("explicit", Kind.HISTOGRAM, "1", "An explicit histogram.", buckets=BOUNDS)
EXPONENTIAL = Metric("exponential", Kind.HISTOGRAM, "1", "An exponential histogram.")
EVERY_KIND = (COUNT, LEVEL, LAST, EXPLICIT, EXPONENTIAL)
# Shares of a bucket within which a rounding error may move a value over a bound.
ROUNDING = 1e-6


class Sdk:
    """The SDK's own instruments and aggregations for the same metrics."""

    def __init__(self) -> None:
        views = [
            View(instrument_name="explicit", aggregation=ExplicitBucketHistogramAggregation(BOUNDS)),
            View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation()),
        ]
        self.reader = InMemoryMetricReader()
        meter = MeterProvider([self.reader], Resource({}), shutdown_on_exit=False, views=views).get_meter("x")
        self.put: dict[str, Callable[[float], None]] = {
            "count": meter.create_counter("count", "1", COUNT.brief).add,
            "level": meter.create_up_down_counter("level", "1", LEVEL.brief).add,
            "last": meter.create_gauge("last", "1", LAST.brief).set,
            "explicit": meter.create_histogram("explicit", "1", EXPLICIT.brief).record,
            "exponential": meter.create_histogram("exponential", "1", EXPONENTIAL.brief).record,
        }


class Ours:
    """Cells, and the reader that sees them."""

    def __init__(self) -> None:
        self.cells = Cells("x", Resource({}))
        self.reader = MemoryReader(self.cells)
        self.provider = MeterProvider([self.reader], Resource({}), shutdown_on_exit=False)

    def put(self, metric: Metric, value: float) -> None:
        """Put into the series without labels."""
        self.cells.cell(metric, {}).put(value)


def exported(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return what is exported, by name; nothing may be there twice."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    (resource,) = data.resource_metrics
    scopes = [scope.scope for scope in resource.scope_metrics]
    assert len(scopes) == len(set(scopes))
    metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
    assert len({metric.name for metric in metrics}) == len(metrics)
    return {metric.name: metric for metric in metrics}


def filled(values: Sequence[float]) -> ExponentialHistogramDataPoint:
    """Return the point of an exponential cell that has these values."""
    cell = ExponentialCell(EXPONENTIAL, {})
    for value in values:
        cell.put(value)
    found: ExponentialHistogramDataPoint = point(cell)
    return found


def point(cell: Cell) -> Any:
    """Return what a cell holds."""
    found: Point | None = cell.collect(1)
    assert found is not None
    return found


def buckets(of: ExponentialHistogramDataPoint, scale: int) -> Counter[int]:
    """Return the counts by index at a coarser scale, or at the same."""
    found: Counter[int] = Counter()
    for place, count in enumerate(of.positive.bucket_counts):
        if count:
            found[(of.positive.offset + place) >> (of.scale - scale)] += count
    return found


def near_a_bound(value: float, scale: int) -> bool:
    """Tell whether a rounding error may decide the bucket."""
    place = math.log2(value) * 2.0**scale
    return abs(place - round(place)) < ROUNDING and math.frexp(value)[0] != 0.5


def magnitudes(seed: int, count: int, spread: float) -> Iterator[float]:
    """Return values over so many powers of two, zeros and exact powers of two among them."""
    rng = random.Random(seed)
    for _ in range(count):
        exponent = rng.uniform(-spread, spread)
        kind = rng.random()
        yield 0.0 if kind < 0.05 else 2.0 ** round(exponent) if kind < 0.2 else 2.0**exponent


@pytest.mark.parametrize("spread", [0, 0.001, 0.5, 3, 20, 200, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_an_exponential_histogram_equals_the_sdks(spread: float, seed: int) -> None:
    """Scale, counts, sum, least, largest and zeros are the SDK's, over any range of magnitudes."""
    sdk, ours, values = Sdk(), Ours(), list(magnitudes(seed, 2000, spread))
    for value in values:
        sdk.put["exponential"](value)
        ours.put(EXPONENTIAL, value)
    (theirs,), (mine,) = (exported(one.reader)["exponential"].data.data_points for one in (sdk, ours))
    assert mine.scale == theirs.scale
    for field in ("count", "sum", "min", "max", "zero_count", "attributes", "flags"):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert len(mine.positive.bucket_counts) <= MAX_BUCKETS
    unsure = sum(1 for value in values if value and near_a_bound(value, mine.scale))
    difference = buckets(mine, mine.scale)
    difference.subtract(buckets(theirs, mine.scale))
    assert sum(abs(count) for count in difference.values()) <= 2 * unsure


def test_an_exponential_histogram_equals_the_sdks_over_many_exports() -> None:
    """Collected again and again, the counts stay cumulative, and the SDK's at the coarser scale."""
    sdk, ours, rng = Sdk(), Ours(), random.Random(5)
    for spread in (1, 2, 4, 8):
        for value in [rng.lognormvariate(0, spread) for _ in range(500)]:
            sdk.put["exponential"](value)
            ours.put(EXPONENTIAL, value)
        (theirs,), (mine,) = (exported(one.reader)["exponential"].data.data_points for one in (sdk, ours))
        scale = min(mine.scale, theirs.scale)
        assert buckets(mine, scale) == buckets(theirs, scale)
        assert (mine.count, mine.min, mine.max) == (theirs.count, theirs.min, theirs.max)
        assert mine.sum == pytest.approx(theirs.sum)


@pytest.mark.parametrize("metric", [COUNT, LEVEL, LAST, EXPLICIT], ids=lambda metric: metric.name)
def test_the_other_kinds_equal_the_sdks(metric: Metric) -> None:
    """Counters, gauges and explicit histograms export what the SDK's do, but for the times."""
    sdk, ours = Sdk(), Ours()
    for value in [0, 3, 0.1, *magnitudes(1, 500, 12), *BOUNDS]:
        sdk.put[metric.name](value)
        ours.put(metric, value)
    theirs, mine = (exported(one.reader)[metric.name] for one in (sdk, ours))
    assert (mine.name, mine.description, mine.unit) == (theirs.name, theirs.description, theirs.unit)
    assert type(mine.data) is type(theirs.data)
    for field in ("aggregation_temporality", "is_monotonic"):
        assert getattr(mine.data, field, None) == getattr(theirs.data, field, None), field
    (one,), (other,) = mine.data.data_points, theirs.data.data_points
    for field in ("attributes", "value", "sum", "min", "max", "count", "explicit_bounds", "bucket_counts"):
        assert _plain(getattr(one, field, None)) == _plain(getattr(other, field, None)), field
    assert (one.start_time_unix_nano is None) == (other.start_time_unix_nano is None)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def test_whole_numbers_stay_whole() -> None:
    """A counter of whole numbers is exported as one, as the SDK does."""
    ours = Ours()
    ours.put(COUNT, 2)
    assert repr(exported(ours.reader)["count"].data.data_points[0].value) == "2"


@pytest.mark.parametrize("exponent", [-1074, -1022, -30, -1, 0, 1, 10, 1023])
@pytest.mark.parametrize("range_", [0, 1, 40, 900], ids=lambda range_: f"over_2_to_{range_}")
def test_a_power_of_two_is_below_its_bound(exponent: int, range_: int) -> None:
    """2 ** n lies in the bucket that ends at 2 ** n, at every scale, subnormal numbers included."""
    found = filled([math.ldexp(1.0, exponent - range_), math.ldexp(1.0, exponent)])
    assert max(buckets(found, found.scale)) == math.ceil(exponent * 2.0**found.scale) - 1


def test_the_whole_range_fits() -> None:
    """The least and the largest number there are fit into the buckets together."""
    found = filled([5e-324, 1.0, sys.float_info.max])
    assert found.count == 3
    assert len(found.positive.bucket_counts) <= MAX_BUCKETS


def test_only_zeros() -> None:
    """A histogram of zeros has a count, a sum of 0, and no bucket."""
    found = filled([0, 0.0])
    assert (found.count, found.zero_count, found.sum, found.min, found.max) == (2, 2, 0, 0, 0)
    assert sum(found.positive.bucket_counts) == 0


@pytest.mark.parametrize("metric", EVERY_KIND, ids=lambda metric: metric.name)
def test_what_is_no_number_is_left_out(metric: Metric) -> None:
    """NaN and infinities leave no trace, not even a series."""
    ours = Ours()
    for value in (math.nan, math.inf, -math.inf):
        ours.put(metric, value)
    assert exported(ours.reader) == {}
    ours.put(metric, 1)
    ours.put(metric, math.nan)
    assert set(exported(ours.reader)) == {metric.name}


@pytest.mark.parametrize("metric", [COUNT, EXPLICIT, EXPONENTIAL], ids=lambda metric: metric.name)
def test_negative_values_are_left_out(
    metric: Metric, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter and a histogram take no negative value, and say so once."""
    monkeypatch.setattr(logging.getLogger("telemetry"), "propagate", True)
    ours = Ours()
    for _ in range(3):
        ours.put(metric, -1)
    assert exported(ours.reader) == {}
    # One record; it is caught twice where an earlier test has left the logger without propagation.
    (said,) = {id(record): record.getMessage() for record in caplog.records}.values()
    assert said == f"{metric.name}: -1 is negative, and left out; said once"


def test_times() -> None:
    """A point says since when it counts, and until when; the first stays, the second moves."""
    ours = Ours()
    ours.put(COUNT, 1)
    first, second = (exported(ours.reader)["count"].data.data_points[0] for _ in range(2))
    assert first.start_time_unix_nano == second.start_time_unix_nano <= first.time_unix_nano
    assert first.time_unix_nano < second.time_unix_nano


class Slow(float):
    """A number in the middle of whose addition another thread may run: CPython adds floats in one go."""

    def __radd__(self, other: float) -> float:
        return float(other) + float(self)


@pytest.mark.parametrize("metric", [COUNT, LEVEL, EXPLICIT, EXPONENTIAL], ids=lambda metric: metric.name)
def test_nothing_is_lost_between_threads(metric: Metric) -> None:
    """Eight threads put while a ninth collects: counts only grow, and none is missing at the end."""
    ours, ended, puts = Ours(), threading.Event(), 5000
    cell = ours.cells.cell(metric, {})
    cell.put(0)
    seen: list[float] = []

    def total(found: Any) -> float:
        return float(found.value if hasattr(found, "value") else found.sum)

    def collect() -> None:
        while not ended.is_set():
            seen.append(total(point(cell)))

    def put(seed: int) -> None:
        values = itertools.cycle([Slow(1), Slow(2), Slow(3 + seed)])
        for _ in range(puts):
            cell.put(next(values))

    collector = threading.Thread(target=collect)
    threads = [threading.Thread(target=put, args=(seed,)) for seed in range(8)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (collector, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
        ended.set()
        collector.join()
    last = point(cell)
    wanted = sum(sum(itertools.islice(itertools.cycle([1, 2, 3 + seed]), puts)) for seed in range(8))
    assert total(last) == wanted
    assert getattr(last, "count", 8 * puts + 1) == 8 * puts + 1
    assert seen == sorted(seen)
    if isinstance(last, ExponentialHistogramDataPoint):
        assert sum(last.positive.bucket_counts) == 8 * puts


def test_the_slowest_is_among_the_exemplars() -> None:
    """Of thousands of values a few keep their trace, the largest of the interval always among them."""
    cell, rng = ExponentialCell(EXPONENTIAL, {}), random.Random(1)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    for _ in range(20):
        spans = {}
        for _ in range(200):
            value = rng.lognormvariate(0, 2)
            with tracer.start_as_current_span("request") as span:
                cell.put(value)
            spans[value] = span.get_span_context()
        found = {exemplar.value: exemplar for exemplar in point(cell).exemplars}
        assert len(found) == EXEMPLARS
        assert max(spans) in found
        for value, exemplar in found.items():
            assert (exemplar.trace_id, exemplar.span_id) == (spans[value].trace_id, spans[value].span_id)
    assert point(cell).exemplars == []


def test_exemplars_are_spread_over_the_interval() -> None:
    """Those beside the largest come from the whole interval, not from its beginning only."""
    cell = ExponentialCell(EXPONENTIAL, {})
    late = 0
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("request"):
        for _ in range(50):
            for place in range(200):
                cell.put(1000 - place)
            late += sum(1 for exemplar in point(cell).exemplars if exemplar.value < 900)
    assert 100 < late < 250  # half of 50 times 7


@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "unsampled"])
def test_only_sampled_spans_are_exemplars(*, sampled: bool) -> None:
    """A value outside a span, or in one that is not sampled, has no exemplar."""
    cell = ExponentialCell(EXPONENTIAL, {})
    cell.put(5)
    provider = TracerProvider(shutdown_on_exit=False) if sampled else TracerProvider(ALWAYS_OFF)
    with provider.get_tracer("test").start_as_current_span("request"):
        cell.put(1)
    provider.shutdown()
    assert [exemplar.value for exemplar in point(cell).exemplars] == ([1] if sampled else [])


def test_series_are_bounded() -> None:
    """Labels that nobody bounded end in the overflow series, which counts what they would have."""
    user = Attribute("user", "Who.", limit=3, bounded_by="nothing, here")
    metric, ours = Metric("flood", Kind.COUNTER, "1", "", (user,)), Ours()
    for number in range(100):
        ours.cells.cell(metric, {"user": str(number)}).put(1)
    points = exported(ours.reader)["flood"].data.data_points
    assert [(one.attributes, one.value) for one in points] == [
        ({"user": "0"}, 1),
        ({"user": "1"}, 1),
        ({"user": "2"}, 1),
        ({"otel.metric.overflow": True}, 97),
    ]


def test_the_same_labels_are_the_same_series() -> None:
    """Whoever asks for a series again adds to the one there is."""
    box = bench()
    for _ in range(2):
        box.instruments.series(schema.REFUSED, {"reason": "full"}).put(1)
    assert box.value(schema.REFUSED, reason="full") == 2


def test_beside_the_sdks_own() -> None:
    """What the SDK and the cells hold arrives together, each name and each scope once."""
    ours = Ours()
    ours.provider.get_meter("x").create_counter("same_scope").add(1)
    ours.provider.get_meter("y").create_counter("another").add(1)
    assert set(exported(ours.reader)) == {"same_scope", "another"}
    ours.put(COUNT, 1)
    found = exported(ours.reader)
    assert set(found) == {"same_scope", "another", "count"}
    data: Sum = found["count"].data
    assert (data.is_monotonic, data.aggregation_temporality) == (True, AggregationTemporality.CUMULATIVE)
