"""Instruments on a real SDK in memory, and what they hold in a form that tests can compare."""

from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Metric as Exported
from opentelemetry.sdk.resources import Resource

from telemetry.cell_reader import Cells, MemoryReader
from telemetry.instruments import Instruments, views
from telemetry.metric import Metric
from telemetry.providers import LIMITS


@dataclass(frozen=True, slots=True)
class Bench:
    """Instruments, and the reader that sees what they hold."""

    reader: MemoryReader
    provider: MeterProvider
    instruments: Instruments

    def exported(self) -> dict[str, Exported]:
        """Return everything there is, by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, metric: Metric) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Return the data points of a metric, by their labels."""
        found = self.exported().get(metric.name)
        points = [] if found is None else found.data.data_points
        return {tuple(sorted((point.attributes or {}).items())): point for point in points}

    def values(self, metric: Metric) -> dict[tuple[tuple[str, Any], ...], float]:
        """Return the values of a counter or a gauge, by their labels."""
        return {labels: point.value for labels, point in self.points(metric).items()}

    def value(self, metric: Metric, **labels: str) -> float:
        """Return the value of one series; its labels with `_` for `.`."""
        dotted = tuple(sorted((name.replace("_", "."), value) for name, value in labels.items()))
        plain = tuple(sorted(labels.items()))
        values = self.values(metric)
        return values[plain] if plain in values else values[dotted]


def bench(*, strict: bool = True) -> Bench:
    """Return instruments that raise on programming errors, unless told otherwise."""
    cells = Cells("test", Resource({}))
    reader = MemoryReader(cells, cardinality_limits=LIMITS)
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views())
    return Bench(reader, provider, Instruments(provider.get_meter("test"), cells, strict=strict))
