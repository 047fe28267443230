"""Cells: what one series of a metric of ours has counted so far, cheap to add to from any thread.

Why not the SDK's own: ADR 0006. A cell gives data points of the SDK, cumulative since it was made;
`cell_reader` brings them into the export. What was never put into has no point, as in the SDK.
"""

import logging
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from threading import RLock
from time import time_ns

from opentelemetry.sdk.metrics.export import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    NumberDataPoint,
)
from opentelemetry.util.types import AttributeValue

from telemetry.metric import Metric

log = logging.getLogger("telemetry.cells")

INF = math.inf

Attributes = Mapping[str, AttributeValue]
Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint


class Cell(ABC):
    """One series. `put` and `collect` may run at once, in any threads: no put is lost.

    Args:
        metric: What it is of.
        attributes: Its labels.
    """

    __slots__ = ("_attributes", "_lock", "_said", "_start_ns", "metric")

    def __init__(self, metric: Metric, attributes: Attributes) -> None:
        self.metric = metric
        self._attributes = dict(attributes)
        # Reentrant: a destructor that records may run in the middle of a put, in the same thread.
        self._lock = RLock()
        self._start_ns = time_ns()
        self._said = False

    @abstractmethod
    def put(self, value: float) -> None:
        """Add to a counter, record into a histogram, set a gauge.

        What is no finite number is left out: one NaN would make a sum NaN for as long as the process
        lives. So is a negative value of a counter or of a histogram, which is logged once.
        """

    @abstractmethod
    def collect(self, now_ns: int) -> Point | None:
        """Return everything until now; None where nothing was ever put.

        Args:
            now_ns: Unix time of the collection, in nanoseconds.
        """

    def _refuse(self, value: float) -> None:
        if -INF < value < 0 and not self._said:
            self._said = True
            log.warning("%s: %g is negative, and left out; said once", self.metric.name, value)


class UpDownCell(Cell):
    """A sum that goes up and down."""

    __slots__ = ("_touched", "_value")

    def __init__(self, metric: Metric, attributes: Attributes) -> None:
        super().__init__(metric, attributes)
        self._value: float = 0
        self._touched = False

    def put(self, value: float) -> None:
        """Add; see `Cell.put`."""
        if -INF < value < INF:
            with self._lock:
                self._value += value
                self._touched = True

    def collect(self, now_ns: int) -> NumberDataPoint | None:
        """Return the sum; see `Cell.collect`."""
        with self._lock:
            value, touched = self._value, self._touched
        return NumberDataPoint(self._attributes, self._start_ns, now_ns, value) if touched else None


class CounterCell(UpDownCell):
    """A sum that only grows."""

    __slots__ = ()

    def put(self, value: float) -> None:
        """Add; see `Cell.put`."""
        if 0 <= value < INF:
            with self._lock:
                self._value += value
                self._touched = True
        else:
            self._refuse(value)


class GaugeCell(Cell):
    """The last value."""

    __slots__ = ("_value",)

    def __init__(self, metric: Metric, attributes: Attributes) -> None:
        super().__init__(metric, attributes)
        self._value: float | None = None

    def put(self, value: float) -> None:
        """Set; see `Cell.put`."""
        if -INF < value < INF:
            self._value = value

    def collect(self, now_ns: int) -> NumberDataPoint | None:
        """Return the last value; see `Cell.collect`."""
        value = self._value
        # A gauge has no start; the SDK's signature does not say that None is what its own gauges pass.
        start: int = None  # type: ignore[assignment]
        return None if value is None else NumberDataPoint(self._attributes, start, now_ns, value)


class HistogramCell(Cell):
    """Counts between declared bounds, upper ones included."""

    __slots__ = ("_bounds", "_counts", "_max", "_min", "_sum")

    def __init__(self, metric: Metric, attributes: Attributes) -> None:
        super().__init__(metric, attributes)
        self._bounds = tuple(float(bound) for bound in metric.buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum: float = 0
        self._min, self._max = INF, -INF

    def put(self, value: float) -> None:
        """Record; see `Cell.put`."""
        if not 0 <= value < INF:
            self._refuse(value)
            return
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
            if value < self._min:  # noqa: PLR1730 - min() is a call, and costs as much as all the rest
                self._min = value
            if value > self._max:  # noqa: PLR1730 - the same
                self._max = value

    def collect(self, now_ns: int) -> HistogramDataPoint | None:
        """Return the counts; see `Cell.collect`."""
        with self._lock:
            counts, total, low, high = list(self._counts), self._sum, self._min, self._max
        if not any(counts):
            return None
        return HistogramDataPoint(
            self._attributes, self._start_ns, now_ns, sum(counts), total, counts, self._bounds, low, high
        )
