"""What Prometheus fetches by itself: Ray, HAProxy, the programs of the pipeline, and the probes."""

from functools import partial

import pytest

from telemetry import schema
from telemetry.schema import prometheus_name
from tests.cluster import Cluster
from tests.pipeline import Pipeline
from tests.poll import poll_until

pytestmark = [pytest.mark.cluster, pytest.mark.data]


@pytest.mark.parametrize("service", schema.SERVING)
def test_probes_see_the_path(service: str, watched: Pipeline, cluster: Cluster) -> None:
    """The probes of `healthz` and of a whole inference succeed, and `healthz` is in no request count."""
    for probe in ("healthz", "inference"):
        query = f'probe_success{{job="blackbox",service="{service}",probe="{probe}"}} == 1'
        poll_until(partial(watched.ask, query), query, 120)
    job = f'job="glasshouse/{service}"'
    route = f'{prometheus_name(schema.HTTP_DURATION)}{{{job},http_route=~".*healthz"}}'
    assert watched.ask(route) == []


def test_every_target_is_up(watched: Pipeline, cluster: Cluster) -> None:
    """Prometheus reaches all that it scrapes: Ray's three, HAProxy, and every program of the pipeline."""
    wanted = {"ray", "haproxy", "otelcol", "loki", "alertmanager", "blackbox_exporter", "node", "prometheus"}

    def down() -> set[str]:
        up = watched.ask("up == 1")
        return wanted - {one["metric"]["job"] for one in up}

    poll_until(lambda: not down(), f"all of {sorted(wanted)}", 90)
    assert [one["metric"] for one in watched.ask("up == 0")] == []
