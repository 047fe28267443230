"""Instruments built from the schema; nothing undeclared gets through them.

Who records something undeclared has made a programming error. It raises in tests, which build
`Instruments(meter, cells, strict=True)` or set `GLASSHOUSE_TELEMETRY=strict`. In production it never breaks
an answer: an undeclared value of an attribute is counted as `other`, anything else is logged once and
not recorded. Undeclared *names* of attributes cannot be written: series are bound to theirs at start.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import Exemplar, ExemplarReservoir
from opentelemetry.sdk.metrics.view import (
    View,
)
from opentelemetry.util.types import Attributes

from telemetry import schema
from telemetry.cell_reader import Cells
from telemetry.metric import OTHER, Attribute, Kind, Metric

# Its own logger goes to the console only: a line about telemetry must not depend on telemetry.
log = logging.getLogger("telemetry.instruments")

P = ParamSpec("P")
Labels = Mapping[str, str]
Reading = Iterable[tuple[float, Labels]]


class Undeclared(ValueError):
    """A value that the schema does not declare; a programming error."""


class Series:
    """One series of a metric: its labels are fixed.

    Args:
        put: Adds to a counter, records into a histogram, sets a gauge; see `Cell.put`. An attribute
            rather than a method: a call through this class would cost as much as the adding.
    """

    __slots__ = ("put",)

    def __init__(self, put: Callable[[float], None]) -> None:
        self.put = put


class Family:
    """The series of a metric along one attribute.

    Args:
        series: By the attribute's value.
        attribute: The attribute.
        strict: Raise on an undeclared value, rather than count it as `other`.
    """

    __slots__ = ("_attribute", "_open", "_series", "_strict")

    def __init__(self, series: Mapping[str, Series], attribute: Attribute, *, strict: bool) -> None:
        self._series = series
        self._attribute = attribute
        self._open = not attribute.values
        self._strict = strict

    def of(self, value: str) -> Series:
        """Return the series of `value`; `other` where it is not on the list.

        Raises:
            Undeclared: Strict, and the attribute's values are closed.
        """
        series = self._series.get(value)
        if series is not None:
            return series
        if self._strict and not self._open:
            raise Undeclared(f"{self._attribute.name}={value!r}; declared: {', '.join(self._series)}")
        return self._series[OTHER]


class Instruments:
    """The metrics of the schema: those recorded live in cells, those observed in the SDK.

    Args:
        meter: Where the observed ones live; its provider should have `views()`.
        cells: Where the recorded ones live; None: nowhere.
        strict: Raise on programming errors; for tests.
        later: Runs a recording soon, see `Deferred.put`; at once where not given.
    """

    def __init__(
        self,
        meter: Meter,
        cells: Cells | None,
        *,
        strict: bool = False,
        later: Callable[..., None] | None = None,
    ) -> None:
        self.strict = strict
        self.later = later or _now
        self._meter = meter
        self._cells = cells

    def series(self, metric: Metric, labels: Labels | None = None) -> Series:
        """Return one series, a counter's with a first 0: else rate() never sees its first increment.

        Raises:
            KeyError: A label that the metric does not declare.
            Undeclared: A value that its attribute does not declare.
        """
        labels = labels or {}
        for name, value in labels.items():
            allowed = metric.attribute(name).values
            if allowed and value not in (*allowed, OTHER):
                raise Undeclared(f"{metric.name}: {name}={value!r}; declared: {', '.join(allowed)}")
        series = self._series(metric, labels)
        if metric.kind in {Kind.COUNTER, Kind.UPDOWNCOUNTER}:
            series.put(0)
        return series

    def family(self, metric: Metric, attribute: Attribute, values: Sequence[str] = ()) -> Family:
        """Return the series along `attribute`: of its declared values, or of an allow-list.

        Args:
            metric: Declares the attribute.
            attribute: The one that varies.
            values: The allow-list, where the attribute's values are open; cut to its limit.
        """
        if not attribute.values and not values:
            raise Undeclared(f"{metric.name}: {attribute.name} is open, and needs an allow-list.")
        listed = attribute.values or tuple(dict.fromkeys(values))[: attribute.limit - 1]
        series = {value: self.series(metric, {attribute.name: value}) for value in listed}
        if OTHER not in series:
            # Known to the dictionary always; known to the backend only where something may land in it.
            other = {attribute.name: OTHER}
            series[OTHER] = self._series(metric, other) if attribute.values else self.series(metric, other)
        return Family(series, attribute, strict=self.strict)

    def observe(self, metric: Metric, read: Callable[[], Reading]) -> None:
        """Call `read` at each export, on the exporter's thread; what it raises is logged once.

        Args:
            metric: An observed one.
            read: Returns values with their labels; must not block.
        """
        if not metric.observed:
            raise Undeclared(f"{metric.name} is recorded, not observed.")
        callback = _Reader(read, strict=self.strict)
        create = {
            Kind.COUNTER: self._meter.create_observable_counter,
            Kind.UPDOWNCOUNTER: self._meter.create_observable_up_down_counter,
            Kind.GAUGE: self._meter.create_observable_gauge,
        }[metric.kind]
        create(metric.name, [callback], metric.unit, metric.brief)

    def _series(self, metric: Metric, labels: Labels) -> Series:
        if metric.observed:
            raise Undeclared(f"{metric.name} is observed, not recorded.")
        put = _nowhere if self._cells is None else self._cells.cell(metric, labels).put
        return Series(put)


def _now(work: Callable[..., None], *args: Any) -> None:
    """Where nothing is deferred."""
    work(*args)


def _nowhere(_: float) -> None:
    """Where telemetry is off."""


class Strictness(Protocol):
    """What knows whether programming errors raise."""

    @property
    def strict(self) -> bool:
        """Whether they do."""


class _Reader:
    """Reads an observed metric. What goes wrong is logged the first time, and costs the reading only."""

    def __init__(self, read: Callable[[], Reading], *, strict: bool) -> None:
        self._read = read
        self._strict = strict
        self._said = False

    def __call__(self, _: CallbackOptions) -> Iterable[Observation]:
        try:
            return [Observation(value, dict(labels)) for value, labels in self._read()]
        except Exception:
            if self._strict:
                raise
            if not self._said:
                self._said = True
                log.exception("a metric could not be read; said once")
            return []


Self = TypeVar("Self", bound=Strictness)


def guarded(method: Callable[Concatenate[Self, P], None]) -> Callable[Concatenate[Self, P], None]:
    """Make a recording method safe to call from a request: see the module. Logged once a kind of error."""
    said: set[str] = set()

    @functools.wraps(method)
    def safe(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self.strict:
                raise
            if (kind := type(error).__name__) not in said:
                said.add(kind)
                log.exception("%s could not be recorded; said once", method.__name__)

    return safe


def views() -> list[View]:
    """Return how the SDK aggregates what is observed, not recorded into cells: so many series at most."""
    return [
        View(
            instrument_name=metric.name,
            aggregation_cardinality_limit=metric.limit,
            # Exemplars lead from a slow point to its line; kept for levels too they cost and lead nowhere.
            exemplar_reservoir_factory=lambda _: _no_exemplars,
        )
        for metric in schema.METRICS
        if metric.observed
    ]


class _NoExemplars(ExemplarReservoir):
    def offer(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> None:
        pass

    def collect(self, point_attributes: Attributes) -> list[Exemplar]:
        return []


def _no_exemplars(_: Any = None, **__: Any) -> ExemplarReservoir:
    return _NoExemplars()
