"""Where Prometheus may not be pushed to: the collector offers its metrics on a port."""

import os
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from launch import backend_programs
from launch.dotenv import PIPELINE
from launch.ports import BackendPorts
from launch.processes import ProcessTree
from telemetry import schema
from telemetry.otlp import OtlpSettings
from telemetry.providers import build, describe
from telemetry.schema import prometheus_name
from telemetry.serving import ServingMetrics
from tests.pipeline import FAST
from tests.poll import poll_until


@pytest.fixture
def ports(tmp_path: Path) -> Generator[BackendPorts, None, None]:
    """The ports of a collector alone, with both its files; where Prometheus' would be it offers."""
    found = BackendPorts.free()
    settings = backend_programs.settings(
        tmp_path, found, ray_temp=tmp_path, serve_port=9, haproxy_metrics_port=9
    )
    command = [str(backend_programs.find()["otelcol"])]
    command += [f"--config={PIPELINE / name}" for name in ("collector.yaml", "collector-scrape.yaml")]
    environ = {**os.environ, **settings, "COLLECTOR_SCRAPE_PORT": str(found.prometheus)}
    tree = ProcessTree(command, environ, tmp_path / "otelcol.log")
    yield found
    tree.end()


def offered(ports: BackendPorts) -> str:
    """Return what Prometheus would read."""
    with urllib.request.urlopen(ports.urls["prometheus"] + "/metrics", timeout=5) as answer:  # noqa: S310
        return str(answer.read().decode())


def test_offered_under_the_same_names(ports: BackendPorts) -> None:
    """With the second file metrics have the names, job and instance that they have when they are pushed."""
    environ = {**FAST, **ports.environ}
    telemetry = build(OtlpSettings.read(environ), describe("offer", "1", "one", {}), environ)
    try:
        ServingMetrics(telemetry.instruments).refused("full")
        name = prometheus_name(schema.REFUSED)

        def line() -> str:
            found = [line for line in offered(ports).splitlines() if line.startswith(f"{name}{{")]
            return next((line for line in found if 'reason="full"' in line), "")

        found = poll_until(line, "the counter")
    finally:
        telemetry.shutdown(1.0)
    assert 'job="glasshouse/offer"' in found
    assert 'instance="one"' in found
    assert found.rsplit("} ", 1)[1].split()[0] in {"1", "1.0"}
