"""How cells join the SDK's export: a reader that appends them to what the SDK collected."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from time import time_ns
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    Gauge,
    Histogram,
    InMemoryMetricReader,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as Exported
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from telemetry.cells import Attributes, Cell, CounterCell, GaugeCell, HistogramCell, Point, UpDownCell
from telemetry.exponential import ExponentialCell
from telemetry.metric import Kind, Metric

log = logging.getLogger("telemetry.cells")

OVERFLOW = "otel.metric.overflow"
CUMULATIVE = AggregationTemporality.CUMULATIVE


class Cells:
    """All cells of a process: one for each metric and its labels, so many of a metric as it may have.

    Args:
        scope: Name of the instrumentation scope that they are exported under.
        resource: Who this is.

    Attributes:
        settle: Called before each collection; whoever defers puts sets it to what brings them.
    """

    def __init__(self, scope: str, resource: Resource) -> None:
        self.settle: Callable[[], None] = lambda: None
        self._scope = InstrumentationScope(scope)
        self._resource = resource
        self._lock = threading.Lock()
        self._cells: dict[str, dict[frozenset[tuple[str, str]], Cell]] = {}
        self._overflow: dict[str, Cell] = {}

    def cell(self, metric: Metric, labels: Mapping[str, str]) -> Cell:
        """Return the cell of these labels; beyond the metric's limit the one that counts all the rest."""
        key = frozenset(labels.items())
        with self._lock:
            cells = self._cells.setdefault(metric.name, {})
            if key in cells:
                return cells[key]
            if len(cells) < metric.limit:
                return cells.setdefault(key, cell_of(metric, labels))
            if metric.name not in self._overflow:
                self._overflow[metric.name] = cell_of(metric, {OVERFLOW: True})
                log.warning("%s has its %d series; the rest overflow", metric.name, metric.limit)
            return self._overflow[metric.name]

    def collect(self, now_ns: int) -> list[Exported]:
        """Return every metric that was put into, cumulative. Exemplars go to who collects first.

        Args:
            now_ns: Unix time of the collection, in nanoseconds.
        """
        with self._lock:
            found = [[*cells.values()] for cells in self._cells.values()]
            for cells in found:
                if overflow := self._overflow.get(cells[0].metric.name):
                    cells.append(overflow)
        exported = ((cells[0].metric, [cell.collect(now_ns) for cell in cells]) for cells in found)
        return [_exported(metric, points) for metric, points in exported if any(points)]

    def join(self, data: MetricsData) -> MetricsData:
        """Return what the SDK collected, and the cells, under one scope: the encoder keeps one of a name."""
        metrics = self.collect(time_ns())
        if not metrics:
            return data
        first, *others = data.resource_metrics or [ResourceMetrics(self._resource, [], "")]
        apart = [found for found in first.scope_metrics if found.scope != self._scope]
        for found in first.scope_metrics:
            if found.scope == self._scope:
                metrics += found.metrics
        scopes = [*apart, ScopeMetrics(self._scope, metrics, self._scope.schema_url or "")]
        return MetricsData([ResourceMetrics(first.resource, scopes, first.schema_url), *others])


def cell_of(metric: Metric, attributes: Attributes) -> Cell:
    """Return an empty cell of the metric's kind."""
    if metric.exponential:
        return ExponentialCell(metric, attributes)
    kinds: dict[Kind, type[Cell]] = {
        Kind.COUNTER: CounterCell,
        Kind.UPDOWNCOUNTER: UpDownCell,
        Kind.GAUGE: GaugeCell,
        Kind.HISTOGRAM: HistogramCell,
    }
    return kinds[metric.kind](metric, attributes)


def _exported(metric: Metric, collected: Iterable[Point | None]) -> Exported:
    points: list[Any] = [point for point in collected if point is not None]
    data: Sum | Gauge | Histogram | ExponentialHistogram
    match metric.kind:
        case Kind.GAUGE:
            data = Gauge(points)
        case Kind.HISTOGRAM:
            data = (ExponentialHistogram if metric.exponential else Histogram)(points, CUMULATIVE)
        case _:
            data = Sum(points, CUMULATIVE, is_monotonic=metric.kind is Kind.COUNTER)
    return Exported(metric.name, metric.brief, metric.unit, data)


class _CellReader(MetricReader):
    """Mixed into a reader of the SDK, before it.

    Args:
        cells: What to append.
        args: The reader's own; so are `options`.
    """

    def __init__(self, cells: Cells, *args: Any, **options: Any) -> None:
        self._cells = cells
        super().__init__(*args, **options)

    def _set_meter_provider(self, meter_provider: MeterProvider) -> None:
        """Settle the cells first, and receive also where the SDK itself has nothing: it would not call."""
        super()._set_meter_provider(meter_provider)
        collect: Any = self._collect

        def settled(*args: Any, **options: Any) -> MetricsData:
            # Before the SDK's own metrics are read, so that all of an export is of one moment.
            self._cells.settle()
            return collect(*args, **options) or MetricsData([])

        self._collect: Any = settled

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> None:
        try:
            joined = self._cells.join(metrics_data)
        except Exception:
            # Raised from here it would end the exporting thread, and with it the SDK's metrics too.
            log.exception("our own metrics could not be collected")
            joined = metrics_data
        if joined.resource_metrics:
            super()._receive_metrics(joined, timeout_millis, **options)  # type: ignore[safe-super] # the next reader's


class ExportingReader(_CellReader, PeriodicExportingMetricReader):
    """Exports what the SDK and the cells hold, every so often."""


class MemoryReader(_CellReader, InMemoryMetricReader):
    """Keeps it in memory, for tests."""
