"""The contract itself: names, units, labels, and the page printed from it."""

import re
from pathlib import Path

import pytest

from telemetry import attributes, docs, schema
from telemetry.metric import OTHER, Attribute, Kind, Metric, prometheus_label, prometheus_name

ROOT = Path(__file__).parent.parent
NAMESPACES = (
    "http.",
    "serve.",
    "model.",
    "detection.",
    "recommendation.",
    "store.",
    "process.",
    "otel.sdk.",
    "hw.",
)
UNITS = {"s", "By", "1", "W", "J", "Cel"}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (schema.STAGE_DURATION, "serve_stage_duration_seconds"),
        (schema.OBJECTS, "detection_objects_total"),
        (schema.CPU_TIME, "process_cpu_time_seconds_total"),
        (schema.GPU_MEMORY_USAGE, "hw_gpu_memory_usage_bytes"),
        (schema.GPU_UTILIZATION, "hw_gpu_utilization_ratio"),
        (schema.GPU_ENERGY, "hw_energy_joules_total"),
        (schema.GPU_TEMPERATURE, "hw_temperature_celsius"),
        (schema.GPU_STATUS, "hw_status"),
        (schema.CONFIDENCE, "detection_object_confidence"),
        (schema.MODEL_INFO, "model_info"),
        (schema.EXPECTED_REPLICAS, "serve_expected_replicas"),
        (Metric("a.total.b_bytes", Kind.COUNTER, "By", ""), "a_b_bytes_total"),
        (Metric("2.x", Kind.GAUGE, "By/s", ""), "_2_x_bytes_per_second"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_prometheus_name(metric: Metric, expected: str) -> None:
    """A metric's name in Prometheus is what `UnderscoreEscapingWithSuffixes` makes of it."""
    assert prometheus_name(metric) == expected


def test_prometheus_names_are_distinct() -> None:
    """No two metrics meet under one name in Prometheus, the parts of classic histograms among them."""
    names = [prometheus_name(metric) for metric in schema.METRICS]
    parts = [f"{name}{part}" for name in names for part in ("_bucket", "_sum", "_count")]
    assert len(set(names)) == len(names)
    assert not set(names) & set(parts)


@pytest.mark.parametrize("metric", schema.METRICS, ids=lambda metric: metric.name)
def test_naming_rules(metric: Metric) -> None:
    """Names are lowercase words of known namespaces, without unit or `_total`; each says what it is."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", metric.name)
    assert metric.name.startswith(NAMESPACES)
    assert not metric.name.endswith(("total", "seconds", "bytes", "ratio"))
    assert metric.unit in UNITS or re.fullmatch(r"\{[a-z_]+\}", metric.unit)
    assert metric.brief.endswith(".")
    assert set(metric.services) <= set(schema.EVERYBODY)


@pytest.mark.parametrize("metric", schema.METRICS, ids=lambda metric: metric.name)
def test_no_metric_names_an_id(metric: Metric) -> None:
    """Never a user, film, request or inference id in a metric."""
    forbidden = {"user", "user_id", "movie", "movie_id", "item", "item_id", "inference_id", "request_id"}
    for attribute in metric.attributes:
        words = set(re.split(r"[._]", attribute.name)) | {attribute.name}
        assert not words & forbidden, attribute.name
        assert "id" not in words or attribute is attributes.HW_ID


def test_durations_are_exponential() -> None:
    """Every duration is in seconds, and every histogram of durations is a native one in Prometheus."""
    durations = [metric for metric in schema.METRICS if metric.name.endswith(".duration")]
    assert all(metric.unit == "s" for metric in durations)
    assert all(metric.exponential for metric in durations if metric.kind is Kind.HISTOGRAM)


def test_confidence_in_deciles() -> None:
    """Confidences are counted in tenths, so that a panel can show their 90th percentile."""
    assert schema.CONFIDENCE.buckets == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_no_name_is_the_namespace_of_another() -> None:
    """A name is not also the beginning of others (OpenTelemetry's naming rule)."""
    names = {metric.name for metric in schema.METRICS}
    assert not {name for name in names for other in names if other.startswith(f"{name}.")}


def test_metrics_are_declared_once() -> None:
    """Every name and every label of a metric is declared once."""
    names = [metric.name for metric in schema.METRICS]
    assert len(set(names)) == len(names)
    for metric in schema.METRICS:
        labels = [prometheus_label(attribute) for attribute in metric.attributes]
        assert len(set(labels)) == len(labels)


def test_an_attribute_that_nothing_bounds() -> None:
    """An attribute without values and without a bound cannot be declared."""
    with pytest.raises(ValueError, match="user: declare its values"):
        Attribute("user", "Who.")


def test_every_error_is_declared() -> None:
    """`error.type` has every code that the error tree and its callers can answer."""
    source = "".join(path.read_text() for path in (ROOT / "deployments").glob("*.py"))
    used = set(re.findall(r'code(?:: str)? ?= ?"([a-z_]+)"', source))
    assert used <= set(attributes.ERROR_CODE.values)
    assert set(attributes.ERROR_CODE.values) - {OTHER} <= used


def test_names_stand_in_the_schema_only() -> None:
    """No name of ours is written as a string in any other Python file that runs."""
    ours = {metric.name for metric in schema.METRICS}
    for package in ("telemetry", "store", "deployments", "models", "launch"):
        for path in (ROOT / package).glob("*.py"):
            if not path.name.startswith("schema"):
                strings = set(re.findall(r'"([a-z_.]+)"', path.read_text()))
                assert not strings & ours, path


def test_the_page_is_up_to_date() -> None:
    """`docs/metrics.md` is what the schema prints: `python -m telemetry.docs > docs/metrics.md`."""
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == docs.page()


def test_the_page_has_everything() -> None:
    """Every metric and every log field is on the page."""
    page = docs.page()
    for metric in schema.METRICS:
        assert f"| `{prometheus_name(metric)}` | `{metric.name}` |" in page
    for field in (*schema.LOG_FIELDS, *schema.LOG_ENVELOPE):
        assert f"| `{field.name}` |" in page
