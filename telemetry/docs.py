"""`python -m telemetry.docs` prints the contract as Markdown: `docs/metrics.md`."""

import sys
from collections.abc import Iterable, Iterator

from telemetry import schema
from telemetry.metric import Attribute, Kind, LogField, Metric, prometheus_label, prometheus_name

HEAD = """\
# Metrics and log fields

Printed from `telemetry/schema.py` by `python -m telemetry.docs > docs/metrics.md`; do not edit.

In Prometheus every series also has `job` (`glasshouse/<service>`) and `instance` (one replica process).
Durations are exponential histograms and arrive as native ones: `histogram_quantile` without `le`.
Histograms with buckets are classic: `_bucket`, `_sum`, `_count`.
Counters and levels are reported as 0 from the start, so that `rate()` sees the first increment; a histogram's
series begin with their first value.
"""

LOG_HEAD = """\
In Loki the labels are `service_name`, `service_namespace` and `deployment_environment_name`.
The rest is structured metadata, with `_` for `.`; the line is the message.
The console has one JSON object a line, with these keys first:
"""


def lines() -> Iterator[str]:
    """Yield the page, line by line."""
    yield from HEAD.splitlines()
    for title, metrics in _groups():
        yield from ("", f"## {title}", "")
        yield "| in Prometheus | declared as | kind, unit | labels | says |"
        yield "| --- | --- | --- | --- | --- |"
        yield from map(_metric, metrics)
    yield from ("", "## Labels", "", "| label | of | values | says |", "| --- | --- | --- | --- |")
    yield from _labels()
    yield from ("", "## Log lines", "")
    yield from LOG_HEAD.splitlines()
    yield from ("", *_fields(schema.LOG_ENVELOPE), "", "Attributes, where they apply:", "")
    yield from _fields(schema.LOG_FIELDS)


def _groups() -> Iterator[tuple[str, list[Metric]]]:
    titles = {
        schema.SERVING: "Both applications",
        (schema.DETECTION,): "Detection",
        (schema.RECOMMENDATION,): "Recommendation",
        (schema.STORE,): "The shippers of the store, one a node",
    }
    for services, title in titles.items():
        yield title, [metric for metric in schema.METRICS if metric.services == services]
    rest = [metric for metric in schema.METRICS if not metric.services]
    yield "Every process", [metric for metric in rest if not metric.name.startswith("hw.")]
    yield "GPU, where there is one", [metric for metric in rest if metric.name.startswith("hw.")]


def _metric(metric: Metric) -> str:
    kind = metric.kind.value
    if metric.kind is Kind.HISTOGRAM:
        kind = "exponential histogram" if metric.exponential else f"histogram ({_buckets(metric)})"
    labels = ", ".join(f"`{prometheus_label(attribute)}`" for attribute in metric.attributes) or "-"
    return (
        f"| `{prometheus_name(metric)}` | `{metric.name}` | {kind}, `{metric.unit}` | {labels} "
        f"| {metric.brief} |"
    )


def _buckets(metric: Metric) -> str:
    return " ".join(f"{bound:g}" for bound in metric.buckets)


def _labels() -> Iterator[str]:
    used: dict[Attribute, list[str]] = {}
    for metric in schema.METRICS:
        for attribute in metric.attributes:
            used.setdefault(attribute, []).append(f"`{metric.name}`")
    for attribute, names in used.items():
        values = " ".join(f"`{value}`" for value in attribute.values)
        values = values or f"at most {attribute.limit}: {attribute.bounded_by}"
        yield f"| `{prometheus_label(attribute)}` | {', '.join(names)} | {values} | {attribute.brief} |"


def _fields(fields: Iterable[LogField]) -> Iterator[str]:
    yield "| field | says | values |"
    yield "| --- | --- | --- |"
    for field in fields:
        values = " ".join(f"`{value}`" for value in field.values) or "-"
        yield f"| `{field.name}` | {field.brief} | {values} |"


def page() -> str:
    """Return `docs/metrics.md`."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
