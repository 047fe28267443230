"""Component by signal, metrics: everything the schema declares, from both applications, in Prometheus."""

import asyncio
import json
from collections.abc import Mapping

import pynvml
import pytest

from bench.load import Call, Outcome, send_all
from telemetry import schema
from telemetry.metric import Metric
from telemetry.schema import prometheus_label, prometheus_name
from tests.bad_requests import JPEG, JSON, PNG
from tests.cluster import Cluster
from tests.photos import jpeg_bytes
from tests.pipeline import Pipeline
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]

# Who sent it (`job`, `instance`), and the resource attributes that prometheus.yaml promotes.
IDENTITY = {
    "__name__",
    "job",
    "instance",
    "service_version",
    "deployment_environment_name",
    "host_name",
    "ray_application",
    "ray_deployment",
}
PIPELINE_S = 60.0  # an export, the collector's queue, and the noise of the machine
GPU = [metric for metric in schema.METRICS if metric.name.startswith("hw.")]
ROWS = [
    (metric, service)
    for metric in schema.METRICS
    if metric not in GPU
    for service in metric.services or schema.SERVING
]
TRAFFIC = {
    "a photograph": Call("POST", "/detect", jpeg_bytes("bus"), JPEG),
    "no image": Call("POST", "/detect", b"not an image", PNG),
    "a known user": Call("POST", "/recommend", b'{"user_id": 1, "ranked_movies": [1]}', JSON),
    "an unknown user": Call("POST", "/recommend", b'{"user_id": -1}', JSON),
    "no JSON": Call("POST", "/recommend", b"{", JSON),
}


@pytest.fixture(scope="module")
def traffic(cluster: Cluster, watched: Pipeline) -> Mapping[str, Outcome]:
    """One request of each kind, and what became of it."""
    outcomes = asyncio.run(send_all(cluster.url, list(TRAFFIC.values())))
    return dict(zip(TRAFFIC, outcomes, strict=True))


def series_of(watched: Pipeline, metric: Metric, service: str) -> list[Mapping[str, str]]:
    """Return the labels of every series that Prometheus has of a metric from a service."""
    name = prometheus_name(metric) + ("_(count|sum|bucket)" if metric.buckets else "")
    return [one["metric"] for one in watched.ask(f'{{__name__=~"{name}",job="glasshouse/{service}"}}')]


@pytest.mark.parametrize(
    ("metric", "service"), ROWS, ids=[f"{metric.name}-{service}" for metric, service in ROWS]
)
def test_every_metric_arrives(
    metric: Metric, service: str, watched: Pipeline, traffic: Mapping[str, Outcome]
) -> None:
    """It is in Prometheus under its declared name with its unit, and has its declared labels only."""
    found = poll_until(lambda: series_of(watched, metric, service), metric.name, PIPELINE_S)
    declared = {prometheus_label(attribute) for attribute in metric.attributes}
    for labels in found:
        assert labels.keys() - {"le"} <= declared | IDENTITY
        for attribute in metric.attributes:
            value = labels.get(prometheus_label(attribute))
            assert value is None or not attribute.values or value in (*attribute.values, "other")


@pytest.mark.parametrize("metric", GPU, ids=[metric.name for metric in GPU])
def test_gpu_metrics_only_with_a_gpu(
    metric: Metric, watched: Pipeline, traffic: Mapping[str, Outcome]
) -> None:
    """Without a GPU there is no series of one; with one there is."""
    poll_until(lambda: series_of(watched, schema.UPTIME, schema.DETECTION), "the heartbeat", PIPELINE_S)
    assert bool(series_of(watched, metric, schema.DETECTION)) is gpu_here()


def gpu_here() -> bool:
    """Tell whether the NVIDIA driver knows of a GPU."""
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


@pytest.mark.parametrize("service", schema.SERVING)
def test_the_model_that_answers(service: str, watched: Pipeline, traffic: Mapping[str, Outcome]) -> None:
    """`model_info` names the model and version that the answers name."""
    kind = "a photograph" if service == schema.DETECTION else "a known user"
    said = json.loads(traffic[kind].body)["model"]
    query = f'{prometheus_name(schema.MODEL_INFO)}{{job="glasshouse/{service}"}}'
    labels = poll_until(lambda: watched.ask(query), "model_info", PIPELINE_S)[-1]["metric"]
    assert (labels["model_name"], labels["model_version"]) == (said["name"], said["version"])
