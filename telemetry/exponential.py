"""The cell of an exponential histogram, and the exemplars that lead from its slow values to their traces."""

from collections import defaultdict
from math import ceil, log2
from random import random
from time import time_ns

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import Buckets, ExponentialHistogramDataPoint
from opentelemetry.trace import SpanContext, get_current_span

from telemetry.cells import INF, Attributes, Cell
from telemetry.metric import Metric

MAX_BUCKETS = 160
MAX_SCALE = 20
EXEMPLARS = 8


class Exemplars:
    """The traces of some values since the last collection, the largest always among them.

    Not locked: its cell's lock covers it.
    """

    __slots__ = ("_kept", "_largest", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._largest: tuple[float, int, SpanContext] | None = None
        self._kept: list[tuple[float, int, SpanContext]] = []

    def wants(self, value: float) -> bool:
        """Tell whether this one shall be kept. Asked first, since finding the span costs the most."""
        self._seen += 1
        return (
            len(self._kept) < EXEMPLARS - 1
            or self._largest is None
            or value > self._largest[0]
            # As likely for the last value of the interval as for the first (reservoir sampling).
            or random() * self._seen < EXEMPLARS - 1  # noqa: S311 - a sample, no secret
        )

    def keep(self, value: float, time_unix_ns: int, span: SpanContext) -> None:
        """Keep one that was wanted."""
        one = (value, time_unix_ns, span)
        if self._largest is None:
            self._largest = one
            return
        if value > self._largest[0]:
            one, self._largest = self._largest, one
        if len(self._kept) < EXEMPLARS - 1:
            self._kept.append(one)
        else:
            self._kept[int(random() * len(self._kept))] = one  # noqa: S311 - the same

    def take(self) -> list[Exemplar]:
        """Return them, by time, and begin anew."""
        found = [*self._kept, *([self._largest] if self._largest else [])]
        self._seen, self._largest, self._kept = 0, None, []
        return [
            Exemplar({}, value, time_unix_ns, span.span_id, span.trace_id)
            for value, time_unix_ns, span in sorted(found, key=lambda one: one[1])
        ]


class ExponentialCell(Cell):
    """Counts in buckets `(base ** index, base ** (index + 1)]`, base = 2 ** (2 ** -scale).

    It begins at the finest scale, and halves it as often as it must for 160 buckets to reach from the
    smallest to the largest value; zeros are counted apart. What lies within a rounding error of a bound
    may land on either side of it; a power of two is always below its bound.
    https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
    """

    __slots__ = (
        "_counts",
        "_exemplars",
        "_factor",
        "_high",
        "_low",
        "_max",
        "_min",
        "_scale",
        "_sum",
        "_zeros",
    )

    def __init__(self, metric: Metric, attributes: Attributes) -> None:
        super().__init__(metric, attributes)
        self._scale = MAX_SCALE
        self._factor = 2.0**MAX_SCALE  # buckets in a power of two
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._low, self._high = 1, 0  # no bucket yet
        self._zeros = 0
        self._sum: float = 0
        self._min, self._max = INF, -INF
        self._exemplars = Exemplars()

    def put(self, value: float) -> None:
        """Record, with the trace of the current span where that is sampled; see `Cell.put`."""
        if not 0 <= value < INF:
            self._refuse(value)
            return
        with self._lock:
            self._sum += value
            if value < self._min:  # noqa: PLR1730 - min() is a call, and costs as much as all the rest
                self._min = value
            if value > self._max:  # noqa: PLR1730 - the same
                self._max = value
            if value == 0:
                self._zeros += 1
                return
            index = ceil(log2(value) * self._factor) - 1
            if not self._low <= index <= self._high:
                index = self._widen(index)
            self._counts[index] += 1
            wanted = self._exemplars.wants(value)
        if wanted:
            self._trace(value)

    def collect(self, now_ns: int) -> ExponentialHistogramDataPoint | None:
        """Return the counts, and the exemplars since the last collection; see `Cell.collect`."""
        with self._lock:
            total, low, high, zeros, scale = self._sum, self._min, self._max, self._zeros, self._scale
            first, counts = self._low, [self._counts.get(at, 0) for at in range(self._low, self._high + 1)]
            exemplars = self._exemplars.take()
        if not (count := sum(counts) + zeros):
            return None
        return ExponentialHistogramDataPoint(
            attributes=self._attributes,
            start_time_unix_nano=self._start_ns,
            time_unix_nano=now_ns,
            count=count,
            sum=total,
            scale=scale if counts else 0,
            zero_count=zeros,
            positive=Buckets(first if counts else 0, counts),
            negative=Buckets(0, []),
            flags=0,
            min=low,
            max=high,
            exemplars=exemplars,
        )

    def _widen(self, index: int) -> int:
        """Make room for a bucket, and return what its index is then."""
        if not self._counts:
            self._low = self._high = index
            return index
        low, high, halvings = min(index, self._low), max(index, self._high), 0
        while (high >> halvings) - (low >> halvings) >= MAX_BUCKETS:
            halvings += 1
        if halvings:
            counts: defaultdict[int, int] = defaultdict(int)
            for at, count in self._counts.items():
                counts[at >> halvings] += count
            self._counts = counts
            self._scale -= halvings
            self._factor = 2.0**self._scale
        self._low, self._high = low >> halvings, high >> halvings
        return index >> halvings

    def _trace(self, value: float) -> None:
        span = get_current_span().get_span_context()
        if span.trace_flags.sampled:
            now_ns = time_ns()
            with self._lock:
                self._exemplars.keep(value, now_ns, span)
